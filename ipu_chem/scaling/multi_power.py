"""Multi-power law of training losses, fitted to the early parts of all runs of a search together.

L(t) = L0 + A S(t)^-alpha - B sum_k (eta_(k-1) - eta_k) G(eta_k^-gamma S_k(t)), G(x) = 1 - (C x + 1)^-beta, where S is
the sum of the learning rates and S_k that since step k (Luo et al., "A multi-power law for loss curve prediction across
learning rate schedules", ICLR 2025, arXiv 2503.12811). The last term is the noise that falling rates take away.

Early on, one run says little of its floor and of its noise. All runs of a search say it together, since their learning
rates differ: the logarithms of L0, A and B of a run are those of all runs and a deviation, both normally distributed,
and what the law misses is a random walk of the logarithm of the loss in that of the step, so that an interval widens
with what is still to come. The law is made linear around what was found before (Gauss and Newton); exponents and widths
are averaged over a grid, weighted by the likelihood.
"""

import itertools
from dataclasses import replace
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.curves import Points, RunCurve, points_of

_BETA, _GAMMA, _C = 0.6, 0.64, 2.0  # of the paper, alike for its three models
_ALPHAS = (0.2, 0.35, 0.5, 0.75, 1.1)
_NOISES = (0.12, 0.25, 0.5, 1.0)  # exponent of the peak learning rate in the noise; 1 in the paper
_DEVIATIONS = (0.05, 0.15, 0.4)  # standard deviations between runs, of logarithms
_WALKS = (0.01, 0.04, 0.12, 0.36)  # standard deviations per unit of log(step)
_CELLS = np.array(list(itertools.product(_ALPHAS, _NOISES, _DEVIATIONS, _WALKS)))
_PRIOR = np.log([0.4, 0.4, 0.2])  # L0, A and B as fractions of the median loss
_WIDE = np.array([1.0, 1.0, 1.2])  # standard deviations
_KNOTS = 128
_ROUNDS = 5
_UNSURE = 1.0  # of the falls that are predicted beyond those of others
_APART = np.log(1.3)  # of fractions of steps that differ by more than rounding
_LEAST = 1e-3  # error of the logarithm where a law is obeyed exactly


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
    losses: np.ndarray  # [P] logarithms of means
    errors: np.ndarray  # [P] of these
    times: np.ndarray  # [P + 1] logarithms of the steps since the first point, then of the end
    basis: np.ndarray  # [C, P + 1, 3] of L0, A and B in every cell of the grid


class _Conditioned(NamedTuple):
    rest: np.ndarray  # [C, 3] weights of the common parameters in the end
    end: np.ndarray  # [C] the end without them
    variance: np.ndarray  # [C] of it


def forecast(curves: Sequence[RunCurve], fraction: float = 0.1) -> Forecast:
    """Final losses of runs from their early parts; runs that were read to the end teach the others.

    What the law predicts of the present from the first half of the steps so far shows how far to believe it: intervals
    are widened until they hold as much of that as they should. That says nothing of noise which rates have not yet
    begun to take away: a run that is predicted to fall more than others may as well fall like them.

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
    falls = np.log(now / found.values)
    unsure = np.zeros(len(curves))
    for own in _equally_far(curves):  # who has come less far has more left to fall
        unsure[own] = _UNSURE * found.values[own] * np.abs(falls[own] - falls[own].mean())
    return Forecast(found.values, np.hypot(found.errors * wider, unsure), np.hypot(found.own * wider_own, unsure))


def _equally_far(curves: Sequence[RunCurve]) -> List[np.ndarray]:
    """Places of the runs of each budget, but for whole runs; budgets are more than the rounding of steps apart."""
    going = np.array([place for place, curve in enumerate(curves) if not curve.is_whole], int)
    seen = np.array([curves[place].seen for place in going])
    order = np.argsort(seen, kind="stable")
    return np.split(going[order], 1 + np.nonzero(np.diff(np.log(seen[order])) > _APART)[0])


def _forecast(curves: Sequence[RunCurve], ends: Sequence[int], fraction: float) -> Forecast:
    """Losses after so many steps of each run."""
    points = [points_of(curve) for curve in curves]
    unit = float(np.median([one.means[-1] for one in points])) or 1.0
    runs = _runs(curves, points, [end * (1 - fraction / 2) for end in ends], unit)
    evidence, values, common, own = _fit(runs)
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    mean = weights @ values
    between = weights @ np.square(values - mean)
    relative = values - values.mean(1, keepdims=True)
    apart = weights @ np.square(relative - weights @ relative)
    final = unit * np.exp(mean)
    errors = np.sqrt(weights @ (own + common) + between) + _LEAST
    return Forecast(final, final * errors, final * (np.sqrt(weights @ own + apart) + _LEAST))


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


def _runs(curves: Sequence[RunCurve], points: Sequence[Points], ends: Sequence[float], unit: float) -> List[_Run]:
    alphas, powers = _CELLS[:, 0, None], _CELLS[:, 1, None]
    sums, steps = [], []
    for curve, one, end in zip(curves, points, ends):
        steps.append(np.concatenate([one.steps, [max(end, one.steps[-1])]]))
        so_far = np.concatenate([[0.0], np.cumsum(curve.rates)])
        sums.append(np.maximum(np.interp(steps[-1], np.arange(len(so_far)), so_far), 1e-30))
    peaks = [max(float(curve.rates.max()), 1e-30) for curve in curves]
    middle = float(np.exp(np.mean([np.log(one[-1]) for one in sums])))
    peak = float(np.exp(np.mean(np.log(peaks))))
    runs = []
    for curve, one, at, total, own in zip(curves, points, steps, sums, peaks):
        left = np.maximum(noise_left(curve.rates, curve.warmup, at), 1e-6)
        noise = (own / peak) ** powers * left
        basis = np.stack([np.ones_like(noise), (total / middle) ** -alphas, noise], 2)
        means = np.maximum(one.means, 1e-12 * unit)
        runs.append(_Run(np.log(means / unit), one.errors / means, np.log(at / at[0]), basis))
    return runs


def _fit(runs: Sequence[_Run]) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All runs in all cells: (evidence [C], logarithms of the ends [C, K], variances in common and own [C, K])."""
    deviations, walks = _CELLS[:, 2] ** 2, _CELLS[:, 3] ** 2
    own = [np.tile(_PRIOR, (len(_CELLS), 1)) for _ in runs]
    for _ in range(_ROUNDS):
        precision = np.tile(np.diag(_WIDE**-2.0), (len(_CELLS), 1, 1))
        vector = np.tile(_WIDE**-2.0 * _PRIOR, (len(_CELLS), 1))
        evidence = np.full(len(_CELLS), -0.5 * float(_PRIOR**2 @ _WIDE**-2.0))
        whitened, ends = [], []
        for run, theta in zip(runs, own):
            parts = run.basis * np.exp(theta)[:, None]
            total = parts.sum(2)
            slants = parts / total[..., None]  # derivatives of the logarithm of the loss
            offsets = np.log(total) - np.einsum("cpk,ck->cp", slants, theta)
            covariance = walks[:, None, None] * np.minimum(run.times[:, None], run.times[None])
            covariance = covariance + deviations[:, None, None] * slants @ slants.transpose(0, 2, 1)
            count = len(run.losses)
            inner = covariance[:, :count, :count] + np.diag(np.square(run.errors) + 1e-8)
            factor = np.linalg.cholesky(inner)
            right = np.concatenate(
                [slants[:, :count], (run.losses - offsets[:, :count])[..., None], covariance[:, :count, count:]], 2
            )
            white = np.linalg.solve(factor, right)
            x, y, link = white[..., :3], white[..., 3], white[..., 4]
            precision += x.transpose(0, 2, 1) @ x
            vector += np.einsum("cpk,cp->ck", x, y)
            evidence -= 0.5 * np.square(y).sum(1) + np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
            whitened.append((x, y))
            rest = slants[:, count] - np.einsum("cpk,cp->ck", x, link)
            end = offsets[:, count] + np.einsum("cp,cp->c", link, y)
            ends.append(_Conditioned(rest, end, np.maximum(covariance[:, count, count] - np.square(link).sum(1), 0.0)))
        shared = np.linalg.inv(precision)
        mean = np.einsum("ckl,cl->ck", shared, vector)
        evidence += 0.5 * np.einsum("ck,ck->c", vector, mean) - 0.5 * np.linalg.slogdet(precision)[1]
        for place, (x, y) in enumerate(whitened):
            missed = y - np.einsum("cpk,ck->cp", x, mean)
            found = mean + deviations[:, None] * np.einsum("cpk,cp->ck", x, missed)
            own[place] = np.clip(found, own[place] - 1.0, own[place] + 1.0).clip(-8.0, 4.0)
    values = np.stack([one.end + np.einsum("ck,ck->c", one.rest, mean) for one in ends], 1)
    common = np.stack([np.einsum("ck,ckl,cl->c", one.rest, shared, one.rest) for one in ends], 1)
    return evidence, values.clip(-30.0, 30.0), common, np.stack([one.variance for one in ends], 1)
