"""One run of a program on CPU or meta tensors, recorded operator by operator where PopTorch's dispatcher sits.

Two modes of torch see it: one the operators after composite ones are taken apart, derivatives taken inside
forward included; one the functions before that, for what leaves no operator behind (`Tensor.tolist`) and for
functions that PopTorch treats as a whole.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ipu_chem.backends.poptorch.meta import call, tensors_of, to_meta
from ipu_chem.backends.poptorch.operators.handlers import MADE_ON_HOST, NO_DERIVATIVES, WHOLE, operator_name
from ipu_chem.backends.poptorch.operators.lines import call_at_derivative, line_now, line_of
from ipu_chem.backends.poptorch.operators.log import Log, Record, Remark

# Methods that hand values to Python without any operator, and what prints them.
_READERS = frozenset("tolist numpy cpu __array__ __repr__ __str__ __format__ __contains__".split())
_MOVERS = frozenset("to type_as".split())
_MADE_ON_DEVICE = frozenset("tensor new_tensor new".split())  # PopTorch's, of what Python holds
# Of functions that are looked at before torch takes them apart.
_SIGNATURES: Dict[str, Tuple[str, ...]] = {
    "one_hot": ("self", "num_classes"),
    "take_along_dim": ("self", "indices", "dim"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
    "lstm": tuple("input hx params has_biases num_layers dropout train bidirectional batch_first".split()),
}


class Recording(NamedTuple):
    """Notes of one run."""

    records: List[Record]
    remarks: List[Remark]
    shapeless_gathers: int


def record_run(
    function: Callable[..., Any], args: Tuple[Any, ...], own: Iterable[Tensor], names: str, training: bool = True
) -> Recording:
    """Call a function and note its operators.

    Args:
        function: usually a module.
        args: of the call.
        own: parameters and buffers.
        names: file:line to report for operators that no line outside torch ran.
        training: whether PopTorch would differentiate the program.

    Returns:
        What was seen up to the end, or up to the exception, which becomes a remark itself.
    """
    own = list(own)
    log = Log(lambda: line_now(record_run.__code__, names), training)
    for tensor in tensors_of(args):
        log.given(tensor, constant=False)
    for tensor in own:
        # PopTorch makes constants of parameters and buffers that are no floats.
        log.given(tensor, constant=not tensor.is_floating_point())
    meta = any(tensor.is_meta for tensor in [*tensors_of(args), *own])
    result = None
    try:
        with _Operators(log), _Functions(log, meta):
            result = function(*args)
    except Exception as error:  # whatever a model raises is a finding, and the others are still worth telling
        where = line_of(error.__traceback__, names)
        log.remarks.append(Remark("error", type(error).__name__, where, f"the program stops: {error}"))
    log.finish(result)
    return Recording(log.records, log.remarks, log.gathers.count)


class _Operators(TorchDispatchMode):
    """Sees operators below autograd."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator_name(func._schema.name)
        with self.log.inside():
            result = call(func, args, kwargs)
        if name.endswith("_") and args and isinstance(result, Tensor):
            result = args[0]  # a copy of it may have stood in
        if not self.log.silent:
            values = {argument.name: value for argument, value in zip(func._schema.arguments, args)}
            self.log.operator(name, {**values, **kwargs}, result)
        else:
            self.log.learn_new(tensors_of(result))
        return result


