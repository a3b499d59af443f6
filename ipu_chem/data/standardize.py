"""Targets of order one: element references, shift and scale, fitted on the training molecules alone.

A total energy is nearly a sum over elements; a network should learn the rest. For every number
``standardized = (y - sum of references over atoms - shift_per_atom * atoms - shift) / scale`` in float64,
because a float32 of -10,000 eV has steps of 1 meV. Classes stay 0 and 1; the network's output is their logit.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.checks import SYMBOLS
from ipu_chem.metrics import is_binary
from packing.store import Store
from packing.types import Ragged

REFERENCES = ("none", "atoms", "linear")
_ROWS = len(SYMBOLS)


@dataclass(eq=False)
class Standardizer:
    """The affine map between the targets of a data set and what the network sees.

    Attributes:
        targets: T entries {"name", "unit", "extensive"} of the store, with "kind" for classes.
        references: T of "none", "atoms" (energies of free atoms that the data set knows) and "linear" (least
            squares on the element counts of the training molecules).
        elements: atomic numbers that occur in training.
        element_values: [100, T] float64, reference of each element, 0 where there is none.
        shift_per_atom: [T] float64, for extensive targets, so that a sum over atoms has nothing to add up.
        shift: [T] float64 per molecule, for intensive targets.
        scale: [T] float64, root mean square of what is left.
    """

    targets: List[Dict[str, Any]]
    references: List[str]
    elements: List[int]
    element_values: np.ndarray
    shift_per_atom: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        self.targets = [dict(target) for target in self.targets]
        self.elements = [int(element) for element in self.elements]
        for name in ("element_values", "shift_per_atom", "shift", "scale"):
            setattr(self, name, np.asarray(getattr(self, name), np.float64))

    @classmethod
    def fit(
        cls, store: Store, items: np.ndarray, references: Union[str, Mapping[str, str], None] = None
    ) -> "Standardizer":
        """Fit on the training molecules.

        For an extensive target: references; then, except for "linear", whose element values hold it already,
        the mean per atom; never a constant per molecule, which would make two molecules far apart differ
        from the two alone. For an intensive target: the mean.

        Args:
            store: with fields z and y and ``info["targets"]``.
            items: [K] training items.
            references: one kind for all extensive targets (intensive ones take "none"), or target name ->
                kind. None takes "atoms" where the data set has them, else "linear", for extensive targets.

        Raises:
            ValueError: a kind is unknown or the data set has no reference energies for it, or a target has
                no label among the items.
        """
        targets = store_targets(store)
        kinds = _kinds(targets, references, store.info.get("reference_energies", {}))
        counts, elements = element_counts(store.ragged("z").take(items))
        labels = np.asarray(store["y"], np.float64)[items]
        element_values = np.zeros((_ROWS, len(targets)))
        shift_per_atom, shift, scale = (np.zeros(len(targets)) for _ in range(3))
        for column, (target, kind) in enumerate(zip(targets, kinds)):
            known = np.isfinite(labels[:, column])
            if not known.any():
                raise ValueError(f"target {target['name']} has no label among the {len(items)} training molecules.")
            if is_binary(target):
                scale[column] = 1.0
                continue
            y, x = labels[known, column], counts[known].astype(np.float64)
            if kind == "atoms":
                values = store.info["reference_energies"][target["name"]]
                lacking = [SYMBOLS[z] for z in elements if str(z) not in values]
                if lacking:
                    raise ValueError(
                        f"target {target['name']}: the data set knows no free-atom value of {', '.join(lacking)}; "
                        'use references="linear".'
                    )
                for z, value in values.items():
                    element_values[int(z), column] = value
            elif kind == "linear":
                # The pseudo-inverse: where elements always come together, the smallest values that fit.
                element_values[elements, column] = np.linalg.lstsq(x, y, rcond=None)[0]
            rest = y - x @ element_values[elements, column]
            if not target["extensive"]:
                shift[column] = rest.mean()
            elif kind != "linear":
                shift_per_atom[column] = rest.sum() / x.sum()
            rest -= shift[column] + shift_per_atom[column] * x.sum(axis=1)
            scale[column] = _spread(rest, y)
        return cls(targets, kinds, elements, element_values, shift_per_atom, shift, scale)

    def apply(self, z: Ragged, y: np.ndarray) -> np.ndarray:
        """Standardized labels, [I, T] float64, NaN where ``y`` is.

        Raises:
            ValueError: see `offset`.
        """
        return (np.asarray(y, np.float64) - self.offset(z)) / self.scale

    def invert(self, z: Ragged, prediction: np.ndarray) -> np.ndarray:
        """Predictions in the units of the targets, [I, T] float64, from standardized ones; probabilities of classes.

        Raises:
            ValueError: see `offset`.
        """
        values = np.asarray(prediction, np.float64) * self.scale + self.offset(z)
        classes = np.array([is_binary(target) for target in self.targets])
        return np.where(classes, 0.5 + 0.5 * np.tanh(0.5 * values), values)  # of a logit; never overflows

    def offset(self, z: Ragged) -> np.ndarray:
        """Labels that a standardized 0 stands for, [I, T] float64.

        Raises:
            ValueError: references were fitted and a molecule has an element that no training molecule had.
        """
        if any(kind != "none" for kind in self.references):
            unseen = self.unseen(z)
            if unseen.any():
                molecule = int(np.argmax(unseen))
                new = [SYMBOLS[number] for number in np.unique(z[molecule]) if number not in self.elements]
                have = ", ".join(SYMBOLS[number] for number in self.elements)
                raise ValueError(
                    f"molecule {molecule} holds {', '.join(new)}, but the training molecules hold only {have}; "
                    "leave it out or train on such molecules."
                )
        counts, elements = element_counts(z)
        per_atom = self.element_values[elements] + self.shift_per_atom
        return counts @ per_atom + self.shift

    def unseen(self, z: Ragged) -> np.ndarray:
        """[I] bool: molecules with an element that no training molecule had."""
        new = np.ones(256, bool)
        new[self.elements] = False
        owner = np.repeat(np.arange(len(z)), z.lengths)
        return np.bincount(owner[new[z.values]], minlength=len(z)) > 0

    def to_dict(self) -> Dict[str, Any]:
        """Plain values, of which `from_dict` makes the same numbers to the last bit."""
        values = {str(z): self.element_values[z].tolist() for z in range(_ROWS) if self.element_values[z].any()}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        return {**plain, "element_values": values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Standardizer":
        """The inverse of `to_dict`."""
        element_values = np.zeros((_ROWS, len(values["targets"])))
        for z, row in values["element_values"].items():
            element_values[int(z)] = row
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "element_values": element_values})


def composition_baseline(store: Store, train_items: np.ndarray, eval_items: np.ndarray) -> Dict[str, float]:
    """Mean absolute error, in each target's unit, of the best linear function of element counts.

    It knows what a molecule is made of and nothing of its shape: what a model must beat to have learned any.
    A target without a label on either side gives NaN.
    """
    counts, elements = element_counts(store.ragged("z").take(train_items))
    others, _ = element_counts(store.ragged("z").take(eval_items), elements)
    labels = np.asarray(store["y"], np.float64)
    errors = {}
    for column, target in enumerate(store_targets(store)):
        y, truth = labels[train_items, column], labels[eval_items, column]
        known = np.isfinite(y)
        if not known.any() or not np.isfinite(truth).any():
            errors[target["name"]] = float("nan")
            continue
        weights = np.linalg.lstsq(_with_constant(counts[known]), y[known], rcond=None)[0]
        errors[target["name"]] = float(np.nanmean(np.abs(_with_constant(others) @ weights - truth)))
    return errors


def store_targets(store: Store) -> List[Dict[str, Any]]:
    """``info["targets"]`` of a store with labels.

    Raises:
        ValueError: there are no labels, or not one entry for each.
    """
    if "y" not in store:
        raise ValueError("the store has no labels (field y); pass a target when reading the files.")
    targets = store.info.get("targets", [])
    columns = np.shape(store.fields["y"])[1]
    if len(targets) != columns or any(not {"name", "unit", "extensive"} <= set(target) for target in targets):
        raise ValueError(
            f'the store has {columns} labels per molecule; info["targets"] must say name, unit and extensive of each.'
        )
    return list(targets)


def element_counts(z: Ragged, elements: Optional[Sequence[int]] = None) -> Tuple[np.ndarray, List[int]]:
    """Atoms of each element in each molecule: ([I, E] int64, the E atomic numbers, by default all there are)."""
    if elements is None:
        elements = np.flatnonzero(np.bincount(z.values, minlength=_ROWS)).tolist()
    asked = [int(element) for element in elements or ()]
    column = np.full(256, len(asked))
    column[asked] = np.arange(len(asked))
    owner = np.repeat(np.arange(len(z)), z.lengths)
    width = len(asked) + 1  # the last column collects elements that were not asked for
    counts = np.bincount(owner * width + column[z.values], minlength=len(z) * width)
    return counts.reshape(len(z), width)[:, :-1], asked


def _kinds(
    targets: Sequence[Mapping[str, Any]], references: Union[str, Mapping[str, str], None], known: Mapping[str, Any]
) -> List[str]:
    """The kind of references of every target."""
    names = [target["name"] for target in targets]
    if isinstance(references, Mapping):
        unknown = sorted(set(references) - set(names))
        if unknown:
            raise ValueError(f"references name the target {unknown[0]!r}; the store has {', '.join(names)}.")
    kinds = []
    for target in targets:
        name = target["name"]
        default = ("atoms" if name in known else "linear") if target["extensive"] else "none"
        if references is None:
            kind = default
        elif isinstance(references, Mapping):
            kind = references.get(name, default)
        else:
            kind = references if target["extensive"] or references not in REFERENCES else "none"
        if kind not in REFERENCES:
            raise ValueError(f"references={kind!r} for target {name}: choose {', '.join(REFERENCES)}.")
        if kind == "atoms" and name not in known:
            raise ValueError(
                f'target {name}: the data set has no free-atom values for it; use references="linear" or "none".'
            )
        kinds.append(kind)
    return kinds


def unfit(store: Store, standardizer: Standardizer) -> Dict[int, str]:
    """Molecules that a run cannot take because of elements that no training molecule had, and which those are.

    Args:
        store: molecules.
        standardizer: of the run.
    """
    z, reasons = store.ragged("z"), {}
    for item in np.flatnonzero(standardizer.unseen(z)).tolist():
        new = [SYMBOLS[number] for number in np.unique(z[item]).tolist() if number not in standardizer.elements]
        reasons[item] = f"it holds {', '.join(new)}, which no training molecule had"
    return reasons


def _spread(rest: np.ndarray, y: np.ndarray) -> float:
    """Root mean square; 1 where what is left is rounding, so that it is not blown up."""
    spread = float(np.sqrt(np.mean(rest * rest)))
    return spread if spread > 1e-12 * float(np.abs(y).max()) else 1.0


def _with_constant(counts: np.ndarray) -> np.ndarray:
    return np.column_stack([counts.astype(np.float64), np.ones(len(counts))])
