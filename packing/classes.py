"""Size classes and pack types: packing is done on the histogram of sizes, never item by item.

Molecules have few distinct sizes (QM9: 26), so a plan is a short list of pack types, each a multiset of
size classes with a count; only at the end are real items dealt into the slots.
"""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import numpy as np

from packing.types import COUNT_DIMENSIONS, Budget

# (class, copies) of what a pack holds, classes rising: short however many classes there are.
Held = Tuple[Tuple[int, int], ...]
_LOOKUP_LIMIT = 1 << 24  # largest key range counted with a table instead of a sort


@dataclass(frozen=True)
class SizeClasses:
    """Distinct item sizes, largest first, in budget order with count dimensions as ones.

    Attributes:
        sizes: [C, D] int64, size of one item of the class in every dimension of the budget.
        counts: [C] int64, items in the class.
        of_item: [I] uint16 or int32, the class of every item.
    """

    sizes: np.ndarray
    counts: np.ndarray
    of_item: np.ndarray


@dataclass(frozen=True)
class PackTypes:
    """Contents of packs: type k occurs counts[k] times with multiplicity[k, c] items of class c.

    Attributes:
        multiplicity: [K, C] int32.
        counts: [K] int64, all positive.
    """

    multiplicity: np.ndarray
    counts: np.ndarray

    @property
    def num_packs(self) -> int:
        """Total number of packs."""
        return int(self.counts.sum())

    @property
    def items(self) -> np.ndarray:
        """Items of every class in all packs together, [C] int64."""
        return self.counts @ self.multiplicity.astype(np.int64)

    @classmethod
    def from_rows(cls, rows: List[Tuple[int, np.ndarray]], num_classes: int) -> "PackTypes":
        """Build from (count, multiplicity [C]) pairs; equal rows are merged, empty packs dropped."""
        if not rows:
            return cls(np.zeros((0, num_classes), np.int32), np.zeros(0, np.int64))
        table = np.array([row for _, row in rows], np.int32).reshape(len(rows), num_classes)
        counts = np.array([count for count, _ in rows], np.int64)
        used = (counts > 0) & (table.sum(1) > 0)
        unique, inverse = np.unique(table[used], axis=0, return_inverse=True)
        merged = np.bincount(inverse.ravel(), counts[used], minlength=len(unique))
        # Fullest first reads best in a table; np.unique sorts ascending.
        return cls(unique[::-1].copy(), merged[::-1].round().astype(np.int64))

    @classmethod
    def from_held(cls, rows: List[Tuple[int, Held]], num_classes: int) -> "PackTypes":
        """The same from (count, held) pairs, for thousands of classes: dense rows would take long to sort."""
        merged: Dict[Held, int] = {}
        for count, held in rows:
            if count > 0 and held:
                merged[held] = merged.get(held, 0) + count
        order = sorted(merged, key=lambda held: [(-index, copies) for index, copies in held], reverse=True)
        table = np.zeros((len(order), num_classes), np.int32)
        for row, held in zip(table, order):
            for index, copies in held:
                row[index] = copies
        return cls(table, np.array([merged[held] for held in order], np.int64))


def size_classes(sizes: np.ndarray, budget: Budget, round_to: int = 1) -> SizeClasses:
    """Group items of equal size.

    Args:
        sizes: [I, M] integer, the measured dimensions of the budget in order.
        budget: names and capacities.
        round_to: sizes in all dimensions but the primary one are rounded up to a multiple of this (never
            above the capacity), which merges classes; a pack of rounded sizes also holds the real ones.
    """
    sizes = np.asarray(sizes, np.int64)
    if round_to > 1 and sizes.shape[1] > 1:
        limits = np.array([budget[name] for name in budget.measured[1:]], np.int64)
        sizes = sizes.copy()
        sizes[:, 1:] = np.minimum(-(-sizes[:, 1:] // round_to) * round_to, limits)
    largest = sizes.max(0, initial=0)
    # One integer key per item; the negated order below puts the largest primary size first.
    key = sizes[:, 0].copy()
    for dimension in range(1, sizes.shape[1]):
        key = key * (largest[dimension] + 1) + sizes[:, dimension]
    unique, counts, of_item = _group(key)
    distinct = np.empty((len(unique), sizes.shape[1]), np.int64)
    rest = unique
    for dimension in range(sizes.shape[1] - 1, 0, -1):
        rest, distinct[:, dimension] = np.divmod(rest, largest[dimension] + 1)
    distinct[:, 0] = rest
    columns = dict(zip(budget.measured, distinct.T))
    full = [np.ones(len(unique), np.int64) if name in COUNT_DIMENSIONS else columns[name] for name in budget]
    return SizeClasses(np.stack(full, 1), counts, of_item)


def _group(key: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in falling order, how often each occurs, and the group of every element."""
    if len(key) and 0 <= key.min() and key.max() < _LOOKUP_LIMIT:
        histogram = np.bincount(key)
        unique = np.flatnonzero(histogram)[::-1]
        table = np.zeros(len(histogram), np.uint16 if len(unique) <= 2**16 else np.int32)
        table[unique] = np.arange(len(unique))
        return unique.astype(np.int64), histogram[unique], table[key]
    unique, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    of_item = len(unique) - 1 - inverse.ravel()
    return unique[::-1], counts[::-1], of_item.astype(np.uint16 if len(unique) <= 2**16 else np.int32)


def deal(types: PackTypes, of_item: np.ndarray, random: Optional[np.random.Generator]) -> Tuple[np.ndarray, np.ndarray]:
    """Give items a slot in a pack of the right type; chance decides among items of a class.

    Args:
        types: pack types that hold no more items of any class than there are.
        of_item: [I] class of every item.
        random: shuffles within classes; None takes the first items of a class first.

    Returns:
        (items [S] int32, pack after pack; pack offsets [P + 1] int32).
    """
    by_class = np.argsort(of_item, kind="stable").astype(np.int32)
    next_of_class = np.zeros(types.multiplicity.shape[1] + 1, np.int64)
    np.cumsum(np.bincount(of_item, minlength=types.multiplicity.shape[1]), out=next_of_class[1:])
    if random is not None:
        for start, stop in zip(next_of_class[:-1], next_of_class[1:]):
            random.shuffle(by_class[start:stop])
    per_pack = types.multiplicity.sum(1)
    offsets = np.zeros(types.num_packs + 1, np.int32)
    np.cumsum(np.repeat(per_pack, types.counts), out=offsets[1:])
    items = np.empty(offsets[-1], np.int32)
    end = 0
    for row, count, width in zip(types.multiplicity, types.counts.tolist(), per_pack.tolist()):
        block = items[end : end + count * width].reshape(count, width)
        end += count * width
        column = 0
        for cls in np.flatnonzero(row):
            times = int(row[cls])
            start = next_of_class[cls]
            next_of_class[cls] += count * times
            block[:, column : column + times] = by_class[start : start + count * times].reshape(count, times)
            column += times
    return items, offsets


def distinct_rows(rows: np.ndarray) -> np.ndarray:
    """Each row of [K, C] once, in the order of first occurrence; np.unique would sort rows of hundreds of numbers."""
    seen: Dict[bytes, int] = {}
    for index, row in enumerate(np.ascontiguousarray(rows)):
        seen.setdefault(row.tobytes(), index)
    return rows[list(seen.values())]
