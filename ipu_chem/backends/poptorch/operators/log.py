"""Knowledge about the tensors of one recorded run, and PopTorch's verdict on each operator."""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ipu_chem.backends.poptorch.meta import tensors_of
from ipu_chem.backends.poptorch.operators.gathers import Gathers, view_of
from ipu_chem.backends.poptorch.operators.handlers import (
    HOST_READS,
    LOST_DERIVATIVES,
    MOVES,
    RANDOM,
    base_name,
    handled,
    remedy,
)
from ipu_chem.backends.poptorch.operators.lines import ForwardLines
from ipu_chem.backends.poptorch.operators.overloads import refusal, shape_by_value

_NARROW = (torch.uint8, torch.int8, torch.int16)
# Views through which PopTorch finds the tensor that a write is meant for.
_TRACED_VIEWS = frozenset("slice select view reshape _unsafe_view _reshape_alias".split())
_OVERWRITES = frozenset("copy_ fill_ zero_".split())


class Record(NamedTuple):
    """One operator as it ran: name, file:line, and shape and dtype of what it took and returned."""

    operator: str
    where: str
    shapes: str


class Remark(NamedTuple):
    """Something about one operator that an IPU would not take."""

    kind: str
    operator: str
    where: str
    text: str


class Part(NamedTuple):
    """A view of another tensor.

    Attributes:
        traced: PopTorch finds the tensor from it.
        sliced: there is a slice between.
        stepped: one that skips places.
    """

    traced: bool = True
    sliced: bool = False
    stepped: bool = False


class LostWrite(NamedTuple):
    """A write that PopTorch keeps to the view that it was made to: views that know of it, by key, and what to say."""

    known_to: Set[Any]
    remark: Remark


