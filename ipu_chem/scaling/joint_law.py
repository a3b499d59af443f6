"""The law of size and data together, L(N, D) = E + A / N^a + B / D^b.

As approach 3 of Hoffmann et al., "Training compute-optimal large language models" (2022): Huber's loss of log L, from
many starts. For given exponents E, A and B are linear, so the starts are the best points of a grid of exponents.
"""

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.fitting import DRAWS, Interval, Replicates, fit, huber
from ipu_chem.scaling.points import Point, check_comparable, columns
from ipu_chem.scaling.power_law import check_logarithms, r_squared

_EXPONENTS = np.geomspace(0.05, 1.6, 11)  # of the grid
_STARTS = 8
_NOTHING = 12.0  # logarithm by which a term may be smaller than the lowest loss: it is not there then


@dataclass(frozen=True)
class JointLaw:
    """L(N, D) = E + A / N^a + B / D^b.

    Attributes:
        floor: E, which neither size nor data lower.
        size_factor: A.
        data_factor: B.
        size_exponent: a.
        data_exponent: b.
        r2: fraction of the variance of log L that the law explains.
        runs: that were fitted.
    """

    floor: Interval
    size_factor: Interval
    data_factor: Interval
    size_exponent: Interval
    data_exponent: Interval
    r2: float
    runs: int

    def __call__(self, parameters: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Loss at these N and D, which are broadcast."""
        size = self.size_factor.value * np.asarray(parameters, np.float64) ** -self.size_exponent.value
        return (
            self.floor.value + size + self.data_factor.value * np.asarray(data, np.float64) ** -self.data_exponent.value
        )

    def refit(
        self, parameters: np.ndarray, data: np.ndarray, losses: np.ndarray, at: Tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Fit the same law to several samples of losses, by least squares.

        Args:
            parameters, data: [n] N and D of each run.
            losses: [draws, n] of each sample.
            at: [m] other N, and their D.

        Returns:
            [draws, m] losses there.
        """
        x = np.log(np.array([parameters, data], np.float64))
        middle, y = x.mean(1, keepdims=True), np.log(losses)
        factors = (self.floor.value, self.size_factor.value, self.data_factor.value)
        exponents = np.array([self.size_exponent.value, self.data_exponent.value])
        start = np.concatenate([np.log(np.maximum(factors, 1e-300)), exponents])
        start[1:3] -= exponents * middle[:, 0]
        low = [float(y.min()) - _NOTHING] * 3 + [1e-3] * 2
        limits = np.array([low, [float(y.max()) + 3.0] * 3 + [5.0] * 2])
        start = np.repeat(np.clip(start, limits[0], limits[1])[None], len(y), 0)
        theta, _ = fit(_Law(x - middle), start, y, np.inf, limits)
        return np.exp(_Law(np.log(np.array(at, np.float64)) - middle)(theta)[0])


def fit_joint(
    points: Sequence[Point], data: str = "tokens", delta: Optional[float] = None, draws: int = DRAWS, seed: int = 0
) -> JointLaw:
    """Fit loss over parameters and data (tokens or molecules) together; refuses as `check_comparable`."""
    if data not in ("tokens", "molecules"):
        raise ValueError(f"data={data!r}: choose tokens or molecules.")
    check_comparable(points)
    return joint_law(*columns(points, "parameters", data, "loss"), delta=delta, draws=draws, seed=seed)


def joint_law(
    parameters: np.ndarray,
    data: np.ndarray,
    loss: np.ndarray,
    delta: Optional[float] = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> JointLaw:
    """Fit L(N, D); intervals by bootstrap over the runs of equal N and D.

    Args:
        parameters: [n] N of each run.
        data: [n] D of each run.
        loss: [n] of each run.
        delta: of Huber's loss, in log L: Hoffmann et al. take 0.001, far below the noise between seeds of small
            models; None takes 1.345 of that noise, for which outliers count little and all others fully.
        draws, seed: of the bootstrap.

    Raises:
        ValueError: fewer than 3 different N or D or 6 pairs of them, values that have no logarithm, or too few seeds.
    """
    parameters, data, loss = check_logarithms(parameters, data, loss)
    replicates = Replicates.of(parameters, data)
    sizes, amounts = len(np.unique(parameters)), len(np.unique(data))
    if sizes < 3 or amounts < 3 or len(replicates.counts) < 6:
        raise ValueError(
            f"L(N, D) has 5 unknowns: it needs 3 sizes, 3 amounts of data and 6 pairs of them, and there are {sizes}, "
            f"{amounts} and {len(replicates.counts)}; train more."
        )
    x = np.stack([np.log(parameters), np.log(data)])
    middle = x.mean(1)
    x, y = x - middle[:, None], np.log(loss)
    law = _Law(x)
    limits = np.array(
        [[y.min() - _NOTHING] * 3 + [1e-3] * 2, [y.min(), y.max() + 3.0, y.max() + 3.0, 5.0, 5.0]], np.float64
    )
    start = np.clip(_starts(x, loss), limits[0], limits[1])
    if delta is None:
        start, cost = fit(law, start, y, np.inf, limits)  # as if there were no outliers
        _, noise, _ = replicates.noise(y, law(start[[cost.argmin()]])[0][0], 5)
        delta = 1.345 * max(1.4826 * float(np.median(np.abs(noise))), 1e-6)
    found, cost = fit(law, start, y, delta, limits)
    best = found[[cost.argmin()]]
    fitted = law(best)[0][0]
    sample = replicates.resample(y, fitted, 5, draws, seed)
    drawn, _ = fit(law, np.repeat(best, draws, 0), sample.values, delta, limits)

    def terms(theta: np.ndarray) -> np.ndarray:
        """E, A, B, a, b of rows, A and B at N = D = 1."""
        factors = np.exp(theta[:, 1:3] + theta[:, 3:] * middle)
        return np.concatenate([np.exp(theta[:, :1]), factors, theta[:, 3:]], 1)

    values, samples = terms(best)[0], terms(drawn)
    intervals = [sample.interval(values[column], samples[:, column]) for column in range(5)]
    return JointLaw(*intervals, r2=r_squared(y, fitted), runs=len(y))


class _Law:
    """log L of rows (log E, log A, log B, a, b), A and B where the logarithms of N and D are 0."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x  # [2, n]

    def __call__(self, theta: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        terms = np.repeat(theta[:, :3, None], self.x.shape[1], 2)
        terms[:, 1:] -= theta[:, 3:, None] * self.x
        most = terms.max(1, keepdims=True)
        parts = np.exp(terms - most)
        total = parts.sum(1, keepdims=True)
        parts /= total
        jacobian = np.concatenate([parts, -parts[:, 1:] * self.x], 1)
        return (most + np.log(total))[:, 0], jacobian.transpose(0, 2, 1)


def _starts(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """[K, 5] the best of a grid of exponents, each with its best E, A and B by relative least squares."""
    a, b = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS))
    parts = np.stack([np.ones((len(a), x.shape[1])), np.exp(-a[:, None] * x[0]), np.exp(-b[:, None] * x[1])], 2)
    design = parts / loss[:, None]
    normal = np.einsum("knp,knq->kpq", design, design) + 1e-9 * np.eye(3)
    factors = np.linalg.solve(normal, design.sum(1)[..., None])[..., 0]
    factors = np.maximum(factors, 1e-3 * loss.min())
    cost = huber(np.log(np.einsum("knp,kp->kn", parts, factors)) - np.log(loss), np.inf)
    best = np.argsort(cost)[:_STARTS]
    return np.column_stack([np.log(factors[best]), a[best], b[best]])
