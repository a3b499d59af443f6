"""The law of size and data together, L(N, D) = E + A / N^a + B / D^b.

As approach 3 of Hoffmann et al., "Training compute-optimal large language models" (2022): Huber's loss of log L, from
many starts. For given exponents E, A and B are linear, so the starts are the best points of a grid of exponents.
"""

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.fitting import fit, huber
from ipu_chem.scaling.intervals import LEVEL, Asked, Estimate, Interval, spread
from ipu_chem.scaling.points import Point, check_comparable, columns
from ipu_chem.scaling.power_law import check_logarithms, r_squared
from ipu_chem.scaling.size_effects import averaged

_EXPONENTS = np.geomspace(0.05, 1.6, 11)  # of the grid
_STARTS = 8
_HUBER = 1.345  # standard deviations of noise from which a residual counts linearly: 95 % as efficient as least squares
_MEDIAN = 0.5  # standard deviations of noise below which Huber's loss is about that of the median
DRAWS = 1000
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

    @property
    def open(self) -> List[str]:
        """Names of what the runs do not identify: an end of its interval is open."""
        names = {"E": "floor", "A": "size_factor", "B": "data_factor", "a": "size_exponent", "b": "data_exponent"}
        return [short for short, name in names.items() if getattr(self, name).open]

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
    points: Sequence[Point],
    data: str = "tokens",
    delta: Optional[float] = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> JointLaw:
    """Fit loss over parameters and data (tokens or molecules) together; refuses as `check_comparable`."""
    if data not in ("tokens", "molecules"):
        raise ValueError(f"data={data!r}: choose tokens or molecules.")
    check_comparable(points)
    return joint_law(*columns(points, "parameters", data, "loss"), delta=delta, draws=draws, seed=seed, level=level)


