"""What the planner answers: a layout, or a refusal with the next layout that fits.

On data's way: planner -> Layout -> table, options to paste; Refusal -> the user.
"""

from typing import NamedTuple, Optional, Tuple

from ipu_chem.backends.ipu_options import IpuOptions
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.ipu.machine import LARGEST_MACHINE, MIB
from ipu_chem.ipu.memory import KINDS, IpuMemory
from ipu_chem.ipu.stages import Stage


class Layout(NamedTuple):
    """How a training fits on IPUs.

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
        return max(self.memory, key=lambda ipu: ipu.share)

    @property
    def fits(self) -> bool:
        """Whether every IPU has room."""
        return all(ipu.fits for ipu in self.memory)

    def describe(self) -> str:
        """In a few words."""
        options, batching = self.options, self.batching
        replicas = f"{batching.replication_factor} replica{'s' if batching.replication_factor > 1 else ''}"
        words = [f"{replicas} of {options.ipus_per_replica} IPU{'s' if options.ipus_per_replica > 1 else ''}"]
        words.append(f"micro-batches of {batching.micro_batch_size}")
        if self.precision.weights == "float16":
            words.append("float16 weights")
        if options.is_pipeline:
            words.append("recomputation" if options.recompute else "no recomputation")
        where = "in streaming memory" if options.optimizer_state_offchip else "on chip"
        shared = ", shared out among replicas" if options.replicated_tensor_sharding else ""
        return f"{', '.join(words)}, optimizer state {where}{shared}"


class Refusal(ValueError):
    """No layout, or not the one asked for: says which stage does not fit and what would.

    Attributes:
        layout: the one that was judged, or the one nearest to fitting; None where no cut was possible.
        alternative: the next layout that fits; None if nothing was found.
    """

    def __init__(self, text: str, layout: Optional[Layout] = None, alternative: Optional[Layout] = None) -> None:
        super().__init__(text)
        self.layout = layout
        self.alternative = alternative


def complaint(layout: Layout) -> str:
    """The fullest IPU of a layout that does not fit: its stage, its bytes and what takes most of them."""
    ipu = layout.fullest
    where = f"IPU {ipu.ipu}" if len(layout.memory) > 1 else "the IPU"
    blocks = " to ".join(dict.fromkeys([ipu.blocks[0], ipu.blocks[-1]])) or "the whole model"
    largest = max(KINDS, key=lambda kind: getattr(ipu, kind))
    return (
        f"{layout.describe()}: stage {ipu.stages[0]} ({blocks}) on {where} needs {ipu.total / MIB:,.0f} MiB, "
        f"{ipu.share:.0%} of the {ipu.capacity / MIB:,.0f} MiB there are, most of it {largest} "
        f"({getattr(ipu, largest) / MIB:,.0f} MiB). "
    )


def advice(alternative: Optional[Layout]) -> str:
    """What to do instead."""
    if alternative is None:
        return f"Nothing up to {LARGEST_MACHINE} IPUs fits: use a smaller model or smaller packs."
    return f"Next that fits: {alternative.ipus} IPU{'s' if alternative.ipus > 1 else ''}, {alternative.describe()}."
