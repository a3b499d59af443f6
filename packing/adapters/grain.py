"""Planned packs as a `MapDataset` of grain, in place of its `FirstFitPackIterDataset` and `BestFitPackIterDataset`.

packed = planned_packs(grain.MapDataset.source(examples), length_struct={"tokens": 256}).batch(8)
"""

from importlib import import_module
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from packing.checks import whole
from packing.epoch import Epoch
from packing.make_plan import make_plan
from packing.plan import PackingPlan
from packing.types import COUNT_DIMENSIONS, Budget, counted


def planned_packs(
    parent: Any,
    *,
    length_struct: Mapping[str, int],
    seed: int = 0,
    shuffle: bool = True,
    max_sequences_per_bin: Optional[int] = None,
    padding_struct: Optional[Mapping[str, float]] = None,
    lengths: Optional[Mapping[str, np.ndarray]] = None,
) -> Any:
    """Packs of a `MapDataset` or a list, with random access: X, X_positions and X_segment_ids for every feature X.

    Segments count from 1, and 0 is padding, as in grain. What `repeat` reads again is dealt anew. Values are not
    changed: indices of one feature into another count from 0 in every segment.

    Args:
        parent: elements {feature: array [length, ...]}, read once for their lengths.
        length_struct: feature -> length of a pack; others are left out.
        seed: of the order.
        shuffle: deal the elements anew in every epoch.
        max_sequences_per_bin: elements of a pack at most.
        padding_struct: feature -> value in padding, 0 unless given.
        lengths: feature -> [I] integer, where they are known.

    Raises:
        ValueError: an element is longer than a pack or empty, lacks a feature, or the parent has no length.
    """
    seed, padding_struct = whole("seed", seed), dict(padding_struct or {})
    _check(parent, length_struct, padding_struct, lengths)
    if lengths is None:
        lengths = _lengths(parent, length_struct)
    plan = make_plan(*_sizes(lengths, length_struct, max_sequences_per_bin))
    return _new(parent, plan, dict(length_struct), padding_struct, seed, shuffle)


def _check(
    parent: Any,
    length_struct: Mapping[str, int],
    padding_struct: Mapping[str, float],
    lengths: Optional[Mapping[str, np.ndarray]],
) -> None:
    if not hasattr(parent, "__len__") or not hasattr(parent, "__getitem__") or len(parent) >= _MOST:
        raise ValueError(
            f"{type(parent).__name__} has no end or no random access, and a plan needs all lengths; give a MapDataset "
            "or a list, and call repeat() on the packs."
        )
    if not length_struct:
        raise ValueError("length_struct names no feature; give {'tokens': 256}.")
    unknown = [name for name in padding_struct if name not in length_struct]
    if unknown:
        raise ValueError(f"padding_struct names {unknown[0]!r}, and packs are made of {', '.join(length_struct)}.")
    outputs = [f"{name}{end}" for name in length_struct for end in ("", "_positions", "_segment_ids")]
    twice = [name for name in outputs if outputs.count(name) > 1]
    if twice:
        raise ValueError(f"two arrays of a pack would be named {twice[0]!r}; rename that feature.")
    if lengths is not None and {name: len(lengths.get(name, ())) for name in length_struct} != dict.fromkeys(
        length_struct, len(parent)
    ):
        raise ValueError(
            f"lengths are {{feature: [I]}} of {', '.join(length_struct)} for all of {len(parent):,} elements."
        )


def _lengths(parent: Any, length_struct: Mapping[str, int]) -> Dict[str, np.ndarray]:
    """Lengths of the features of every element."""
    found = np.zeros((len(parent), len(length_struct)), np.int64)
    for index in range(len(parent)):
        element = parent[index]
        if not isinstance(element, Mapping) or not set(length_struct) <= set(element):
            have = f"has {', '.join(element)}" if isinstance(element, Mapping) else f"is a {type(element).__name__}"
            raise ValueError(f"element {index} {have}, and packs are made of {', '.join(length_struct)}.")
        for place, name in enumerate(length_struct):
            if not np.ndim(element[name]):
                raise ValueError(f"{name!r} of element {index} is a {type(element[name]).__name__}, not an array.")
            found[index, place] = len(element[name])
    return dict(zip(length_struct, found.T))


