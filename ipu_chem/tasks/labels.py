"""Runs that learn labels, of graphs or of text alike: standardised targets, errors in real units, predictions on disk.

On data's way: store with labels y -> Standardizer -> LabelledLoader, Evaluator -> results, predictions_*.csv.
"""

import csv
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Sequence

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import LabelledLoader
from ipu_chem.config import RunConfig
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import Loss, loss_by_name
from ipu_chem.metrics import Target, label_metrics
from ipu_chem.tasks.base import RunData
from ipu_chem.tasks.evaluation import Evaluator, Parts
from packing.files import atomic_file
from packing.types import Ragged


@dataclass
class LabelledData(RunData):
    """Molecules with the labels y [I, T] that are learnt, numbers or classes.

    Attributes:
        targets: what is predicted.
        standardizer: fitted on the training items.
    """

    targets: List[Target]
    standardizer: Standardizer

    baseline_name: ClassVar[str]  # of what `baseline` measures

    def __post_init__(self) -> None:
        """Refuse labels that cannot be learnt, see `check_classes`."""
        check_classes(self.targets, self.labels, self.items)

    @property
    @abstractmethod
    def atoms(self) -> Ragged:
        """Atomic numbers of every molecule, as the standardizer counts them."""

    @abstractmethod
    def loader(self, split: str, config: RunConfig) -> LabelledLoader:
        """See `RunData.loader`."""

    @abstractmethod
    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """Errors of numbers on a split of something simpler, under the names of the metrics; some may be left out."""

    @property
    def learns_classes(self) -> bool:
        """Whether the labels are classes."""
        return self.targets[0].binary

    @property
    def labels(self) -> np.ndarray:
        """[I, T] float64 in the targets' units, NaN where missing."""
        return np.asarray(self.store.fields["y"], np.float64)

    def standardised(self) -> np.ndarray:
        """[I, T] float64, labels of order one."""
        return self.standardizer.apply(self.atoms, self.labels)

    def measures(self, split: str, config: RunConfig) -> Evaluator:
        """See `RunData.measures`."""
        labels, scale = self.labels[self.items[split]], self.standardizer.scale.tolist()
        return Evaluator(self.loader(split, config), labels, self.targets, scale, self.to_units, self.parts(split))

    def parts(self, split: str) -> Optional[Parts]:
        """Parts of the split's molecules, where the data set counts any: ``info["part"]``, their name and atoms."""
        part = self.store.info.get("part")
        if part is None:
            return None
        return Parts(part["name"], self.atoms.lengths[self.items[split]] / part["atoms"])

    def loss(self, config: RunConfig) -> Loss:
        """See `RunData.loss`."""
        return loss_by_name(config.loss, self.learns_classes)

    def state(self) -> Dict[str, Any]:
        """See `RunData.state`."""
        return {"standardizer": self.standardizer.to_dict()}

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        kind = "rocauc" if self.learns_classes else "mae"
        notes = [f"note: {note}" for note in self.store.info.get("notes", [])]
        lengths = self.atoms.lengths
        return {
            "atoms": {split: int(lengths[items].sum()) for split, items in self.items.items() if len(items)},
            "targets": [{"name": one.name, "unit": one.unit, kind: one.metric(kind)} for one in self.learnt],
            "baseline_name": self._beside_name,
            "announced": [f"targets: {', '.join(target.name for target in self.learnt)}", *notes],
        }

    def results(self, config: RunConfig, backend: Backend, folder: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
        """See `RunData.results`."""
        found: Dict[str, Dict[str, Dict[str, float]]] = {"results": {}, "baseline": {}}
        comparable = "official" not in self.store or config.data.split == "official"
        published = self.store.info.get("published", {}) if comparable else {}
        for split in ("validation", "test"):
            if split not in self.plans:
                continue
            evaluator = self.measures(split, config)
            predictions = evaluator.predictions(backend)
            found["results"][split] = evaluator.errors(predictions)
            found["baseline"][split] = self._baseline(evaluator)
            if backend.world.rank > 0:
                continue
            self.write_predictions(folder, split, evaluator, predictions)
            for name, value in found["results"][split].items():
                beside = self._beside(name, value, found["baseline"][split], published if split == "test" else {})
                print(f"{split}: {name} {value:.4g}{beside}")
        return found

    @property
    def learnt(self) -> List[Target]:
        """All quantities whose errors are told."""
        return self.targets

    def to_units(self, items: np.ndarray, standardised: np.ndarray) -> np.ndarray:
        """Predictions for store items in real units, [K, T] float64."""
        return self.standardizer.invert(self.atoms.take(items), standardised)

    def name_of(self, item: int) -> str:
        """What a molecule is called in the tables of predictions."""
        return decode_text(self.store, "name", item) if "name" in self.store else ""

    @property
    def _beside_name(self) -> str:
        return "constant" if self.learns_classes else self.baseline_name

    def _baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """`baseline` of numbers; of classes what the same probability for all has: ROC-AUC 0.5, the share of ones."""
        if not self.learns_classes:
            return self.baseline(evaluator)
        return label_metrics(np.full_like(evaluator.labels, 0.5), evaluator.labels, self.targets)

    def _beside(self, name: str, value: float, baseline: Mapping[str, float], published: Mapping[str, Any]) -> str:
        """What a printed figure is to be compared with: itself in another unit, the baseline, published ones."""
        notes = [target.other_unit(value) for target in self.learnt if name.endswith(target.metric(""))]
        notes += [f"{self._beside_name} baseline {baseline[name]:.4g}"] if name in baseline else []
        notes += [f"{who} {figure:.4g}" for who, figure in published.get(name, {}).items()]
        notes = [note for note in notes if note]
        return f" ({'; '.join(notes)})" if notes else ""

    def write_predictions(self, folder: Path, split: str, evaluator: Evaluator, predictions: Any) -> None:
        """predictions_<split>.csv: labels and predictions of every molecule, for tables and the report."""
        header = ["item", "name"]
        for target in self.targets:
            header += [f"{target.name}_label", f"{target.name}_{'probability' if target.binary else 'prediction'}"]
        with atomic_file(folder / f"predictions_{split}.csv", "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row, item in enumerate(evaluator.loader.items.tolist()):
                values = np.stack([evaluator.labels[row], predictions[row]], 1).ravel()
                writer.writerow([item, self.name_of(item), *(f"{value:.8g}" for value in values)])


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
