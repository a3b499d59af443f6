"""Inputs and outputs that are marked to travel while the IPU computes, and where such marks may stand.

Rules of poptorch/source/OverlappedIO.cpp (what may be marked) and of Compiler::verifySettingsForOverlappedIO
in popart_compiler/source/Compiler.cpp (with which options).
"""

from typing import Any, List, Set, Tuple

from torch import Tensor

from .enums import OutputMode, OverlapMode
from .marks import mark
from .poptorch_core import Error


class Overlap:
    """Marks of one traced forward pass."""

    def __init__(self, inputs: List[Tensor]) -> None:
        self._inputs = {id(tensor): index for index, tensor in enumerate(inputs)}
        self._kept = list(inputs)  # ids are names as long as their owners live
        self._used: Set[int] = set()
        self._marked_inputs: Set[int] = set()
        self._marked_outputs: List[Tuple[Tensor, Tensor]] = []
        self._overlaps = False

    def operator(self, inputs: List[Tensor]) -> None:
        for tensor in inputs:
            if id(tensor) in self._inputs:
                self._used.add(self._inputs[id(tensor)])

    def mark_input(self, tensor: Tensor, mode: OverlapMode) -> Tensor:
        """The same values as another tensor, which is what may be used from now on."""
        if id(tensor) not in self._inputs:
            raise Error("set_overlap_for_input on something that is not an input of the model")
        index = self._inputs[id(tensor)]
        if index in self._marked_inputs:
            self._used.add(index)
        self._marked_inputs.add(index)
        self._overlaps |= mode != OverlapMode.NoOverlap
        return self._alias(tensor, "set_overlap_for_input")

    def mark_output(self, tensor: Tensor, mode: OverlapMode) -> Tensor:
        alias = self._alias(tensor, "set_overlap_for_output")
        self._marked_outputs.append((tensor, alias))
        self._overlaps |= mode != OverlapMode.NoOverlap
        return alias

    def _alias(self, tensor: Tensor, name: str) -> Tensor:
        alias = mark(tensor, name)
        self._kept.append(alias)
        return alias

    def check_marks(self, outputs: List[Tensor]) -> None:
        """Once the pass is over: an input's mark is the only operator on it, an output's the last."""
        for tensor in outputs:
            if id(tensor) in self._inputs:
                self._used.add(self._inputs[id(tensor)])
        both = sorted(self._used & self._marked_inputs)
        if both:
            raise Error(f"set_overlap_for_input must be the only operator on an input; input {both[0]} has others")
        for tensor, alias in self._marked_outputs:
            returned = [id(output) for output in outputs]
            if id(alias) not in returned:
                raise Error("set_overlap_for_output on something that is not an output of the model")
            if returned.count(id(alias)) + returned.count(id(tensor)) > 1:
                raise Error("set_overlap_for_output on a tensor that is returned twice")

    def check_options(self, options: Any) -> None:
        if not self._overlaps:
            return
        if options._execution_strategy.backendOptions()["execution_mode"] == 0:
            raise Error("overlapped I/O does not go with PipelinedExecution, the default: set ShardedExecution")
        if not options.toDict().get("numIOTiles", 0):
            raise Error("no I/O tiles: set TensorLocations.numIOTiles")
        if options.output_mode != OutputMode.All:
            raise Error("overlapped I/O needs OutputMode.All or OutputMode.Sum")
