"""Estimate of the memory that every IPU of a replica needs, calibrated on layouts that are known to work.

It follows what PopTorch 3.4 keeps where: weights in the model's format and no float32 copy of float16 ones,
gradients added up in their own buffer, two moments of which the second is always float32, and in a pipeline,
for every micro-batch on its way, what each stage started from. The state that is off the chip comes back tensor
by tensor when all activations are gone; it is not counted.
"""

from dataclasses import dataclass
from typing import List, NamedTuple, Sequence, Tuple

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.machine import MIB, TILE_BYTES, TILES
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import BlockProfile
from ipu_chem.backends.poptorch.stages import Stage
from ipu_chem.optim import OptimizerConfig

# Code, control and exchange sequences of an IPU, whatever it runs: the one number that is fitted. With 285 to 319 MiB
# Graphcore's four published GPT-2 training layouts fill their fullest IPU to between 75 and 100 %, and GPT-2 large
# does not fit on half as many IPUs as it was given.
PROGRAM_BYTES = 300 * MIB

# The estimate is no better than its calibration, a quarter of an IPU: above this fraction a layout is called tight.
COMFORTABLE_FRACTION = 0.9

# Poplar's own limit of temporary data where none is set.
_DEFAULT_PROPORTION = 0.6

# PopTorch keeps the second moment of Adam in float32 (its default, and what Graphcore's own examples set).
_SECOND_MOMENT = 4

_SIZES = {"float32": 4, "float16": 2}

# What an IPU's memory goes to: the fields of `IpuMemory` that add up.
KINDS = ("weights", "gradients", "optimizer", "activations", "stash", "io", "temporary", "program")

Span = Tuple[int, int, int]  # number of a stage, its first block, the block behind its last


class IpuMemory(NamedTuple):
    """Memory of one IPU of a replica, in bytes.

    Attributes:
        ipu: of the replica, from 0.
        stages: numbers of the pipeline stages that run on it.
        blocks: their blocks, in the order of execution.
        parameters: trained numbers.
        weights: parameters and constants.
        gradients: buffers in which gradients are added up.
        optimizer: its state, as far as it is on the chip.
        activations: what the backward passes need.
        stash: inputs of its stages for the micro-batches on their way through the pipeline.
        io: tensors from the host.
        temporary: copies of operands and partial results of the largest operator.
        program: code and exchange.
        capacity: bytes of the tiles that compute.
    """

    ipu: int
    stages: Tuple[int, ...]
    blocks: Tuple[str, ...]
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    stash: int
    io: int
    temporary: int
    program: int
    capacity: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def fraction(self) -> float:
        """Of the IPU's memory; above 1 it does not fit."""
        return self.total / self.capacity


@dataclass(frozen=True)
class MemoryModel:
    """Estimates the memory that training takes in layouts of one model at one micro-batch size.

    Attributes:
        profiles: of all blocks, at that micro-batch size and in the format of the weights.
        options: of the IPU backend.
        batching: for the replicas that share the optimizer's state.
        precision: number formats.
        optimizer: whose state is kept.
    """

    profiles: Sequence[BlockProfile]
    options: IpuOptions
    batching: Batching
    precision: Precision
    optimizer: OptimizerConfig

    def layout(self, stages: Sequence[Stage]) -> List[IpuMemory]:
        """Every IPU of a replica, in order."""
        position = {profile.name: index for index, profile in enumerate(self.profiles)}
        spans = [
            (number, position[stage.blocks[0]], position[stage.blocks[-1]] + 1) for number, stage in enumerate(stages)
        ]
        return [
            self.ipu(ipu, [span for span in spans if stages[span[0]].ipu == ipu], len(stages))
            for ipu in sorted({stage.ipu for stage in stages})
        ]

    def ipu(self, ipu: int, spans: Sequence[Span], num_stages: int) -> IpuMemory:
        """One IPU.

        Args:
            ipu: its number.
            spans: of each of its stages.
            num_stages: of the whole replica.
        """
        profiles = [profile for _, first, stop in spans for profile in self.profiles[first:stop]]
        parameters = sum(profile.parameters for profile in profiles)
        capacity = (TILES - self.options.io_tiles) * TILE_BYTES  # of tiles that compute
        shares = self.options.available_memory_proportion
        proportion = _DEFAULT_PROPORTION if shares is None else shares[ipu]
        pieces = self._pieces(spans)
        return IpuMemory(
            ipu=ipu,
            stages=tuple(number for number, _, _ in spans),
            blocks=tuple(profile.name for profile in profiles),
            parameters=parameters,
            weights=sum(profile.parameter_bytes + profile.constant_bytes for profile in profiles),
            gradients=parameters * _SIZES[self.precision.accumulation],
            optimizer=self._optimizer_bytes(parameters),
            activations=self._activations(pieces, num_stages),
            stash=sum(self._stash(piece, num_stages) for piece in pieces),
            # With I/O tiles the next micro-batch arrives while this one is worked on.
            io=sum(profile.input_bytes for profile in profiles) * (2 if self.options.io_tiles else 1),
            temporary=min(max(profile.working_bytes for profile in profiles), int(proportion * capacity)),
            program=PROGRAM_BYTES,
            capacity=capacity,
        )

    def _pieces(self, spans: Sequence[Span]) -> List[Span]:
        """Activations that recomputation computes again at once."""
        if not self.options.checkpoint_blocks:
            return list(spans)
        return [(number, block, block + 1) for number, first, stop in spans for block in range(first, stop)]

    def _optimizer_bytes(self, parameters: int) -> int:
        """State on the chip between steps."""
        if self.options.optimizer_state_offchip:
            return 0
        kept = _SIZES[self.precision.accumulation]
        if self.optimizer.name == "sgd":
            each = kept if self.optimizer.momentum > 0 else 0
        else:
            each = kept + _SECOND_MOMENT
        shares = self.batching.replication_factor if self.options.replicated_tensor_sharding else 1
        return -(-parameters * each // shares)

    def _activations(self, pieces: Sequence[Span], num_stages: int) -> int:
        """Live at the fullest moment."""
        each = [sum(profile.activation_bytes for profile in self.profiles[first:stop]) for _, first, stop in pieces]
        if self.options.is_pipeline and self.options.recompute:
            return max(each)  # a backward pass begins with its forward pass, and is done before the next one
        return sum(size * self._in_flight(piece[0], num_stages) for size, piece in zip(each, pieces))

    def _stash(self, piece: Span, num_stages: int) -> int:
        """Inputs that a stage has been handed, by the stage before it and by the host, and has not finished with."""
        number, first, stop = piece
        in_flight = self._in_flight(number, num_stages)
        handed = self.profiles[first - 1].output_bytes if first else 0
        waiting = sum(profile.input_bytes for profile in self.profiles[first:stop])
        return in_flight * handed + (in_flight - 1) * waiting

    def _in_flight(self, number: int, num_stages: int) -> int:
        """Micro-batches between a stage's forward and backward pass, at most."""
        return 2 * (num_stages - 1 - number) + 1 if self.options.is_pipeline else 1
