"""Options of the IPU backend as plain values, checked as far as they can be without a device.

Neither PopTorch nor torch is imported here, so that a command line can read options anywhere.
"""

import os
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from ipu_chem.ranges import check_choice, check_fields

EXECUTIONS = ("pipelined", "sharded")


@dataclass(frozen=True)
class IpuOptions:
    """Options of the IPU backend.

    Attributes:
        ipus_per_replica: IPUs that one copy of the model is spread over; a power of two.
        layers_per_ipu: the model's repeated layers on each IPU of a replica, -1 splits what is left; None
            balances them by their cost. The embedding is on the first IPU, the head on the last.
        execution: how the IPUs of a replica work: pipelined (all at once, on different micro-batches) or
            sharded (one after the other).
        recompute: in a pipeline, keep only what a stage starts from and compute the rest again in its
            backward pass; false keeps everything.
        checkpoint_blocks: with recompute, also keep what every block of a stage starts from, so that one block
            at a time is computed again: less memory where stages have several blocks.
        optimizer_state_offchip: keep the optimizer's state in the host's streaming memory between steps.
        replicated_tensor_sharding: every replica keeps and updates its share of the optimizer's state only; shared
            among the replicas of one process.
        available_memory_proportion: fraction of an IPU's memory for the temporary data of matrix products,
            gathers and scatters, one number for each IPU of a replica; None leaves it to Poplar (0.6).
        io_tiles: tiles that do nothing but move data from and to the host while the others compute: 0, or an
            even number from 32 to 192; not with pipelined IPUs.
        executable_cache: folder where compiled programs are kept and found again by later runs.
        offline: compile for this IPU version (2: GC200 and Bow, 21: with FP8, 1: the first) without a
            device, into executable_cache; nothing can be run.
        ipu_model: run on the SDK's IPU Model, a simulator, instead of IPUs; slow, one replica, which may be a pipeline.
        prefetch_depth: batches of every input that the host keeps ready; None leaves it to PopART.
        merge_all_reduce: gather the gradients of all weights into few, large exchanges between replicas.
        synthetic_data: random data made on the device, no transfers; for measuring speed, results mean nothing.
        floating_point_exceptions: stop at the first overflow, division by zero or NaN on the device.
        profile_dir: folder for a report that PopVision reads.
        seed: of random numbers on the device; PopTorch seeds torch on the host with it too, at `compile`.
    """

    ipus_per_replica: int = 1
    layers_per_ipu: Optional[Tuple[int, ...]] = None
    execution: str = "pipelined"
    recompute: bool = True
    checkpoint_blocks: bool = False
    optimizer_state_offchip: bool = False
    replicated_tensor_sharding: bool = False
    available_memory_proportion: Optional[Tuple[float, ...]] = None
    io_tiles: int = 0
    executable_cache: Optional[str] = None
    offline: Optional[int] = None
    ipu_model: bool = False
    prefetch_depth: Optional[int] = None
    merge_all_reduce: bool = False
    synthetic_data: bool = False
    floating_point_exceptions: bool = False
    profile_dir: Optional[str] = None
    seed: Optional[int] = None

    def __post_init__(self) -> None:
        check_fields(self, "ipu", prefetch_depth="1 or more", seed="0 or more")
        self._check_layout()
        shares = self.available_memory_proportion
        if shares is not None:
            if not isinstance(shares, (tuple, list)) or not all(
                isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one <= 1 for one in shares
            ):
                raise ValueError(
                    f"ipu.available_memory_proportion={shares!r}: give a list of numbers above 0, up to 1."
                )
            if len(shares) != self.ipus_per_replica:
                raise ValueError(
                    f"ipu.available_memory_proportion={shares!r}: give one number for each of the "
                    f"{self.ipus_per_replica} IPUs of a replica."
                )
        if self.offline is not None and self.offline not in (1, 2, 21):
            raise ValueError(f"ipu.offline={self.offline!r}: give the IPU version, 2 for GC200 and Bow.")
        if self.offline is not None and self.ipu_model:
            raise ValueError("ipu.offline compiles for real IPUs, ipu.ipu_model is a simulator: choose one of the two.")
        if self.offline is not None and self.executable_cache is None:
            raise ValueError("ipu.offline leaves nothing behind without a folder: set ipu.executable_cache too.")

    @property
    def is_pipeline(self) -> bool:
        """True if the IPUs of a replica form a pipeline."""
        return self.ipus_per_replica > 1 and self.execution == "pipelined"

    @property
    def on_ipu_model(self) -> bool:
        """True if the SDK's IPU Model stands for IPUs: by these options or, as PopTorch reads it, the environment."""
        names = ("POPTORCH_IPU_MODEL", "POPTORCH_SMALL_IPU_MODEL")
        return self.ipu_model or any(os.environ.get(name, "0") not in ("", "0") for name in names)

    def check_blocks(self, blocks: int) -> None:
        """Refuse a division of a model that is not the model's, which else takes minutes of compilation to find out.

        Args:
            blocks: at which it may be cut; 0 if it cannot be.

        Raises:
            ValueError: there are fewer than IPUs, or other layers between the first and the last one.
        """
        if self.ipus_per_replica > max(blocks, 1):
            raise ValueError(
                f"{blocks or 1} blocks cannot be spread over {self.ipus_per_replica} IPUs; use ipu.ipus_per_replica="
                f"{1 << (max(blocks, 1).bit_length() - 1)} or fewer."
            )
        if self.layers_per_ipu is not None and blocks:
            expand_layers(self.layers_per_ipu, blocks - 2)

    def _check_layout(self) -> None:
        """Refuse what PopTorch refuses of several IPUs and I/O tiles, after minutes of compilation."""
        ipus, layers = self.ipus_per_replica, self.layers_per_ipu
        if ipus < 1 or ipus & (ipus - 1):
            raise ValueError(f"ipu.ipus_per_replica={ipus!r}: IPUs are lent in powers of two; use 1, 2, 4, ...")
        if layers is not None:
            if not isinstance(layers, (tuple, list)) or not all(type(one) is int and one >= -1 for one in layers):
                raise ValueError(f"ipu.layers_per_ipu={layers!r}: give a list of whole numbers, -1 for what is left.")
            if len(layers) != ipus:
                raise ValueError(f"ipu.layers_per_ipu={list(layers)}: give one number for each of the {ipus} IPUs.")
        check_choice("ipu.execution", self.execution, EXECUTIONS)
        if self.checkpoint_blocks and not (self.is_pipeline and self.recompute):
            raise ValueError(
                "ipu.checkpoint_blocks says where recomputation starts: it needs a pipeline and recompute."
            )
        tiles = self.io_tiles
        if tiles and (tiles % 2 or not 32 <= tiles <= 192):
            raise ValueError(f"ipu.io_tiles={tiles!r}: give 0 or an even number from 32 to 192.")
        if tiles and self.is_pipeline:
            raise ValueError("ipu.io_tiles: a pipeline cannot overlap I/O; set ipu.execution=sharded or io_tiles=0.")


def expand_layers(layers_per_ipu: Sequence[int], num_layers: int) -> Tuple[int, ...]:
    """Numbers in place of -1: wildcards share what the others leave, the last one takes the remainder too.

    With one IPU the list says nothing.

    Raises:
        ValueError: the numbers do not add up to the model's layers.
    """
    if len(layers_per_ipu) == 1:
        return (num_layers,)
    wild = [ipu for ipu, count in enumerate(layers_per_ipu) if count == -1]
    left = num_layers - sum(count for count in layers_per_ipu if count != -1)
    result = list(layers_per_ipu)
    if left < 0 or (left > 0 and not wild):
        raise ValueError(
            f"ipu.layers_per_ipu={list(layers_per_ipu)} places {num_layers - left} layers, the model has {num_layers};"
            " put -1 where the rest shall go."
        )
    for ipu in wild:
        result[ipu] = left // len(wild)
    if wild:
        result[wild[-1]] += left % len(wild)
    return tuple(result)
