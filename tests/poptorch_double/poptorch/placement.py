"""Which IPU and which stage every operator of a traced forward pass is on, and what PopART says about it.

Counting is that of popart_compiler/source (Compiler::setActiveIpu, CompilerImpl::createDevice and
numPipelineStages, Compiler::initSession); the checks of a pipeline are PopART's (willow/src/ir.cpp,
transforms/pipeline.cpp). Stricter than those:
- sharded execution refuses a weight on two IPUs too, where PopART would copy it in every pass;
- nothing may flow from a later stage of a pipeline to an earlier one, which PopART does not promise.
"""

from typing import Any, Dict, List, Optional, Set

from torch import Tensor

from .poptorch_core import Error

MAX_IPUS = 64  # of one process


class Placement:
    """Filled while a forward pass is traced."""

    _current: "Optional[Placement]" = None

    def __init__(self, weights: Dict[str, Tensor]) -> None:
        """Parameters and buffers by name: both are variables to PopART."""
        self._names = {_memory(tensor): name for name, tensor in weights.items() if tensor.numel()}
        self._active_ipu = 0  # what comes before the first block
        self._active_stage = 0
        self._last_ipu = 0
        self._switches = 0
        self.begun = 0  # blocks
        self.ipus: Set[int] = set()
        self.ipu_of_stage: Dict[int, Set[int]] = {}
        self.ipus_of_weight: Dict[str, Set[int]] = {}
        self._stage_of: Dict[int, int] = {}
        self._kept: List[Tensor] = []  # so that no memory is given out twice while its address is a name
        self._backwards: Optional[str] = None

    @classmethod
    def current(cls) -> "Placement":
        assert cls._current is not None, "blocks begin in a traced forward pass"
        return cls._current

    def __enter__(self) -> "Placement":
        Placement._current = self
        return self

    def __exit__(self, *_: Any) -> None:
        Placement._current = None

    def begin(self, stage: int, ipu: int) -> None:
        # An IPU visited again, with another one in between, is another stage: only changes are counted.
        self.begun += 1
        self._switches += ipu != self._last_ipu
        self._active_stage, self._active_ipu, self._last_ipu = stage, ipu, ipu

    def operator(self, name: str, inputs: List[Tensor], outputs: List[Tensor]) -> None:
        self.ipus.add(self._active_ipu)
        self.ipu_of_stage.setdefault(self._active_stage, set()).add(self._active_ipu)
        for tensor in inputs:
            memory = _memory(tensor)
            if memory in self._names:
                self.ipus_of_weight.setdefault(self._names[memory], set()).add(self._active_ipu)
            elif self._stage_of.get(memory, 0) > self._active_stage and self._backwards is None:
                self._backwards = (
                    f"aten::{name} of stage {self._active_stage} reads what stage {self._stage_of[memory]} made"
                )
        for tensor in outputs:
            self._kept.append(tensor)
            if tensor.numel():
                self._stage_of.setdefault(_memory(tensor), self._active_stage)

    @property
    def ipus_per_replica(self) -> int:
        """IPUs up to the highest that is used."""
        return max(len(self.ipus), max(self.ipus) + 1) if self.ipus else 1

    def stages(self, training: bool) -> int:
        """Stages of a pipeline; backward passes have their own, but for that of the last one."""
        forward = self._switches + 1
        return forward * 2 - 1 if training else forward

    def check(self, options: Any, training: bool) -> None:
        """Refuse what PopTorch and PopART refuse once a device is there."""
        pipelined = options._execution_strategy.backendOptions()["execution_mode"] == 0
        if pipelined:
            self._check_depth(options, training)
        if len(self.ipus) < 2:
            return
        for name, ipus in self.ipus_of_weight.items():
            if len(ipus) > 1:
                raise Error(
                    f"cannot copy variable tensor {name} between IPUs {sorted(ipus)}: everything that uses it must be "
                    "on one"
                )
        if pipelined:
            self._check_stages()

    def _check_depth(self, options: Any, training: bool) -> None:
        stages = self.stages(training)
        if training and options.Training.gradient_accumulation < stages:
            raise Error(
                f"gradientAccumulation must be at least the number of pipeline stages ({stages}): of "
                f"{(stages + 1) // 2} stages, {(stages - 1) // 2} come again backwards"
            )
        if not training and options.device_iterations < stages:
            raise Error(f"deviceIterations must be at least the number of pipeline stages ({stages})")

    def _check_stages(self) -> None:
        for stage, ipus in self.ipu_of_stage.items():
            if len(ipus) > 1:
                raise Error(f"stage {stage} has operators on IPUs {sorted(ipus)}: a stage is on one IPU")
        # As in mergeConsecutivePipelineStages: neighbors on one IPU become one, numbers move up to close the
        # gap that this leaves (and one before a first stage 1), then none may be missing.
        shift, previous, merged = 0, None, set()
        for stage in sorted(self.ipu_of_stage):
            (ipu,) = self.ipu_of_stage[stage]
            if stage and (ipu == previous or previous is None):
                shift += 1
            previous = ipu
            merged.add(stage - shift)
        missing = sorted(set(range(len(merged))) - merged)
        if missing:
            raise Error(f"{len(merged)} pipeline stages, but stage {missing[0]} is missing")
        if self._backwards:
            raise Error(f"{self._backwards}: in a pipeline nothing flows back")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
