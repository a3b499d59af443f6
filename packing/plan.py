"""The packing plan: which items share a pack, how full the packs are and how few there could be.

A plan is made once per split and saved beside the run; every epoch deals the items anew into the same pack types.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, Mapping, Optional, Union

import numpy as np

from packing.arrays import open_arrays
from packing.balance import Balance, cost_of_items
from packing.checks import budget_of, integers
from packing.epoch import Epoch, PackOrder
from packing.files import PathLike, atomic_file
from packing.types import Budget, offsets_of

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class PackingPlan:
    """Packs as index lists: pack p holds items[offsets[p]:offsets[p + 1]].

    Attributes:
        budget: the capacities that every pack respects.
        sizes: [I, M] int32, item sizes in the measured dimensions of the budget (skipped items too).
        items: [S] int32, item of every slot, pack after pack; every item occurs once, skipped ones never.
        offsets: [P + 1] int32.
        classes: [I] uint16 or int32, size class; items of one class can stand in for each other.
        algorithm: the algorithm that made the packs.
        lower_bound: proven least number of packs for these sizes and this budget.
        skipped: [O] int32, items larger than the budget that were left out on request.
    """

    budget: Budget
    sizes: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    classes: np.ndarray
    algorithm: str
    lower_bound: int
    skipped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def num_packs(self) -> int:
        """Number of packs."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """Number of packed items."""
        return len(self.items)

    @property
    def gap(self) -> int:
        """Packs above the proven lower bound; 0 means that no packer can do better."""
        return self.num_packs - self.lower_bound

    @cached_property
    def fills(self) -> Dict[str, np.ndarray]:
        """Space used in every pack, name -> [P] int64, in every dimension of the budget."""
        result = {}
        for name in self.budget:
            if name in self.budget.measured:
                used = self.sizes[:, self.budget.measured.index(name)][self.items]
                sums = offsets_of(used)
                result[name] = sums[self.offsets[1:]] - sums[self.offsets[:-1]]
            else:
                result[name] = np.diff(self.offsets).astype(np.int64)
        return result

    @property
    def efficiency(self) -> Dict[str, float]:
        """Used share of the capacity of all packs, name -> 0..1."""
        total = max(self.num_packs, 1)
        return {name: float(fill.sum()) / (total * self.budget[name]) for name, fill in self.fills.items()}

    @property
    def closed_by(self) -> Dict[str, float]:
        """Share of packs in which a limit leaves no room for even the smallest item of the data.

        A pack may be closed by several limits; "none" counts the packs that could take one more.
        """
        smallest = dict(zip(self.budget.measured, self.sizes[self.items].min(0, initial=2**31 - 1).tolist()))
        closed = {name: self.budget[name] - fill < smallest.get(name, 1) for name, fill in self.fills.items()}
        shares = {name: float(mask.mean()) if len(mask) else 0.0 for name, mask in closed.items()}
        by_none = ~np.any(list(closed.values()), axis=0)
        return {**shares, "none": float(by_none.mean()) if len(by_none) else 0.0}

    @property
    def max_items_per_pack(self) -> int:
        """Items in the pack that holds most: what a count dimension needs to be."""
        return int(np.diff(self.offsets).max(initial=0))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any item, pack, size, size class or capacity."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(f"{_FORMAT} {self.budget}".encode())
        for array in (self.sizes, self.items, self.offsets, self.skipped, self.classes):
            digest.update(np.ascontiguousarray(array, np.int32).tobytes())
        return digest.hexdigest()

    def epoch(self, seed: int, epoch: int, multiple: int = 1, balance: Optional[Balance] = None) -> Epoch:
        """Deal the items anew into the same pack types and put the packs in a fresh order.

        A pure function of its arguments: every rank and every resumed run sees the same epoch.

        Args:
            seed: 0 or more.
            epoch: 0 or more.
            multiple: empty packs, spread evenly, round the number of packs up to a multiple of this.
            balance: a `Cost`, or the cost of every item, [I]: packs of like cost share a step, which is ``multiple``
                packs in a row, those of all ranks together (ranks x packs of a rank), and ranks get like sums over
                the epoch; the order of the steps is random. Packs are the same.

        Raises:
            ValueError: a number is negative, or ``balance`` is no cost of these items.
        """
        costs = None if balance is None else cost_of_items(balance, self.budget, self.sizes)
        return self._order.shuffled(seed, epoch, multiple, costs)

    def in_order(self, multiple: int = 1) -> Epoch:
        """The packs as planned, for evaluation; empty packs at the end round up to ``multiple``."""
        return self._order.planned(multiple)

    @cached_property
    def _order(self) -> PackOrder:
        return PackOrder(self.items, self.offsets, self.classes)

    def validate(self) -> "PackingPlan":
        """Check that every item is packed exactly once and no capacity is exceeded; returns the plan.

        Raises:
            ValueError: says which item or pack is wrong.
        """
        used = np.concatenate([self.items, self.skipped])
        outside = used[(used < 0) | (used >= len(self.sizes))]
        if len(outside):
            raise ValueError(f"plan is broken: it packs item {outside[0]} of {len(self.sizes)}.")
        seen = np.bincount(used, minlength=len(self.sizes))
        if (seen != 1).any():
            item = int(np.flatnonzero(seen != 1)[0])
            raise ValueError(f"plan is broken: item {item} is packed {seen[item]} times instead of once.")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items) or (np.diff(self.offsets) < 1).any():
            raise ValueError("plan is broken: its offsets do not cut the items into packs of one or more.")
        for name, fill in self.fills.items():
            if (fill > self.budget[name]).any():
                pack = int(np.argmax(fill))
                raise ValueError(f"plan is broken: pack {pack} holds {fill[pack]} {name} of {self.budget[name]}.")
        if self.num_packs < self.lower_bound:
            raise ValueError(f"plan is broken: {self.num_packs} packs are below the bound {self.lower_bound}.")
        return self

    def check(self, sizes: Union[np.ndarray, Mapping[str, np.ndarray]]) -> None:
        """Refuse a plan that was made for other data.

        Raises:
            ValueError: ``sizes`` are not the sizes this plan was made from.
        """
        if not np.array_equal(size_table(sizes, self.budget), self.sizes):
            raise ValueError("this packing plan was made for other data; delete the plan file to make a new one.")

    def summary(self) -> str:
        """One line for a log: packs, bound, gap, efficiency."""
        efficiency = ", ".join(f"{name} {share:.2%}" for name, share in self.efficiency.items())
        return (
            f"{self.num_items:,} items in {self.num_packs:,} packs ({self.budget}; {self.algorithm}); "
            f"at least {self.lower_bound:,} needed, gap {self.gap}; filled: {efficiency}"
        )

    def save(self, path: PathLike) -> None:
        """Write the plan as .npz, atomically.

        Raises:
            OSError: the file cannot be written.
        """
        with atomic_file(path) as file:
            np.savez(
                file,
                format=_FORMAT,
                budget_names=np.array(self.budget.names),
                budget_capacities=self.budget.capacities(),
                sizes=self.sizes,
                items=self.items,
                offsets=self.offsets,
                classes=self.classes,
                algorithm=self.algorithm,
                lower_bound=self.lower_bound,
                skipped=self.skipped,
                fingerprint=self.fingerprint,
            )

    @classmethod
    def load(cls, path: PathLike) -> "PackingPlan":
        """Read a plan written by `save`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no plan, of another format, or damaged.
        """
        try:
            with open_arrays(path) as data:
                if int(data["format"]) != _FORMAT:
                    raise ValueError(f"format {int(data['format'])}, this version reads {_FORMAT}")
                names, capacities = data["budget_names"].tolist(), data["budget_capacities"].tolist()
                plan = cls(
                    budget=Budget(**dict(zip(names, capacities))),
                    algorithm=str(data["algorithm"]),
                    lower_bound=int(data["lower_bound"]),
                    **{name: data[name] for name in ("sizes", "items", "offsets", "classes", "skipped")},
                )
                stored = str(data["fingerprint"])
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a packing plan ({error}); make it again.") from error
        if plan.fingerprint != stored:
            raise ValueError(f"{path} is damaged: its fingerprint does not match; make the plan again.")
        return plan


def size_table(sizes: Union[np.ndarray, Mapping[str, np.ndarray]], budget: Budget) -> np.ndarray:
    """Item sizes as one table, [I, M] int32, in the order of ``budget.measured``.

    Raises:
        ValueError: the budget is none, a dimension is missing, not one integer per item, negative, too large for
            int32, or 0 in the first one.
    """
    budget = budget_of(budget)
    if not isinstance(sizes, Mapping):
        if len(budget.measured) != 1:
            raise ValueError(f"the budget ({budget}) needs sizes as {{name: array}} for {', '.join(budget.measured)}.")
        sizes = {budget.measured[0]: sizes}
    missing = [name for name in budget.measured if name not in sizes]
    if missing:
        raise ValueError(f"no sizes were given for {', '.join(missing)}, which the budget ({budget}) limits.")
    columns = [integers(name, sizes[name]) for name in budget.measured]
    for name, column in zip(budget.measured, columns):
        if len(column) != len(columns[0]):
            raise ValueError(
                f"there are {len(column)} sizes of {name} and {len(columns[0])} of {budget.measured[0]}; "
                "give one of each for every item."
            )
        least = 1 if name == budget.measured[0] else 0
        if len(column) and column.min() < least:
            raise ValueError(
                f"item {int(column.argmin())} has {column.min()} {name} and needs {least} or more to be packed; "
                "leave it out of the data."
            )
        if len(column) and column.max() >= 2**31:
            raise ValueError(f"item {int(column.argmax())} has {column.max()} {name}; sizes stay below 2**31.")
    return np.stack(columns, 1).astype(np.int32)
