"""One run of a program on the CPU, watched operator by operator where PopTorch's dispatcher sits: below autograd.

Two modes of torch see it: one the operators after composite ones are taken apart, derivatives taken inside
forward included; one the functions before that, for what leaves no operator behind (`Tensor.tolist`) and for
functions that PopTorch lowers as a whole.

On data's way: beside it; program, example -> `watch` -> records and remarks -> `check`, beside this file.
"""

import inspect
import os
import sys
from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Set, Tuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ipu_chem.backends.poptorch.operators.handlers import (
    HOST_READS,
    MOVES,
    RANDOM,
    WHOLE,
    base_name,
    handled,
    operator_name,
    remedy,
)
from ipu_chem.backends.poptorch.operators.overloads import refusal, shape_by_value
from ipu_chem.backends.poptorch.profile import tensors_of

_TORCH = os.path.dirname(inspect.getfile(torch)) + os.sep
_NARROW = (torch.uint8, torch.int8, torch.int16)
# Methods that hand values to Python without any operator, and what prints them.
_READERS = frozenset("tolist numpy cpu __array__ __repr__ __str__ __format__ __contains__".split())
# Of functions that are looked at before torch takes them apart.
_SIGNATURES: Dict[str, Tuple[str, ...]] = {
    "one_hot": ("self", "num_classes"),
    "lstm": tuple("input hx params has_biases num_layers dropout train bidirectional batch_first".split()),
}


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


class Watched(NamedTuple):
    """What a run showed."""

    records: List[Record]
    remarks: List[Remark]


def watch(function: Callable[..., Any], args: Tuple[Any, ...], own: Iterable[Tensor], names: str) -> Watched:
    """Call a function and note its operators.

    Args:
        function: usually a module.
        args: of the call.
        own: parameters and buffers.
        names: file:line to report for operators that no line outside torch ran.

    Returns:
        What was seen up to the end, or up to the exception, which becomes a remark itself.
    """
    log = _Log(names)
    for tensor in [*tensors_of(args), *own]:
        log.learn(tensor, constant=False)
    remarks = log.remarks
    try:
        with _Operators(log), _Functions(log):
            function(*args)
    except Exception as error:  # whatever a model raises is a finding, and the others are still worth telling
        where = _line_of(error.__traceback__, names)
        remarks.append(Remark("error", type(error).__name__, where, f"the program stops: {error}"))
    return Watched(log.records, remarks)


