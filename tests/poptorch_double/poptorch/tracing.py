"""What happens while a program is compiled: the forward pass is watched, operator by operator.

Operators are seen below autograd and after torch has taken composite ones apart, which is where PopTorch's
dispatcher sits too, so the names are those that reach its handlers; derivatives that the forward pass takes
are operators like others.
"""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .handlers import LOSSES, MOVES, NARROW, READS_VALUES, handled
from .overlap import Overlap
from .placement import Placement
from .poptorch_core import Error
from .refusals import refusal

__all__ = ["Forward", "Functions", "Watch", "handled", "operators"]

# Methods that hand values to Python without an operator.
READERS = frozenset("tolist numpy __array__ cpu".split())
# Functions that PopTorch lowers as a whole; what a CPU makes of them says nothing about an IPU.
WHOLE = ("one_hot", "batch_norm")
# Functions that end in operators without a handler on torch 2.0.1, and not always on newer versions or CPUs.
REFUSED = ("repeat_interleave", "scaled_dot_product_attention")


class Forward:
    """One run of a forward pass on the device: collects the tensors marked as losses.

    ``overlap`` is there while a program is traced, when what runs is only looked at.
    """

    active: "Optional[Forward]" = None

    def __init__(self, overlap: Optional[Overlap] = None) -> None:
        self.losses: List[Tensor] = []
        self.overlap = overlap
        self.watched = True

    @classmethod
    def tracing(cls) -> bool:
        return cls.active is not None and cls.active.overlap is not None

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """For tensors that the double makes for itself."""
        before, self.watched = self.watched, False
        try:
            yield
        finally:
            self.watched = before

    def __enter__(self) -> "Forward":
        if Forward.active is not None:
            raise Error("a program is being run already")
        Forward.active = self
        return self

    def __exit__(self, *_: Any) -> None:
        Forward.active = None

    def loss(self) -> Tensor:
        """The one marked tensor that no other marked tensor is computed from."""
        if not self.losses:
            raise Error("no loss in the graph: mark it with poptorch.identity_loss")
        final = [
            loss
            for loss in self.losses
            if not any(other is not loss and _depends_on(other, loss) for other in self.losses)
        ]
        if len(final) != 1:
            raise Error(f"{len(final)} independent losses in the graph: one marked tensor must come last")
        return final[0]


class Watch(TorchDispatchMode):
    """Notes every operator and refuses what cannot be part of a static graph."""

    def __init__(self, placement: Optional[Placement] = None, known: Optional[Iterable[Tensor]] = None) -> None:
        """With ``known``, inputs and weights in the device's types, other tensors from outside are on the host."""
        super().__init__()
        self.names: Set[str] = set()
        self.losses: List[Tensor] = []
        self._placement = placement
        self._known: Optional[Dict[int, Tensor]] = None if known is None else {}
        self.learn(list(known or []))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Forward.active is not None and not Forward.active.watched:
            result = func(*args, **kwargs)
            self.learn(_tensors(result))
            return result
        schema = func._schema
        name = schema.name.split("::")[-1]
        self.names.add(name)
        if name in READS_VALUES:
            raise Error(f"aten::{name} reads a tensor's value on the host: static graphs have none before the end")
        why = refusal(name, {**{a.name: value for a, value in zip(schema.arguments, args)}, **kwargs})
        if why is not None:
            raise Error(f"aten::{name}: {why}")
        taken = _tensors((args, kwargs))
        if name != "lift_fresh":  # torch.tensor(...), which PopTorch makes on the device
            self._check_known(name, taken)
        result = func(*args, **kwargs)
        self._note(name, taken, _tensors(result))
        return result

    def whole(self, name: str, taken: List[Tensor], made: List[Tensor]) -> None:
        """Note a function that PopTorch lowers as a whole."""
        self.names.add(name)
        self._check_known(name, taken)
        self._note(name, taken, made)

    def _note(self, name: str, taken: List[Tensor], made: List[Tensor]) -> None:
        for tensor in taken + made:
            if tensor.dtype == torch.bfloat16:
                raise Error(f"aten::{name} on bfloat16, which IPUs do not have")
            if tensor.dtype == torch.float64 and self._known is not None:
                raise Error(f"aten::{name} on float64, which PopTorch would quietly make float32")
            if tensor.dtype in NARROW and name not in MOVES:
                raise Error(f"aten::{name} on {_short(tensor)}, which an IPU can only move and cast")
        for tensor in taken + made[:1]:  # further results may be left out
            if tensor.numel() == 0:
                raise Error(f"aten::{name} on a tensor without elements, {list(tensor.shape)}")
        if name in LOSSES:
            self.losses.append(made[0])
        self.learn(made)
        if self._placement is not None:
            self._placement.operator(name, taken, made)
            if Forward.active is not None and Forward.active.overlap is not None:
                Forward.active.overlap.operator(taken)

    def learn(self, tensors: List[Tensor]) -> None:
        if self._known is not None:  # kept, so that no memory is given out twice while its address is a name
            self._known.update((_memory(tensor), tensor) for tensor in tensors if tensor.numel())

    def _check_known(self, name: str, tensors: List[Tensor]) -> None:
        for tensor in tensors:
            if self._known is not None and tensor.numel() and _memory(tensor) not in self._known:
                raise Error(
                    f"aten::{name} expected an IPU tensor but got one on the host, {_short(tensor)} "
                    f"{list(tensor.shape)}: register it as a buffer"
                )

    def check(self) -> None:
        missing = sorted(name for name in self.names if not handled(name))
        if missing:
            raise Error("operators without a handler: " + ", ".join(f"aten::{name}" for name in missing))


class Functions(TorchFunctionMode):
    """Sees functions before torch takes them apart: some leave no operator behind, or others than on an IPU."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in READERS and (Forward.active is None or Forward.active.watched):
            raise Error(f"Tensor.{name} is an illegal move to the CPU before the end of the program")
        if name in REFUSED and Forward.tracing():
            raise Error(f"operators without a handler: aten::{name}")
        if name not in WHOLE or Forward.active is None:
            return func(*args, **kwargs)
        if name == "one_hot" and kwargs.get("num_classes", args[1] if len(args) > 1 else -1) == -1:
            raise Error("aten::one_hot: the number of classes must be given")
        with Forward.active.unwatched():
            result = func(*args, **kwargs)
        self._watch.whole(name, _tensors((args, kwargs)), [result])
        return result


def operators(function: Callable[..., Any], *args: Any) -> Set[str]:
    """Names of the operators that a call runs."""
    with Watch() as watch:
        function(*args)
    return watch.names


def _depends_on(tensor: Tensor, other: Tensor) -> bool:
    """Whether ``tensor`` was computed from ``other``, by their autograd graph."""
    seen: Set[Any] = set()
    stack = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node is other.grad_fn:
            return True
        stack += [parent for parent, _ in node.next_functions]
    return False


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).replace("torch.", "")


def _tensors(value: Any) -> List[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []
