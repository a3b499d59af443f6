"""Half-widths of the intervals of a run, or of several whose mean is predicted, in the units of what they predict.

One run has one half-width for each target. Of several runs it grows with their spread: errors are divided by
spread + b before the quantile is taken, and half-widths multiplied by it, with b the median spread among the validation
molecules, which keeps molecules on which the runs happen to agree from intervals of no width. b is taken from the same
molecules as the quantile, which changes coverage by the order of 1 / n at most.
"""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.uncertainty.conformal import half_width
from ipu_chem.uncertainty.residuals import FORCES, LABELS, Residuals


class Calibration(NamedTuple):
    """A quantile of scores and what they were divided by, in units.

    Attributes:
        quantile: of absolute errors, or of their ratio to the spread where there are several runs.
        floor: b, added to the spread; None of one run.
        count: n, molecules of the validation split with a label.
    """

    quantile: float
    floor: Optional[float]
    count: int

    def half_widths(self, spread: Optional[np.ndarray], shape: Tuple[int, ...]) -> np.ndarray:
        """Half-widths of predictions, float64.

        Args:
            spread: standard deviation among the runs, of this shape; None of one.
            shape: of the predictions.
        """
        if self.floor is None:
            return np.full(shape, self.quantile)
        assert spread is not None and spread.shape == tuple(shape)
        return self.quantile * _difficulty(spread, self.floor)


class Intervals:
    """Intervals of one coverage.

    Attributes:
        coverage: the probability that an interval holds a label.
        labels: a `Calibration` for each of the T targets.
        forces: of components of forces; None where some run learned none.
    """

    def __init__(self, members: Sequence[Residuals], coverage: float) -> None:
        """Calibrate.

        Args:
            members: residuals of every run, on the same molecules in the same order.
            coverage: above 0 and below 1.

        Raises:
            ValueError: too few molecules have a label; names the target.
        """
        assert all(list(one.data) == list(members[0].data) for one in members)
        self.coverage = coverage
        columns = np.stack([one.outputs[LABELS].values for one in members])
        self.labels = []
        for column, (name, _) in enumerate(members[0].targets):
            try:
                self.labels.append(_calibrate(columns[:, :, column], coverage))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        self.forces: Optional[Calibration] = None
        if all(FORCES in one.outputs for one in members):
            offsets = 3 * members[0].outputs[FORCES].offsets
            components = np.stack([one.outputs[FORCES].values.reshape(-1) for one in members])
            try:
                self.forces = _calibrate(components, coverage, offsets)
            except ValueError as error:
                raise ValueError(f"{FORCES}: {error}") from None

    def of_labels(self, spread: Optional[np.ndarray], count: int) -> np.ndarray:
        """Half-widths [I, T] in the targets' units.

        Args:
            spread: [I, T], standard deviation among several runs; None of one.
            count: I.
        """
        columns = [
            one.half_widths(None if spread is None else spread[:, column], (count,))
            for column, one in enumerate(self.labels)
        ]
        return np.stack(columns, 1) if columns else np.zeros((count, 0))


def spread_of(found: Any) -> Optional[np.ndarray]:
    """Standard deviation among M runs of values [M, ...]; None of one run."""
    return np.std(found, 0) if len(found) > 1 else None


def _calibrate(residuals: np.ndarray, coverage: float, offsets: Optional[np.ndarray] = None) -> Calibration:
    """A calibration of residuals [M, S] of M runs; see `half_width`."""
    errors, spread, floor = np.abs(residuals.mean(0)), spread_of(residuals), None
    known = np.isfinite(errors)
    if spread is not None:
        floor = float(np.median(spread[known])) if known.any() else 0.0
        errors = errors / _difficulty(spread, floor)
    count = int(known.sum()) if offsets is None else _molecules(known, offsets)
    return Calibration(half_width(errors, coverage, offsets), floor, count)


def _difficulty(spread: np.ndarray, floor: float) -> np.ndarray:
    """Divisors of errors; 1 where the runs never differ, as copies of one run do."""
    return spread + floor if floor > 0 else np.ones_like(spread)


def _molecules(known: np.ndarray, offsets: np.ndarray) -> int:
    """Molecules that have something known."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return len(np.unique(owner[known]))