class _Log:
    """What both modes know and note."""

    def __init__(self, otherwise: str) -> None:
        self.records: List[Record] = []
        self.remarks: List[Remark] = []
        self.silent = False
        self._otherwise = otherwise
        # By storage, for views share it; weak references keep addresses from being used again.
        self._constant: Dict[Any, bool] = {}
        self._alive: List[StorageWeakRef] = []
        self._stepped: Set[Any] = set()  # views that leave elements out

    def learn(self, tensor: Tensor, constant: bool) -> None:
        """Note where a tensor comes from: known at compile time, or not."""
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference.cdata not in self._constant:
            self._alive.append(reference)
        self._constant[reference.cdata] = constant

    def is_known(self, tensor: Tensor) -> bool:
        """Whether it is an input, a parameter, a buffer, or was made inside."""
        return StorageWeakRef(tensor.untyped_storage()).cdata in self._constant

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether its values are known at compile time."""
        return self._constant.get(StorageWeakRef(tensor.untyped_storage()).cdata, True)

    def remark(self, kind: str, operator: str, text: str) -> None:
        """Note what an IPU would not take, at the line that runs now."""
        self.remarks.append(Remark(kind, operator, self.line(), text))

    def line(self) -> str:
        """file:line of the innermost frame outside torch and this module, of those that `watch` has called."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not watch.__code__:
            if _is_outside(frame.f_code.co_filename):
                return _place(frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back  # type: ignore[assignment]
        return self._otherwise

    def operator(self, name: str, arguments: Dict[str, Any], result: Any) -> None:
        """Judge one operator and remember it."""
        taken, made = tensors_of(arguments), tensors_of(result)
        constant = all(self.is_constant(tensor) for tensor in taken) and base_name(name) not in RANDOM
        self.records.append(Record(name, self.line(), f"{_shapes(taken)} -> {_shapes(made)}"))
        self._judge_name(name, arguments, constant)
        self._judge_tensors(name, taken, made, constant)
        if name == "slice" and arguments.get("step", 1) != 1:
            self._stepped.update(_view(tensor) for tensor in made)
        elif name.endswith("_") and taken and _view(taken[0]) in self._stepped:
            text = "PopTorch cannot write into slices with a step; use torch.where with a mask of positions"
            self.remark("overload", f"aten::{name}", text)
        for tensor in made:
            self.learn(tensor, constant)

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
        elif not handled(name) and not constant:
            advice = remedy(name)
            self.remark("no handler", label, "PopTorch has no handler for it" + (f"; {advice}" if advice else ""))

    def _judge_tensors(self, name: str, taken: List[Tensor], made: List[Tensor], constant: bool) -> None:
        label = f"aten::{name}"
        dtypes: Set[torch.dtype] = {tensor.dtype for tensor in taken + made}
        if torch.float64 in dtypes:
            self.remark("float64", label, "64-bit floats become float32 on IPUs; cast, or make it float32")
        if torch.bfloat16 in dtypes:
            self.remark("bfloat16", label, "IPUs have no bfloat16; use float16 or float32")
        narrow = [dtype for dtype in _NARROW if dtype in dtypes]
        if narrow and base_name(name) not in MOVES and not constant:
            text = f"IPUs can only move and cast {str(narrow[0]).replace('torch.', '')}; cast to int32 first"
            self.remark("narrow integers", label, text)
        # Normalisations make an empty tensor that nothing uses.
        if any(tensor.numel() == 0 for tensor in (taken if name == "empty" else taken + made[:1])):
            self.remark("empty tensor", label, "tensors without elements cannot be compiled; leave the operator out")
        if name == "lift_fresh":  # torch.tensor(...), which PopTorch makes on the device
            return
        for tensor in taken:
            if not self.is_known(tensor):
                text = "takes a tensor that is no input, parameter or buffer and stays on the host; use register_buffer"
                self.remark("host tensor", label, text)
                self.learn(tensor, constant=False)


class _Operators(TorchDispatchMode):
    """Sees operators below autograd."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.log.silent:
            schema = func._schema
            name = operator_name(schema.name)
            values = {argument.name: value for argument, value in zip(schema.arguments, args)}
            self.log.operator(name, {**values, **kwargs}, result)
        return result


class _Functions(TorchFunctionMode):
    """Sees functions of torch before they are taken apart."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.log.silent or isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        if name == "multi_head_attention_forward" and not kwargs.get("need_weights", True):
            # It calls this where no mode looks.
            self.log.operator("scaled_dot_product_attention", {"query": args[0]}, ())
        if name in _READERS:
            text = "hands a tensor's values to the host, and a program is compiled before there are values"
            self.log.remark("host read", f"Tensor.{name}", text)
        elif name not in WHOLE:
            return func(*args, **kwargs)
        self.log.silent = True
        try:
            result = func(*args, **kwargs)
        finally:
            self.log.silent = False
        if name in WHOLE:
            names = _SIGNATURES.get(name) or [f"argument {index}" for index in range(len(args))]
            self.log.operator(name, {**dict(zip(names, args)), **kwargs}, result)
        else:
            for tensor in tensors_of(result):
                self.log.learn(tensor, constant=False)
        return result


def _view(tensor: Tensor) -> Any:
    """What tells a view from others of the same storage."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _shapes(tensors: List[Tensor]) -> str:
    return ", ".join(f"{str(tensor.dtype).replace('torch.', '')}{list(tensor.shape)}" for tensor in tensors)


def _is_outside(file: str) -> bool:
    return not file.startswith(_TORCH) and file != __file__


def _place(file: str, line: int) -> str:
    """file:line, relative to the working directory where that is shorter."""
    return f"{_shorter(file, os.getcwd())}:{line}"


@lru_cache(maxsize=256)
def _shorter(file: str, folder: str) -> str:
    relative = os.path.relpath(file, folder) if os.path.exists(file) else file
    return file if relative.startswith("..") else relative


def _line_of(traceback: Any, otherwise: str) -> str:
    """Of an exception: the innermost line outside torch and this module."""
    frames = [frame for frame in inspect.getinnerframes(traceback) if _is_outside(frame.filename)]
    return _place(frames[-1].filename, frames[-1].lineno) if frames else otherwise
