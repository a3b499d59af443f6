"""Fits of all scaling laws: least squares with Huber's loss for many data sets at once, and resampling."""

from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

# Parameters [K, p] -> logarithms of losses [K, n] and their derivatives [K, n, p].
Law = Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray]]
DRAWS = 400
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def holds(self, value: float) -> bool:
        """True where a value lies between the ends."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Replicates:
    """Groups of runs that differ in their seed alone.

    Attributes:
        group: [n] of each run, 0, 1, ...
        counts: runs per group.
    """

    group: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(*columns: np.ndarray) -> "Replicates":
        """Runs for which all columns [n] are equal belong together."""
        _, group, counts = np.unique(np.stack(columns, 1), axis=0, return_inverse=True, return_counts=True)
        return Replicates(group.reshape(-1), counts)

    def means(self, values: np.ndarray) -> np.ndarray:
        """[n] of each run's group."""
        return (np.bincount(self.group, values) / self.counts)[self.group]

    def noise(self, values: np.ndarray, fitted: np.ndarray, parameters: int) -> Tuple[np.ndarray, np.ndarray, int]:
        """Noise between seeds, or residuals of a law where there is one seed of everything.

        Noise of log L counts as alike at all sizes, because two or three seeds of one size say little of its own.

        Args:
            values: [n] logarithms of losses.
            fitted: [n] what the law says of them.
            parameters: of the law.

        Returns:
            (what the noise adds to [n], the noise [m] with its full variance, its degrees of freedom).

        Raises:
            ValueError: nothing is left to tell noise from.
        """
        several = self.counts[self.group] > 1
        if several.any():
            center, counts = self.means(values), self.counts[self.group][several]
            noise = (values - center)[several] * np.sqrt(counts / (counts - 1))
            return center, noise, int(several.sum() - (self.counts > 1).sum())
        degrees = len(values) - parameters
        if degrees < 1:
            raise ValueError(
                f"{len(values)} runs of one seed each leave nothing to tell noise from with {parameters} unknowns: "
                "train more sizes, or 3 seeds of each."
            )
        noise = (values - fitted) * np.sqrt(len(values) / degrees)
        return fitted, noise - noise.mean(), degrees

    def resample(self, values: np.ndarray, fitted: np.ndarray, parameters: int, draws: int, seed: int) -> "Resampled":
        """Bootstrap over seeds: ``draws`` samples of the losses with other noise; see `noise`."""
        center, noise, degrees = self.noise(values, fitted, parameters)
        drawn = np.random.default_rng(seed).integers(0, len(noise), (draws, len(values)))
        return Resampled(center + noise[drawn], degrees)


@dataclass(frozen=True)
class Resampled:
    """Bootstrap samples of the losses.

    Attributes:
        values: [draws, n] logarithms.
        degrees: of freedom that their noise is estimated from.
    """

    values: np.ndarray
    degrees: int

    def interval(self, value: float, drawn: np.ndarray) -> Interval:
        """Expanded percentile interval, of nominal coverage `LEVEL`.

        Percentiles of few seeds are too close: they take the noise for known, and it is estimated (Hesterberg, Am.
        Stat. 69, 371 (2015), section 5.3).

        Args:
            value: the estimate.
            drawn: [draws] of the samples.
        """
        from scipy.special import ndtr, stdtrit

        tail = float(ndtr(stdtrit(self.degrees, (1 - LEVEL) / 2)))
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high))


def fit(
    law: Law, start: np.ndarray, values: np.ndarray, delta: float, limits: Optional[np.ndarray] = None, most: int = 100
) -> Tuple[np.ndarray, np.ndarray]:
    """Minimize the sum of Huber's loss of logarithms, by Levenberg and Marquardt with the analytic Jacobian.

    Rows are independent: several starts for one data set, or one start for each of many.

    Args:
        law: see `Law`.
        start: [K, p].
        values: [n] or [K, n] logarithms of losses.
        delta: residuals larger than this count linearly; inf is least squares.
        limits: [2, p] of the parameters; None for none.
        most: iterations.

    Returns:
        (parameters [K, p], sums of Huber's loss [K]).
    """
    theta = np.array(start, np.float64)
    values = np.broadcast_to(values, (len(theta), np.shape(values)[-1]))
    predicted, jacobian = law(theta)
    cost = huber(values - predicted, delta)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))  # rows that still move
    for _ in range(most):
        residuals = values[active] - predicted[active]
        weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
        weighted = (jacobian[active] * weights[..., None]).transpose(0, 2, 1)
        hessian = weighted @ jacobian[active]
        gradient = weighted @ residuals[..., None]
        if limits is not None:  # what stands at a limit and would go beyond is left out of the step
            at = theta[active]
            held = ((at <= limits[0]) & (gradient[..., 0] < 0)) | ((at >= limits[1]) & (gradient[..., 0] > 0))
            gradient[held] = 0.0
            hessian *= ~(held[:, None] | held[..., None])
        diagonal = np.einsum("kpp->kp", hessian)
        scale = np.maximum(diagonal, 1e-9 * diagonal.max(1, keepdims=True) + 1e-300)
        damped = hessian + (damping[active, None] * scale)[..., None] * np.eye(theta.shape[1])
        tried = theta[active] + np.linalg.solve(damped, gradient)[..., 0]
        if limits is not None:
            tried = np.clip(tried, limits[0], limits[1])
        new_predicted, new_jacobian = law(tried)
        new_cost = huber(values[active] - new_predicted, delta)
        better = new_cost < cost[active]
        settled = better & (cost[active] - new_cost <= 1e-7 * cost[active] + 1e-300)
        moved = active[better]
        theta[moved], cost[moved] = tried[better], new_cost[better]
        predicted[moved], jacobian[moved] = new_predicted[better], new_jacobian[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 4)
        active = active[~settled & (damping[active] < 1e8)]
        if not len(active):
            break
    return theta, cost


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """Sum over the last axis of Huber's loss."""
    size = np.abs(residuals)
    if np.isinf(delta):
        return 0.5 * np.square(size).sum(-1)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(-1)
