"""Forces: a second output of a graph task, the derivatives of the energy that is its first.

Energies and forces are divided by one number, so that forces stay the derivative: the root mean square of a force
component in training, which makes forces of order one.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import Loss
from ipu_chem.metrics import FORCES, Target, regression_metrics
from ipu_chem.tasks.evaluation import Output, PerAtom, SplitOutput
from ipu_chem.tasks.labels import Labels, beside
from ipu_chem.uncertainty.residuals import FORCES as FORCES_IN_FILE
from ipu_chem.units import KNOWN_ENERGIES, energy_unit
from packing.files import atomic_file
from packing.store import Store
from packing.types import Ragged


class Forces(Output):
    """Forces on atoms as an output of a model.

    Attributes:
        targets: forces as a quantity with a unit.
        energy: the output whose derivatives they are.
        weight: see `Output`; the energy has the rest.
        known: [n, 3] of every molecule of the store, NaN where missing; of a loaded task alone.
    """

    known: Ragged

    def __init__(self, energy: Labels, weight: float) -> None:
        """Bind forces to their energy, see the class."""
        unit = energy.targets[0].unit
        self.targets = [Target(FORCES, f"{unit}/Å" if unit else "", False)]
        self.energy = energy
        self.weight = weight

    @property
    def scale(self) -> float:
        """Unit of the energy, and by Å of the forces, for each standardized one."""
        return float(self.energy.standardizer.scale[0])

    def loss(self) -> Loss:
        """See `Output.loss`: that of the energy, over components."""
        return self.energy.loss()

    def standardized(self) -> np.ndarray:
        """[total, 3] of all atoms of the store."""
        return np.asarray(self.known.values) / np.float32(self.scale)

    def on(self, split: str, items: np.ndarray) -> "SplitForces":
        return SplitForces(self, split, items)


class SplitForces(SplitOutput):
    """Forces on the atoms of a split."""

    def __init__(self, forces: Forces, split: str, items: np.ndarray) -> None:
        """Bind forces to store items, which are a split."""
        self.energy = forces.energy
        self.split = split
        self.known = forces.known.take(items)
        self.targets = forces.targets
        self.target = forces.targets[0]
        self.scale = forces.scale
        self.weight = forces.weight
        self.place = PerAtom(self.known.offsets)

    @property
    def metric_names(self) -> List[str]:
        return [self.target.metric(kind) for kind in ("mae", "rmse")]

    def in_units(self, standardized: np.ndarray) -> np.ndarray:
        return standardized * self.scale

    def errors(self, predictions: np.ndarray) -> Dict[str, float]:
        """MAE and RMSE of components."""
        label = np.asarray(self.known.values, np.float64).reshape(-1, 1)
        return regression_metrics(predictions.reshape(-1, 1), label, [self.target])

    def selection(self, metrics: Mapping[str, float]) -> float:
        return metrics[self.target.metric("mae")] / self.target.error_factor / self.scale

    def baselines(self) -> Dict[str, Dict[str, float]]:
        """See `SplitOutput.baselines`: to say that there are no forces."""
        size = float(np.nanmean(np.abs(self.known.values))) * self.target.error_factor
        return {"baseline": {self.target.metric("mae"): size}}

    def compared(self, metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> str:
        return beside(self.energy, [self.target], self.split, metric, value, baselines["baseline"])

    def residuals(self, predictions: np.ndarray) -> Tuple[str, Ragged]:
        return FORCES_IN_FILE, Ragged(predictions - np.asarray(self.known.values, np.float64), self.known.offsets)

    def write(self, folder: Path, split: str, predictions: np.ndarray) -> None:
        """Write forces_<split>.npz: labels and predictions, atom after atom in the order of the split."""
        label = np.asarray(self.known.values, np.float32)
        with atomic_file(folder / f"forces_{split}.npz") as file:
            np.savez(file, offsets=self.known.offsets, label=label, prediction=predictions.astype(np.float32))


def check_forces(store: Store, targets: Sequence[Target]) -> None:
    """Refuse data that have no forces to learn from.

    Raises:
        ValueError: no forces, not those of the one target that is learned, it does not add up over atoms, or its unit
            is unknown.
    """
    names = ", ".join(target.name for target in targets)
    if "forces" not in store:
        other = store.info.get("other_forces") or []
        having = f", but {', '.join(other)} of another name" if other else ""
        ways = f"name them with --data.force_key {' or '.join(other)}, " if other else ""
        raise ValueError(
            f"force_share trains on forces, but the data have none for {names}{having}; {ways}choose the energy that "
            "they belong to with --data.target, or set --force_share 0."
        )
    if len(targets) != 1 or targets[0].name != store.info.get("forces_of") or not targets[0].extensive:
        raise ValueError(
            f"forces are those of the energy {store.info.get('forces_of')!r}, the run learns {names}; with "
            "force_share it learns that one energy and no other label."
        )
    if targets[0].unit and energy_unit(targets[0].unit) is None:
        raise ValueError(
            f"{names} is said to be in {targets[0].unit}, which is no unit of energy that is known here, so that its "
            f"forces cannot be used; known are {KNOWN_ENERGIES}."
        )


def fit_with_forces(store: Store, items: np.ndarray, references: Any) -> Standardizer:
    """A standardizer for an energy and its forces: energies are shifted as without forces, but scaled by the forces.

    Raises:
        ValueError: no training molecule has forces.
    """
    fitted = Standardizer.fit(store, items, references)
    forces = store.ragged("forces").take(items).values
    known = forces[np.isfinite(forces).all(1)].astype(np.float64)
    if not len(known):
        raise ValueError(f"none of the {len(items)} training molecules has forces; set force_share to 0.")
    fitted.scale[:] = max(float(np.sqrt(np.mean(known**2))), 1e-12)
    return fitted
