"""Packs filled to the brim by chance: a start of column generation that often needs no further patterns.

Items drawn as often as they occur fill a pack on average as a good plan does, so a few hundred drawn packs without any
space left hold the answer among them wherever the total size decides how few packs there can be. Greedy packs do not:
they combine large items with large ones first.
"""

import math
import time
from typing import Tuple

import numpy as np

from packing.classes import PackTypes, SizeClasses
from packing.column_generation import relax
from packing.rounding import round_down
from packing.types import Budget

# Drawn for every class; twice as many as classes surround the mean of all packs, some are drawn twice or do not fit.
_PER_CLASS = 3
# Numbers in the table of draws, 8 bytes each and a few copies of it, and in that of packs, 4 bytes each.
_MOST_DRAWS, _MOST_NUMBERS = 1 << 20, 1 << 22
# Tables that are drawn as long as whole packs of them miss the bound: each has another best answer.
_TRIES = 6
# With more size classes than this a linear program takes longer than the usual search gains by another table.
_MANY_CLASSES = 100


def improve_by_draws(
    start: PackTypes, classes: SizeClasses, budget: Budget, bound: int, deadline: float
) -> Tuple[PackTypes, np.ndarray]:
    """As few packs as ``bound`` where drawn packs reach it, else those of ``start``.

    Returns:
        (packs, patterns [K, C] from which to go on: the drawn ones that the linear program took).
    """
    for turn in range(_TRIES if len(classes.counts) <= _MANY_CLASSES else 1):
        drawn = np.concatenate([start.multiplicity, full_packs(classes, budget.capacities(), turn)])
        solved = relax(classes, budget, drawn, deadline - time.monotonic(), enough=math.inf)
        if solved.amounts.sum() > bound + 1e-6 or time.monotonic() > deadline:
            break
        rounded = round_down(solved, classes, budget)
        if rounded.num_packs <= bound:
            return rounded, rounded.multiplicity
    return start, solved.patterns[solved.amounts > 1e-9]


def full_packs(classes: SizeClasses, capacities: np.ndarray, seed: int = 0) -> np.ndarray:
    """Packs with nothing left of the capacity that the items need most of, [K, C] int32.

    Args:
        classes: sizes [C, D] and counts [C].
        capacities: [D].
        seed: of the draws.
    """
    scarce = int(np.argmax(classes.counts @ classes.sizes / capacities))
    capacity = int(capacities[scarce])
    order = np.argsort(classes.sizes[:, scarce], kind="stable")
    sizes, counts = classes.sizes[order, scarce], classes.counts[order]
    bounds = np.append(0, np.cumsum(counts))
    values, first = np.unique(sizes, return_index=True)
    begins = bounds[np.append(first, len(sizes))]  # of the items of each size, all items in the order of their sizes
    length = 2 * capacity * int(bounds[-1]) // max(int(counts @ sizes), 1) + 1  # twice what a pack holds on average
    count = min(_PER_CLASS * len(sizes), _MOST_DRAWS // (length + 1), _MOST_NUMBERS // len(sizes))
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = np.searchsorted(bounds, random.integers(bounds[-1], size=(count, length)), side="right") - 1
    left = np.full((count, length + 1), capacity)
    left[:, 1:] -= np.cumsum(sizes[drawn], 1)
    # The last item is one of exactly the size that is left; where several draws leave such a size, by their numbers.
    place = np.minimum(np.searchsorted(values, left), len(values) - 1)
    weights = np.cumsum(np.where(values[place] == left, np.diff(begins)[place], 0), 1)
    closed = np.flatnonzero(weights[:, -1])
    weights = weights[closed]
    until = (weights > (random.random(len(closed)) * weights[:, -1])[:, None]).argmax(1)
    last = place[closed, until]
    items = begins[last] + (random.random(len(closed)) * np.diff(begins)[last]).astype(np.int64)
    packs = np.zeros((len(closed), len(sizes)), np.int32)
    pack, turn = np.nonzero(np.arange(length) < until[:, None])
    np.add.at(packs, (pack, order[drawn[closed[pack], turn]]), 1)
    np.add.at(packs, (np.arange(len(closed)), order[np.searchsorted(bounds, items, side="right") - 1]), 1)
    return packs[(packs @ classes.sizes <= capacities).all(1)]
