"""Functions for use inside a model's forward (python/ops.py).

Those that only say something to the compiler return the same values; outside a program too.
"""

from typing import Any, Callable

from torch import Tensor

from .enums import OverlapMode
from .forward import Forward
from .marks import mark
from .placement import Placement
from .poptorch_core import Error
from .structures import flatten, rebuild


def identity_loss(x: Tensor, reduction: str) -> Tensor:
    """Mark where differentiation starts; the tensor is reduced first."""
    assert reduction in ("sum", "mean", "none"), f"unknown reduction {reduction}"
    if Forward.active is None:
        raise Error("identity_loss has no implementation outside an IPU program")
    if reduction == "none":
        reduced = x.clone()
    else:
        reduced = x.sum() if reduction == "sum" else x.mean()
    marked = _marked(reduced, "identity_loss")
    Forward.active.losses.append(marked)
    return marked


def isRunningOnIpu() -> bool:
    return Forward.active is not None


def recomputationCheckpoint(*tensors: Any) -> Any:
    """Keep these for the backward pass; one tensor, several, or one tuple or list of them."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        return type(tensors[0])(recomputationCheckpoint(*tensors[0]))
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ValueError("recomputationCheckpoint takes tensors")
    if Forward.active is None:
        return tensors[0] if len(tensors) == 1 else tuple(tensors)
    marked = [_marked(tensor, "recomputation_checkpoint") for tensor in tensors]
    if Forward.tracing():
        for tensor, result in zip(tensors, marked):
            Placement.current().operator("recomputation_checkpoint", [tensor], [result])
    return marked[0] if len(marked) == 1 else tuple(marked)


def set_overlap_for_input(input_tensors: Any, mode: OverlapMode) -> Any:
    """Load these inputs while the IPU computes; use what is returned, and nothing else of them."""
    return _overlapped(input_tensors, mode, lambda overlap: overlap.mark_input)


def set_overlap_for_output(output_tensors: Any, mode: OverlapMode) -> Any:
    """Store these outputs while the IPU computes; return what is returned."""
    return _overlapped(output_tensors, mode, lambda overlap: overlap.mark_output)


def _overlapped(tensors: Any, mode: OverlapMode, which: Callable[[Any], Any]) -> Any:
    _ = mode.value
    if not Forward.tracing():
        return tensors
    assert Forward.active is not None
    overlap = Forward.active.overlap
    with Forward.active.unwatched():
        return rebuild(tensors, [which(overlap)(tensor, mode) for tensor in flatten(tensors)])


def _marked(tensor: Tensor, name: str) -> Tensor:
    assert Forward.active is not None
    with Forward.active.unwatched():
        return mark(tensor, name)
