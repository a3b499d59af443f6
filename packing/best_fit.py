"""First-fit and best-fit decreasing, for one limit or several at once, on the histogram of sizes.

Gives exactly the packs that the item-by-item algorithms give when equal items follow each other (a test
compares them), in time that does not depend on the number of items. Needs numpy alone: the fallback when
scipy is missing, and the start of column generation. Where there are nearly as many sizes as items it
may meet its deadline: what is left then is cut into packs as it comes (next fit).
"""

import math
import time
from typing import Any, List, Optional, Tuple

import numpy as np

from packing.classes import Held, PackTypes, SizeClasses
from packing.types import offsets_of

# (class, copies, the same of what was put in before): short to extend, and types that were split share it.
Chain = Tuple[int, int, Any]


class OpenPacks:
    """Pack types in the order they were opened, with the space left in each."""

    def __init__(self, capacities: np.ndarray) -> None:
        self.free = np.empty((len(capacities), 64), np.int64)
        self.counts: List[int] = []
        self.held: List[Optional[Chain]] = []
        # Splitting a type must not change which pack "comes first": children share the parent's rank.
        self.rank = np.empty(64)
        self.capacities = capacities
        self.close_at = 64

    def add(self, count: int, held: Chain, free: np.ndarray, rank: float) -> None:
        """Open ``count`` packs that hold ``held`` and have ``free`` ([D]) left."""
        size = len(self.counts)
        if size == len(self.rank):
            self.free = np.concatenate([self.free, np.empty_like(self.free)], 1)
            self.rank = np.concatenate([self.rank, np.empty_like(self.rank)])
        self.free[:, size], self.rank[size] = free, rank
        self.counts.append(count)
        self.held.append(held)

    def pick(self, size: np.ndarray, best: bool) -> Optional[int]:
        """The first type with room, or the one with the least room left over relative to capacity."""
        fits = self.free[0, : len(self.counts)] >= size[0]
        for free, needed in zip(self.free[1:, : len(self.counts)], size[1:]):
            fits &= free >= needed
        room = np.flatnonzero(fits)
        if len(room) == 0:
            return None
        if not best:
            return int(room[np.argmin(self.rank[room])])
        left = (self.free[:, room] / self.capacities[:, None]).sum(0)
        tightest = room[left <= left.min() + 1e-12]
        return int(tightest[np.argmin(self.rank[tightest])])

    def close_full(self, smallest: np.ndarray) -> List[Tuple[int, Optional[Chain]]]:
        """Take out the types that cannot hold even the smallest sizes still to come, when that may pay."""
        size = len(self.counts)
        if size < self.close_at:
            return []
        keep = (self.free[:, :size] >= smallest[:, None]).all(0)
        gone = [(self.counts[i], self.held[i]) for i in np.flatnonzero(~keep)]
        kept = np.flatnonzero(keep)
        self.free[:, : len(kept)], self.rank[: len(kept)] = self.free[:, kept], self.rank[kept]
        self.counts = [self.counts[i] for i in kept]
        self.held = [self.held[i] for i in kept]
        self.close_at = max(64, 2 * len(kept))
        return gone


def fit_decreasing(
    classes: SizeClasses, capacities: np.ndarray, best: bool = True, deadline: float = math.inf
) -> PackTypes:
    """Put every item, classes in the given order, into the best (or first) open pack with room.

    Args:
        classes: sizes [C, D], largest first.
        capacities: [D].
        best: tightest fit (sum over dimensions of free space / capacity); False for first fit.
        deadline: time.monotonic() after which no search is made for the items still left, see `next_fit`.
    """
    packs = OpenPacks(capacities)
    done: List[Tuple[int, Optional[Chain]]] = []
    rest: List[Tuple[int, Held]] = []
    opened = 0
    suffix_smallest = np.minimum.accumulate(classes.sizes[::-1], axis=0)[::-1]
    for cls, (size, left) in enumerate(zip(classes.sizes, classes.counts.tolist())):
        if time.monotonic() > deadline:
            rest = next_fit(classes, cls, capacities)
            break
        done += packs.close_full(suffix_smallest[cls])
        while left > 0:
            chosen = packs.pick(size, best)
            if chosen is None:
                count, held, free = left, None, capacities
                rank = float(opened)
                opened += left
            else:
                count, held, free = packs.counts[chosen], packs.held[chosen], packs.free[:, chosen].copy()
                rank = packs.rank[chosen]
            # A pack that took one item is the better fit for the next equal one: fill it up.
            copies = min(int((free // np.maximum(size, 1))[size > 0].min()), left)
            filled = min(count, left // copies)
            packs.add(filled, (cls, copies, held), free - copies * size, rank)
            left -= filled * copies
            if chosen is not None:
                packs.counts[chosen] -= filled
                packs.rank[chosen] += filled
                if packs.counts[chosen] == 0:
                    packs.free[:, chosen] = -1
    done += list(zip(packs.counts, packs.held))
    return PackTypes.from_held([(count, unchained(held)) for count, held in done if count] + rest, len(classes.counts))


def unchained(chain: Optional[Chain]) -> Held:
    """Content of a pack, in the order in which it was put in."""
    held: List[Tuple[int, int]] = []
    while chain is not None:
        cls, copies, chain = chain
        held.append((cls, copies))
    return tuple(reversed(held))


def next_fit(classes: SizeClasses, start: int, capacities: np.ndarray) -> List[Tuple[int, Held]]:
    """Packs of the classes from ``start`` on, each as long as it lasts: worse than a search, in linear time."""
    of_item = np.repeat(np.arange(start, len(classes.counts)), classes.counts[start:])
    stops = np.full(len(of_item), len(of_item))
    for size, capacity in zip(classes.sizes.T, capacities):
        used = offsets_of(size[of_item])
        np.minimum(stops, np.searchsorted(used, used[:-1] + capacity, side="right") - 1, out=stops)
    cuts, stop_of = [0], stops.tolist()
    while cuts[-1] < len(of_item):
        cuts.append(stop_of[cuts[-1]])
    # Items of a class follow each other: a pack is a few runs of equal ones.
    begins = np.union1d(cuts[:-1], np.flatnonzero(np.diff(of_item)) + 1).astype(np.int64)
    runs = list(zip(of_item[begins].tolist(), np.diff(begins, append=len(of_item)).tolist()))
    edges = np.searchsorted(begins, cuts).tolist()
    return [(1, tuple(runs[a:b])) for a, b in zip(edges[:-1], edges[1:])]
