"""First-fit and best-fit decreasing, for one limit or several at once, on the histogram of sizes.

Gives exactly the packs that the item-by-item algorithms give when equal items follow each other (a test
compares them), in time that does not depend on the number of items. Needs numpy alone: the fallback when
scipy is missing, and the start of column generation.
"""

from typing import List, Optional, Tuple

import numpy as np

from packing.classes import Held, PackTypes, SizeClasses


class OpenPacks:
    """Pack types in the order they were opened, with the space left in each."""

    def __init__(self, capacities: np.ndarray) -> None:
        self.free = np.empty((64, len(capacities)), np.int64)
        self.counts: List[int] = []
        self.held: List[Held] = []
        # Splitting a type must not change which pack "comes first": children share the parent's rank.
        self.rank = np.empty(64)
        self.capacities = capacities
        self.close_at = 64

    def add(self, count: int, held: Held, free: np.ndarray, rank: float) -> None:
        """Open ``count`` packs that hold ``held`` and have ``free`` ([D]) left."""
        size = len(self.counts)
        if size == len(self.free):
            self.free = np.concatenate([self.free, np.empty_like(self.free)])
            self.rank = np.concatenate([self.rank, np.empty_like(self.rank)])
        self.free[size], self.rank[size] = free, rank
        self.counts.append(count)
        self.held.append(held)

    def pick(self, size: np.ndarray, best: bool) -> Optional[int]:
        """The first type with room, or the one with the least room left over relative to capacity."""
        free = self.free[: len(self.counts)]
        room = np.flatnonzero((free >= size).all(1))
        if len(room) == 0:
            return None
        if not best:
            return int(room[np.argmin(self.rank[room])])
        left = (free[room] / self.capacities).sum(1)
        tightest = room[left <= left.min() + 1e-12]
        return int(tightest[np.argmin(self.rank[tightest])])

    def close_full(self, smallest: np.ndarray) -> List[Tuple[int, Held]]:
        """Take out the types that cannot hold even the smallest sizes still to come, when that may pay."""
        size = len(self.counts)
        if size < self.close_at:
            return []
        keep = (self.free[:size] >= smallest).all(1)
        gone = [(self.counts[i], self.held[i]) for i in np.flatnonzero(~keep)]
        kept = np.flatnonzero(keep)
        self.free[: len(kept)], self.rank[: len(kept)] = self.free[kept], self.rank[kept]
        self.counts = [self.counts[i] for i in kept]
        self.held = [self.held[i] for i in kept]
        self.close_at = max(64, 2 * len(kept))
        return gone


def fit_decreasing(classes: SizeClasses, capacities: np.ndarray, best: bool = True) -> PackTypes:
    """Put every item, classes in the given order, into the best (or first) open pack with room.

    Args:
        classes: sizes [C, D], largest first.
        capacities: [D].
        best: tightest fit (sum over dimensions of free space / capacity); False for first fit.
    """
    packs = OpenPacks(capacities)
    done: List[Tuple[int, Held]] = []
    opened = 0
    suffix_smallest = np.minimum.accumulate(classes.sizes[::-1], axis=0)[::-1]
    for cls, (size, left) in enumerate(zip(classes.sizes, classes.counts.tolist())):
        done += packs.close_full(suffix_smallest[cls])
        while left > 0:
            chosen = packs.pick(size, best)
            if chosen is None:
                count, held, free = left, (), capacities
                rank = float(opened)
                opened += left
            else:
                count, held, free = packs.counts[chosen], packs.held[chosen], packs.free[chosen].copy()
                rank = packs.rank[chosen]
            # A pack that took one item is the better fit for the next equal one: fill it up.
            copies = min(int((free // np.maximum(size, 1))[size > 0].min()), left)
            filled = min(count, left // copies)
            packs.add(filled, held + ((cls, copies),), free - copies * size, rank)
            left -= filled * copies
            if chosen is not None:
                packs.counts[chosen] -= filled
                packs.rank[chosen] += filled
                if packs.counts[chosen] == 0:
                    packs.free[chosen] = -1
    done += list(zip(packs.counts, packs.held))
    return PackTypes.from_held(done, len(classes.counts))
