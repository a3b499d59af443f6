"""Places of items and of their rows in the slots of packs: where collation takes values from and puts them."""

from typing import Any, List, Optional, Tuple

import numpy as np

from packing.types import index_dtype


class ItemSlots:
    """Item in each of the slots that a pack has for items, [B, K]."""

    def __init__(self, packs: Tuple[np.ndarray, np.ndarray], capacity: int, name: str) -> None:
        items, offsets = packs
        counts = offsets[1:] - offsets[:-1]
        if counts.min(initial=0) < 0:
            raise ValueError(f"offsets of pack {int(counts.argmin())} fall, where packs follow each other.")
        check_fill(counts, capacity, name)
        self.counts = counts
        self.real = np.arange(capacity) < counts[:, None]  # [B, K] bool
        self.items = np.zeros(self.real.shape, np.int64)  # any item in padding
        self.items[self.real] = items
        self._padding = None if self.real.all() else ~self.real

    def place(self, values: np.ndarray) -> np.ndarray:
        """One row per item, [I, ...], as [B, K, ...], zero in padding."""
        if not len(values):
            return np.zeros(self.items.shape + values.shape[1:], values.dtype)
        result = values.take(self.items, axis=0)
        if self._padding is not None:
            result[self._padding] = 0
        return result


class Rows:
    """Row of a flat array for each slot of the packs: those of item after item, then padding.

    Attributes:
        lengths: [B, K] rows of each item, 0 in padding.
        ends: [B, K] rows up to the end of each item.
        starts: [B, K] where each item begins in the flat array.
        capacity: C, slots of a pack.
    """

    def __init__(self, slots: ItemSlots, offsets: np.ndarray, capacity: int, name: str) -> None:
        self.slots = slots
        self.capacity = capacity
        self.starts = offsets.take(slots.items) if len(offsets) > 1 else np.zeros(slots.items.shape, np.int64)
        self.lengths = (offsets.take(slots.items + 1) - self.starts) * slots.real if len(offsets) > 1 else self.starts
        self.ends = self.lengths.cumsum(1)
        self.filled = self.ends[:, -1]
        check_fill(self.filled, capacity, name)
        self._index: Optional[np.ndarray] = None
        self._padding: Optional[np.ndarray] = None

    def repeat(self, per_item: np.ndarray, padding: int = 0) -> np.ndarray:
        """Values of items [B, K] for each of their rows, [B, C]; ``padding`` for the slots that follow."""
        shape = (len(self.filled), per_item.shape[1] + 1)
        values, lengths = np.empty(shape, per_item.dtype), np.empty(shape, np.int64)
        values[:, :-1], values[:, -1] = per_item, padding
        lengths[:, :-1], lengths[:, -1] = self.lengths, self.capacity - self.filled
        return np.repeat(values.ravel(), lengths.ravel()).reshape(-1, self.capacity)

    def place_in_item(self) -> np.ndarray:
        """[B, C], counted from 0 in every item; meaningless in padding."""
        return np.arange(self.capacity) - self.repeat(self.ends - self.lengths)

    def item_of_row(self) -> np.ndarray:
        """[B, C], which of the pack's items a row belongs to; meaningless in padding."""
        return self.repeat(np.broadcast_to(np.arange(self.ends.shape[1]), self.ends.shape))

    def place(self, values: np.ndarray) -> np.ndarray:
        """The rows of a flat array [total, ...] as [B, C, ...], zero in padding."""
        shape = (len(self.filled), self.capacity)
        if not values.size:
            return np.zeros(shape + values.shape[1:], values.dtype)
        if self._index is None:  # for all fields of an axis
            self._index = self.repeat(self.starts - (self.ends - self.lengths))
            self._index += np.arange(self.capacity)
            self._padding = np.flatnonzero(~before(self.filled[:, None], self.capacity))
        # Rows as single items of many bytes are taken faster. Padding takes any row, and is cleared.
        rows = values
        if values.ndim > 1 and values.flags.c_contiguous:
            rows = values.reshape(len(values), -1).view(np.dtype((np.void, values[0].nbytes)))[:, 0]
        placed = rows.take(self._index, axis=0, mode="clip")
        placed = placed.view(values.dtype).reshape(shape + values.shape[1:])
        placed.reshape((-1,) + values.shape[1:])[self._padding] = 0
        return placed

    def place_runs(self, values: np.ndarray) -> np.ndarray:
        """`place` for long items: whole runs of bytes are joined, with no index for every row."""
        row = values.nbytes // len(values)
        data, zeros = values.data.cast("B"), memoryview(bytes(self.capacity * row))
        first: Any = (self.starts * row).tolist()
        last: Any = ((self.starts + self.lengths) * row).tolist()
        rests = ((self.capacity - self.filled) * row).tolist()
        pieces: List[memoryview] = []
        for begins, ends, count, rest in zip(first, last, self.slots.counts.tolist(), rests):
            pieces += [data[i:j] for i, j in zip(begins[:count], ends)]
            pieces.append(zeros[:rest])
        shape = (len(self.filled), self.capacity) + values.shape[1:]
        return np.frombuffer(bytearray().join(pieces), values.dtype).reshape(shape)


def before(counts: np.ndarray, capacity: int) -> np.ndarray:
    """Mask of the first of ``capacity`` slots, of counts [B, 1]; narrow integers compare many times faster."""
    dtype = index_dtype(capacity + 1)
    return np.arange(capacity, dtype=dtype) < counts.astype(dtype)


def check_fill(filled: np.ndarray, capacity: int, name: str) -> None:
    """Refuse packs that hold more than fits, [B].

    Raises:
        ValueError: names the fullest.
    """
    if filled.max(initial=0) > capacity:
        pack = int(filled.argmax())
        raise ValueError(f"pack {pack} of the batch holds {filled[pack]} {name}, the budget {capacity}.")
