"""Tensors without values, on torch's meta device: copies of models and batches, and operators that run on them.

Large programs are measured and checked there, where `.item()`, a boolean mask or `.numpy()` end in an exception. So
that a run goes on behind them, as it does where there are values, such operators see ones, or else zeros.
"""

import copy
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

_CANNOT = (NotImplementedError, RuntimeError, TypeError)


def tensors_of(value: Any) -> List[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


def to_meta(value: Any, packs: Optional[int] = None) -> Any:
    """The same nested value with every tensor on the meta device; parameters stay what they are.

    Args:
        value: nested tensors.
        packs: length of their leading axis; None keeps it.
    """

    def moved(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        part = part if part.is_meta else part.to("meta")
        return part if packs is None else part.new_empty((packs, *part.shape[1:]))

    return tree_map(moved, value)


def meta_copy(module: nn.Module, parameters: Optional[torch.dtype] = None) -> nn.Module:
    """A copy without values, on the meta device; shared parameters stay shared.

    Args:
        module: on any device.
        parameters: format of the copy's floating-point parameters; None keeps each one's.
    """
    # Whatever deepcopy finds in its memo it does not copy: billions of values are never touched.
    memo: Dict[int, Any] = {}
    for weight in module.parameters():
        kept = parameters is None or not weight.is_floating_point()
        values = torch.empty_like(weight, device="meta", dtype=weight.dtype if kept else parameters)
        memo[id(weight)] = nn.Parameter(values, requires_grad=weight.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def call(function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """Call a function on the meta device if one of its arguments lies there, else where its arguments lie.

    Raises:
        Exception: whatever it raises, if it does so with made-up values too.
    """
    tensors = tensors_of((args, kwargs))
    if not any(tensor.is_meta for tensor in tensors):
        return function(*args, **kwargs)
    try:
        if all(tensor.is_meta for tensor in tensors):
            return function(*args, **kwargs)
        return function(*to_meta(args), **to_meta(kwargs))
    except _CANNOT:
        for make in (torch.ones, torch.zeros):
            try:
                return to_meta(function(*_filled(args, make), **_filled(kwargs, make)))
            except Exception:  # whatever comes of made-up values says nothing
                continue
        raise


def _filled(value: Any, make: Callable[..., Tensor]) -> Any:
    def fill(part: Any) -> Any:
        return make(part.shape, dtype=part.dtype) if isinstance(part, Tensor) and part.is_meta else part

    return tree_map(fill, value)
