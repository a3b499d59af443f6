"""What happens while a program is compiled: the forward pass is watched, operator by operator.

Operators are seen below autograd and after torch has taken composite ones apart, which is where PopTorch's
dispatcher sits too, so the names are those that reach its handlers (ipu_chem/backends/poptorch/operators/handlers.py);
derivatives that the forward pass takes are operators like others. `functions` sees what leaves no operator behind.

What fails at once does so with torch's exceptions, for PopTorch asks torch's meta kernels for the shape of
every result; what only has no handler fails at the end, with PopTorch's.
"""

from typing import Any, Callable, Dict, Iterable, List, Optional, Set

import torch
from ipu_chem.backends.poptorch.operators.handlers import HOST_READS, MOVES, base_name, handled
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

from . import refusals
from .device_types import SLICES
from .forward import Forward
from .gathers import Gathers
from .machine import Machine
from .placement import Placement
from .poptorch_core import Error

__all__ = ["Watch", "handled", "operators"]

# Torch's meta backend, which has no values, says so; for equal there is a kernel that says False.
READS_VALUES = HOST_READS - {"equal"}
# Operators of constants are evaluated by torch while the program is compiled, and these take int64 only.
INT64_ONLY = ("gather", "index", "index_put", "one_hot")
# Operators of torch 2.0.1 without a meta kernel.
NO_META = frozenset(
    "nonzero masked_select _unique2 unique_dim unique_consecutive segment_reduce take searchsorted".split()
)
# 8- and 16-bit integers have no arithmetic on an IPU (Poplar's vertices begin at 32 bits, half and bool).
NARROW = (torch.uint8, torch.int8, torch.int16)
# Without a handler by name, and yet accepted: attention in evaluation, which torch then writes in others; what
# returns no tensor leaves nothing in the graph.
ACCEPTED = (*SLICES, "scaled_dot_product_attention", "equal")
# Loss functions of torch that reach a CPU's dispatcher whole: PopTorch's handlers mark their results as losses
# (popart_canonicalization/LossOps.cpp and AtenHandlers.gen.cpp).
LOSSES = frozenset(
    "mse_loss smooth_l1_loss soft_margin_loss nll_loss_forward nll_loss2d_forward binary_cross_entropy "
    "binary_cross_entropy_with_logits".split()
)


class Watch(TorchDispatchMode):
    """Notes every operator and refuses what cannot be part of a static graph."""

    def __init__(self, placement: Optional[Placement] = None, known: Optional[Iterable[Tensor]] = None) -> None:
        """With ``known``, inputs and weights in the device's types, other tensors from outside are on the host."""
        super().__init__()
        self.names: Set[str] = set()
        self.losses: List[Tensor] = []
        self.gathers = Gathers(list(known or []))
        self._placement = placement
        self._known: Optional[Dict[int, Tensor]] = None if known is None else {}
        self.learn(list(known or []))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Forward.active is not None and not Forward.active.watched:
            return func(*args, **kwargs)
        schema = func._schema
        name = schema.name.split("::")[-1]
        self.names.add(name)
        arguments = {**{argument.name: value for argument, value in zip(schema.arguments, args)}, **kwargs}
        taken = tensors_of((args, kwargs))
        self._refuse(name, func, arguments)
        if name != "lift_fresh":  # torch.tensor(...), which PopTorch makes on the device
            self._check_known(taken)
        result = func(*args, **kwargs)
        self._note(name, arguments, taken, tensors_of(result))
        return result

    def whole(self, name: str, arguments: Dict[str, Any], taken: List[Tensor], made: List[Tensor]) -> None:
        """Note a function that PopTorch lowers as a whole."""
        self.names.add(name)
        self._check_known(taken)
        self._note(name, arguments, taken, made)

    def _refuse(self, name: str, func: Any, arguments: Dict[str, Any]) -> None:
        if name in READS_VALUES:
            raise NotImplementedError(
                "Could not run 'aten::_local_scalar_dense' with arguments from the 'Meta' backend: "
                f"aten::{name} reads a value on the host"
            )
        if name in NO_META:
            raise RuntimeError(
                f"Type inference failed for aten::{name} because the operator doesn't have an implementation for the "
                "Meta backend."
            )
        if name == "index" and refusals.masked(arguments):
            raise DynamicOutputShapeException(func)
        why = refusals.refusal(name, arguments, Machine.strict)
        if why is not None:
            raise Error(f"aten::{name}: {why}")

    def _note(self, name: str, arguments: Dict[str, Any], taken: List[Tensor], made: List[Tensor]) -> None:
        for tensor in taken + made:
            if tensor.dtype == torch.bfloat16:
                raise Error(f"aten::{name} on bfloat16, which IPUs do not have")
            if tensor.dtype in NARROW and base_name(name) not in MOVES and Machine.strict:
                raise Error(f"aten::{name} on {short(tensor)}, which an IPU can only move and cast")
        for tensor in taken + made[:1]:  # further results may be left out
            if tensor.numel() == 0:
                raise Error(f"aten::{name} on a tensor without elements, {list(tensor.shape)}")
        if name in LOSSES:
            self.losses.append(made[0])
        if self._known is not None:
            if base_name(name) in INT64_ONLY and all(map(self.gathers.is_constant, taken)):
                raise Error(f"aten::{name} of constants: expected int64 for index")
            self.gathers.operator(name, arguments, taken, made, 0 if self._placement is None else self._placement.begun)
        self.learn(made)
        if self._placement is not None:
            self._placement.operator(name, taken, made)
            if Forward.active is not None and Forward.active.overlap is not None:
                Forward.active.overlap.operator(taken)

    def learn(self, tensors: List[Tensor]) -> None:
        """Tensors of the device."""
        if self._known is not None:  # kept, so that no memory is given out twice while its address is a name
            self._known.update((_memory(tensor), tensor) for tensor in tensors if tensor.numel())

    def _check_known(self, tensors: List[Tensor]) -> None:
        for tensor in tensors:
            if self._known is not None and tensor.numel() and _memory(tensor) not in self._known:
                raise RuntimeError(
                    f"Expected an IPU tensor but got tensor(device=cpu, shape={list(tensor.shape)}, "
                    f"dtype={short(tensor)}): register it as a buffer"
                )

    def check(self) -> None:
        """At the end: what is left without a handler."""
        accepted = () if Machine.strict else ACCEPTED
        missing = sorted(name for name in self.names if not handled(name) and name not in accepted)
        if missing:
            raise Error("operators without a handler: " + ", ".join(f"aten::{name}" for name in missing))


def operators(function: Callable[..., Any], *args: Any) -> Set[str]:
    """Names of the operators that a call runs."""
    with Watch() as watch:
        function(*args)
    return watch.names


def short(tensor: Tensor) -> str:
    return str(tensor.dtype).replace("torch.", "")


def tensors_of(value: Any) -> List[Tensor]:
    """Of nested lists, tuples and dicts, flat."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors_of(part)]
    if isinstance(value, dict):
        return tensors_of(list(value.values()))
    return []


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
