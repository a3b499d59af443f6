"""Multi-power law of training losses, fitted to the early parts of all runs of a search together.

L(t) = L0 + A S(t)^-alpha - B sum_k (eta_(k-1) - eta_k) G(eta_k^-gamma S_k(t)), G(x) = 1 - (C x + 1)^-beta, where S is
the sum of the learning rates and S_k that since step k (Luo et al., "A multi-power law for loss curve prediction across
learning rate schedules", ICLR 2025, arXiv 2503.12811). The last term is the noise that falling rates take away.

Early on, one run says little of its floor and of its noise. All runs of a search say it together, since their learning
rates differ: L0, A and B of a run are those of all runs and a deviation, both normally distributed, and what the law
misses is a random walk in the logarithm of the step, so that an interval widens with what is still to come. Given alpha
and the widths of these distributions everything is linear; they are averaged over a grid, weighted by the likelihood.
"""

import itertools
from dataclasses import replace
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.curves import Points, RunCurve, points_of

_BETA, _GAMMA, _C = 0.6, 0.64, 2.0  # of the paper, alike for its three models
_ALPHAS = (0.2, 0.35, 0.5, 0.75, 1.1)
_NOISES = (0.5, 1.0)  # exponent of the peak learning rate in the noise; 1 in the paper
_DEVIATIONS = (0.1, 0.3)  # standard deviations between runs, as fractions of the parameters' scale
_WALKS = (0.01, 0.04, 0.12, 0.36)  # of the random walk per unit of log(step), as fractions of the loss
_PRIOR = np.array([0.5, 0.4, 0.3])  # L0, A, B as fractions of the median loss, each with a wide standard deviation
_WIDE = np.array([0.5, 0.8, 0.6])
_KNOTS = 128


class Forecast(NamedTuple):
    """Final training losses [K] of runs.

    Attributes:
        values: expected.
        errors: standard deviations.
        own: standard deviations without what is common to all runs, for comparing them.
    """

    values: np.ndarray
    errors: np.ndarray
    own: np.ndarray


class _Run(NamedTuple):
    points: Points
    steps: np.ndarray  # [P + 1] centers, then that of the final loss
    sums: np.ndarray  # [P + 1] of the learning rates up to each point and to the end
    excess: np.ndarray  # [P + 1] noise that is left, 1 before the rates fall
    peak: float
    scale: float  # of the loss, relative to the median, at least 1


class _Fitted(NamedTuple):
    evidence: float
    values: np.ndarray
    common: np.ndarray  # variances
    own: np.ndarray


