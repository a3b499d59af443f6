"""Outputs of a model: what each is learned from, how a split is predicted in packs and measured in real units."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import LabeledLoader, Loader
from ipu_chem.metrics import Target
from packing.types import Ragged


class PerMolecule(NamedTuple):
    """Place of an output with a row for every molecule: [count, width] of a split, from predictions [B, G, width]."""

    count: int
    width: int

    def zeros(self) -> np.ndarray:
        """Room for the predictions of a split, float64."""
        return np.zeros((self.count, self.width))

    def put(self, found: np.ndarray, values: np.ndarray, batch: Any, positions: np.ndarray) -> None:
        """Put predictions of a batch where its molecules, at these positions of the split, belong."""
        found[positions] = values[batch.graph_mask.numpy()]


class PerAtom:
    """Place of an output with a vector for every atom: [atoms, 3] of a split, from predictions [B, N, 3]."""

    def __init__(self, offsets: np.ndarray) -> None:
        """Take [K + 1], where each molecule's atoms begin among those of the split."""
        self._atoms = Ragged(np.arange(offsets[-1]), offsets)

    def zeros(self) -> np.ndarray:
        """Room for the predictions of a split, float64."""
        return np.zeros((len(self._atoms.values), 3))

    def put(self, found: np.ndarray, values: np.ndarray, batch: Any, positions: np.ndarray) -> None:
        """Put predictions of a batch where its molecules, at these positions of the split, belong."""
        real = np.arange(values.shape[1]) < batch.graph_ends[:, -1:].numpy()
        found[self._atoms.take(positions).values] = values[real]


def predict(backend: Backend, loader: Loader, places: Sequence[Any]) -> List[np.ndarray]:
    """Predict every molecule of a split.

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


def predict_split(backend: Backend, loader: LabeledLoader) -> np.ndarray:
    """Predictions of a model that gives labels alone, [K, T] float64, standardized, in the order of the split."""
    return predict(backend, loader, [PerMolecule(len(loader.items), loader.num_targets)])[0]


class SplitOutput(ABC):
    """An output on one split: what is known of it, and how far predictions are off.

    Attributes:
        weight: of this output in the number that checkpoints are chosen by.
        targets: quantities with units, none of an output that has no labels.
        place: of its predictions, such as `PerMolecule`.
    """

    weight: float = 1.0
    targets: Sequence[Target] = ()
    place: Any

    @property
    @abstractmethod
    def metric_names(self) -> List[str]:
        """Names that `errors` returns."""

    @abstractmethod
    def errors(self, predictions: np.ndarray) -> Dict[str, float]:
        """Metrics of predictions in real units."""

    @abstractmethod
    def selection(self, metrics: Mapping[str, float]) -> float:
        """The output's part in the number that checkpoints are chosen by, in standardized units; lower is better."""

    @abstractmethod
    def baselines(self) -> Dict[str, Dict[str, float]]:
        """Metrics of something simpler, by its key in run.json; some metrics may be left out."""

    @abstractmethod
    def compared(self, metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> str:
        """Text behind a printed metric: baselines, other units, published values; may be empty."""

    def in_units(self, standardized: np.ndarray) -> np.ndarray:
        """Predictions in real units; probabilities of classes."""
        return standardized

    def residuals(self, predictions: np.ndarray) -> Optional[Tuple[str, Ragged]]:
        """Predictions minus labels in real units, molecule after molecule, and their name in a file.

        None of an output whose predictions are no numbers with a unit, such as classes and tokens.
        """
        return None

    def write(self, folder: Path, split: str, predictions: np.ndarray) -> None:
        """Write predictions in real units into the run's folder; nothing of an output that has none to show."""
        return


class Output(ABC):
    """A quantity that a model gives and that is learned.

    Attributes:
        weight: in the loss and in the number that checkpoints are chosen by, where there are others.
        targets: quantities with units, none of an output that has no labels.
    """

    weight: float = 1.0
    targets: List[Target]

    @abstractmethod
    def loss(self) -> Callable[..., Tensor]:
        """The loss of this output.

        Raises:
            ValueError: there is no such loss, or it is for another kind of label.
        """

    @abstractmethod
    def on(self, split: str, items: np.ndarray) -> SplitOutput:
        """Bind the output to store items, which are a split."""


class Evaluator:
    """Measures a model on a split, output after output."""

    def __init__(self, loader: Loader, outputs: Sequence[SplitOutput]) -> None:
        """Bind batches of a split to what is known of it."""
        self.loader = loader
        self.outputs = list(outputs)

    @property
    def metric_names(self) -> List[str]:
        """Names that `errors` returns."""
        return [name for output in self.outputs for name in output.metric_names]

    def predictions(self, backend: Backend) -> List[np.ndarray]:
        """One float64 array for every output, in its units, in the order of the split."""
        found = predict(backend, self.loader, [output.place for output in self.outputs])
        return [output.in_units(array) for output, array in zip(self.outputs, found)]

    def errors(self, predictions: Sequence[np.ndarray]) -> Dict[str, float]:
        """Metrics of what `predictions` returned."""
        metrics: Dict[str, float] = {}
        for output, array in zip(self.outputs, predictions):
            metrics.update(output.errors(array))
        return metrics

    def metrics(self, backend: Backend) -> Tuple[Dict[str, float], float]:
        """Metrics of the split, and the number that checkpoints are chosen by: the weighted mean of the outputs'."""
        metrics = self.errors(self.predictions(backend))
        weights, parts = zip(*((output.weight, output.selection(metrics)) for output in self.outputs))
        return metrics, float(np.dot(weights, parts))

    def residuals(self, predictions: Sequence[np.ndarray]) -> Dict[str, Ragged]:
        """`SplitOutput.residuals` of those outputs that have some, by their names."""
        found = (output.residuals(array) for output, array in zip(self.outputs, predictions))
        return dict(one for one in found if one is not None)

    def report(
        self, predictions: Sequence[np.ndarray], folder: Path, split: str, writes: bool
    ) -> Dict[str, Dict[str, float]]:
        """Measure, print metrics beside baselines, and write predictions into the run's folder.

        Args:
            predictions: what `predictions` returned.
            folder: of the run.
            split: its name.
            writes: print and write; of several processes one does.

        Returns:
            {"results": metrics, and for every baseline its key: metrics}.
        """
        found: Dict[str, Dict[str, float]] = {"results": {}}
        for output, array in zip(self.outputs, predictions):
            metrics, baselines = output.errors(array), output.baselines()
            for key, values in {"results": metrics, **baselines}.items():
                found.setdefault(key, {}).update(values)
            if not writes:
                continue
            output.write(folder, split, array)
            for name, value in metrics.items():
                print(f"{split}: {name} {value:.4g}{output.compared(name, value, baselines)}", flush=True)
        return found
