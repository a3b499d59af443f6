"""The two nouns of packing: what a pack may hold (Budget) and variable-size items in flat arrays (Ragged)."""

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np

# Dimensions in which every item has size 1: they limit how many items share a pack.
COUNT_DIMENSIONS = ("graphs", "segments")


# Index dtypes that torch and PopTorch take, with how many things each can tell apart.
_INDEX_DTYPES = ((np.dtype(np.uint8), 2**8), (np.dtype(np.int16), 2**15), (np.dtype(np.int32), 2**31))


class Budget:
    """Named capacities of one pack, in order: ``Budget(nodes=128, edges=2304, graphs=8)``.

    The first dimension that is not a count ("graphs", "segments") is the primary one: plans sort by it.

    Raises:
        ValueError: no measured dimension, or a capacity that is not a positive integer below 2**31.
    """

    __slots__ = ("_capacities",)

    def __init__(self, **capacities: int) -> None:
        for name, capacity in capacities.items():
            if isinstance(capacity, bool) or not isinstance(capacity, (int, np.integer)):
                raise ValueError(f"budget {name}={capacity!r}: a capacity is an integer.")
            if not 0 < capacity < 2**31:
                raise ValueError(f"budget {name}={capacity}: a capacity lies between 1 and 2**31 - 1.")
        if not any(name not in COUNT_DIMENSIONS for name in capacities):
            raise ValueError(
                "a budget needs a measured dimension such as nodes=128 or tokens=256; "
                f"{', '.join(COUNT_DIMENSIONS)} only limit how many items share a pack."
            )
        self._capacities = {name: int(capacity) for name, capacity in capacities.items()}

    @property
    def names(self) -> Tuple[str, ...]:
        """Every dimension, in the order given."""
        return tuple(self._capacities)

    @property
    def measured(self) -> Tuple[str, ...]:
        """The dimensions whose size differs from item to item (nodes, edges, tokens, ...)."""
        return tuple(name for name in self._capacities if name not in COUNT_DIMENSIONS)

    @property
    def max_items(self) -> int:
        """The tightest limit on the number of items in a pack; 2**31 - 1 when nothing limits it."""
        counts = [c for name, c in self._capacities.items() if name in COUNT_DIMENSIONS]
        return min(counts, default=2**31 - 1)

    def capacities(self) -> np.ndarray:
        """Capacity per dimension, [D] int64, in the order of ``names``."""
        return np.array(list(self._capacities.values()), np.int64)

    def as_dict(self) -> Dict[str, int]:
        """A plain copy: name -> capacity."""
        return dict(self._capacities)

    def replace(self, **capacities: int) -> "Budget":
        """The same budget with some capacities changed or added."""
        return Budget(**{**self._capacities, **capacities})

    def __getitem__(self, name: str) -> int:
        return self._capacities[name]

    def __contains__(self, name: object) -> bool:
        return name in self._capacities

    def __iter__(self) -> Iterator[str]:
        return iter(self._capacities)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and list(self._capacities.items()) == list(other._capacities.items())

    def __hash__(self) -> int:
        return hash(tuple(self._capacities.items()))

    def __repr__(self) -> str:
        return f"Budget({self})"

    def __str__(self) -> str:
        return ", ".join(f"{name}={capacity}" for name, capacity in self._capacities.items())


def index_dtype(count: int) -> np.dtype:
    """Smallest dtype that torch and PopTorch take for an index below ``count``: uint8, int16 or int32.

    An offset that can reach 1,344 must not be stored in a byte: every packed index field asks here.

    Raises:
        ValueError: ``count`` does not fit int32.
    """
    for dtype, limit in _INDEX_DTYPES:
        if count <= limit:
            return dtype
    raise ValueError(f"an index below {count} does not fit int32; use a smaller budget.")


def offsets_of(lengths: Any) -> np.ndarray:
    """Bounds of items of these lengths [I] that follow each other: [I + 1] int64, from 0 to their sum."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=offsets[1:])  # of integers of any width, without a copy
    return offsets


def counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, .. in each of some sequences of these lengths [I], one after the other."""
    ends = offsets_of(lengths)
    return np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)


