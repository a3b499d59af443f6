"""Labels of molecules, numbers or classes: the output that tasks of graphs and of text share."""

import csv
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import DATASETS
from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import Loss, loss_by_name
from ipu_chem.metrics import BINARY, Target, label_metrics, metric_names, selection_metric
from ipu_chem.tasks.evaluation import PerMolecule, SplitOutput
from packing.files import atomic_file
from packing.store import Store
from packing.types import Ragged


class Parts(NamedTuple):
    """Equal parts that molecules are made of, such as the waters of a cluster."""

    name: str
    counts: np.ndarray  # [K], of every molecule of a split


class Labels:
    """Labels of molecules as an output of a model.

    Attributes:
        targets: T quantities, all numbers or all classes.
        baseline_name: of the baseline that the task measures for numbers; classes have a constant.
        standardizer: fitted on the training molecules; None before there are data.
        weight: of the labels in the number that checkpoints are chosen by, where there are other outputs.
        store: molecules with the labels y [I, T]; None before there are data.
        atoms: atomic numbers of every molecule of the store, as the standardizer counts them.
    """

    name = "labels"

    def __init__(
        self,
        targets: List[Target],
        loss_name: str,
        baseline_name: str,
        standardizer: Optional[Standardizer] = None,
        weight: float = 1.0,
        store: Optional[Store] = None,
        atoms: Optional[Ragged] = None,
    ) -> None:
        """Bind targets to their standardization; ``loss_name`` is the config's, see the class for the others."""
        self.targets = targets
        self.loss_name = loss_name
        self.baseline_name = "constant" if self.are_classes else baseline_name
        self.standardizer = standardizer
        self.weight = weight
        self.store = store
        self.atoms = atoms

    @property
    def are_classes(self) -> bool:
        """Labels are classes, predictions logits."""
        return self.targets[0].binary

    @property
    def extensive(self) -> bool:
        """All targets grow with the molecule."""
        return all(target.extensive for target in self.targets)

    @property
    def known(self) -> np.ndarray:
        """[I, T] float64 in the targets' units, NaN where missing."""
        assert self.store is not None
        return np.asarray(self.store.fields["y"], np.float64)

    def standardized(self) -> np.ndarray:
        """[I, T] float64, labels of order one."""
        assert self.standardizer is not None and self.atoms is not None
        return self.standardizer.apply(self.atoms, self.known)

    def to_units(self, items: np.ndarray, standardized: np.ndarray) -> np.ndarray:
        """Predictions for store items in real units, [K, T] float64; probabilities of classes."""
        assert self.standardizer is not None and self.atoms is not None
        return self.standardizer.invert(self.atoms.take(items), standardized)

    def loss(self) -> Loss:
        """The loss of this output.

        Raises:
            ValueError: there is no such loss, or it is for the other kind of label.
        """
        return loss_by_name(self.loss_name, self.are_classes)

    def on(self, items: np.ndarray) -> "SplitLabels":
        """What is known of store items."""
        assert self.standardizer is not None
        return SplitLabels(
            self.known[items],
            self.targets,
            self.standardizer.scale.tolist(),
            lambda standardized: self.to_units(items, standardized),
            self._parts(items),
            self.weight,
        )

    def describe(self, targets: Sequence[Target], items: Mapping[str, np.ndarray]) -> Dict[str, Any]:
        """Entries of run.json.

        Args:
            targets: of all outputs.
            items: split name -> store items.
        """
        assert self.store is not None and self.atoms is not None
        kind, lengths = "rocauc" if self.are_classes else "mae", self.atoms.lengths
        notes = [f"note: {note}" for note in self.store.info.get("notes", [])]
        return {
            "atoms": {split: int(lengths[chosen].sum()) for split, chosen in items.items() if len(chosen)},
            "targets": [{"name": one.name, "unit": one.unit, kind: one.metric(kind)} for one in targets],
            "baseline_name": self.baseline_name,
            "announced": [f"targets: {', '.join(target.name for target in targets)}", *notes],
        }

    def baseline(self, items: np.ndarray, of_numbers: Callable[[np.ndarray], Dict[str, float]]) -> Dict[str, float]:
        """`of_numbers` of store items; of classes the metrics of one probability for all, whose ROC-AUC is 0.5."""
        known = self.known[items]
        return label_metrics(np.full_like(known, 0.5), known, self.targets) if self.are_classes else of_numbers(items)

    def compared(
        self,
        targets: Sequence[Target],
        metric: str,
        value: float,
        baseline: Mapping[str, float],
        published_for: Optional[str],
    ) -> str:
        """Text behind a printed metric: the same in another unit, the baseline, published values; may be empty.

        Args:
            targets: of all outputs.
            metric: its name.
            value: of the metric.
            baseline: metrics of the baseline.
            published_for: data.split of the run where values may have been published for it; None where not.
        """
        assert self.store is not None
        comparable = published_for is not None and ("official" not in self.store or published_for == "official")
        published = self.store.info.get("published", {}).get(metric, {}) if comparable else {}
        notes = [target.other_unit(value) for target in targets if metric.endswith(target.metric(""))]
        notes += [f"{self.baseline_name} baseline {baseline[metric]:.4g}"] if metric in baseline else []
        notes += [f"{who} {figure:.4g}" for who, figure in published.items()]
        notes = [note for note in notes if note]
        return f" ({'; '.join(notes)})" if notes else ""

    def _parts(self, items: np.ndarray) -> Optional[Parts]:
        """Parts of molecules, where the data set counts any: ``info["part"]``, their name and atoms."""
        assert self.store is not None and self.atoms is not None
        part = self.store.info.get("part")
        return None if part is None else Parts(part["name"], self.atoms.lengths[items] / part["atoms"])


