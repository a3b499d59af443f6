"""Choosing the shape of a pack from the data: the capacities that waste least."""

import math
import time
from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np

from packing import column_generation
from packing.classes import SizeClasses, size_classes
from packing.knapsack import Knapsack
from packing.make_plan import (
    ESTIMATE_ROUNDS,
    MAX_CLASSES,
    best_fit,
    continuous_bound,
    estimate_packs,
    make_plan,
    rounded_classes,
)
from packing.plan import size_table
from packing.types import Budget

# Shares by which a further dimension may exceed what an average full pack needs. Little suffices where
# molecules rich and poor in edges can share a pack, more where the large ones are also the rich ones.
_SLACKS = (0.02, 0.04, 0.06, 0.08, 0.10, 0.15, 0.25)
# The first slack is taken at which the further dimensions cost no more packs than this.
_WORTH = 1.005
# Of so many classes, and cells of the table times classes, a linear program takes a few tenths of a second; to get
# there, sizes are rounded to these fractions of their mean at most.
_ABOUT_CLASSES, _ABOUT_COST = 150, 8_000_000
_COARSEST, _COARSEST_PRIMARY = 0.6, 0.1
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
        chosen[primary], packs = _best_capacity(sizes[primary], capacities, target, deadline)
    else:
        packs = 0
    further = [name for name in sizes if name not in chosen]
    if further and not packs:
        packs = _fewest_packs(_classes_of(sizes[primary]), chosen[primary], deadline)
    measured: Optional[Budget] = None
    for slack in _SLACKS if further else ():
        for name in further:
            needed = (1 + slack) * float(sizes[name].sum()) / packs
            chosen[name] = _align(max(int(np.ceil(needed)), int(sizes[name].max()), 1), align)
        before, measured = measured, Budget(**{name: chosen[name] for name in sizes})
        if measured == before:
            continue
        seconds, worth = deadline - time.monotonic(), _WORTH * packs
        if seconds < 0:
            break
        about = _about(sizes, measured, deadline)
        if estimate_packs(about, measured, worth, seconds, worth) <= worth:
            break
    order = list(sizes) + [name for name in chosen if name not in sizes]
    return Budget(**{name: chosen[name] for name in order})


def _best_capacity(sizes: np.ndarray, capacities: Sequence[int], target: float, deadline: float) -> Tuple[int, int]:
    """The smallest capacity of which at least ``target`` can be filled, or the one filled best, and its packs.

    Those that even packs without any gap would fill less than the best so far are not tried.
    """
    classes, total = _classes_of(sizes), float(np.sum(sizes))
    most = {one: total / (one * continuous_bound(classes, Budget(items=one))) for one in capacities}
    order = sorted(capacities, key=lambda one: (most[one] < target, -most[one] if most[one] < target else 0.0, one))
    best, used, fewest = order[0], -1.0, 0
    for capacity in order:
        if fewest and (time.monotonic() > deadline or used > min(most[capacity], target)):
            break
        packs = _fewest_packs(classes, capacity, deadline)
        filled = total / (capacity * packs)
        if (filled, -capacity) > (used, -best):
            best, used, fewest = capacity, filled, packs
        if used >= target:
            break
    return best, fewest


def _fewest_packs(classes: SizeClasses, capacity: int, deadline: float) -> int:
    """About how many packs of one dimension there will be: best fit's, or those of the linear program where fewer."""
    budget = Budget(items=capacity)
    bound = continuous_bound(classes, budget)
    greedy = best_fit(classes, budget, deadline)
    if greedy.num_packs <= bound or not column_generation.available():
        return greedy.num_packs
    if len(classes.counts) > MAX_CLASSES or not column_generation.affordable(classes, budget):
        return greedy.num_packs
    seconds = max(min(10.0, deadline - time.monotonic()), 1.0)
    rounds, enough = ESTIMATE_ROUNDS, float(bound)
    relaxation = column_generation.relax(classes, budget, greedy.multiplicity, seconds, rounds, False, enough)
    return min(greedy.num_packs, max(bound, int(np.ceil(relaxation.amounts.sum() - 1e-6))))


def _classes_of(sizes: np.ndarray) -> SizeClasses:
    return size_classes(np.asarray(sizes)[:, None], Budget(items=_HIGHEST))


def _about(sizes: Mapping[str, np.ndarray], budget: Budget, deadline: float) -> Mapping[str, np.ndarray]:
    """Sizes of about the same packs with further dimensions in coarser steps, of which a linear program is quick.

    Sizes are rounded up as `make_plan` does, which costs packs, and from there up and down, so that sums of similar
    items stay; no pack is made of them.
    """
    exact = size_classes(size_table(sizes, budget), budget)
    coarse = rounded_classes(exact, budget, MAX_CLASSES, deadline, column_generation.affordable)
    if len(coarse.counts) > MAX_CLASSES or not column_generation.affordable(coarse, budget):
        return sizes
    table = np.repeat(coarse.sizes, coarse.counts, axis=0)
    means = table.mean(0)
    # Primary sizes decide which items fill a pack without a gap: they stay, or nearly so where they are many.
    steps, coarsest = np.ones(len(means), np.int64), means * _COARSEST
    if len(np.unique(table[:, 0])) <= _ABOUT_CLASSES:
        coarsest[0] = 0.0
    else:
        coarsest[0] = min(means[0] * _COARSEST_PRIMARY, table[:, 0].min())
    best, work = table, _work(table, budget)
    while work > 1 and (2 * steps <= coarsest).any():
        steps = np.where(2 * steps <= coarsest, 2 * steps, steps)
        sums = (np.cumsum(table, 0) + steps // 2) // steps
        about = np.minimum(np.diff(sums, axis=0, prepend=0) * steps, budget.capacities())
        if _work(about, budget) < work:  # a class that is rounded up and down becomes two
            best, work = about, _work(about, budget)
    return dict(zip(budget, best.T))


def _work(table: np.ndarray, budget: Budget) -> float:
    """Work of a linear program over sizes [I, D]; up to 1 it is quick."""
    distinct = size_classes(table, budget).sizes
    return max(len(distinct) / _ABOUT_CLASSES, Knapsack.cost(distinct, budget.capacities()) / _ABOUT_COST)


def efficiency_curve(
    sizes: np.ndarray, capacities: Sequence[int], deadline: float = math.inf
) -> List[Tuple[int, float, int]]:
    """Packing efficiency of packs of each capacity.

    Args:
        sizes: [I] integer.
        capacities: to try; those below the largest item are left out.
        deadline: time.monotonic() after which no further one is tried, once there is one.

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
    return points


def _align(value: int, align: int) -> int:
    return min(-(-value // align) * align, _HIGHEST)
