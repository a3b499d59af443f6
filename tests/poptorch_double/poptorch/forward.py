"""One run of a forward pass on the device, and the loss that it marked."""

from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Set

from torch import Tensor

from .overlap import Overlap
from .poptorch_core import Error


class Forward:
    """Collects the tensors marked as losses.

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
