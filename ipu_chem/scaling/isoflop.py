"""Sizes that make the most of a budget of compute, from runs of several sizes at each of several budgets.

Approach 2 of Hoffmann et al., "Training compute-optimal large language models" (2022), fits a parabola in log N to the
losses of each budget. The law L = E + A / N^a + B / D^b is no parabola there unless a = b and sizes lie close around
the optimum, so its vertex is off even without noise, in one direction, and so is the exponent (Czech et al., "Problems
with Chinchilla approach 2", arXiv 2603.22339, 2026). Here the law itself is fitted to all budgets together, written so
that the best size of a budget is one of its parameters and has an interval; the parabolas stand beside it.
"""

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.fitting import fit
from ipu_chem.scaling.intervals import LEVEL, Asked, Estimate, Interval
from ipu_chem.scaling.joint_law import joint_minimum
from ipu_chem.scaling.points import Point, check_loss, columns
from ipu_chem.scaling.power_law import power_law

_FLOPS = 6.0  # a parameter and token
_TOGETHER = 0.1  # difference of log FLOPs up to which neighbors count as one budget


class Budget(NamedTuple):
    """Best size for a budget of compute.

    Attributes:
        flops: mean of its runs.
        sizes: different ones among its runs.
        parameters: N of the lowest loss, with its interval.
        tokens: D that the budget leaves to that N, likewise.
        loss: at the optimum.
        parabola: N at the vertex of a parabola through log losses of this budget; None of fewer than 3 sizes and where
            it has no lowest point.
    """

    flops: float
    sizes: int
    parameters: Interval
    tokens: Interval
    loss: float
    parabola: Optional[float]


@dataclass(frozen=True)
class Optima:
    """Best sizes over compute, N ~ C^exponent.

    Attributes:
        budgets: cheapest first.
        exponent: b / (a + b) of the law.
        parabola_exponent: of the parabolas' vertices; None of fewer than 3.
        runs: that were fitted.
        level: nominal coverage of intervals.
    """

    budgets: List[Budget]
    exponent: Interval
    parabola_exponent: Optional[Interval]
    runs: int
    level: float

    def lines(self) -> List[str]:
        """Lines to print."""
        found = [f"best sizes over compute, with intervals of {self.level:.0%}, {self.runs} runs:"]
        for one in self.budgets:
            vertex = "none" if one.parabola is None else f"{one.parabola:.3g}"
            found.append(f"  {one.flops:.3g} FLOPs: N = {one.parameters}, D = {one.tokens}, parabola's N = {vertex}")
        found.append(f"  N ~ C^{self.exponent}; by parabolas, which are biased: {self.parabola_exponent or 'none'}")
        return found


def isoflop_optima(points: Sequence[Point], level: float = LEVEL) -> Optima:
    """Find the best size for every budget of compute; tokens are those seen, FLOPs / 6 N, whatever was repeated.

    Args:
        points: runs of several sizes at each of several budgets; FLOPs that differ by a tenth are one budget.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: see `check_loss` and `optima`.
    """
    check_loss(points)
    return optima(*columns(points, "parameters", "flops", "loss"), level=level)


def optima(parameters: np.ndarray, flops: np.ndarray, loss: np.ndarray, level: float = LEVEL) -> Optima:
    """Find the best size for every budget of compute.

    Args:
        parameters: [n] N of each run.
        flops: [n] of each run.
        loss: [n] of each run.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: see `joint_law`; or all runs have one budget.
    """
    parameters, flops, loss = (np.asarray(one, np.float64) for one in (parameters, flops, loss))
    joint, middle = joint_minimum(parameters, flops / _FLOPS / parameters, loss, level=level)
    log_flops = np.log(flops)
    order = np.argsort(log_flops)
    group = np.empty(len(flops), np.int64)
    group[order] = np.cumsum(np.diff(log_flops[order], prepend=log_flops[order][0]) > _TOGETHER)
    if group.max() == 0:
        raise ValueError("all runs have one budget of compute: train as many sizes at another one, 4 times as large.")
    x = np.stack([np.log(parameters), np.log(flops / _FLOPS / parameters)]) - middle[:, None]
    (exponent,) = _estimate(joint, x, 0.0).profiles([Asked(np.eye(5)[4], 4, (0.0, np.inf))])
    budgets, vertices = [], []
    for place in range(group.max() + 1):
        chosen = group == place
        compute = float(log_flops[chosen].mean())
        total = compute - np.log(_FLOPS)
        estimate = _estimate(joint, x, total - middle.sum())
        size = np.array(estimate.profiles([Asked(np.eye(5)[2], 2)])[0]) + middle[0]
        best = float(estimate.theta[2])
        lowest = _IsoLaw(np.array([[best], [total - middle.sum() - best]]), total - middle.sum())(estimate.theta[None])
        vertex = _vertex(np.log(parameters[chosen]), np.log(loss[chosen]))
        if vertex is not None:
            vertices.append((compute, vertex))
        budgets.append(
            Budget(
                flops=float(np.exp(compute)),
                sizes=len(np.unique(parameters[chosen])),
                parameters=Interval(*np.exp(size).tolist()),
                tokens=Interval(*np.exp(total - size[[0, 2, 1]]).tolist()),
                loss=float(np.exp(lowest[0][0, 0])),
                parabola=None if vertex is None else float(np.exp(vertex)),
            )
        )
    by_parabolas = None
    if len(vertices) >= 3:
        falling = power_law(*np.exp(np.array(vertices).T), level=level).beta
        by_parabolas = Interval(-falling.value, -falling.high, -falling.low)
    return Optima(budgets, exponent, by_parabolas, len(loss), level)


class _IsoLaw:
    """log L of rows (log E, log k, log N*, s, g) with s = a + b and g = b / (a + b).

    N* is the best size of one budget and k the derivative of both terms in log N there: E + k / a (N / N*)^-a + k / b
    (D / D*)^-b.
    """

    def __init__(self, x: np.ndarray, total: float) -> None:
        self.x = x  # [2, n]
        self.total = total  # log N + log D of the budget

    def __call__(self, theta: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        log_e, log_k, best, s, g = theta.T[..., None]
        size, data = self.x[0] - best, self.x[1] - (self.total - best)
        a, b = s * (1 - g), s * g
        by_size, by_data = log_k - np.log(a) - a * size, log_k - np.log(b) - b * data
        total = np.logaddexp(np.logaddexp(by_size, by_data), log_e)
        of_size, of_data = np.exp(by_size - total), np.exp(by_data - total)
        columns_of = (
            np.exp(log_e - total),
            of_size + of_data,
            a * of_size - b * of_data,
            -(1 / s + (1 - g) * size) * of_size - (1 / s + g * data) * of_data,
            (1 / (1 - g) + s * size) * of_size - (1 / g + s * data) * of_data,
        )
        return total, np.stack(columns_of, 2)


def _estimate(joint: Estimate, x: np.ndarray, total: float) -> Estimate:
    """The same minimum in the parameters of `_IsoLaw`, for a budget of this log N + log D."""
    log_e, log_a, log_b, a, b = joint.theta
    best = (np.log(a / b) + log_a - log_b + b * total) / (a + b)
    start = np.array([log_e, np.log(a) + log_a - a * best, best, a + b, b / (a + b)])
    assert joint.limits is not None
    low = [joint.limits[0, 0], joint.limits[0, 1] - 10.0, -60.0, 2e-3, 1e-3]
    high = [joint.limits[1, 0], joint.limits[1, 1] + 10.0, 60.0, 10.0, 1 - 1e-3]
    limits = np.array([low, high])
    law = _IsoLaw(x, total)
    theta, _ = fit(law, np.clip(start, *limits)[None], joint.values, joint.delta, limits, tolerance=1e-15)
    return Estimate(law, theta[0], joint.values, joint.delta, limits, joint.level)


def _vertex(log_sizes: np.ndarray, log_losses: np.ndarray) -> Optional[float]:
    """Lowest point of the parabola of least squares; None where there is none."""
    if len(np.unique(log_sizes)) < 3:
        return None
    middle = log_sizes.mean()
    curvature, gradient, _ = np.polyfit(log_sizes - middle, log_losses, 2)
    return float(middle - gradient / (2 * curvature)) if curvature > 0 else None
