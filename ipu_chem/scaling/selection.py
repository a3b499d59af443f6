"""Selection of the candidates that go on after an early evaluation or several, and its cost and savings."""

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.tse import Values

LEAST_KEPT = 2  # one alone would stake the search on the estimate, which early on may prefer what diverges later


class Cost(NamedTuple):
    """Cost of a search, in steps or seconds, and that of training all candidates to the end."""

    spent: float
    full: float

    @property
    def saving(self) -> float:
        """Fraction of the full cost that was not spent."""
        return 1 - self.spent / self.full


class Rung(NamedTuple):
    """Candidates that train up to this fraction of the steps of their runs, which need not be equally long."""

    budget: float
    candidates: int


def worst_if_not_finite(values: Values) -> np.ndarray:
    """[K] float64 with inf for everything that is not finite."""
    array = np.asarray(values, np.float64)
    return np.where(np.isfinite(array), array, math.inf)


def survivors(estimates: Values, keep: int) -> np.ndarray:
    """Candidates that go on: the ``keep`` of lowest estimate, fewer if others diverged.

    Returns:
        [at most keep] integer, best first; of equal ones the earlier.

    Raises:
        ValueError: ``keep`` below 2, or all diverged.
    """
    if keep < LEAST_KEPT:
        raise ValueError(
            f"keep={keep}: keep {LEAST_KEPT} candidates or more, because the first at an early evaluation is not "
            "always the first at the end."
        )
    values = worst_if_not_finite(estimates)
    finite = int(np.isfinite(values).sum())
    if finite == 0:
        raise ValueError(f"all {len(values)} candidates diverged: search lower learning rates.")
    return np.argsort(values, kind="stable")[: min(keep, finite)]


class Choice(NamedTuple):
    """Outcome of an early evaluation.

    Attributes:
        kept: indices of those that go on, best first.
        gone: reason why each of the others does not, by index.
    """

    kept: List[int]
    gone: Dict[int, str]


def choose(values: Values, spreads: Values, keep: int, confidence: float) -> Choice:
    """Candidates that go on: the ``keep`` of lowest estimate, without those that cannot win.

    A candidate cannot win where the low end of its interval lies above the high end of that of another.

    Args:
        values: [K] estimates.
        spreads: [K] their standard deviations; NaN where they are not known, so that rank alone decides.
        keep: candidates that go on at most, 2 or more.
        confidence: of the intervals, above 0 and below 1; 0 chooses by rank alone.

    Raises:
        ValueError: see `survivors`.
    """
    kept = [int(index) for index in survivors(values, keep)]
    gone = {}
    for index, value in enumerate(values):
        if not math.isfinite(value):
            gone[index] = "diverged"
        elif index not in kept:
            gone[index] = f"not among the best {keep}"
    if confidence:
        lows, highs = intervals(values, spreads, confidence)
        best = min(kept, key=lambda index: (highs[index], index))
        for index in kept[LEAST_KEPT:]:
            if lows[index] > highs[best]:
                gone[index] = (
                    f"cannot win: {values[index]:.4g} [{lows[index]:.4g}, {highs[index]:.4g}] against "
                    f"{values[best]:.4g} [{lows[best]:.4g}, {highs[best]:.4g}] of another"
                )
    return Choice([index for index in kept if index not in gone], gone)


def intervals(values: Values, spreads: Values, confidence: float) -> Tuple[np.ndarray, np.ndarray]:
    """Ends [K] of intervals, of logarithms where all values are above 0, as losses are."""
    from statistics import NormalDist

    centers, errors = np.asarray(values, np.float64), np.asarray(spreads, np.float64)
    width = NormalDist().inv_cdf((1 + confidence) / 2) * errors
    if (centers > 0).all():
        with np.errstate(over="ignore", invalid="ignore"):
            factor = np.exp(np.where(np.isfinite(centers), width / centers, np.nan))
            return centers / factor, centers * factor
    return centers - width, centers + width


def rungs_of(candidates: int, first: float, keep: int, eta: int = 0, is_race: bool = False) -> List[Rung]:
    """Rungs of a search: one early evaluation, or successive halving.

    Halving multiplies the budget by ``eta`` from rung to rung and keeps the best 1 / ``eta`` of the candidates, rounded
    up (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016), until ``keep`` are left or the run is over. Later rungs at which nobody would be left out are not made,
    but in a race, where all but 2 may still be left out because they cannot win (`choose`).

    Args:
        candidates: at the start.
        first: budget of the first rung, above 0 and below 1.
        keep: candidates that train to the end; all do where there are no more.
        eta: of halving, 2 or more; 0 is one early evaluation, after which ``keep`` go on to the end.
        is_race: evaluate also where ``keep`` are left.

    Returns:
        Rungs of rising budgets, the last one of budget 1.

    Raises:
        ValueError: one of these is out of its range.
    """
    if candidates < 1 or not 0 < first < 1 or keep < LEAST_KEPT:
        raise ValueError(
            f"{candidates} candidates, budget={first:g}, keep={keep}: give 1 or more, a fraction such as 0.2, "
            f"and {LEAST_KEPT} or more."
        )
    if eta != 0 and eta < 2:
        raise ValueError(f"halving={eta}: give 2 or more, such as 3, or 0 for a single early evaluation.")
    keep = min(keep, candidates)
    rungs = [Rung(first, candidates)]
    while eta:
        budget, left = rungs[-1].budget * eta, max(keep, math.ceil(rungs[-1].candidates / eta))
        if budget >= 1 - 1e-9 or (left == keep and not (is_race and keep > LEAST_KEPT)):
            break
        rungs.append(Rung(budget, left))
    return [*rungs, Rung(1.0, keep)]


def cost_of_rungs(rungs: Sequence[Rung]) -> Cost:
    """Cost of rungs if nothing diverges and runs are equally long, in runs, and that of all to the end."""
    later = [rung.candidates for rung in rungs[1:]] + [0]
    # Summed over those that end at a rung: no rounding lifts it above the full cost.
    spent = sum(rung.budget * (rung.candidates - left) for rung, left in zip(rungs, later))
    return Cost(float(spent), float(rungs[0].candidates))


def cost(spent: Sequence[float], full: Sequence[float]) -> Cost:
    """Cost of a search from what every candidate has taken and would take to the end, in steps or seconds.

    Raises:
        ValueError: lengths differ, or a candidate has taken more than its full run.
    """
    if len(spent) != len(full) or not len(full):
        raise ValueError(
            f"cost needs what every candidate took and would take: not {len(spent)} and {len(full)} values."
        )
    for number, (taken, whole) in enumerate(zip(spent, full)):
        if not 0 <= taken <= whole:
            raise ValueError(f"candidate {number} has taken {taken:g} of {whole:g}: give what it took of its full run.")
    return Cost(float(sum(spent)), float(sum(full)))
