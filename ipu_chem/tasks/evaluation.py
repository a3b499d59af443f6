"""Predicting a split in packs and measuring it in the target's unit.

On data's way: LabelledLoader.evaluation() -> Backend.evaluate -> predictions in real units -> metrics.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import LabelledLoader
from ipu_chem.metrics import Target, label_metrics, metric_names, selection_metric
from ipu_chem.tasks.base import Measures

ToUnits = Callable[[np.ndarray, np.ndarray], np.ndarray]


def predict_split(backend: Backend, loader: LabelledLoader) -> np.ndarray:
    """What the model says of every molecule of a split.

    Returns:
        [K, T] float64, standardised, in the order of the split.
    """
    # Zeros, so that the sum over the processes that share the work puts their parts together, to the bit.
    result = np.zeros((len(loader.items), loader.num_targets))
    for batch, positions in loader.evaluation(backend.evaluates):
        result[positions] = backend.evaluate(batch).double().numpy()[batch.graph_mask.numpy()]
    return backend.total(result)


class Parts(NamedTuple):
    """Equal parts that molecules are made of, such as the waters of a cluster."""

    name: str
    counts: np.ndarray  # [K], of every molecule of a split


class Evaluator(Measures):
    """A split with its labels and the way back to real units."""

    loader: LabelledLoader

    def __init__(
        self,
        loader: LabelledLoader,
        labels: np.ndarray,
        targets: Sequence[Target],
        scale: Sequence[float],
        to_units: ToUnits,
        parts: Optional[Parts] = None,
    ) -> None:
        """Bind a split.

        Args:
            loader: batches of the split.
            labels: [K, T] float64 in the targets' units, NaN where missing.
            targets: T of them.
            scale: [T] standard deviations, which make targets comparable when checkpoints are chosen.
            to_units: (store items [K], standardised predictions [K, T]) -> predictions in real units.
            parts: what errors of extensive targets are shared out to as well.
        """
        self.loader = loader
        self.labels = labels
        self.targets = list(targets)
        self.scale = list(scale)
        self.to_units = to_units
        self.parts = parts

    @property
    def metric_names(self) -> List[str]:
        """See `Measures.metric_names`."""
        return metric_names(self.targets) + [self._per_part(target) for target in self._shared_out]

    def predictions(self, backend: Backend) -> Any:
        """[K, T] float64 in the targets' units, probabilities of classes, in the order of the split."""
        return self.to_units(self.loader.items, predict_split(backend, self.loader))

    def errors(self, predictions: Any) -> Dict[str, float]:
        """`label_metrics` of what `predictions` returned, and errors shared out to parts."""
        errors = label_metrics(predictions, self.labels, self.targets)
        for column, target in enumerate(self.targets):
            if target in self._shared_out:
                assert self.parts is not None
                error = np.abs(predictions[:, column] - self.labels[:, column]) / self.parts.counts
                errors[self._per_part(target)] = float(np.nanmean(error)) * target.error_factor
        return errors

    @property
    def _shared_out(self) -> List[Target]:
        return [target for target in self.targets if target.extensive] if self.parts is not None else []

    def _per_part(self, target: Target) -> str:
        """Name of the mean over molecules of errors per part."""
        assert self.parts is not None
        return f"{target.metric('mae')}_per_{self.parts.name}"

    def metrics(self, backend: Backend) -> Tuple[Dict[str, float], float]:
        """See `Measures.metrics`: MAE and RMSE, or ROC-AUC and average precision, per target."""
        metrics = self.errors(self.predictions(backend))
        return metrics, selection_metric(metrics, self.targets, self.scale)
