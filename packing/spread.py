"""Plans with a second objective: of as few packs as before, alike in cost.

Packs of the same size differ in cost where cost is no sum of sizes: few large molecules have more pairs of atoms than
many small ones. Items are exchanged between the dearest and the cheapest packs as long as that brings them closer
and both still hold what they got; the number of packs cannot change.
"""

import time
from itertools import combinations_with_replacement
from typing import Dict, List, Tuple

import numpy as np

from packing.classes import Held, PackTypes, SizeClasses

_ROUNDS = 40
# A round that lowers the variance of costs by less than this fraction is the last.
_WORTH = 0.02
# Sets of items that a pack may give away; with more than this, sets of fewer items are tried.
_MOST_SETS = 400
_MOST_EXCHANGES = 4_000


def even_out(
    types: PackTypes, classes: SizeClasses, capacities: np.ndarray, costs: np.ndarray, deadline: float
) -> PackTypes:
    """As many packs that hold the same items, whose costs differ less.

    Args:
        types: packs.
        classes: sizes [C, D].
        capacities: [D].
        costs: of an item of every class, [C].
        deadline: time.monotonic() after which packs stay as they are.
    """
    packs, random = _Packs(classes.sizes, capacities, costs), np.random.Generator(np.random.PCG64(0))
    counts = {packs.held_of(types, index): int(count) for index, count in enumerate(types.counts)}
    variance, exchanges = packs.variance(counts), 0
    for turn in range(_ROUNDS):
        order = sorted(counts, key=lambda held: (packs.cost(held), held))
        if turn % 4:  # the dear ones with cheap ones by chance, else the dearest with the cheapest
            half = len(order) // 2
            order = [order[i] for i in (*random.permutation(half), *(half + random.permutation(len(order) - half)))]
        left, fresh = [counts[held] for held in order], {}
        low, high = 0, len(order) - 1
        while low < high:
            times = min(left[low], left[high])
            pair = order[low], order[high]
            if time.monotonic() < deadline and exchanges < _MOST_EXCHANGES:
                exchanges += 1
                pair = packs.exchanged(*pair)
            for held in pair:
                fresh[held] = fresh.get(held, 0) + times
            left[low] -= times
            left[high] -= times
            low, high = low + (left[low] == 0), high - (left[high] == 0)
        if low == high and left[low]:
            fresh[order[low]] = fresh.get(order[low], 0) + left[low]
        counts = fresh
        if turn % 4 == 3:
            before, variance = variance, packs.variance(counts)
            if variance > (1 - _WORTH) * before:
                break
    return PackTypes.from_held([(count, held) for held, count in counts.items()], types.num_classes)


class _Packs:
    """Exchanges between packs of known sizes and costs."""

    def __init__(self, sizes: np.ndarray, capacities: np.ndarray, costs: np.ndarray) -> None:
        self.sizes, self.capacities, self.costs = sizes, capacities, costs
        self._sets: Dict[Held, Tuple[List[Tuple[int, ...]], np.ndarray, np.ndarray]] = {}

    @staticmethod
    def held_of(types: PackTypes, index: int) -> Held:
        """(class, copies) of one type."""
        part = slice(types.starts[index], types.starts[index + 1])
        return tuple(zip(types.classes[part].tolist(), types.copies[part].tolist()))

    def cost(self, held: Held) -> float:
        """Sum of the costs of its items."""
        return float(sum(self.costs[cls] * copies for cls, copies in held))

    def variance(self, counts: Dict[Held, int]) -> float:
        """Variance of the costs of packs, by content."""
        costs, times = np.array([self.cost(held) for held in counts]), np.array(list(counts.values()), np.float64)
        mean = (costs * times).sum() / max(times.sum(), 1)
        return float(((costs - mean) ** 2 * times).sum())

    def exchanged(self, cheap: Held, dear: Held) -> Tuple[Held, Held]:
        """Both packs after the exchange that brings their costs closest; as they are if none does."""
        apart = self.cost(dear) - self.cost(cheap)
        if apart < 0:
            return self.exchanged(dear, cheap)
        given, sizes_given, costs_given = self._sets_of(dear)
        taken, sizes_taken, costs_taken = self._sets_of(cheap)
        moved = costs_given[:, None] - costs_taken[None, :]  # cost that goes from the dear to the cheap one
        gain = apart / 2 - np.abs(apart / 2 - moved)
        gain[gain <= 1e-9 * max(apart, 1e-300)] = 0.0
        for dimension, capacity in enumerate(self.capacities):
            grows = sizes_given[:, dimension, None] - sizes_taken[None, :, dimension]
            room = capacity - sum(self.sizes[cls, dimension] * copies for cls, copies in cheap)
            other = capacity - sum(self.sizes[cls, dimension] * copies for cls, copies in dear)
            gain[(grows > room) | (-grows > other)] = 0.0
        best = int(gain.argmax())
        if gain.flat[best] <= 0:
            return cheap, dear
        out, into = given[best // gain.shape[1]], taken[best % gain.shape[1]]
        return _changed(cheap, out, into), _changed(dear, into, out)

    def _sets_of(self, held: Held) -> Tuple[List[Tuple[int, ...]], np.ndarray, np.ndarray]:
        """Sets of a few items of a pack, each (classes), with their sizes [S, D] and costs [S]."""
        if held not in self._sets:
            copies, sets = dict(held), [()]
            for length in (1, 2, 3):
                more = [one for one in combinations_with_replacement(copies, length) if _within(one, copies)]
                if len(sets) + len(more) > _MOST_SETS and length > 1:
                    break
                sets += more
            sizes = np.array([self.sizes[list(one)].sum(0) for one in sets])
            costs = np.array([self.costs[list(one)].sum() for one in sets])
            self._sets[held] = sets, sizes, costs
        return self._sets[held]


def _within(chosen: Tuple[int, ...], copies: Dict[int, int]) -> bool:
    return all(chosen.count(cls) <= copies[cls] for cls in set(chosen))


def _changed(held: Held, more: Tuple[int, ...], less: Tuple[int, ...]) -> Held:
    """A pack with some items more and some less."""
    copies = dict(held)
    for cls in more:
        copies[cls] = copies.get(cls, 0) + 1
    for cls in less:
        copies[cls] -= 1
    return tuple(sorted((cls, times) for cls, times in copies.items() if times))
