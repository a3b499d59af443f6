"""Operators on tensors without values: what torch cannot run on its meta device runs on made-up values.

Large programs are checked on the meta device, where `.item()`, a boolean mask or `.numpy()` end in an exception. So
that a check goes on behind them, as it does where there are values, such operators see ones, or else zeros.
"""

from typing import Any, Callable, Dict, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ipu_chem.backends.poptorch.profile import tensors_of

_CANNOT = (NotImplementedError, RuntimeError, TypeError)


def to_meta(value: Any) -> Any:
    """The same nested value with every tensor on the meta device; parameters stay what they are."""
    return tree_map(lambda part: part.to("meta") if isinstance(part, Tensor) and not part.is_meta else part, value)


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
