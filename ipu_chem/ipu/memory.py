"""How full every IPU of a replica will be: an estimate, calibrated on layouts that are known to work.

It follows what PopTorch 3.4 keeps where: weights in the model's format and no float32 copy of float16 ones,
gradients added up in their own buffer, two moments of which the second is always float32, and in a pipeline,
for every micro-batch on its way, what each stage started from.

On data's way: [BlockProfile], stages, options -> [IpuMemory] -> planner, table.
"""

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ipu_chem.backends.ipu_options import IpuOptions
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.ipu.machine import compute_bytes
from ipu_chem.ipu.profile import BlockProfile
from ipu_chem.ipu.stages import Stage
from ipu_chem.optim import OptimizerConfig

# Code, exchange sequences and the temporary data of the largest operator. Calibrated: with it the fullest IPUs of
# Graphcore's published GPT-2 training layouts come to 93-98 % of an IPU, and a layer more would not fit.
PROGRAM_BYTES = 270_000_000

# PopTorch keeps the second moment of Adam in float32 (its default, and what Graphcore's own examples set).
_SECOND_MOMENT = 4

_SIZES = {"float32": 4, "float16": 2}

# What an IPU's memory goes to: the fields of `IpuMemory` that add up.
KINDS = ("weights", "gradients", "optimizer", "activations", "stash", "io", "program")


class IpuMemory(NamedTuple):
    """What one IPU of a replica holds, in bytes.

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
        io: tensors from and to the host.
        program: code, exchange and temporary data.
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
    program: int
    capacity: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def share(self) -> float:
        """Of the IPU's memory; above 1 it does not fit."""
        return self.total / self.capacity

    @property
    def fits(self) -> bool:
        """Whether that is all there is room for."""
        return self.total <= self.capacity


@dataclass(frozen=True)
class MemoryModel:
    """Estimates the memory of layouts of one model at one micro-batch size.

    Attributes:
        profiles: of all blocks, at that micro-batch size and in the format of the weights.
        options: of the IPU backend.
        batching: for the replicas that share the optimizer's state.
        precision: number formats.
        optimizer: None for inference.
    """

    profiles: Sequence[BlockProfile]
    options: IpuOptions
    batching: Batching
    precision: Precision
    optimizer: Optional[OptimizerConfig]

    def layout(self, stages: Sequence[Stage]) -> List[IpuMemory]:
        """Every IPU of a replica, in order."""
        position = {profile.name: index for index, profile in enumerate(self.profiles)}
        spans = [(position[stage.blocks[0]], position[stage.blocks[-1]] + 1) for stage in stages]
        result = []
        for ipu in sorted({stage.ipu for stage in stages}):
            mine = [(number, *spans[number]) for number, stage in enumerate(stages) if stage.ipu == ipu]
            result.append(self.ipu(ipu, mine, len(stages)))
        return result

    def ipu(self, ipu: int, spans: Sequence[Tuple[int, int, int]], num_stages: int) -> IpuMemory:
        """One IPU.

        Args:
            ipu: its number.
            spans: of each of its stages: number of the stage, first block, block behind the last one.
            num_stages: of the whole replica.
        """
        profiles = [profile for _, first, stop in spans for profile in self.profiles[first:stop]]
        trained = sum(profile.parameter_bytes for profile in profiles)
        parameters = sum(profile.parameters for profile in profiles)
        training = self.optimizer is not None
        return IpuMemory(
            ipu=ipu,
            stages=tuple(number for number, _, _ in spans),
            blocks=tuple(profile.name for profile in profiles),
            parameters=parameters,
            weights=trained + sum(profile.constant_bytes for profile in profiles),
            gradients=parameters * _SIZES[self.precision.accumulation] if training else 0,
            optimizer=self._optimizer_bytes(parameters),
            activations=sum(self._activations(number, first, stop, num_stages) for number, first, stop in spans),
            stash=sum(self._stash(number, first, stop, num_stages) for number, first, stop in spans),
            # With I/O tiles the next micro-batch arrives while this one is worked on.
            io=sum(profile.host_bytes for profile in profiles) * (2 if self.options.io_tiles else 1),
            program=PROGRAM_BYTES,
            capacity=compute_bytes(self.options.io_tiles),
        )

    def _optimizer_bytes(self, parameters: int) -> int:
        """State on the chip between steps."""
        if self.optimizer is None or self.options.optimizer_state_offchip:
            return 0
        if self.optimizer.name == "sgd":
            each = _SIZES[self.precision.weights] if self.optimizer.momentum > 0 else 0
        else:
            each = _SIZES[self.precision.accumulation] + _SECOND_MOMENT
        shares = self.batching.replication_factor if self.options.replicated_tensor_sharding else 1
        return -(-parameters * each // shares)

    def _activations(self, number: int, first: int, stop: int, num_stages: int) -> int:
        """Live at the fullest moment."""
        each = [profile.activation_bytes for profile in self.profiles[first:stop]]
        if self.optimizer is None:  # nothing is kept: one block's at a time
            return max(each)
        # Recomputation starts from the input of the stage: all of it is live while its backward pass runs.
        copies = 1 if self.options.recompute else self._in_flight(number, num_stages)
        return copies * sum(each)

    def _stash(self, number: int, first: int, stop: int, num_stages: int) -> int:
        """What a stage has been handed, by the stage before it and by the host, and has not finished with."""
        in_flight = self._in_flight(number, num_stages)
        handed = self.profiles[first - 1].output_bytes if first else 0
        waiting = sum(profile.host_bytes for profile in self.profiles[first:stop])
        return in_flight * handed + (in_flight - 1) * waiting

    def _in_flight(self, number: int, num_stages: int) -> int:
        """Micro-batches between a stage's forward and backward pass, at most."""
        if self.optimizer is None or self.options.execution != "pipelined":
            return 1
        return 2 * (num_stages - 1 - number) + 1