def _sizes(
    lengths: Mapping[str, np.ndarray], length_struct: Mapping[str, int], most: Optional[int]
) -> Tuple[Dict[str, np.ndarray], Budget]:
    """Sizes and budget without features that are as long as another."""
    seen, sizes, capacities = set(), {}, {}
    for name, capacity in length_struct.items():
        column = np.asarray(lengths[name])
        key = (capacity, column.tobytes())
        if key not in seen:
            seen.add(key)
            name = f"{name} of an element" if name in COUNT_DIMENSIONS else name  # which would count elements
            sizes[name], capacities[name] = column, capacity
    return sizes, Budget(**capacities, **({} if most is None else {"segments": most}))


def _packed(
    elements: Sequence[Any], length_struct: Mapping[str, int], padding: Mapping[str, float]
) -> Dict[str, np.ndarray]:
    """Arrays of one pack."""
    result = {}
    for name, length in length_struct.items():
        arrays = [np.asarray(element[name]) for element in elements]
        joined, counts = np.concatenate(arrays), np.array([len(array) for array in arrays])
        if len(joined) > length:
            raise ValueError(
                f"a pack has {len(joined)} of {name!r} and room for {length}; lengths have changed since they were "
                "read."
            )
        fill = np.asarray(padding.get(name, 0))
        if fill.astype(joined.dtype) != fill:
            raise ValueError(f"padding_struct: {name!r} is of {joined.dtype}, which does not hold {fill}.")
        values = np.full((length, *joined.shape[1:]), fill, joined.dtype)
        positions, segments = np.zeros((2, length), np.int32)
        values[: len(joined)] = joined
        positions[: len(joined)] = counted(counts)
        segments[: len(joined)] = np.repeat(np.arange(1, len(counts) + 1), counts)
        result.update({name: values, f"{name}_positions": positions, f"{name}_segment_ids": segments})
    return result


_MOST = 2**31  # elements; what is repeated for ever has more
_CLASSES: Dict[str, Any] = {}


def _new(*arguments: Any) -> Any:
    """An instance, also in a process to which one is sent."""
    return _dataset_class()(*arguments)


def _dataset_class() -> Any:
    """The class, which is one of grain's, so made when grain is loaded."""
    if "PlannedPacks" in _CLASSES:
        return _CLASSES["PlannedPacks"]
    grain: Any = import_module("grain")

    class PlannedPacks(grain.MapDataset):
        """Packs of a plan by their number."""

        def __init__(
            self,
            parent: Any,
            plan: PackingPlan,
            length_struct: Mapping[str, int],
            padding: Mapping[str, float],
            seed: int,
            shuffle: bool,
        ) -> None:
            super().__init__()
            self.plan, self.length_struct, self.padding = plan, length_struct, padding
            self._elements, self._seed, self._shuffle = parent, seed, shuffle
            self._epoch: Tuple[int, Epoch] = (-1, plan.in_order())

        def __reduce__(self) -> Any:
            return _new, (self._elements, self.plan, self.length_struct, self.padding, self._seed, self._shuffle)

        def __len__(self) -> int:
            return self.plan.num_packs

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                return self.slice(index)
            if not len(self):
                raise IndexError(f"pack {index} of a data set without elements.")
            number, place = divmod(index, len(self))
            known, epoch = self._epoch  # one read, as other threads write it
            if known != number:
                epoch = self.plan.epoch(self._seed, number) if self._shuffle else self.plan.in_order()
                self._epoch = number, epoch
            return _packed([self._elements[int(item)] for item in epoch[place]], self.length_struct, self.padding)

    return _CLASSES.setdefault("PlannedPacks", PlannedPacks)
