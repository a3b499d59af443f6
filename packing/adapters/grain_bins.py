"""Packs of a stream in grain: bins that are planned anew when an element does not fit.

dataset = pack_iter_dataset(dataset, length_struct={"tokens": 256}, num_packing_bins=64)

in place of `grain.experimental.FirstFitPackIterDataset` and `BestFitPackIterDataset`, with their arguments, state and
elements. Grain keeps the base of its packers, which `packer_cls` returns a class of, to itself: what is written here
is tested with grain 0.2.18. Where the data set has random access, `packing.adapters.grain.planned_packs` needs fewer.
"""

from importlib import import_module
from typing import Any, Dict, List, Optional

import numpy as np

from packing.make_plan import make_plan
from packing.types import Budget

_CLASSES: Dict[str, Any] = {}


def pack_iter_dataset(parent: Any, *, length_struct: Any, num_packing_bins: int, **options: Any) -> Any:
    """Packed elements of an `IterDataset`, a batch of bins after the other.

    Args:
        parent: elements {feature: array [length, ...]}.
        length_struct: feature -> length of a pack.
        num_packing_bins: packs that are filled at once.
        options: of `FirstFitPackIterDataset`: seed, shuffle_bins, shuffle_bins_group_by_feature, meta_features,
            pack_alignment_struct, padding_struct, max_sequences_per_bin.

    Raises:
        ValueError: lengths are no {feature: length}; later, an element is longer than a pack.
        ImportError: this grain takes no packer.
    """
    if not isinstance(length_struct, dict) or not all(
        isinstance(one, (int, np.integer)) for one in length_struct.values()
    ):
        raise ValueError(f"length_struct={length_struct!r} is no {{feature: length}}, such as {{'tokens': 256}}.")
    return _grain("packing").PackIterDataset(
        parent, packer_cls=packer_cls(), length_struct=length_struct, num_packing_bins=num_packing_bins, **options
    )


def _grain(module: str) -> Any:
    found = import_module(f"grain._src.python.dataset.transformations.{module}")
    if module == "packing" and not hasattr(found, "PackIterDataset"):
        raise ImportError(
            "this version of grain takes no packer; use grain 0.2.18, or planned_packs of packing.adapters.grain."
        )
    return found


def packer_cls() -> Any:
    """The class for ``packer_cls`` of grain's `PackIterDataset`, which is made when grain is loaded."""
    if "PlannedPackedBatch" in _CLASSES:
        return _CLASSES["PlannedPackedBatch"]
    base: Any = _grain("packing_packed_batch").PackedBatch

    class PlannedPackedBatch(base):
        """Bins of a batch; elements are laid out at the end, when it is known which bin each is in."""

        def __init__(self, element_for_shapes: Any, num_packing_bins: int, length_struct: Any, **options: Any) -> None:
            super().__init__(element_for_shapes, num_packing_bins, length_struct, **options)
            self._names = list(length_struct)
            alignment = options.get("pack_alignment_struct") or {}
            most = options.get("max_sequences_per_bin")
            self._steps = np.array([alignment.get(name) or 1 for name in self._names])
            self._limits = np.array(
                [*(int(length_struct[name]) for name in self._names), most or np.iinfo(np.int32).max]
            )
            self._free = np.tile(self._limits, (num_packing_bins, 1))
            self._elements: List[Any] = []
            self._taken: List[np.ndarray] = []
            self._rows: List[int] = []

        def try_add_to_batch(self, element: Any) -> Optional[List[str]]:
            """Find a place for an element; returns the features that did not fit, None if all did."""
            lengths = np.array([1 if np.ndim(element[name]) == 0 else len(element[name]) for name in self._names])
            longer = np.flatnonzero(lengths > self._limits[:-1])
            if len(longer):
                name = self._names[longer[0]]
                raise ValueError(
                    f"an element has {lengths[longer[0]]} of {name!r} and a pack room for {self._limits[longer[0]]}; "
                    "cut it, or leave it out with filter()."
                )
            taken = np.append(np.minimum(-(-lengths // self._steps) * self._steps, self._limits[:-1]), 1)
            fits = np.flatnonzero((self._free >= taken).all(1))
            if len(fits):
                left = ((self._free[fits] - taken) / self._limits).max(1)
                row = int(fits[left.argmin()])
                self._free[row] -= taken
                self._rows.append(row)
            elif not self._plan_anew(taken):
                return [self._names[0]]
            self._elements.append(element)
            self._taken.append(taken)
            return None

        def _plan_anew(self, taken: np.ndarray) -> bool:
            """Put all elements and one more into the bins, if a plan of them needs no more."""
            table = np.stack([*self._taken, taken])
            if (table.sum(0) > self._num_packing_bins * self._limits.astype(np.int64)).any():
                return False
            sizes = {f"feature {place}": np.maximum(column, 1) for place, column in enumerate(table.T[:-1])}
            budget = Budget(
                **{name: int(most) for name, most in zip(sizes, self._limits)},
                segments=min(int(self._limits[-1]), len(table)),
            )
            plan = make_plan(sizes, budget, "best_fit")
            if plan.num_packs > self._num_packing_bins:
                return False
            rows = np.empty(len(table), np.int64)
            rows[plan.items] = np.repeat(np.arange(plan.num_packs), np.diff(plan.offsets))
            self._rows = rows.tolist()
            self._free = np.tile(self._limits, (self._num_packing_bins, 1))
            np.subtract.at(self._free, rows, table)
            return True

        def get_packed_batch(self) -> Any:
            """Lay the elements out, in the first bins as many as there are."""
            order = {row: place for place, row in enumerate(dict.fromkeys(self._rows))}
            for element, row in zip(self._elements, self._rows):
                self.add_element_to_batch(element, order[row])
            return super().get_packed_batch()

    return _CLASSES.setdefault("PlannedPackedBatch", PlannedPackedBatch)
