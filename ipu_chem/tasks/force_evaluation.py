"""Predicting energies and forces of a split in packs, and measuring both.

On data's way: PackLoader.evaluation() -> Backend.evaluate -> energies and forces in real units -> metrics.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.metrics import Target, regression_metrics
from ipu_chem.tasks.evaluation import Evaluator, Parts, ToUnits
from packing.types import Ragged


def predict_with_forces(backend: Backend, loader: PackLoader, atoms: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """What a model says of every molecule of a split and of its atoms.

    Args:
        backend: runs a model that gives forces.
        loader: of the split.
        atoms: [K + 1], where each molecule's atoms begin among those of the split.

    Returns:
        Standardised energies [K, 1] and forces [atoms, 3], float64, in the order of the split.
    """
    # Zeros, so that the sum over the processes that share the work puts their parts together, to the bit.
    energies, forces = np.zeros((len(loader.items), 1)), np.zeros((int(atoms[-1]), 3))
    numbers = Ragged(np.arange(atoms[-1]), atoms)
    for batch, positions in loader.evaluation(backend.evaluates):
        energy, force = backend.evaluate(batch)
        energies[positions] = energy.double().numpy()[batch.graph_mask.numpy()]
        ends = batch.graph_ends[:, -1:].numpy()
        forces[numbers.take(positions).values] = force.double().numpy()[np.arange(force.shape[1]) < ends]
    return backend.total(energies), backend.total(forces)


class ForceEvaluator(Evaluator):
    """A split with energies and forces."""

    loader: PackLoader

    def __init__(
        self,
        loader: PackLoader,
        labels: np.ndarray,
        targets: Sequence[Target],
        scale: float,
        to_units: ToUnits,
        forces: Ragged,
        shares: Tuple[float, float],
        parts: Optional[Parts] = None,
    ) -> None:
        """Bind a split.

        Args:
            loader, labels, to_units, parts: see `Evaluator`.
            targets: the energy and the forces.
            scale: unit of the energy, and by Å of the forces, for each standardised one.
            forces: of the split's molecules, [atoms, 3], NaN where missing.
            shares: of energies and forces in the number that checkpoints are chosen by.
        """
        super().__init__(loader, labels, targets[:1], [scale], to_units, parts)
        self.forces = forces
        self.of_forces = targets[1]
        self.shares = shares

    @property
    def metric_names(self) -> List[str]:
        """See `Measures.metric_names`."""
        return super().metric_names + [self.of_forces.metric(kind) for kind in ("mae", "rmse")]

    def predictions(self, backend: Backend) -> Tuple[np.ndarray, np.ndarray]:
        """Energies [K, 1] and forces [atoms, 3], float64 in their units, in the order of the split."""
        energies, forces = predict_with_forces(backend, self.loader, self.forces.offsets)
        return self.to_units(self.loader.items, energies), forces * self.scale[0]

    def errors(self, predictions: Any) -> Dict[str, float]:
        """MAE and RMSE of energies, a molecule, and of components of forces."""
        predicted, label = predictions[1].reshape(-1, 1), np.asarray(self.forces.values, np.float64).reshape(-1, 1)
        return {**super().errors(predictions[0]), **regression_metrics(predicted, label, [self.of_forces])}

    def metrics(self, backend: Backend) -> Tuple[Dict[str, float], float]:
        """See `Measures.metrics`."""
        metrics = self.errors(self.predictions(backend))
        names = [self.targets[0], self.of_forces]
        errors = [metrics[one.metric("mae")] / one.error_factor / self.scale[0] for one in names]
        return metrics, float(np.dot(self.shares, errors))
