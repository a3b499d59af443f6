"""Labels of molecules, numbers or classes: the output that tasks of graphs and of text share."""

import csv
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import DATASETS
from ipu_chem.data.files.text import as_text
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import Loss, loss_by_name
from ipu_chem.metrics import BINARY, Target, label_metrics, metric_names, selection_metric
from ipu_chem.options import listed
from ipu_chem.tasks.evaluation import Output, PerMolecule, SplitOutput
from ipu_chem.uncertainty.residuals import LABELS
from packing.files import atomic_file
from packing.store import Store
from packing.types import Ragged


class KnownLabels(NamedTuple):
    """Labels of the molecules of a store.

    Attributes:
        store: has the labels y [I, T].
        atoms: atomic numbers of every molecule, as the standardizer counts them.
        name_field: of the store, for tables of predictions.
        baseline_name: of the baseline of numbers; that of classes is a constant.
        baseline: metrics of that baseline on store items; some may be left out.
        split: the run's data.split, for which values may have been published.
    """

    store: Store
    atoms: Ragged
    name_field: str
    baseline_name: str
    baseline: Callable[[np.ndarray], Dict[str, float]]
    split: str

    @property
    def y(self) -> np.ndarray:
        """[I, T] float64 in the targets' units, NaN where missing."""
        return np.asarray(self.store.fields["y"], np.float64)

    def published(self) -> Mapping[str, Mapping[str, float]]:
        """Metric -> who -> value on the test split, where that is the published one."""
        comparable = "official" not in self.store or self.split == "official"
        return self.store.info.get("published", {}) if comparable else {}


class Labels(Output):
    """Labels of molecules as an output of a model.

    Attributes:
        targets: T quantities, all numbers or all classes.
        loss_name: see `loss_by_name`.
        standardizer: fitted on the training molecules; None before there are data.
        weight: see `Output`.
        known: labels of molecules; of a loaded task alone.
    """

    known: KnownLabels

    def __init__(
        self, targets: List[Target], loss_name: str, standardizer: Optional[Standardizer] = None, weight: float = 1.0
    ) -> None:
        """Bind targets to their standardization, see the class."""
        self.targets = targets
        self.loss_name = loss_name
        self.standardizer: Any = standardizer
        self.weight = weight

    @property
    def are_classes(self) -> bool:
        """Labels are classes, predictions logits."""
        return self.targets[0].binary

    @property
    def extensive(self) -> bool:
        """All targets grow with the molecule."""
        return all(target.extensive for target in self.targets)

    def loss(self) -> Loss:
        return loss_by_name(self.loss_name, self.are_classes)

    def standardized(self) -> np.ndarray:
        """[I, T] float64, labels of order one."""
        return self.standardizer.apply(self.known.atoms, self.known.y)

    def to_units(self, items: np.ndarray, standardized: np.ndarray) -> np.ndarray:
        """Predictions for store items in real units, [K, T] float64; probabilities of classes."""
        return self.standardizer.invert(self.known.atoms.take(items), standardized)

    def on(self, split: str, items: np.ndarray) -> "SplitLabels":
        return SplitLabels(self, split, items)

    def describe(self, targets: Sequence[Target], items: Mapping[str, np.ndarray]) -> Dict[str, Any]:
        """Entries of run.json.

        Args:
            targets: of all outputs.
            items: split name -> store items.
        """
        kind, lengths = "rocauc" if self.are_classes else "mae", self.known.atoms.lengths
        notes = [f"note: {note}" for note in self.known.store.info.get("notes", [])]
        return {
            "atoms": {split: int(lengths[chosen].sum()) for split, chosen in items.items() if len(chosen)},
            "targets": [{"name": one.name, "unit": one.unit, kind: one.metric(kind)} for one in targets],
            "baseline_name": self.baseline_name,
            "announced": [f"targets: {', '.join(target.name for target in targets)}", *notes],
        }

    @property
    def baseline_name(self) -> str:
        """Of what `SplitLabels.baselines` measures."""
        return "constant" if self.are_classes else self.known.baseline_name


