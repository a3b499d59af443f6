"""Choosing the shape of a pack from the data: the capacities that waste least."""

import math
import time
from typing import List, Mapping, Sequence, Tuple

import numpy as np

from packing.make_plan import estimate_packs, make_plan
from packing.plan import size_table
from packing.types import Budget

# Shares by which a further dimension may exceed what an average full pack needs. Little suffices where
# molecules rich and poor in edges can share a pack, more where the large ones are also the rich ones.
_SLACKS = (0.02, 0.04, 0.06, 0.08, 0.10, 0.15, 0.25)
# The first slack is taken at which the further dimensions cost no more packs than this.
_WORTH = 1.003
_HIGHEST = 2**31 - 1


def fit_budget(
    sizes: Mapping[str, np.ndarray],
    fixed: Mapping[str, int],
    target: float = 0.995,
    align: int = 16,
    largest: int = 512,
    time_limit: float = 120.0,
) -> Budget:
    """Choose the capacities that are not given.

    The primary dimension becomes the smallest multiple of ``align`` at which at least ``target`` of it can
    be filled (or the one filled best); the other dimensions follow from what an average full pack needs.

    Args:
        sizes: {name: [I]} in the order of the budget, primary dimension first.
        fixed: capacities that are given; a 0 or a missing one is chosen.
        target: share of the primary dimension to fill.
        align: capacities are multiples of this.
        largest: highest capacity of the primary dimension that is tried.
        time_limit: seconds after which the best of what was tried is taken.

    Raises:
        ValueError: there are no items, sizes are malformed, or a given capacity is below the largest item.
    """
    primary = next(iter(sizes))
    if len(sizes[primary]) == 0:
        raise ValueError("there are no items to fit a budget to.")
    size_table(sizes, Budget(**{name: _HIGHEST for name in sizes}))  # refuses what is no size
    deadline = time.monotonic() + time_limit
    chosen = {name: int(capacity) for name, capacity in fixed.items() if capacity}
    for name, capacity in chosen.items():
        if name in sizes and capacity < sizes[name].max():
            item = int(np.argmax(sizes[name]))
            raise ValueError(
                f"item {item} has {sizes[name][item]} {name}, more than the budget's {capacity}; "
                f"give {name}={sizes[name].max()} or more, or 0 to have it chosen."
            )
    if primary not in chosen:
        # Packs of six molecules or more leave the packer enough choice in every dimension.
        smallest = _align(max(int(sizes[primary].max()), int(6 * sizes[primary].mean()), align), align)
        capacities = range(smallest, max(largest, smallest) + 1, align)
        chosen[primary] = max(efficiency_curve(sizes[primary], capacities, deadline, target), key=_used)[0]
    seconds = max(min(10.0, deadline - time.monotonic()), 1.0)
    packs = make_plan(sizes[primary], Budget(**{primary: chosen[primary]}), time_limit=seconds).num_packs
    further = [name for name in sizes if name not in chosen]
    for slack in _SLACKS if further else ():
        for name in further:
            needed = (1 + slack) * float(sizes[name].sum()) / packs
            chosen[name] = _align(max(int(np.ceil(needed)), int(sizes[name].max()), 1), align)
        measured = Budget(**{name: chosen[name] for name in sizes})
        seconds = deadline - time.monotonic()
        if seconds < 0 or estimate_packs(sizes, measured, _WORTH * packs, seconds) <= _WORTH * packs:
            break
    order = list(sizes) + [name for name in chosen if name not in sizes]
    return Budget(**{name: chosen[name] for name in order})


def _used(point: Tuple[int, float, int]) -> float:
    return point[1]


def efficiency_curve(
    sizes: np.ndarray, capacities: Sequence[int], deadline: float = math.inf, enough: float = math.inf
) -> List[Tuple[int, float, int]]:
    """Packing efficiency of packs of each capacity.

    Args:
        sizes: [I] integer.
        capacities: to try; those below the largest item are left out.
        deadline: time.monotonic() after which no further one is tried, once there is one.
        enough: the first of which this fraction is used is the last that is tried.

    Returns:
        (capacity, used share, packs) for each capacity.
    """
    points = []
    total = float(np.sum(sizes))
    biggest = int(np.max(sizes))
    for capacity in capacities:
        if points and time.monotonic() > deadline:
            break
        if capacity >= biggest:
            seconds = max(min(10.0, deadline - time.monotonic()), 1.0)
            packs = make_plan(sizes, Budget(items=int(capacity)), time_limit=seconds).num_packs
            points.append((int(capacity), total / (packs * capacity), packs))
            if _used(points[-1]) >= enough:
                break
    return points


def _align(value: int, align: int) -> int:
    return min(-(-value // align) * align, _HIGHEST)
