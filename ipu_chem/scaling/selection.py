"""Which candidates of a search go on after an early look, and what that costs and saves.

On data's way: estimates of candidates -> indices of those that train on -> Cost.
"""

import math
from typing import List, NamedTuple, Sequence

import numpy as np

from ipu_chem.scaling.tse import Values

LEAST_KEPT = 2  # one alone would stake the search on the estimate, which early on may prefer what diverges later


class Cost(NamedTuple):
    """What a search took, in steps or seconds, and what training all candidates to the end would have."""

    spent: float
    full: float

    @property
    def saving(self) -> float:
        """Share of the full cost that was not spent."""
        return 1 - self.spent / self.full


class Rung(NamedTuple):
    """Candidates that train up to these steps."""

    steps: int
    candidates: int


def worst_if_not_finite(values: Values) -> np.ndarray:
    """[K] float64 with inf for everything that is not finite."""
    array = np.asarray(values, np.float64)
    return np.where(np.isfinite(array), array, math.inf)


def survivors(estimates: Values, keep: int) -> np.ndarray:
    """Which candidates go on: the ``keep`` of lowest estimate, fewer if others diverged.

    Returns:
        [at most keep] integer, best first; of equal ones the earlier.

    Raises:
        ValueError: ``keep`` below 2, or all diverged.
    """
    if keep < LEAST_KEPT:
        raise ValueError(
            f"keep={keep}: keep {LEAST_KEPT} candidates or more, because the first at an early look is not always the "
            "first at the end."
        )
    values = worst_if_not_finite(estimates)
    finite = int(np.isfinite(values).sum())
    if finite == 0:
        raise ValueError(f"all {len(values)} candidates diverged: search lower learning rates.")
    return np.argsort(values, kind="stable")[: min(keep, finite)]


def halving_rungs(candidates: int, total_steps: int, eta: int = 3, keep: int = 3, first_steps: int = 0) -> List[Rung]:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): after each rung the best one in ``eta`` goes on.

    Args:
        candidates: at the start.
        total_steps: of a full run.
        eta: steps grow and candidates fall by this from rung to rung.
        keep: candidates that reach the end at least.
        first_steps: of the first rung; 0 takes what lets the candidates fall to ``keep`` at the last rung.

    Returns:
        Rungs of rising steps, the last one of ``total_steps``.

    Raises:
        ValueError: fewer candidates than are kept, ``keep`` below 2, or steps that cannot be divided so.
    """
    if keep < LEAST_KEPT or candidates < keep:
        raise ValueError(
            f"keep={keep} of {candidates} candidates: keep {LEAST_KEPT} or more, and no more than there are."
        )
    if eta < 2 or not 0 <= first_steps <= total_steps or total_steps < 1:
        raise ValueError(
            f"eta={eta}, first_steps={first_steps}, total_steps={total_steps}: give eta of 2 or more, and a first rung "
            "within the run."
        )
    if first_steps == 0:
        halvings, left = 0, candidates
        while left > keep:
            halvings, left = halvings + 1, max(keep, math.ceil(left / eta))
        first_steps = max(1, total_steps // eta**halvings)
    rungs = [Rung(first_steps, candidates)]
    while rungs[-1].steps < total_steps:
        steps = min(rungs[-1].steps * eta, total_steps)
        rungs.append(Rung(steps, max(keep, math.ceil(rungs[-1].candidates / eta))))
    return rungs


def cost_of_rungs(rungs: Sequence[Rung]) -> Cost:
    """Steps of a schedule in which nothing diverges, and those of all candidates trained to the end."""
    spent, before = 0, 0
    for rung in rungs:
        spent, before = spent + (rung.steps - before) * rung.candidates, rung.steps
    return Cost(spent, rungs[0].candidates * rungs[-1].steps)


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
