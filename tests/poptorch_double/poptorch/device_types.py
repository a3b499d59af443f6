"""Operators as the device runs them, for a CPU: 32-bit results, 32-bit indices, and what PopTorch gets wrong.

Integers inside a program are int32 and floats at most float32, whatever the program asks for. Indices are
int32 too: PopTorch makes some of them 64-bit ones for torch's checks (TypeInferenceHandler::indexArgToUpcast),
its own handlers do not look; `scatter` with a reduction is neither, and torch refuses it.

With `Machine.strict` (the default) operators that PopTorch lowers to something else raise Error; without it
they give what PopTorch would give: derivatives of slices are zero, `accumulate` and `rounding_mode` ignored.
"""

from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import coercion
from .machine import Machine
from .poptorch_core import Error

_INDICES = ("index", "indices", "target")
_AS_TENSORS = ("add", "sub", "rsub", "mul", "div")  # of a tensor and a number, which torch makes a tensor
_ACCUMULATING = ("index_put", "index_put_", "_index_put_impl_")
SLICES = ("slice_backward", "select_backward")


class _Operator(NamedTuple):
    """What is needed of a schema; positions are those of arguments."""

    name: str
    overload: str
    indices: Tuple[int, ...]
    tensors: Tuple[int, ...]


@lru_cache(maxsize=None)
def _operator(func: Any) -> _Operator:
    schema = func._schema
    name, arguments = schema.name.split("::")[-1], list(enumerate(schema.arguments))
    tensors = [number for number, argument in arguments if str(argument.type) == "Tensor"]
    if schema.overload_name == "Scalar" and name in _AS_TENSORS:
        tensors.append(1)
    indices = [number for number, argument in arguments if argument.name in _INDICES]
    return _Operator(name, schema.overload_name, tuple(indices), tuple(tensors))


class DeviceTypes(TorchDispatchMode):
    """Changes arguments and results; ``tracing`` says so of every 64-bit one."""

    def __init__(self, tracing: bool = False) -> None:
        super().__init__()
        self._tracing = tracing
        self._off = False
        self._by_popart = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._off:
            return func(*args, **kwargs)
        operator = _operator(func)
        if self._tracing:
            for number in operator.tensors:
                if number < len(args):
                    coercion.warn_of_number(args[number])
        if operator.indices:
            args = self._widened(operator, args)
        if not (self._by_popart or Machine.strict):
            if operator.name == "equal":  # the kernel that stands in for shapes knows no values
                return False
            func, args, kwargs = _as_lowered(operator.name, func, args, kwargs)
        return self._narrowed(operator.name, func(*args, **kwargs))

    @contextmanager
    def off(self) -> Iterator[None]:
        """For tensors of the host, and functions that PopTorch lowers as a whole."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    @contextmanager
    def popart_differentiates(self) -> Iterator[None]:
        """Inside, derivatives are those of the program's backward pass, which are right."""
        self._by_popart = True
        try:
            yield
        finally:
            self._by_popart = False

    def narrowed(self, tensor: Tensor) -> Tensor:
        """What the device keeps of a result; one line if that is less."""
        if tensor.dtype not in coercion.NARROWED:
            return tensor
        if self._tracing:
            coercion.warn_of_tensor(tensor.dtype)
        return coercion.narrowed(tensor)

    def _narrowed(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.dtype == torch.float64 and self._tracing and Machine.strict:
                raise Error(f"aten::{name} on float64, which PopTorch would make float32")
            return self.narrowed(value)
        return type(value)(self._narrowed(name, part) for part in value) if isinstance(value, (list, tuple)) else value

    def _widened(self, operator: _Operator, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
        changed: List[Any] = list(args)
        for number in operator.indices:
            if number >= len(args):
                continue
            if operator.name.startswith("scatter") and operator.overload == "reduce" and not self._by_popart:
                raise RuntimeError("scatter(): Expected dtype int64 for index")
            changed[number] = widened(args[number])
        return tuple(changed)


def widened(value: Any) -> Any:
    """Indices as CPUs take them."""
    if isinstance(value, Tensor):
        return value.to(torch.int64) if value.dtype == torch.int32 else value
    return type(value)(widened(part) for part in value) if isinstance(value, (list, tuple)) else value


def _as_lowered(name: str, func: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """The operator that PopTorch makes of one whose argument its handler does not read."""
    if name in _ACCUMULATING and (kwargs.get("accumulate") or (len(args) > 3 and args[3])):
        return func, args[:3], {**kwargs, "accumulate": False}
    if name == "div" and kwargs.get("rounding_mode") is not None:
        return torch.ops.aten.div.Tensor, args[:2], {}
    return func, args, kwargs


@contextmanager
def dropped_derivatives() -> Iterator[None]:
    """Derivatives of slices, taken inside, are zeros that depend on nothing.

    torch copies a derivative into a slice of zeros; PopTorch drops what the copy gives. Above autograd, so that
    the derivative of such a derivative is zero as well.
    """
    if Machine.strict:
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    try:
        for name in SLICES:
            library.impl(name, _zeros, "AutogradCPU")
        yield
    finally:
        if hasattr(library, "_destroy"):
            library._destroy()
        del library


def _zeros(gradient: Tensor, sizes: List[int], *_: Any) -> Tensor:
    return torch.zeros(sizes, dtype=gradient.dtype)


@contextmanager
def as_on_device(device: DeviceTypes) -> Iterator[None]:
    """A forward pass, or one of its derivatives, in the device's types."""
    with ExitStack() as stack:
        stack.enter_context(dropped_derivatives())
        stack.enter_context(device)
        yield
