"""Answer of the planner: a layout, or a refusal with the next layout that fits."""

from typing import NamedTuple, Optional, Tuple

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.machine import LARGEST_MACHINE, MIB
from ipu_chem.backends.poptorch.memory import COMFORTABLE_FRACTION, KINDS, IpuMemory
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.stages import Stage
from ipu_chem.models.wrapper import wrapped_name


class Layout(NamedTuple):
    """A training on IPUs: replicas, stages, and the memory of each IPU.

    Attributes:
        batching: micro-batch, accumulation and replicas.
        options: IPUs of a replica, layers on each, what is kept where.
        precision: number formats.
        stages: of every replica.
        memory: of every IPU of a replica.
    """

    batching: Batching
    options: IpuOptions
    precision: Precision
    stages: Tuple[Stage, ...]
    memory: Tuple[IpuMemory, ...]

    @property
    def ipus(self) -> int:
        """IPUs of all replicas."""
        return self.batching.replication_factor * self.options.ipus_per_replica

    @property
    def fullest(self) -> IpuMemory:
        """The IPU that decides whether it fits."""
        return max(self.memory, key=lambda ipu: ipu.fraction)

    @property
    def fits(self) -> bool:
        """True if every IPU has room."""
        return self.fullest.fraction <= 1

    @property
    def is_tight(self) -> bool:
        """True if it fits only where the estimate is right."""
        return COMFORTABLE_FRACTION < self.fullest.fraction <= 1

    def describe(self) -> str:
        """In a few words."""
        options, batching = self.options, self.batching
        replicas = counted(batching.replication_factor, "replica")
        words = [f"{replicas} of {counted(options.ipus_per_replica, 'IPU')}"]
        words.append(f"micro-batches of {batching.micro_batch_size}")
        if self.precision.weights == "float16":
            words.append("float16 weights")
        if options.is_pipeline:
            start = " from every block" if options.checkpoint_blocks else ""
            words.append(f"recomputation{start}" if options.recompute else "no recomputation")
        elif options.ipus_per_replica > 1:
            words.append("one after the other")
        where = "in streaming memory" if options.optimizer_state_offchip else "on chip"
        shared = ", sharded over the replicas" if options.replicated_tensor_sharding else ""
        return f"{', '.join(words)}, optimizer state {where}{shared}"


class Refusal(ValueError):
    """No layout, or not the one asked for: says which stage does not fit and what would.

    Attributes:
        layout: the one that was judged, or the one nearest to fitting.
        alternative: the next layout that fits; None if nothing was found.
    """

    def __init__(self, text: str, layout: Layout, alternative: Optional[Layout]) -> None:
        super().__init__(text)
        self.layout = layout
        self.alternative = alternative


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 IPU", "2 IPUs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def complaint(layout: Layout) -> str:
    """The fullest IPU of a layout that does not fit: its stages, its bytes and what takes most of them."""
    ipu = layout.fullest
    where = f"IPU {ipu.ipu}" if len(layout.memory) > 1 else "the IPU"
    stages = " and ".join(f"stage {number} ({blocks_text(layout.stages[number])})" for number in ipu.stages)
    largest = max(KINDS, key=lambda kind: getattr(ipu, kind))
    return (
        f"{layout.describe()}: {stages} on {where} {'need' if len(ipu.stages) > 1 else 'needs'} "
        f"{ipu.total / MIB:,.0f} MiB, {ipu.fraction:.0%} of the {ipu.capacity / MIB:,.0f} MiB there are, most of it "
        f"{largest} ({getattr(ipu, largest) / MIB:,.0f} MiB)."
    )


def blocks_text(stage: Stage) -> str:
    """Blocks of a stage, the first and the last of several: ``embedding..layers.1``."""
    ends = dict.fromkeys(wrapped_name(name) for name in (stage.blocks[0], stage.blocks[-1]))
    return "..".join(ends) or "the whole model"


def advice(alternative: Optional[Layout]) -> str:
    """Remedies."""
    if alternative is None:
        return f"Nothing up to {LARGEST_MACHINE} IPUs fits: use a smaller model or smaller packs."
    return f"Next that fits: {counted(alternative.ipus, 'IPU')}, {alternative.describe()}."
