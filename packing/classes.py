"""Size classes and pack types: packing is done on the histogram of sizes, never item by item.

Molecules have few distinct sizes (QM9: 26), so a plan is a short list of pack types, each a multiset of
size classes with a count; only at the end are real items dealt into the slots.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Dict, List, Optional, Tuple

import numpy as np

from packing.types import COUNT_DIMENSIONS, Budget, gather_index, offsets_of

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
    """Contents of packs: packs of type k occur counts[k] times and hold its entries, (class, copies) each.

    Attributes:
        classes: [H] int64, class of every entry, type after type, rising within a type.
        copies: [H] int64, items of that class in one pack, all positive.
        starts: [K + 1] int64; type k has entries starts[k] .. starts[k + 1], at least one.
        counts: [K] int64, all positive.
        num_classes: C.
    """

    classes: np.ndarray
    copies: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    num_classes: int

    @property
    def num_packs(self) -> int:
        """Total number of packs."""
        return int(self.counts.sum())

    @property
    def items(self) -> np.ndarray:
        """Items of every class in all packs together, [C] int64."""
        total = np.zeros(self.num_classes, np.int64)
        np.add.at(total, self.classes, self.copies * np.repeat(self.counts, np.diff(self.starts)))
        return total

    @property
    def sizes(self) -> np.ndarray:
        """Items of one pack of every type, [K] int64."""
        return np.add.reduceat(self.copies, self.starts[:-1]) if len(self.counts) else np.zeros(0, np.int64)

    @cached_property
    def multiplicity(self) -> np.ndarray:
        """Items of every class in a pack of every type, [K, C] int32: for few classes, it is dense."""
        table = np.zeros((len(self.counts), self.num_classes), np.int32)
        table[np.repeat(np.arange(len(self.counts)), np.diff(self.starts)), self.classes] = self.copies
        return table

    def take(self, types: np.ndarray) -> "PackTypes":
        """Some of the types, in the order given."""
        entries, starts = gather_index(self.starts, types)
        return PackTypes(self.classes[entries], self.copies[entries], starts, self.counts[types], self.num_classes)

    @classmethod
    def of_dense(cls, multiplicity: np.ndarray, counts: np.ndarray) -> "PackTypes":
        """The types of a dense table [K, C] without empty rows."""
        types, classes = np.nonzero(multiplicity)
        starts = np.searchsorted(types, np.arange(len(multiplicity) + 1))
        copies = multiplicity[types, classes].astype(np.int64)
        return cls(classes, copies, starts, counts, multiplicity.shape[1])

    @classmethod
    def from_rows(cls, rows: List[Tuple[int, np.ndarray]], num_classes: int) -> "PackTypes":
        """Build from (count, multiplicity [C]) pairs; equal rows are merged, empty packs dropped."""
        if not rows:
            return cls.of_dense(np.zeros((0, num_classes), np.int32), np.zeros(0, np.int64))
        table = np.array([row for _, row in rows], np.int32).reshape(len(rows), num_classes)
        counts = np.array([count for count, _ in rows], np.int64)
        used = (counts > 0) & (table.sum(1) > 0)
        unique, inverse = np.unique(table[used], axis=0, return_inverse=True)
        merged = np.bincount(inverse.ravel(), counts[used], minlength=len(unique))
        # Fullest first reads best in a table; np.unique sorts ascending.
        return cls.of_dense(unique[::-1], merged[::-1].round().astype(np.int64))

    @classmethod
    def from_held(cls, rows: List[Tuple[int, Held]], num_classes: int) -> "PackTypes":
        """The same from (count, held) pairs, for thousands of classes: dense rows would take long to sort."""
        merged: Dict[Held, int] = {}
        for count, held in rows:
            if count > 0 and held:
                merged[held] = merged.get(held, 0) + count
        order = sorted(merged, key=lambda held: [(-index, copies) for index, copies in held], reverse=True)
        entries = np.array([entry for held in order for entry in held], np.int64).reshape(-1, 2)
        starts = offsets_of([len(held) for held in order])
        return cls(
            entries[:, 0], entries[:, 1], starts, np.array([merged[held] for held in order], np.int64), num_classes
        )


def size_classes(sizes: np.ndarray, budget: Budget) -> SizeClasses:
    """Group items of equal size.

    Args:
        sizes: [I, M] integer, the measured dimensions of the budget in order.
        budget: names and capacities.
    """
    distinct, counts, of_item = _distinct(np.asarray(sizes, np.int64))
    columns = dict(zip(budget.measured, distinct.T))
    full = [np.ones(len(counts), np.int64) if name in COUNT_DIMENSIONS else columns[name] for name in budget]
    return SizeClasses(np.stack(full, 1), counts, of_item)


def round_sizes(classes: SizeClasses, budget: Budget, step: int) -> SizeClasses:
    """Fewer classes: sizes in all measured dimensions but the primary one rounded up to a multiple of ``step``.

    None is rounded above the capacity: a pack of rounded sizes also holds the real ones.
    """
    further = [budget.names.index(name) for name in budget.measured[1:]]
    sizes = classes.sizes.copy()
    sizes[:, further] = np.minimum(-(-sizes[:, further] // step) * step, budget.capacities()[further])
    columns = [budget.names.index(name) for name in budget.measured]
    _, merged_classes, merged = _distinct(sizes[:, columns])
    counts = np.zeros(len(merged_classes), np.int64)
    np.add.at(counts, merged, classes.counts)
    distinct = np.empty((len(counts), sizes.shape[1]), np.int64)
    distinct[merged] = sizes
    return SizeClasses(distinct, counts, merged[classes.of_item])


def _distinct(sizes: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of [I, M], largest first, how often each occurs, and the row of every item."""
    # One integer key per item, with the primary size in front.
    key, largest = sizes[:, 0], int(sizes[:, 0].max(initial=0))
    for column in sizes.T[1:]:
        width = int(column.max(initial=0)) + 1
        if (largest + 1) * width >= 2**63:  # keys must not wrap: their order is all that counts
            unique, key = np.unique(key, return_inverse=True)
            key, largest = key.reshape(-1), len(unique) - 1
        key, largest = key * width + column, (largest + 1) * width - 1
    counts, of_item = _group(key)
    distinct = np.empty((len(counts), sizes.shape[1]), np.int64)
    distinct[of_item] = sizes
    return distinct, counts, of_item