class _Functions(TorchFunctionMode):
    """Sees functions of torch before they are taken apart."""

    def __init__(self, log: Log, meta: bool) -> None:
        super().__init__()
        self.log = log
        self.meta = meta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        log, name = self.log, getattr(func, "__name__", "")
        if log.silent or log.is_inside:
            return func(*args, **kwargs)
        if isinstance(func, torch._ops.OpOverload):
            return self._on_device(func(*args, **kwargs))
        if name == "multi_head_attention_forward" and not kwargs.get("need_weights", True):
            # It calls this where no mode looks.
            log.operator("scaled_dot_product_attention", {"query": args[0]}, ())
        if name in _READERS and not log.on_host(tensors_of(args)):
            text = "hands a tensor's values to the host, and a program is compiled before there are values"
            log.remark("host read", f"Tensor.{name}", text)
            result = self._silently(func, args, kwargs)
            for tensor in tensors_of(result):
                log.learn(tensor, constant=False)
        elif name in WHOLE:
            result = self._silently(func, args, kwargs)
            names = _SIGNATURES.get(name) or [f"argument {index}" for index in range(len(args))]
            log.operator(name, {**dict(zip(names, args)), **kwargs}, result)
        else:
            with log.within(name):
                result = self._item(func, args) if name == "__getitem__" else func(*args, **kwargs)
            log.lines.label(result, log.line)
        self._learn_origin(name, args, kwargs, result)
        result = self._on_device(result)
        if name in NO_DERIVATIVES:
            result = self._without_derivative(name, result)
        return result

    def _item(self, func: Any, args: Any) -> Any:
        value, *index = _sliced(*args)
        return func(value, *index) if index else value

    def _silently(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self.log.quiet():
            return call(func, args, kwargs)

    def _learn_origin(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Note tensors that a function has made on the host, or moved to the device."""
        taken = tensors_of((args, kwargs))
        if name in _MADE_ON_DEVICE:
            self.log.to_device(result)
        elif name in MADE_ON_HOST and kwargs.get("device") is None and not taken:
            self.log.to_host(result)
        elif name in _MOVERS and self.log.on_host(taken[:1]):
            target = [*args[1:], kwargs.get("device")]
            if len(taken) > 1 or any(isinstance(value, (torch.device, str)) for value in target):
                self.log.to_device(result)

    def _on_device(self, result: Any) -> Any:
        """Move what a function has made on the CPU while the program has meta tensors to the meta device."""
        if not self.meta or all(tensor.is_meta for tensor in tensors_of(result)):
            return result
        with self.log.quiet():
            moved = to_meta(result)
        for old, new in zip(tensors_of(result), tensors_of(moved)):
            self.log.learn_as(old, new)
        return moved

    def _without_derivative(self, name: str, result: Any) -> Any:
        """A result that complains as soon as a derivative runs through it."""
        where = self.log.line()
        text = "PopTorch leaves out its derivative where one is taken inside forward; write it in elementary operators"

        def complain() -> None:
            self.log.remarks.append(Remark("lost derivative", f"aten::{name}", where, text))

        with self.log.quiet():
            return call_at_derivative(result, complain)


def _sliced(value: Any, index: Any) -> Tuple[Any, ...]:
    """Arguments of x[...] with slices of whole axes taken first: torch 2.0.1 takes them, newer ones skip them.

    Returns:
        The value, and the index unless it takes whole axes only.
    """
    if not _SKIPS_SLICES or not isinstance(value, Tensor):
        return value, index
    axes = list(_whole_axes(index, value.shape))
    for axis in axes:
        value = torch.ops.aten.slice.Tensor(value, axis)
    if axes and len(axes) == sum(part is not Ellipsis for part in index):
        return (value,)
    return value, index


def _whole_axes(index: Any, shape: torch.Size) -> Iterator[int]:
    """Axes that an index of several parts slices from end to end."""
    if not isinstance(index, tuple) or len(index) < 2:
        return
    used = sum(_axes(part) for part in index)
    axis = 0
    for part in index:
        if part is Ellipsis:
            axis += len(shape) - used
            continue
        if isinstance(part, slice) and axis < len(shape) and part.step in (None, 1) and part.start in (None, 0):
            # A slice that ends just where the axis ends is skipped by both.
            if part.stop is None or (isinstance(part.stop, int) and part.stop > shape[axis]):
                yield axis
        axis += _axes(part)


def _axes(part: Any) -> int:
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.dim() if isinstance(part, Tensor) and part.dtype == torch.bool else 1


def _probe_slices() -> bool:
    made: Any = torch.zeros(1, requires_grad=True)[:, None]
    return "Slice" not in made.grad_fn.next_functions[0][0].name()


with torch.enable_grad():
    _SKIPS_SLICES = _probe_slices()  # whether this torch leaves slices of whole axes out of x[:, None]
