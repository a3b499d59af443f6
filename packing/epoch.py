"""One epoch of packs: who shares a pack with whom this time, in what order, and which rank takes what.

Frozen packs make training see the same molecules together for ever; here items change places with others
of their size class before every epoch, from (seed, epoch) alone.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from packing.balance import Ranking, balanced_order, rank_packs
from packing.checks import rank_of, whole
from packing.types import gather_index, offsets_of

# Packs are moved so many at a time: what that takes in between stays in the cache and is used again.
_BLOCK = 1 << 16
# Empty packs that may be added: an offset of 8 bytes each, and no step is that long.
_MOST_EMPTY = 1 << 26


@dataclass(frozen=True, eq=False)
class Epoch:
    """Packs in the order of use, some of them possibly empty.

    Attributes:
        items: [S] int32, pack after pack.
        offsets: [P + 1] int64; pack p holds items[offsets[p]:offsets[p + 1]].
    """

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        """Items of one pack, [k] int32; negative numbers count from the end."""
        if not -len(self) <= pack < len(self):
            raise IndexError(f"pack {pack} of an epoch of {len(self)}.")
        pack %= len(self)
        return self.items[self.offsets[pack] : self.offsets[pack + 1]]

    def slice(self, start: int, stop: int) -> Tuple[np.ndarray, np.ndarray]:
        """Items of packs start .. stop, as far as there are any, and their offsets from 0: what `collate` takes."""
        if not 0 <= start <= min(stop, len(self)):
            raise IndexError(f"packs {start} to {stop} of an epoch of {len(self)}.")
        offsets = self.offsets[start : stop + 1]
        return self.items[offsets[0] : offsets[-1]], offsets - offsets[0]

    def shard(self, rank: int, world: int) -> "Epoch":
        """The packs of one of ``world`` processes: every world-th one, as many on every rank.

        The union of all ranks at any point of the epoch is what one process would have seen.

        Raises:
            ValueError: the number of packs is no multiple of ``world`` (give `epoch` a multiple), or
                ``rank`` is not one of 0 .. world - 1.
        """
        rank, world = rank_of(rank, world)
        if len(self) % world:
            raise ValueError(f"{len(self)} packs do not divide over {world} ranks; pass multiple={world} to epoch().")
        return reorder(self.items, self.offsets, np.arange(rank, len(self), world))


class PackOrder:
    """Tables that are computed once per plan, so that an epoch is two shuffles and two gathers."""

    def __init__(self, items: np.ndarray, offsets: np.ndarray, classes: np.ndarray) -> None:
        self.items = items
        self.offsets = offsets.astype(np.int64)
        of_slot = classes[items]
        self.slot_by_class = np.argsort(of_slot, kind="stable").astype(np.int32)
        self.bounds = offsets_of(np.bincount(of_slot, minlength=1))
        self._costs: Optional[np.ndarray] = None
        self._known: Optional[Ranking] = None

    def shuffled(self, seed: int, epoch: int, multiple: int, costs: Optional[np.ndarray] = None) -> Epoch:
        """See `PackingPlan.epoch`."""
        seed, epoch, multiple = whole("seed", seed), whole("epoch", epoch), whole("multiple", multiple, 1)
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        by_class = self.items[self.slot_by_class]
        several = np.flatnonzero(np.diff(self.bounds) > 1)
        for start, stop in zip(self.bounds[several], self.bounds[several + 1]):
            random.shuffle(by_class[start:stop])
        items = np.empty_like(self.items)
        items[self.slot_by_class] = by_class
        count = len(self.offsets) - 1
        if costs is None or multiple == 1:
            return reorder(items, self.offsets, spread(random.permutation(count), multiple))
        total = count + _missing(count, multiple)
        return reorder(items, self.offsets, balanced_order(self._ranking(items, costs), total, multiple, random))

    def _ranking(self, items: np.ndarray, costs: np.ndarray) -> Ranking:
        """Packs by cost, found once for the same ``costs`` [I] if items that change places cost the same."""
        if self._costs is None or not np.array_equal(self._costs, costs):
            by_class = costs[self.items[self.slot_by_class]]
            same = by_class[1:] == by_class[:-1]
            same[self.bounds[1:-1] - 1] = True
            self._costs, self._known = costs, rank_packs(items, self.offsets, costs) if same.all() else None
        return rank_packs(items, self.offsets, costs) if self._known is None else self._known

    def planned(self, multiple: int) -> Epoch:
        """See `PackingPlan.in_order`."""
        missing = _missing(len(self.offsets) - 1, whole("multiple", multiple, 1))
        return Epoch(self.items, np.concatenate([self.offsets, np.full(missing, self.offsets[-1])]))


def spread(order: np.ndarray, multiple: int) -> np.ndarray:
    """Stretch an order to a multiple, with -1 (an empty pack) evenly between.

    Were the empty packs left at the end, the last optimizer step of every epoch would average over far
    fewer molecules than the others, or over none.
    """
    count = len(order)
    total = count + _missing(count, multiple)
    slots = np.full(total, -1, np.int64)
    slots[np.arange(count) * total // max(count, 1)] = order
    return slots


def _missing(count: int, multiple: int) -> int:
    """Empty packs that round ``count`` up to a multiple."""
    missing = -count % multiple
    if missing > _MOST_EMPTY:
        raise ValueError(f"{count:,} packs cannot be rounded up to a multiple of {multiple:,}; make the steps smaller.")
    return missing


def reorder(items: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> Epoch:
    """Copy packs into a new order; -1 makes an empty pack."""
    # One more, empty, pack at the end of the table is what -1 points to.
    padded = np.append(offsets, offsets[-1])
    order = np.where(order < 0, len(offsets) - 1, order)
    new_offsets = offsets_of(np.diff(padded)[order])
    moved = np.empty(new_offsets[-1], items.dtype)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        positions, _ = gather_index(padded, block)
        moved[new_offsets[start] : new_offsets[start + len(block)]] = items[positions]
    return Epoch(moved, new_offsets)
