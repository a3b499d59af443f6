"""Predicting a split in packs and measuring every output of the model in its unit."""

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import LabelledLoader
from ipu_chem.tasks.base import Evaluator
from packing.types import Ragged


class PerMolecule(NamedTuple):
    """An output with a row for every molecule: [count, width] in the order of a split."""

    count: int
    width: int

    def zeros(self) -> np.ndarray:
        """Room for the predictions of a split, float64."""
        return np.zeros((self.count, self.width))

    def put(self, found: np.ndarray, values: np.ndarray, batch: Any, positions: np.ndarray) -> None:
        """Put the predictions [B, G, T] of a batch where its molecules belong."""
        found[positions] = values[batch.graph_mask.numpy()]


class PerAtom:
    """An output with a vector for every atom: [atoms, 3] in the order of a split."""

    def __init__(self, offsets: np.ndarray) -> None:
        """Take [K + 1], where each molecule's atoms begin among those of the split."""
        self._atoms = Ragged(np.arange(offsets[-1]), offsets)

    def zeros(self) -> np.ndarray:
        """Room for the predictions of a split, float64."""
        return np.zeros((len(self._atoms.values), 3))

    def put(self, found: np.ndarray, values: np.ndarray, batch: Any, positions: np.ndarray) -> None:
        """Put the predictions [B, N, 3] of a batch where its atoms belong."""
        real = np.arange(values.shape[1]) < batch.graph_ends[:, -1:].numpy()
        found[self._atoms.take(positions).values] = values[real]


Place = Union[PerMolecule, PerAtom]


def predict(backend: Backend, loader: LabelledLoader, places: Sequence[Place]) -> List[np.ndarray]:
    """Predictions for every molecule of a split.

    Args:
        backend: runs a model with as many outputs as there are places.
        loader: of the split.
        places: of each output.

    Returns:
        One float64 array for every output, standardized, in the order of the split.
    """
    # Zeros, so that the sum over the processes that share the work puts their parts together, to the bit.
    found = [place.zeros() for place in places]
    for batch, positions in loader.evaluation(backend.evaluates):
        prediction = backend.evaluate(batch)
        outputs = prediction if isinstance(prediction, tuple) else (prediction,)
        for array, values, place in zip(found, outputs, places):
            place.put(array, values.double().numpy(), batch, positions)
    return [backend.total(array) for array in found]


def predict_split(backend: Backend, loader: LabelledLoader) -> np.ndarray:
    """Predictions of a model that gives labels alone, [K, T] float64, standardized, in the order of the split."""
    return predict(backend, loader, [PerMolecule(len(loader.items), loader.num_targets)])[0]


def predict_with_forces(backend: Backend, loader: LabelledLoader, offsets: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Predictions of a model that gives an energy and forces.

    Args:
        backend: runs the model.
        loader: of the split.
        offsets: [K + 1], where each molecule's atoms begin among those of the split.

    Returns:
        Standardized energies [K, 1] and forces [atoms, 3], float64, in the order of the split.
    """
    energies, forces = predict(backend, loader, [PerMolecule(len(loader.items), 1), PerAtom(offsets)])
    return energies, forces


class SplitOutput(ABC):
    """An output of the model on one split: what is known of it, and how far predictions are off.

    Attributes:
        weight: of this output in the number that checkpoints are chosen by.
        place: of its predictions.
    """

    weight: float
    place: Place

    @property
    @abstractmethod
    def metric_names(self) -> List[str]:
        """Names that `errors` returns."""

    @abstractmethod
    def in_units(self, standardized: np.ndarray) -> np.ndarray:
        """Predictions in real units; probabilities of classes."""

    @abstractmethod
    def errors(self, predictions: np.ndarray) -> Dict[str, float]:
        """Metrics of predictions in real units."""

    @abstractmethod
    def selection(self, metrics: Mapping[str, float]) -> float:
        """The output's part in the number that checkpoints are chosen by, in standardized units."""


class OutputEvaluator(Evaluator):
    """A split with what is known of every output of the model."""

    loader: LabelledLoader

    def __init__(self, loader: LabelledLoader, outputs: Sequence[SplitOutput]) -> None:
        """Bind batches of a split to what is known of it, output after output."""
        self.loader = loader
        self.outputs = list(outputs)

    @property
    def metric_names(self) -> List[str]:
        """See `Evaluator.metric_names`."""
        return [name for output in self.outputs for name in output.metric_names]

    def predictions(self, backend: Backend) -> List[np.ndarray]:
        """See `Evaluator.predictions`: one float64 array for every output, in its units, in the order of the split."""
        found = predict(backend, self.loader, [output.place for output in self.outputs])
        return [output.in_units(array) for output, array in zip(self.outputs, found)]

    def errors(self, predictions: Sequence[np.ndarray]) -> Dict[str, float]:
        """See `Evaluator.errors`."""
        metrics: Dict[str, float] = {}
        for output, array in zip(self.outputs, predictions):
            metrics.update(output.errors(array))
        return metrics

    def selection(self, metrics: Mapping[str, float]) -> float:
        """See `Evaluator.selection`: the weighted mean of the outputs."""
        weights, parts = zip(*((output.weight, output.selection(metrics)) for output in self.outputs))
        return float(np.dot(weights, parts))