class Log:
    """Knowledge that both modes share, and their notes."""

    def __init__(self, line: Callable[[], str], training: bool) -> None:
        """An empty log.

        Args:
            line: file:line of what runs now.
            training: whether PopTorch would differentiate the program.
        """
        self.records: List[Record] = []
        self.remarks: List[Remark] = []
        self.gathers = Gathers()
        self.lines = ForwardLines()
        self.silent = False
        self.is_inside = False  # an operator runs, and functions are its own
        self.function = ""  # that torch takes apart now
        self._line = line
        self._training = training
        # By storage, for views share it; weak references keep addresses from being used again.
        self._constant: Dict[Any, bool] = {}
        self._host: Set[Any] = set()
        self._given: Set[Any] = set()  # inputs, parameters and buffers
        self._alive: List[StorageWeakRef] = []
        self._parts: Dict[Any, Part] = {}
        self._lost: Dict[Any, LostWrite] = {}  # by storage, until it is read

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While an operator runs."""
        before, self.is_inside = self.is_inside, True
        try:
            yield
        finally:
            self.is_inside = before

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While nothing is to be noted."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    @contextmanager
    def within(self, function: str) -> Iterator[None]:
        """While torch takes a function apart."""
        before, self.function = self.function, function
        try:
            yield
        finally:
            self.function = before

    def given(self, tensor: Tensor, constant: bool) -> None:
        """Note an input, a parameter or a buffer."""
        self.learn(tensor, constant)
        self._given.add(_storage(tensor))

    def learn(self, tensor: Tensor, constant: bool) -> None:
        """Note a tensor of the device: known at compile time, or not."""
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference.cdata not in self._constant:
            self._alive.append(reference)
        self._constant[reference.cdata] = constant

    def learn_new(self, made: Sequence[Tensor]) -> None:
        """Note tensors of the device that were made while nothing was noted."""
        for tensor in made:
            if not self.is_known(tensor):
                self.learn(tensor, constant=False)

    def learn_as(self, old: Tensor, new: Tensor) -> None:
        """Note that a tensor stands for another."""
        on_host, constant = _storage(old) in self._host, self.is_constant(old)
        if self.is_known(old):
            self.learn(new, constant)
        if on_host:
            self._host.add(_storage(new))

    def to_host(self, made: Any) -> None:
        """Note that tensors were made on the host."""
        for tensor in tensors_of(made):
            self.learn(tensor, constant=True)
            self._host.add(_storage(tensor))

    def to_device(self, moved: Any) -> None:
        """Note that tensors were moved to the device, where they are constants."""
        for tensor in tensors_of(moved):
            self.learn(tensor, constant=True)
            self._host.discard(_storage(tensor))

    def on_host(self, tensors: Sequence[Tensor]) -> bool:
        """Tell if all of them, at least one, are tensors of the host."""
        return bool(tensors) and all(self._is_host(tensor) for tensor in tensors)

    def is_known(self, tensor: Tensor) -> bool:
        """Tell if it is an input, a parameter, a buffer, or was made inside."""
        return _storage(tensor) in self._constant

    def is_constant(self, tensor: Tensor) -> bool:
        """Tell if its values are known at compile time."""
        return self._constant.get(_storage(tensor), True)

    def remark(self, kind: str, operator: str, text: str) -> None:
        """Note what an IPU would not take, at the line that runs now or whose derivative runs now."""
        self.remarks.append(Remark(kind, operator, self.line(), text))

    def line(self) -> str:
        """file:line of what runs now; in some derivatives, of the code that they are derivatives of."""
        return self.lines.differentiated or self._line()

    def operator(self, name: str, arguments: Dict[str, Any], result: Any) -> None:
        """Judge one operator and remember it."""
        taken, made = tensors_of(arguments), tensors_of(result)
        self.records.append(Record(name, self.line(), f"{_shapes(taken)} -> {_shapes(made)}"))
        if name != "lift_fresh" and self.on_host(taken):  # it runs on the host
            self.to_host(made)
            return
        constant = all(self.is_constant(tensor) for tensor in taken) and base_name(name) not in RANDOM
        if name in ("slice", "select"):
            self.lines.note_slice(name, arguments, self.line())
        self._judge_name(name, arguments, constant)
        self._judge_tensors(name, taken, made, constant)
        self._judge_reads(name, taken, made)
        self._judge_write(name, taken, constant)
        self._judge_gather(name, arguments, taken, made, constant)
        self._note_parts(name, arguments, taken, made)
        for tensor in made:
            self.learn(tensor, constant)
        if name == "lift_fresh" and not self.function:  # torch.from_numpy, torch.Tensor([1.0]) and the like
            self.to_host(made)

    def finish(self, result: Any) -> None:
        """Note what only the whole run shows.

        Args:
            result: what the program returns.
        """
        self._judge_reads("", tensors_of(result), [])
        for merge in self.gathers.merges():
            self.remarks.append(Remark("merged gathers", merge.operator, merge.where, merge.text))

    def _judge_name(self, name: str, arguments: Dict[str, Any], constant: bool) -> None:
        label = f"aten::{name}"
        by_value = shape_by_value(name, arguments)
        refused = refusal(name, arguments, constant)
        if name in HOST_READS:
            text = "reads a tensor's value on the host (.item(), int(), float(), bool() or if), and a program is "
            self.remark("host read", label, text + "compiled before there are values; use torch.where")
        elif by_value is not None:
            text = f"the shape of its result depends on values, and shapes are compiled; {by_value}"
            self.remark("data-dependent shape", label, text)
        elif refused is not None:
            self.remark("overload", label, f"{refused.why}; {refused.remedy}")
        elif name in LOST_DERIVATIVES:
            text = "PopTorch gives zeros for the derivative of a slice where it is taken inside forward"
            where = self.lines.of_slice(name, arguments) or self.line()
            self.remarks.append(Remark("lost derivative", label, where, f"{text}; {remedy(name)}"))
        elif name == "scaled_dot_product_attention" and not self._training and not arguments.get("dropout_p"):
            # Where nothing is differentiated, torch 2.0.1 takes it apart into products and a softmax.
            return
        elif not handled(name) and not constant:
            advice = remedy(name)
            self.remark("no handler", label, "PopTorch has no handler for it" + (f"; {advice}" if advice else ""))

    def _judge_tensors(self, name: str, taken: List[Tensor], made: List[Tensor], constant: bool) -> None:
        label = f"aten::{name}"
        dtypes: Set[torch.dtype] = {tensor.dtype for tensor in taken + made}
        # PopTorch takes 64-bit floats and narrows them, which changes results without a word: refused here.
        if torch.float64 in dtypes:
            self.remark("float64", label, "64-bit floats become float32 on IPUs; cast, or make it float32")
        if torch.bfloat16 in dtypes:
            self.remark("bfloat16", label, "IPUs have no bfloat16; use float16 or float32")
        # PopTorch's front end takes arithmetic of small integers; Poplar, which compiles it, has none.
        narrow = [dtype for dtype in _NARROW if dtype in dtypes]
        if narrow and base_name(name) not in MOVES and not constant:
            text = f"IPUs can only move and cast {str(narrow[0]).replace('torch.', '')}; cast to int32 first"
            self.remark("narrow integers", label, text)
        # Normalizations make an empty tensor that nothing uses.
        if any(tensor.numel() == 0 for tensor in (taken if name == "empty" else taken + made[:1])):
            self.remark("empty tensor", label, "tensors without elements cannot be compiled; leave the operator out")
        if name == "lift_fresh":  # torch.tensor(...), which PopTorch makes on the device
            return
        for tensor in taken:
            if self._is_host(tensor):
                text = (
                    "takes a tensor that lies on the host, for it is no input, parameter or buffer, nor made by a "
                    "function that PopTorch knows; use register_buffer, or .to(x.device) with x an input"
                )
                self.remark("host tensor", label, text)
                self.to_device(tensor)
                self.learn(tensor, constant=False)

    def _judge_write(self, name: str, taken: List[Tensor], constant: bool) -> None:
        """Look for writes that would be lost.

        PopTorch turns a copy into a slice into an update of the tensor behind it, which it finds through slices. It
        finds none behind a slice of a constant, for that is evaluated while it compiles, and turns no other operator
        on a slice into an update, unless the tensor is an input or a parameter.
        """
        if not name.endswith("_") or name.endswith("__") or not taken or constant:
            return
        key, part = view_of(taken[0]), self._parts.get(view_of(taken[0]))
        if part is None:
            return
        if self.function == "__setitem__":  # fills slices with numbers on CPUs alone
            name = "copy_"
        found = part.traced and part.sliced
        if part.stepped:
            text = "PopTorch cannot write into slices with a step; use torch.where with a mask of positions"
            self.remark("overload", f"aten::{name}", text)
        elif found and _storage(taken[0]) in self._given:
            return
        elif found and name == "copy_" and not self.is_constant(taken[0]):
            self._lost.pop(_storage(taken[0]), None)  # y[:2] += 1 writes twice, and the second time counts
        else:
            text = "PopTorch keeps this write from the tensor that is written into; use torch.where or torch.cat"
            self._lost[_storage(taken[0])] = LostWrite({key}, Remark("lost write", f"aten::{name}", self.line(), text))

    def _judge_reads(self, name: str, taken: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Refuse reads of a tensor that would not know of a write."""
        for place, tensor in enumerate(taken):
            lost = self._lost.get(_storage(tensor))
            if lost is None:
                continue
            views = [view_of(view) for view in made if _storage(view) == _storage(tensor)]
            if view_of(tensor) in lost.known_to:
                lost.known_to.update(views)
            elif views and not name.endswith("_"):
                continue  # takes it without reading
            else:
                if place > 0 or name not in _OVERWRITES:
                    self.remarks.append(lost.remark)
                    del self._lost[_storage(tensor)]
                elif view_of(tensor) not in self._parts:
                    del self._lost[_storage(tensor)]

    def _judge_gather(
        self, name: str, arguments: Dict[str, Any], taken: List[Tensor], made: List[Tensor], constant: bool
    ) -> None:
        if name == "gather":
            wrong = None if constant else self.gathers.wrong_rows(arguments)
            if wrong is not None:
                self.remark("overload", "aten::gather", wrong)
        if not constant:
            self.gathers.note(name, arguments, taken, made, self.line())
        self.gathers.note_view(name, arguments, made, constant)

    def _note_parts(self, name: str, arguments: Dict[str, Any], taken: List[Tensor], made: List[Tensor]) -> None:
        """Remember which tensors are views of another, and whether PopTorch comes from them to it."""
        if not taken or name.endswith("_"):
            return
        storage, whole = _storage(taken[0]), self._parts.get(view_of(taken[0]), Part())
        for tensor in made:
            if _storage(tensor) == storage and view_of(tensor) != view_of(taken[0]):
                self._parts[view_of(tensor)] = Part(
                    traced=whole.traced and name in _TRACED_VIEWS,
                    sliced=whole.sliced or name in ("slice", "select"),
                    stepped=whole.stepped or (name == "slice" and arguments.get("step", 1) != 1),
                )

    def _is_host(self, tensor: Tensor) -> bool:
        return not self.is_known(tensor) or _storage(tensor) in self._host


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata


def _shapes(tensors: Sequence[Optional[Tensor]]) -> str:
    return ", ".join(f"{str(t.dtype).replace('torch.', '')}{list(t.shape)}" for t in tensors if t is not None)
