"""What happens while a program is compiled: the forward pass is watched, operator by operator.

Operators are seen below autograd and after torch has taken composite ones apart, which is where PopTorch's
dispatcher sits too, so the names are those that reach its handlers. Three kinds need a second look:
in-place ones lose their underscore (PopTorch runs them out of place); ``_to_copy`` and the like are taken
apart into ``empty`` and ``copy_`` on an IPU, and newer versions of torch only give them their own name.
"""

from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .poptorch_core import Error
from .supported_aten import SUPPORTED

# What torch does on an IPU, where these have no kernel of their own.
TAKEN_APART: Dict[str, Tuple[str, ...]] = {
    "_to_copy": ("empty_strided", "copy_"),
    "empty_like": ("empty",),
    "new_empty": ("empty",),
    "zero_": ("zeros_like",),
    "fill_": ("full_like",),
}
# 8- and 16-bit integers have no arithmetic on an IPU (Poplar's vertices begin at 32 bits, half and bool): they
# may be moved about and cast. Comparing int16 for equality would do; the double does not go that far.
NARROW = (torch.uint8, torch.int8, torch.int16)
MOVES = frozenset(
    "_to_copy copy_ clone detach view _unsafe_view reshape _reshape_alias unsqueeze squeeze select slice expand "
    "permute transpose t cat stack split split_with_sizes unbind zeros_like empty_like".split()
)
READS_VALUES = ("_local_scalar_dense", "item", "is_nonzero", "equal")
BY_VALUE = (torch.bool, torch.uint8)


class Forward:
    """One run of a forward pass on the device: collects the tensors marked as losses."""

    active: "Optional[Forward]" = None

    def __init__(self) -> None:
        self.losses: List[Tensor] = []

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

    def __init__(self) -> None:
        super().__init__()
        self.names: Set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        self.names.add(name)
        if name in READS_VALUES:
            raise Error(f"aten::{name} reads a tensor's value on the host: static graphs have none before the end")
        if name == "index" and any(isinstance(i, Tensor) and i.dtype in BY_VALUE for i in args[1]):
            raise Error("indexing with a mask: the shape of the result depends on values")
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors((args, kwargs, result)):
            if tensor.dtype == torch.bfloat16:
                raise Error(f"aten::{name} on bfloat16, which IPUs do not have")
            if tensor.dtype in NARROW and name not in MOVES:
                raise Error(f"aten::{name} on {tensor.dtype}, which an IPU can only move and cast")
        return result

    def check(self) -> None:
        missing = sorted(name for name in self.names if not handled(name))
        if missing:
            raise Error("operators without a handler: " + ", ".join(f"aten::{name}" for name in missing))


def handled(name: str) -> bool:
    """Whether an operator, as torch's dispatcher names it, ends in PopTorch handlers."""
    if name in SUPPORTED:
        return True
    if name in TAKEN_APART:
        return all(part in SUPPORTED for part in TAKEN_APART[name])
    return name.endswith("_") and not name.endswith("__") and name[:-1] in SUPPORTED


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


def _tensors(value: Any) -> List[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []
