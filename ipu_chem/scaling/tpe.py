"""Training performance estimation (TPE; not Optuna's Parzen estimator): final losses predicted from early ones.

Candidates train for a fraction of their steps; an estimator of `ipu_chem.scaling.tse` ranks them; the best few go on; a
line through those that finished, final = a + b * estimate, says what the others would have reached (Frey et al.,
"Neural scaling of deep chemical models", Nature Machine Intelligence 5, 1297 (2023)). Lower is better everywhere, and
what diverged ranks last.
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.power_law import r_squared
from ipu_chem.scaling.selection import intervals, worst_if_not_finite
from ipu_chem.scaling.tse import Values


@dataclass(frozen=True)
class Trial:
    """One run of a candidate.

    Attributes:
        name: of the candidate; its runs differ in their seed.
        seed: of the run.
        estimate: from its first steps; not finite if it diverged.
        final: loss at the end; None if the run was not continued, not finite if it diverged.
    """

    name: str
    seed: int
    estimate: float
    final: Optional[float] = None


@dataclass(frozen=True)
class Calibration:
    """final = intercept + coefficient * estimate, or the same of their logarithms.

    Attributes:
        intercept, coefficient: of the line.
        r2: fraction of the variance of the final losses, not of their logarithms, that it explains.
        rmse: root mean square of its errors.
        points: that it was fitted to.
        diverged: left out because an estimate or a final loss was not finite.
        is_power: of logarithms, so that the final loss is a power of the estimate.
    """

    intercept: float
    coefficient: float
    r2: float
    rmse: float
    points: int
    diverged: int
    is_power: bool = False

    def __call__(self, estimates: Values) -> np.ndarray:
        """[K] expected final losses; inf for what diverged."""
        values = worst_if_not_finite(estimates)
        finite = np.isfinite(values)
        values = np.where(finite, values, 1.0)
        line = self.intercept + self.coefficient * (np.log(values) if self.is_power else values)
        return np.where(finite, np.exp(line) if self.is_power else line, math.inf)

    def __str__(self) -> str:
        if self.is_power:
            return f"final = {math.exp(self.intercept):.4g} * estimate^{self.coefficient:.4g}"
        return f"final = {self.intercept:.4g} + {self.coefficient:.4g} * estimate"


@dataclass(frozen=True)
class Assessment:
    """Ranking by estimates of candidates whose final losses are known.

    Attributes:
        spearman, kendall: rank correlations, diverged ones ranked last; NaN where all are alike.
        regret: final loss of the best of those kept, above that of the best of all; inf if all of them diverged.
        kept: how many went on, or would have.
        candidates: of known final loss.
        diverged: of them.
    """

    spearman: float
    kendall: float
    regret: float
    kept: int
    candidates: int
    diverged: int


def calibrate(
    estimates: Values, finals: Sequence[Optional[float]], robust: bool = False, is_power: bool = False
) -> Calibration:
    """The line through finished candidates.

    Args:
        estimates: [K] of them.
        finals: [K] their final losses; None for those that were not trained to the end, which are left out.
        robust: median of the gradients between all pairs (Theil and Sen) instead of least squares: for runs of which
            some went astray after the estimate.

    Raises:
        ValueError: fewer than 3 that did not diverge, or their estimates are all the same.
    """
    x, y = _pairs(estimates, finals)
    finite = np.isfinite(x) & np.isfinite(y)
    diverged = int((~finite).sum())
    if finite.sum() < 3:
        left = f", since {diverged} of {len(x)} diverged" if diverged else ""
        raise ValueError(
            f"a calibration needs 3 finished candidates and there are {int(finite.sum())}{left}: train more to the "
            "end, best those with the lowest, a middle and a high estimate."
        )
    x, y = x[finite], y[finite]
    if np.ptp(x) == 0:
        raise ValueError("all finished candidates have the same estimate, which predicts nothing: train others.")
    true = y
    if is_power:
        if min(x.min(), y.min()) <= 0:
            raise ValueError("a power needs estimates and final values above 0: calibrate by a line.")
        x, y = np.log(x), np.log(y)
    if robust:
        from scipy.stats import theilslopes

        line = np.array(theilslopes(y, x, method="joint"), np.float64)
        coefficient, intercept = float(line[0]), float(line[1])
    else:
        center = x - x.mean()
        coefficient = float(center @ y / (center @ center))
        intercept = float(y.mean() - coefficient * x.mean())
    line = intercept + coefficient * x
    fitted = np.exp(line) if is_power else line
    r2, rmse = r_squared(true, fitted), float(np.sqrt(np.square(true - fitted).mean()))
    return Calibration(intercept, coefficient, r2, rmse, len(x), diverged, is_power)


def covered(
    estimates: Values, spreads: Values, finals: Sequence[Optional[float]], level: float = 0.9, is_power: bool = False
) -> float:
    """Fraction of the final values that lie in the intervals which the line makes of those of the estimates.

    Every candidate is judged by the line through the others, so that no final value predicts itself.

    Args:
        estimates, spreads: [K] of the candidates, and standard deviations.
        finals: [K] their final losses; None for those that were not trained to the end, which are left out.
        level: of the intervals.
        is_power: see `calibrate`.

    Returns:
        NaN where no candidate has an interval, or fewer than 4 did not diverge.

    Raises:
        ValueError: all estimates are the same.
    """
    lows, highs = intervals(estimates, spreads, level)
    ends = [
        (x, low, high, y)
        for x, low, high, y in zip(estimates, lows, highs, finals)
        if y is not None and math.isfinite(y) and math.isfinite(x)
    ]
    inside: List[bool] = []
    if len(ends) < 4:
        return math.nan
    for place, (_, low, high, final) in enumerate(ends):
        others = [one for other, one in enumerate(ends) if other != place]
        line = calibrate([one[0] for one in others], [one[3] for one in others], is_power=is_power)
        if math.isfinite(low) and math.isfinite(high):
            bounds = np.sort(line([low, high]))
            inside.append(bool(bounds[0] <= final <= bounds[1]))
    return float(np.mean(inside)) if inside else math.nan


def assess(estimates: Values, finals: Sequence[Optional[float]], kept: Sequence[int]) -> Assessment:
    """Compare the ranking by estimates with that by final losses, of all candidates whose final loss is not None.

    Args:
        estimates: [K] of them.
        finals: [K] their final losses.
        kept: indices of those that the search chose, by these estimates or by later ones.

    Raises:
        ValueError: fewer than 3 candidates, all diverged, or one was kept and has no final loss.
    """
    from scipy.stats import kendalltau, spearmanr

    x, y = _pairs(estimates, finals)
    if len(x) < 3:
        raise ValueError(f"a ranking is assessed with 3 candidates or more, and {len(x)} finished: train more.")
    if not np.isfinite(y).any():
        raise ValueError(f"all {len(y)} candidates diverged: search lower learning rates.")
    reached = []
    for index in kept:
        final = finals[index]
        if final is None:
            raise ValueError(f"candidate {index} was kept and has no final loss: train it to the end.")
        reached.append(final)
    alike = len(set(x)) == 1 or len(set(y)) == 1
    # Ranks do not care how far behind the last ones are.
    x_ranks, y_ranks = (np.where(np.isfinite(v), v, np.finfo(np.float64).max) for v in (x, y))
    spearman: Any = (math.nan,) if alike else spearmanr(x_ranks, y_ranks)
    kendall: Any = (math.nan,) if alike else kendalltau(x_ranks, y_ranks)
    return Assessment(
        spearman=float(spearman[0]),
        kendall=float(kendall[0]),
        regret=float(worst_if_not_finite(reached).min(initial=math.inf) - y.min()),
        kept=len(kept),
        candidates=len(x),
        diverged=int((~(np.isfinite(x) & np.isfinite(y))).sum()),
    )


def over_seeds(trials: Sequence[Trial]) -> Tuple[List[str], List[float], List[Optional[float]]]:
    """Candidates as means over their seeds; one diverged seed makes a candidate diverge.

    Returns:
        (names in order of first appearance, estimates [K], finals [K], None for those not trained to the end).

    Raises:
        ValueError: no trials, a run that is there twice, or a candidate that lacks a seed of others, at the budget or
            at the end.
    """
    if not trials:
        raise ValueError("there are no candidates to compare.")
    by_name: Dict[str, Dict[int, Trial]] = {}
    for trial in trials:
        if trial.seed in by_name.setdefault(trial.name, {}):
            raise ValueError(f"candidate {trial.name}, seed {trial.seed} is there twice: keep one of them.")
        by_name[trial.name][trial.seed] = trial
    seeds = {trial.seed for trial in trials}
    estimates: List[float] = []
    finals: List[Optional[float]] = []
    for name, runs in by_name.items():
        missing = seeds - set(runs)
        if missing:
            raise ValueError(f"candidate {name} lacks seed {min(missing)}, which others have: train it as well.")
        finished = [run.final for run in runs.values() if run.final is not None]
        if finished and len(finished) < len(runs):
            unfinished = min(seed for seed, run in runs.items() if run.final is None)
            raise ValueError(f"candidate {name} finished without its seed {unfinished}: train that to the end as well.")
        estimates.append(float(np.mean(worst_if_not_finite([run.estimate for run in runs.values()]))))
        finals.append(float(np.mean(worst_if_not_finite(finished))) if finished else None)
    return list(by_name), estimates, finals


def _pairs(estimates: Values, finals: Sequence[Optional[float]]) -> Tuple[np.ndarray, np.ndarray]:
    """Estimates and final losses [F] of what was trained to the end."""
    if len(estimates) != len(finals):
        raise ValueError(f"every candidate needs an estimate and a final loss: not {len(estimates)} and {len(finals)}.")
    pairs = [(estimate, final) for estimate, final in zip(estimates, finals) if final is not None]
    x, y = np.array(pairs, np.float64).reshape(-1, 2).T
    return worst_if_not_finite(x), worst_if_not_finite(y)