class SplitLabels(SplitOutput):
    """Labels of the molecules of a split.

    Attributes:
        known: [K, T] float64 in the targets' units, NaN where missing.
    """

    def __init__(self, labels: Labels, split: str, items: np.ndarray) -> None:
        """Bind labels to store items, which are a split."""
        self.labels = labels
        self.targets = labels.targets
        self.split = split
        self.items = items
        self.weight = labels.weight
        self.known = labels.known.y[items]
        self.place = PerMolecule(len(self.known), self.known.shape[1])
        # Equal parts that molecules are made of, such as the waters of a cluster.
        self._part: Any = labels.known.store.info.get("part")

    @property
    def metric_names(self) -> List[str]:
        return metric_names(self.labels.targets) + [self._per_part(target) for target in self._divided]

    def in_units(self, standardized: np.ndarray) -> np.ndarray:
        return self.labels.to_units(self.items, standardized)

    def errors(self, predictions: np.ndarray) -> Dict[str, float]:
        """`label_metrics`, and the mean over molecules of errors per part."""
        errors = label_metrics(predictions, self.known, self.labels.targets)
        for column, target in enumerate(self.labels.targets):
            if target in self._divided:
                parts = self.labels.known.atoms.lengths[self.items] / self._part["atoms"]
                error = np.abs(predictions[:, column] - self.known[:, column]) / parts
                errors[self._per_part(target)] = float(np.nanmean(error)) * target.error_factor
        return errors

    def selection(self, metrics: Mapping[str, float]) -> float:
        return selection_metric(dict(metrics), self.labels.targets, self.labels.standardizer.scale.tolist())

    def baselines(self) -> Dict[str, Dict[str, float]]:
        """See `SplitOutput.baselines`; of classes the metrics of one probability for all, whose ROC-AUC is 0.5."""
        if self.labels.are_classes:
            return {"baseline": label_metrics(np.full_like(self.known, 0.5), self.known, self.labels.targets)}
        return {"baseline": self.labels.known.baseline(self.items)}

    def compared(self, metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> str:
        return beside(self.labels, self.labels.targets, self.split, metric, value, baselines["baseline"])

    def residuals(self, predictions: np.ndarray) -> Optional[Tuple[str, Ragged]]:
        if self.labels.are_classes:
            return None
        return LABELS, Ragged(predictions - self.known, np.arange(len(self.known) + 1))

    def write(self, folder: Path, split: str, predictions: np.ndarray) -> None:
        """Write predictions_<split>.csv: labels and predictions of every molecule, for tables and the report."""
        store, field = self.labels.known.store, self.labels.known.name_field
        header = ["item", "name"]
        for target in self.labels.targets:
            header += [f"{target.name}_label", f"{target.name}_{'probability' if target.binary else 'prediction'}"]
        with atomic_file(folder / f"predictions_{split}.csv", "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for item, *pair in zip(self.items.tolist(), self.known, predictions):
                name = decode_text(store, field, item) if field in store else ""
                writer.writerow([item, as_text(name), *map(repr, np.stack(pair, 1).ravel().tolist())])

    @property
    def _divided(self) -> List[Target]:
        return [] if self._part is None else [target for target in self.labels.targets if target.extensive]

    def _per_part(self, target: Target) -> str:
        return f"{target.metric('mae')}_per_{self._part['name']}"


def beside(
    labels: Labels, targets: Sequence[Target], split: str, metric: str, value: float, baseline: Mapping[str, float]
) -> str:
    """Text behind a metric of targets that are measured with labels: another unit, baseline, published values."""
    notes = [target.other_unit(value) for target in targets if metric.endswith(target.metric(""))]
    notes += [f"{labels.baseline_name} baseline {baseline[metric]:.4g}"] if metric in baseline else []
    published = labels.known.published().get(metric, {}) if split == "test" else {}
    notes += [f"{who} {figure:.4g}" for who, figure in published.items()]
    notes = [note for note in notes if note]
    return f" ({'; '.join(notes)})" if notes else ""


def target_names(data: DataConfig) -> List[str]:
    """The labels that `data.target` names."""
    return listed(data.target)


def is_smiles_table(data: DataConfig) -> bool:
    """Tell data sets whose molecules are SMILES with labels."""
    return data.name in DATASETS and DATASETS[data.name].table is not None


def has_labels(data: DataConfig) -> bool:
    """Tell data that give a model of text labels to learn."""
    return bool(target_names(data)) or is_smiles_table(data)


def planned_targets(data: DataConfig) -> List[Target]:
    """Targets before labels are read: as many as `data.target` names, 1 where it names none, without units."""
    classes = getattr(data, "kind", "") == BINARY or (data.name in DATASETS and DATASETS[data.name].has_classes)
    names = target_names(data) or ["label"]
    return [Target(name, "", getattr(data, "extensive", True) and not classes, classes) for name in names]


def check_classes(targets: Sequence[Target], labels: np.ndarray, items: Mapping[str, np.ndarray]) -> None:
    """Refuse classes that cannot be learned or measured.

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