def joint_law(
    parameters: np.ndarray,
    data: np.ndarray,
    loss: np.ndarray,
    delta: Optional[float] = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> JointLaw:
    """Fit L(N, D); intervals by profile, see `Estimate`, which hold where noise differs by size.

    Where sizes scatter around the law by more than their seeds do, the mean over seeds counts as one run, see
    `averaged`.

    Args:
        parameters: [n] N of each run.
        data: [n] D of each run.
        loss: [n] of each run.
        delta: of Huber's loss, in log L: Hoffmann et al. take 0.001, far below the noise between seeds of small
            models; None takes 1.345 of that noise, for which outliers count little and all others fully. Below half of
            the noise the cost is that of the median, whose profile is a staircase: intervals are then percentiles of
            fits to pairs drawn anew, as of Besiroglu et al., "Chinchilla scaling: a replication attempt" (2024).
        draws, seed: of those pairs.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: fewer than 3 different N or D or 6 pairs of them, values that have no logarithm, or a delta that is
            not above 0.
    """
    parameters, data, loss = check_logarithms(parameters, data, loss)
    estimate, middle = joint_minimum(parameters, data, loss, delta, level)
    runs = len(loss)
    means = averaged(np.log([parameters, data]), estimate.values, estimate.law, estimate.theta)
    if means is not None:
        (parameters, data), loss = np.exp(means[0]), np.exp(means[1])
        estimate, middle = joint_minimum(parameters, data, loss, delta, level)
    # E, A, B, a, b as combinations of parameters, A and B at N = D = 1.
    directions = np.eye(5)
    directions[[1, 2], [3, 4]] = middle
    floor = (-np.inf, float(estimate.values.min()))  # no floor lies above a loss
    ends = [floor, (-np.inf, np.inf), (-np.inf, np.inf), (0.0, np.inf), (0.0, np.inf)]
    asked = [Asked(direction, place, end) for place, (direction, end) in enumerate(zip(directions, ends))]
    fitted = estimate.law(estimate.theta[None])[0][0]
    if estimate.delta < _MEDIAN * spread(estimate.values - fitted):
        sizes_and_data = np.stack([np.asarray(parameters, np.float64), np.asarray(data, np.float64)])
        intervals = _paired(estimate, asked, sizes_and_data, draws, seed)
    else:
        intervals = estimate.profiles(asked)
    intervals[:3] = [Interval(*np.exp(one).tolist()) for one in intervals[:3]]
    return JointLaw(*intervals, r2=r_squared(estimate.values, fitted), runs=runs)


def joint_minimum(
    parameters: np.ndarray, data: np.ndarray, loss: np.ndarray, delta: Optional[float] = None, level: float = LEVEL
) -> Tuple[Estimate, np.ndarray]:
    """The lowest sum of Huber's losses of L(N, D), and the means of log N and log D; arguments as of `joint_law`.

    Returns:
        (log E, log A, log B, a, b with A and B at those means, the means [2]).

    Raises:
        ValueError: as `joint_law`.
    """
    if delta is not None and not delta > 0:
        raise ValueError(f"delta={delta}: give a residual above 0, such as 0.001, or leave it out.")
    parameters, data, loss = check_logarithms(parameters, data, loss)
    pairs = np.unique(np.stack([parameters, data]), axis=1).shape[1]
    sizes, amounts = len(np.unique(parameters)), len(np.unique(data))
    if sizes < 3 or amounts < 3 or pairs < 6:
        raise ValueError(
            f"L(N, D) has 5 unknowns: it needs 3 sizes, 3 amounts of data and 6 pairs of them, and there are {sizes}, "
            f"{amounts} and {pairs}; train more."
        )
    x = np.stack([np.log(parameters), np.log(data)])
    middle = x.mean(1)
    x, y = x - middle[:, None], np.log(loss)
    law = _Law(x)
    limits = np.array(
        [[y.min() - _NOTHING] * 3 + [1e-3] * 2, [y.min(), y.max() + 3.0, y.max() + 3.0, 5.0, 5.0]], np.float64
    )
    found = np.clip(_starts(x, loss), limits[0], limits[1])
    if delta is None:
        found, cost = fit(law, found, y, np.inf, limits)  # as if there were no outliers
        noise = spread(y - law(found[[cost.argmin()]])[0][0]) * np.sqrt(len(y) / (len(y) - 5))
        width = float(_HUBER * max(noise, 1e-6))
    else:
        width = delta
    found, cost = fit(law, found, y, width, limits)
    found, _ = fit(law, found[[cost.argmin()]], y, width, limits, most=1000, tolerance=1e-15)
    return Estimate(law, found[0], y, width, limits, level), middle


def _paired(estimate: Estimate, asked: Sequence[Asked], x: np.ndarray, draws: int, seed: int) -> List[Interval]:
    """Percentile intervals of combinations of parameters, over runs drawn anew with all that they are.

    Draws that do not hold 3 sizes, 3 amounts of data and 6 pairs of them are drawn again. An end at which the fits
    stand at a limit is open.

    Raises:
        ValueError: hardly any draw holds them.
    """
    _, *groups = (np.unique(one, axis=-1, return_inverse=True)[1].reshape(-1) for one in (x, x[0], x[1], x))
    rng = np.random.default_rng(seed)
    count = x.shape[1]
    counts = np.zeros((0, count))
    for _ in range(20):
        drawn = rng.multinomial(count, np.full(count, 1 / count), draws)
        there = [
            sum((drawn[:, group == place].sum(1) > 0).astype(int) for place in range(group.max() + 1))
            for group in groups
        ]
        enough = (there[0] >= 3) & (there[1] >= 3) & (there[2] >= 6)
        counts = np.concatenate([counts, drawn[enough]])[:draws]
        if len(counts) == draws:
            break
    else:
        raise ValueError(
            f"of {20 * draws:,} drawn sets of the {count} runs only {len(counts):,} identify L(N, D): train "
            "more sizes, or leave delta out."
        )
    assert estimate.limits is not None
    found = []
    for first in range(0, draws, 250):  # memory of a batch of fits
        part = counts[first : first + 250]
        start = np.repeat(estimate.theta[None], len(part), 0)
        found.append(fit(estimate.law, start, estimate.values, estimate.delta, estimate.limits, 300, part)[0])
    theta = np.concatenate(found)
    tail = (1 - estimate.level) / 2
    intervals = []
    for direction, place, end in asked:
        low, high = np.quantile(theta @ direction, [tail, 1 - tail])
        at_low, at_high = np.quantile(theta[:, place], [tail, 1 - tail])
        limits = estimate.limits[:, place]
        low, high = (end[0] if at_low <= limits[0] else low), (end[1] if at_high >= limits[1] else high)
        value = float(direction @ estimate.theta)  # of few draws, all may lie on one side of it
        intervals.append(Interval(value, min(value, float(low)), max(value, float(high))))
    return intervals


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