def gather_index(offsets: np.ndarray, items: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Flat positions of the values of ``items``, one item after the other.

    Args:
        offsets: [I + 1] integer; item i owns positions offsets[i] .. offsets[i + 1].
        items: [K] integer.

    Returns:
        (positions [sum of lengths] int64, new offsets [K + 1] int64).
    """
    starts = offsets[items].astype(np.int64)
    lengths = offsets[items + 1] - starts
    ends = offsets_of(lengths)
    positions = np.repeat(starts - ends[:-1], lengths)
    positions += np.arange(ends[-1])
    return positions, ends


def take_rows(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """``values[positions]``, for short rows many times faster; `take` would first copy all of a strided array."""
    return values.take(positions, axis=0) if values.flags.c_contiguous else values[positions]


# Items longer than this on average are copied whole, which beats an index for every value.
_LONG_ITEM = 64


@dataclass(frozen=True)
class Ragged:
    """Variable-size items one after the other: values[offsets[i]:offsets[i + 1]] is item i.

    Attributes:
        values: [total, ...] of any dtype, may be memory-mapped.
        offsets: [I + 1] int64, from 0 to total, never falling.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or not isinstance(self.offsets, np.ndarray):
            for name in ("values", "offsets"):
                object.__setattr__(self, name, np.asarray(getattr(self, name)))
        if self.offsets.dtype.kind not in "iu":
            raise ValueError(f"offsets of a Ragged are integers, not {self.offsets.dtype}.")
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.offsets[0] != 0:
            raise ValueError("offsets of a Ragged are [items + 1] and begin with 0.")
        if self.offsets[-1] != len(self.values):
            raise ValueError(
                f"offsets end at {self.offsets[-1]} but there are {len(self.values)} values; "
                "the two arrays do not belong together."
            )

    @classmethod
    def from_list(cls, items: Sequence[np.ndarray]) -> "Ragged":
        """Concatenate arrays that agree in dtype and in every axis but the first."""
        if len(items) == 0:
            raise ValueError("a Ragged needs at least one item to know its dtype and shape.")
        arrays: List[np.ndarray] = [np.asarray(item) for item in items]
        for number, array in enumerate(arrays):
            if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
                raise ValueError(
                    f"item {number} has shape {array.shape} and item 0 {arrays[0].shape}; items of a Ragged are arrays "
                    "that differ in the first axis alone."
                )
        return cls(np.concatenate(arrays), offsets_of([len(array) for array in arrays]))

    @property
    def lengths(self) -> np.ndarray:
        """Values per item, [I] int64."""
        return np.diff(self.offsets)

    def take(self, items: np.ndarray) -> "Ragged":
        """The given items in the given order, copied into new flat arrays."""
        items = np.asarray(items)
        items = items if items.size else items.astype(np.int64)
        if items.size and not 0 <= items.min() <= items.max() < len(self):
            raise IndexError(f"items {items.min()} to {items.max()} of a Ragged with {len(self)} items.")
        starts, ends = self.offsets[items], self.offsets[items + 1]
        offsets = offsets_of(ends - starts)
        if offsets[-1] > _LONG_ITEM * len(items) and self.values.flags.c_contiguous:
            # Joining bytes costs a third of np.concatenate, and a fifth of an index for every value.
            row = self.values.nbytes // len(self.values)
            flat = self.values.data.cast("B")
            pieces = [flat[i:j] for i, j in zip((starts * row).tolist(), (ends * row).tolist())]
            values = np.frombuffer(bytearray().join(pieces), self.values.dtype)
            return Ragged(values.reshape((-1,) + self.values.shape[1:]), offsets)
        positions, offsets = gather_index(self.offsets, items)
        return Ragged(take_rows(self.values, positions), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, item: int) -> np.ndarray:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of a Ragged with {len(self)} items.")
        item %= len(self)
        return self.values[self.offsets[item] : self.offsets[item + 1]]
