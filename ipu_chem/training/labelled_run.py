"""Runs that learn labels, of graphs or of text alike: standardised targets, errors in real units, predictions on disk.

On data's way: store with labels y -> Standardizer -> LabelledLoader, Evaluator -> results, predictions_*.csv.
"""

import csv
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Optional

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.config import RunConfig
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.standardize import Standardizer
from ipu_chem.loader import LabelledLoader
from ipu_chem.losses import Loss, loss_by_name
from ipu_chem.metrics import Target
from ipu_chem.training.evaluation import Evaluator, Parts
from ipu_chem.training.run_data import RunData
from packing.files import atomic_file
from packing.types import Ragged


@dataclass
class LabelledData(RunData):
    """Molecules with the labels y [I, T] that are learnt.

    Attributes:
        targets: what is predicted.
        standardizer: fitted on the training items.
    """

    targets: List[Target]
    standardizer: Standardizer

    baseline_name: ClassVar[str]  # of what `baseline` measures

    @property
    @abstractmethod
    def atoms(self) -> Ragged:
        """Atomic numbers of every molecule, as the standardizer counts them."""

    @abstractmethod
    def loader(self, split: str, config: RunConfig) -> LabelledLoader:
        """See `RunData.loader`."""

    @abstractmethod
    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """Errors on a split of something simpler, under the names of the metrics; some may be left out."""

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
        return loss_by_name(config.loss)

    def state(self) -> Dict[str, Any]:
        """See `RunData.state`."""
        return {"standardizer": self.standardizer.to_dict()}

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        return {
            "targets": [{"name": one.name, "unit": one.unit, "mae": one.metric("mae")} for one in self.learnt],
            "baseline_name": self.baseline_name,
            "announced": [f"targets: {', '.join(target.name for target in self.learnt)}"],
        }

    def results(self, config: RunConfig, backend: Backend, folder: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
        """See `RunData.results`."""
        found: Dict[str, Dict[str, Dict[str, float]]] = {"results": {}, "baseline": {}}
        for split in ("validation", "test"):
            if split not in self.plans:
                continue
            evaluator = self.measures(split, config)
            predictions = evaluator.predictions(backend)
            found["results"][split] = evaluator.errors(predictions)
            found["baseline"][split] = self.baseline(evaluator)
            if backend.world.rank > 0:
                continue
            self.write_predictions(folder, split, evaluator, predictions)
            for name, value in found["results"][split].items():
                print(f"{split}: {name} {value:.4g}{self._beside(name, value, found['baseline'][split])}")
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

    def _beside(self, name: str, value: float, baseline: Mapping[str, float]) -> str:
        """What a printed error is to be compared with: itself in another unit, the baseline, published errors."""
        notes = [target.other_unit(value) for target in self.learnt if name.endswith(target.metric(""))]
        notes += [f"{self.baseline_name} baseline {baseline[name]:.4g}"] if name in baseline else []
        notes += [f"{who} {error:.4g}" for who, error in self.store.info.get("published", {}).get(name, {}).items()]
        notes = [note for note in notes if note]
        return f" ({'; '.join(notes)})" if notes else ""

    def write_predictions(self, folder: Path, split: str, evaluator: Evaluator, predictions: Any) -> None:
        """predictions_<split>.csv: labels and predictions of every molecule, for tables and the report."""
        header = ["item", "name"]
        for target in self.targets:
            header += [f"{target.name}_label", f"{target.name}_prediction"]
        with atomic_file(folder / f"predictions_{split}.csv", "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row, item in enumerate(evaluator.loader.items.tolist()):
                values = np.stack([evaluator.labels[row], predictions[row]], 1).ravel()
                writer.writerow([item, self.name_of(item), *(f"{value:.8g}" for value in values)])
