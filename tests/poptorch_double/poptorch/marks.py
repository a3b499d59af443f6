"""Marks that PopTorch's operators leave in a forward pass: the same values under another name.

PopTorch's operators have no derivative of their own (poptorch/source/dispatch_tracer/
RegisterAtenOverloads.cpp: autogradNotImplementedFallback). PopART differentiates through them; torch.autograd
inside a forward pass does not.
"""

from contextlib import contextmanager
from typing import Any, Iterator, Tuple

import torch
from torch import Tensor

from .poptorch_core import Error


class _Mark(torch.autograd.Function):
    as_popart = False

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, name: str) -> Tensor:
        ctx.name = name
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:  # type: ignore[override]
        if not _Mark.as_popart:
            raise Error(f"the derivative of poptorch::{ctx.name} is not implemented: take it before this mark")
        return gradient, None


def mark(tensor: Tensor, name: str) -> Tensor:
    """The same memory as another tensor, made by ``poptorch::name``."""
    return _Mark.apply(tensor, name)


@contextmanager
def popart_differentiates() -> Iterator[None]:
    """Inside, derivatives are those of the program's backward pass."""
    _Mark.as_popart = True
    try:
        yield
    finally:
        _Mark.as_popart = False