def forecast(curves: Sequence[RunCurve], fraction: float = 0.1) -> Forecast:
    """Final losses of runs from their early parts; runs that were read to the end teach the others.

    What the law predicts of the present from the first half of the steps so far shows how far to believe it: intervals
    are widened until they hold as much of that as they should.

    Args:
        curves: of all candidates, each as far as it may be read; their losses finite.
        fraction: last part of the steps whose mean loss is the final one.
    """
    found = _forecast(curves, [len(curve.rates) for curve in curves], fraction)
    early = [replace(curve, losses=curve.losses[: max(1, len(curve.losses) // 2)]) for curve in curves]
    before = _forecast(early, [len(curve.losses) for curve in curves], fraction)
    now = np.array([curve.losses[-max(1, round(fraction * len(curve.losses))) :].mean() for curve in curves])
    misses = (now - before.values) / before.values
    apart = misses - misses.mean() if len(curves) > 1 else misses
    wider, wider_own = (
        max(1.0, float(np.sqrt(np.mean(np.square(miss * before.values / error)))))
        for miss, error in ((misses, before.errors), (apart, before.own))
    )
    return Forecast(found.values, found.errors * wider, found.own * wider_own)


def _forecast(curves: Sequence[RunCurve], ends: Sequence[int], fraction: float) -> Forecast:
    """Losses after so many steps of each run."""
    points = [points_of(curve) for curve in curves]
    unit = float(np.median([one.means[-1] for one in points])) or 1.0
    runs = [_run(curve, one, end * (1 - fraction / 2), unit) for curve, one, end in zip(curves, points, ends)]
    fits = [_fit(runs, *cell) for cell in itertools.product(_ALPHAS, _NOISES, _DEVIATIONS, _WALKS)]
    weights = np.exp(np.array([one.evidence for one in fits]) - max(one.evidence for one in fits))
    weights /= weights.sum()
    values = np.stack([one.values for one in fits])
    mean = weights @ values
    between = weights @ np.square(values - mean)
    relative = values - values.mean(1, keepdims=True)
    apart = weights @ np.square(relative - weights @ relative)
    own = weights @ np.stack([one.own for one in fits])
    common = weights @ np.stack([one.common for one in fits])
    least = 1e-3 * unit  # where a law that is obeyed exactly leaves no error
    values = unit * np.maximum(mean, least / unit)
    errors = unit * np.sqrt(own + common + between) + least
    return Forecast(values, errors, unit * np.sqrt(own + apart) + least)


def noise_left(rates: np.ndarray, warmup: int, steps: np.ndarray) -> np.ndarray:
    """Part of the noise of the peak learning rate that is left at these steps: 1 - sum_k ... / eta_peak of the law.

    Args:
        rates: [T] of all steps.
        warmup: steps before the peak.
        steps: [P] counted from 1.
    """
    start = min(warmup, len(rates) - 1)
    knots = np.unique(np.round(np.linspace(start, len(rates) - 1, _KNOTS)).astype(int))
    sums = np.concatenate([[0.0], np.cumsum(rates)])
    falls = -np.diff(rates[knots])
    peak = max(float(rates[start:].max()), 1e-30)
    since = np.interp(steps, np.arange(len(sums)), sums)[:, None] - sums[knots[1:]][None]
    scale = np.maximum(rates[knots[1:]], 1e-9 * peak) ** -_GAMMA
    gained = 1 - (_C * scale * np.maximum(since, 0.0) + 1) ** -_BETA
    return 1 - gained @ falls / peak


def _run(curve: RunCurve, points: Points, last: float, unit: float) -> _Run:
    steps = np.concatenate([points.steps, [last]])
    sums = np.interp(steps, np.arange(len(curve.rates) + 1), np.concatenate([[0.0], np.cumsum(curve.rates)]))
    excess = noise_left(curve.rates, curve.warmup, steps)
    scaled = Points(points.steps, points.means / unit, points.errors / unit)
    return _Run(scaled, steps, sums, excess, float(curve.rates.max()), max(1.0, float(scaled.means[-1])))


def _fit(runs: Sequence[_Run], alpha: float, power: float, deviation: float, walk: float) -> _Fitted:
    """All runs with given exponents and widths; losses are in units of their median."""
    middle = np.exp(np.mean([np.log(run.sums[-1]) for run in runs]))
    peak = np.exp(np.mean([np.log(run.peak) for run in runs]))
    precision, vector = np.diag(_WIDE**-2.0), _WIDE**-2.0 * _PRIOR
    evidence = 0.0
    solved: List[Tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    squares = 0.0
    for run in runs:
        noise = (run.peak / peak) ** power * run.excess
        design = np.stack([np.ones_like(noise), (run.sums / middle) ** -alpha, noise], 1)
        # Covariances of the run's deviations and of what the law misses, at its points and at the end.
        spread = design * (deviation * run.scale * _PRIOR)
        times = np.log(run.steps / run.steps[0])
        covariance = spread @ spread.T + (walk * run.scale) ** 2 * np.minimum(times[:, None], times[None])
        between, variance = covariance[:-1, -1], float(covariance[-1, -1])
        noise_variance = np.square(run.points.errors) + 1e-9 * np.trace(covariance[:-1, :-1])  # for rounding
        factor = np.linalg.cholesky(covariance[:-1, :-1] + np.diag(noise_variance))
        white = np.linalg.solve(factor, np.column_stack([design[:-1], run.points.means, between]))
        x, y, link = white[:, :3], white[:, 3], white[:, 4]
        precision = precision + x.T @ x
        vector = vector + x.T @ y
        squares += float(y @ y)
        evidence -= float(np.log(np.diag(factor)).sum())
        solved.append((design[-1] - x.T @ link, link, y, variance - float(link @ link)))
    mean = np.linalg.solve(precision, vector)
    evidence -= 0.5 * (squares + float(_PRIOR**2 @ _WIDE**-2.0) - float(vector @ mean))
    evidence -= 0.5 * float(np.linalg.slogdet(precision)[1])
    shared = np.linalg.inv(precision)
    values = np.array([rest @ mean + link @ y for rest, link, y, _ in solved])
    common = np.array([rest @ shared @ rest for rest, *_ in solved])
    return _Fitted(evidence, values, common, np.array([max(own, 0.0) for *_, own in solved]))
