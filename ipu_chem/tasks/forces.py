"""Runs that learn forces beside energies.

On data's way: RunConfig with force_share -> ForceData -> PackLoader with forces, ForceEvaluator, EnergyForces.
"""

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
from torch import Tensor

from ipu_chem.config import RunConfig
from ipu_chem.data.standardize import Standardizer
from ipu_chem.losses import loss_by_name, with_forces
from ipu_chem.metrics import FORCES, Target
from ipu_chem.tasks.evaluation import Evaluator
from ipu_chem.tasks.force_evaluation import ForceEvaluator
from ipu_chem.tasks.graphs import GraphData
from packing.files import atomic_file
from packing.store import Store


class ForceData(GraphData):
    """Molecules with an energy and the forces on their atoms.

    Both are divided by one number, so that forces stay the derivative: the root mean square of a force component in
    training, which makes forces of order one.
    """

    gives_forces = True

    @staticmethod
    def check(store: Store, targets: Sequence[Target]) -> None:
        """Refuse what has no forces to learn from.

        Raises:
            ValueError: no forces, not those of the one target that is learnt, or it does not add up over atoms.
        """
        names = ", ".join(target.name for target in targets)
        if "forces" not in store:
            raise ValueError(
                f"force_share trains on forces, but the data have none for {names}; choose the energy that they belong "
                "to with data.target, or set force_share to 0."
            )
        if len(targets) != 1 or targets[0].name != store.info.get("forces_of") or not targets[0].extensive:
            raise ValueError(
                f"forces are those of the energy {store.info.get('forces_of')!r}, the run learns {names}; with "
                "force_share it learns that one energy and no other label."
            )

    @staticmethod
    def fit(store: Store, items: np.ndarray, references: Any) -> Standardizer:
        """The standardiser of a run: energies are shifted as without forces, but scaled by the forces."""
        fitted = Standardizer.fit(store, items, references)
        forces = store.ragged("forces").take(items).values
        known = forces[np.isfinite(forces).all(1)].astype(np.float64)
        if not len(known):
            raise ValueError(f"none of the {len(items)} training molecules has forces; set force_share to 0.")
        fitted.scale[:] = max(float(np.sqrt(np.mean(known**2))), 1e-12)
        return fitted

    @property
    def forces(self) -> Target:
        """Forces as a quantity with a unit."""
        return Target(FORCES, f"{self.targets[0].unit}/Å" if self.targets[0].unit else "", False)

    @property
    def learnt(self) -> List[Target]:
        """See `LabelledData.learnt`."""
        return [*self.targets, self.forces]

    def standardised_forces(self) -> np.ndarray:
        """See `GraphData.standardised_forces`."""
        return np.asarray(self.store.fields["forces"]) / np.float32(self.standardizer.scale[0])

    def measures(self, split: str, config: RunConfig) -> ForceEvaluator:
        """See `RunData.measures`."""
        labels = np.asarray(self.store.fields["y"], np.float64)[self.items[split]]
        forces = self.store.ragged("forces").take(self.items[split])
        scale = float(self.standardizer.scale[0])
        shares = (1.0 - config.force_share, config.force_share)
        return ForceEvaluator(
            self.loader(split, config), labels, self.learnt, scale, self.to_units, forces, shares, self.parts(split)
        )

    def loss(self, config: RunConfig) -> Callable[..., Tensor]:
        """See `RunData.loss`."""
        return with_forces(loss_by_name(config.loss), config.force_share)

    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """See `GraphData.baseline`; that of forces says there are none."""
        assert isinstance(evaluator, ForceEvaluator)
        size = float(np.nanmean(np.abs(evaluator.forces.values))) * self.forces.error_factor
        return {**super().baseline(evaluator), self.forces.metric("mae"): size}

    def write_predictions(self, folder: Path, split: str, evaluator: Evaluator, predictions: Any) -> None:
        """predictions_<split>.csv for energies, forces_<split>.npz for forces, atom after atom in the same order."""
        assert isinstance(evaluator, ForceEvaluator)
        super().write_predictions(folder, split, evaluator, predictions[0])
        label = np.asarray(evaluator.forces.values, np.float32)
        with atomic_file(folder / f"forces_{split}.npz") as file:
            np.savez(file, offsets=evaluator.forces.offsets, label=label, prediction=predictions[1].astype(np.float32))
