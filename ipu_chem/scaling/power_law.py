"""The power law L(R) = alpha R^-beta, by regression of logarithms."""

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ipu_chem.scaling.intervals import LEVEL, Estimate, Interval
from ipu_chem.scaling.points import Point, check_over, columns
from ipu_chem.scaling.size_effects import averaged
from ipu_chem.scaling.tse import Values


@dataclass(frozen=True)
class PowerLaw:
    """L(R) = alpha R^-beta.

    Attributes:
        alpha: loss at R = 1.
        beta: exponent; positive when loss falls.
        r2: fraction of the variance of log L that the law explains.
        runs: that were fitted.
    """

    alpha: Interval
    beta: Interval
    r2: float
    runs: int

    def __call__(self, resource: Values) -> np.ndarray:
        """Loss at these R."""
        return self.alpha.value * np.asarray(resource, np.float64) ** -self.beta.value

    def refit(self, resource: Values, losses: np.ndarray, at: Values) -> np.ndarray:
        """Fit the same law to several samples of losses.

        Args:
            resource: [n] R of each run.
            losses: [draws, n] of each sample.
            at: [m] other R.

        Returns:
            [draws, m] losses there.
        """
        x, y = np.log(np.asarray(resource, np.float64)), np.log(losses)
        center = x - x.mean()
        gradients = y @ center / np.square(center).sum()
        return np.exp(y.mean(1)[:, None] + gradients[:, None] * (np.log(np.asarray(at, np.float64)) - x.mean()))


def fit_power_law(points: Sequence[Point], over: str = "parameters", level: float = LEVEL) -> PowerLaw:
    """Fit loss over one of parameters, tokens, molecules and flops; refuses as `check_over`."""
    check_over(points, over)
    return power_law(*columns(points, over, "loss"), level=level)


def power_law(resource: np.ndarray, loss: np.ndarray, level: float = LEVEL) -> PowerLaw:
    """Fit by least squares of logarithms; intervals hold where noise differs by size, see `Estimate`.

    Where sizes scatter around the law by more than their seeds do, the mean over seeds counts as one run, see
    `averaged`: seeds say nothing of what a size has of its own.

    Args:
        resource: [n] R of each run; runs of equal R differ in their seed.
        loss: [n] of each run, above 0.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: fewer than 3 different R, or values that have no logarithm.
    """
    resource, loss = check_logarithms(resource, loss)
    sizes = len(np.unique(resource))
    if sizes < 3:
        raise ValueError(f"a power law needs runs of 3 sizes and there are {sizes}: train {3 - sizes} more.")
    x, y = np.log(resource), np.log(loss)
    middle, estimate = _minimum(x, y, level)
    means = averaged(x, y, estimate.law, estimate.theta)
    if means is not None:
        middle, estimate = _minimum(*means, level)
    at_one = estimate.linear(np.array([1.0, -middle]))
    falling = estimate.linear(np.array([0.0, -1.0]))
    with np.errstate(over="ignore"):  # an end beyond float64 is open
        alpha = Interval(*np.exp(at_one).tolist())
    return PowerLaw(alpha, falling, r_squared(y, at_one.value - falling.value * x), len(y))


def _minimum(x: np.ndarray, y: np.ndarray, level: float) -> Tuple[float, Estimate]:
    """The mean of log R, and the line of log L over log R less that mean."""
    middle = float(x.mean())
    design = np.stack([np.ones_like(x), x - middle], 1)
    theta = np.array([y.mean(), design[:, 1] @ y / np.square(design[:, 1]).sum()])

    def law(rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        return rows @ design.T, np.broadcast_to(design, (len(rows), *design.shape))

    return middle, Estimate(law, theta, y, level=level)


def check_logarithms(*values: np.ndarray) -> "list[np.ndarray]":
    """Arrays [n] as float64.

    Raises:
        ValueError: their lengths differ, or a value is not finite or not above 0.
    """
    arrays = [np.asarray(array, np.float64) for array in values]
    if any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise ValueError(f"a scaling law needs columns of one length, not {[array.shape for array in arrays]}.")
    for array in arrays:
        bad = np.nonzero(~(np.isfinite(array) & (array > 0)))[0]
        if len(bad):
            raise ValueError(
                f"run {bad[0]} of a scaling law has the value {array[bad[0]]}, and only finite ones above 0 have a "
                "logarithm: leave it out or repeat it."
            )
    return arrays


def r_squared(values: np.ndarray, fitted: np.ndarray) -> float:
    """Fraction of the variance that a fit explains; NaN when there is none."""
    total = float(np.square(values - values.mean()).sum())
    return 1 - float(np.square(values - fitted).sum()) / total if total > 0 else float("nan")