def _group(key: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Occurrences of every distinct key, in falling order of the keys, and the place of every element in it."""
    if len(key) and key.max() < _LOOKUP_LIMIT:
        histogram = np.bincount(key)
        unique = np.flatnonzero(histogram)[::-1]
        table = np.zeros(len(histogram), np.uint16 if len(unique) <= 2**16 else np.int32)
        table[unique] = np.arange(len(unique))
        return histogram[unique], table[key]
    unique, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    of_item = len(unique) - 1 - inverse.reshape(-1)
    return counts[::-1], of_item.astype(np.uint16 if len(unique) <= 2**16 else np.int32)


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
    counts = np.bincount(of_item, minlength=types.num_classes)
    first = np.cumsum(counts) - counts
    if random is not None:
        for cls in np.flatnonzero(counts > 1).tolist():
            random.shuffle(by_class[first[cls] : first[cls] + counts[cls]])
    offsets = np.zeros(types.num_packs + 1, np.int32)
    np.cumsum(np.repeat(types.sizes, types.counts), out=offsets[1:])
    items = np.empty(offsets[-1], np.int32)
    next_of_class, entries = first.tolist(), iter(zip(types.classes.tolist(), types.copies.tolist()))
    end = 0
    for count, width, held in zip(types.counts.tolist(), types.sizes.tolist(), np.diff(types.starts).tolist()):
        block = items[end : end + count * width].reshape(count, width)
        end += count * width
        column = 0
        for cls, times in islice(entries, held):
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