class SplitLabels(SplitOutput):
    """Labels of the molecules of a split."""

    def __init__(
        self,
        known: np.ndarray,
        targets: Sequence[Target],
        scale: Sequence[float],
        to_units: Callable[[np.ndarray], np.ndarray],
        parts: Optional[Parts] = None,
        weight: float = 1.0,
    ) -> None:
        """Bind what is known.

        Args:
            known: [K, T] float64 in the targets' units, NaN where missing.
            targets: T of them.
            scale: [T] standard deviations, which make targets comparable when checkpoints are chosen.
            to_units: standardized predictions [K, T] -> predictions in real units.
            parts: of molecules, by which errors of extensive targets are divided as well.
            weight: see `SplitOutput`.
        """
        self.known = known
        self.targets = list(targets)
        self.scale = list(scale)
        self._to_units = to_units
        self.parts = parts
        self.weight = weight
        self.place = PerMolecule(len(known), len(self.targets))

    @property
    def metric_names(self) -> List[str]:
        """See `SplitOutput.metric_names`."""
        return metric_names(self.targets) + [self._per_part(target) for target in self._divided]

    def in_units(self, standardized: np.ndarray) -> np.ndarray:
        """See `SplitOutput.in_units`."""
        return self._to_units(standardized)

    def errors(self, predictions: np.ndarray) -> Dict[str, float]:
        """`label_metrics`, and the mean over molecules of errors per part."""
        errors = label_metrics(predictions, self.known, self.targets)
        for column, target in enumerate(self.targets):
            if target in self._divided:
                assert self.parts is not None
                error = np.abs(predictions[:, column] - self.known[:, column]) / self.parts.counts
                errors[self._per_part(target)] = float(np.nanmean(error)) * target.error_factor
        return errors

    def selection(self, metrics: Mapping[str, float]) -> float:
        """See `selection_metric`."""
        return selection_metric(dict(metrics), self.targets, self.scale)

    @property
    def _divided(self) -> List[Target]:
        return [target for target in self.targets if target.extensive] if self.parts is not None else []

    def _per_part(self, target: Target) -> str:
        assert self.parts is not None
        return f"{target.metric('mae')}_per_{self.parts.name}"

    def write(self, path: Path, items: Sequence[int], names: Sequence[str], predictions: np.ndarray) -> None:
        """Write a .csv of labels and predictions of every molecule of the split, for tables and the report."""
        header = ["item", "name"]
        for target in self.targets:
            header += [f"{target.name}_label", f"{target.name}_{'probability' if target.binary else 'prediction'}"]
        with atomic_file(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for item, name, *pair in zip(items, names, self.known, predictions):
                writer.writerow([item, name, *(f"{value:.8g}" for value in np.stack(pair, 1).ravel())])


def target_names(data: DataConfig) -> List[str]:
    """The labels that `data.target` names."""
    return [name.strip() for name in data.target.split(",") if name.strip()]


def is_smiles_table(data: DataConfig) -> bool:
    """Tell data sets whose molecules are SMILES with labels."""
    return data.name in DATASETS and DATASETS[data.name].table is not None


def has_labels(data: DataConfig) -> bool:
    """Tell data that give a model of text labels to learn."""
    return bool(target_names(data)) or is_smiles_table(data)


def planned_targets(data: DataConfig) -> List[Target]:
    """Targets before labels are read: as many as `data.target` names, 1 where it names none, without units."""
    classes = data.kind == BINARY or (data.name in DATASETS and DATASETS[data.name].has_classes)
    names = target_names(data) or ["label"]
    return [Target(name, "", data.extensive and not classes, classes) for name in names]


def check_classes(targets: Sequence[Target], labels: np.ndarray, items: Mapping[str, np.ndarray]) -> None:
    """Refuse classes that cannot be learnt or measured.

    Args:
        targets: T of them.
        labels: [I, T] float64, NaN where missing.
        items: split name -> store items.

    Raises:
        ValueError: classes beside numbers, a class that is neither 0 nor 1, or training or validation molecules all of
            one class.
    """
    if not any(target.binary for target in targets):
        return
    numbers = [target.name for target in targets if not target.binary]
    if numbers:
        classes = [target.name for target in targets if target.binary]
        raise ValueError(
            f"{', '.join(classes)} are classes and {', '.join(numbers)} numbers; a run learns one kind, choose with "
            "data.target."
        )
    rows, columns = np.nonzero(np.isfinite(labels) & (labels != 0) & (labels != 1))
    if len(rows):
        value, name = labels[rows[0], columns[0]], targets[columns[0]].name
        raise ValueError(f"a class is 0 or 1, but molecule {rows[0]} has {name}={value:g}; is it a number?")
    for split in ("train", "validation"):
        mine = labels[items[split]]
        if len(mine) and not ((mine == 0).any(0) & (mine == 1).any(0)).any():
            names = ", ".join(target.name for target in targets)
            raise ValueError(
                f"the {split} molecules ({len(mine):,}) are all of one class of {names}; a ROC-AUC needs both, choose "
                "another data.split, data.split_seed or more molecules."
            )
