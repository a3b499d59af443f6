"""Checks of what callers give: numbers, budgets and sizes, each refused in one sentence that names the remedy."""

import math
import operator
from typing import Any, Sequence, Tuple

import numpy as np

from packing.types import Budget


def whole(name: str, value: Any, least: int = 0) -> int:
    """A whole number of at least ``least`` as a plain integer, of Python, numpy or torch.

    Raises:
        ValueError: it is none, or less.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}={value!r}: give a whole number of {least} or more.")
    return number


def rank_of(rank: Any, world: Any) -> Tuple[int, int]:
    """Number of a process and of all processes, as plain integers.

    Raises:
        ValueError: the rank is not one of 0 .. world - 1.
    """
    rank, world = whole("rank", rank), whole("world", world, 1)
    if rank >= world:
        raise ValueError(f"rank={rank} is not one of 0 .. {world - 1} (world={world}).")
    return rank, world


def seconds(name: str, value: Any) -> float:
    """A time limit of 0 or more seconds, infinity included.

    Raises:
        ValueError: it is no number, or negative.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 0:
        raise ValueError(f"{name}={value!r}: give seconds, 0 or more.")
    return number


def budget_of(budget: Any) -> Budget:
    """The budget itself.

    Raises:
        ValueError: it is something else, such as a bare number.
    """
    if not isinstance(budget, Budget):
        raise ValueError(f"{budget!r} is no budget; give packing.Budget(nodes=128), or tokens=256.")
    return budget


def integers(name: str, values: Any) -> np.ndarray:
    """One integer per item, [I], of a list, a range, an array, a pandas column or a tensor.

    Data sets are not read: numpy would go through all of their items.

    Raises:
        ValueError: it is something else, or holds other numbers, or masked ones.
    """
    kind = f"a {type(values).__name__}"
    column = None
    if isinstance(values, Sequence) or hasattr(values, "__array__"):
        try:
            if isinstance(values, Sequence) and len(values):
                kind += f" of {type(values[0]).__name__}"
                operator.index(values[0])
            column = np.asarray(values)
        except (TypeError, ValueError, RuntimeError):  # other things in it, or a tensor that has a gradient
            pass
    if column is not None:
        if column.shape == (0,):
            return column.astype(np.int64)
        kind = f"{column.dtype} of shape {column.shape}" + (" with masked values" if np.ma.is_masked(values) else "")
    if column is None or column.ndim != 1 or column.dtype.kind not in "iu" or np.ma.is_masked(values):
        raise ValueError(
            f"sizes of {name} are one integer per item, not {kind}; count them, for instance "
            "np.array([len(item) for item in dataset])."
        )
    return column
