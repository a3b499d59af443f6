"""Searches replayed with the runs that are there: what other candidates, or other options, would have chosen."""

from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.selection import LEAST_KEPT, Rung, choose

DRAWS = 400
_LEVEL = 0.9


class Replayed(NamedTuple):
    """Outcome of a search.

    Attributes:
        regret: final value of the best of those kept above that of the best of all; inf if all of those diverged.
        saving: fraction of the steps of all runs that was not taken.
        kept: indices of those that train to the end.
    """

    regret: float
    saving: float
    kept: Tuple[int, ...]


class Uncertain(NamedTuple):
    """Intervals of 90 % of a search's regret and saving, over other candidates of the same kind."""

    regret: Tuple[float, float]
    saving: Tuple[float, float]


def replay(
    rungs: Sequence[Rung],
    values: np.ndarray,
    spreads: np.ndarray,
    finals: np.ndarray,
    confidence: float,
    steps: Optional[np.ndarray] = None,
) -> Replayed:
    """Choose with estimates that are known of all candidates at all rungs.

    Args:
        rungs: of the search; the last one is the end.
        values: [R - 1, K] estimates at the rungs before the end, not finite where a run diverged.
        spreads: [R - 1, K] their standard deviations.
        finals: [K] final values; inf for what diverged.
        confidence: see `choose`.
        steps: [K] of whole runs; None where all have as many.

    Raises:
        ValueError: see `choose`; all candidates diverged.
    """
    left = list(range(len(finals)))
    taken = np.zeros(len(finals))
    for number, (rung, following) in enumerate(zip(rungs, rungs[1:])):
        if number and len(left) <= LEAST_KEPT:
            break
        taken[left] = rung.budget
        now = values[number, left]
        if number and not np.isfinite(now).any():
            left = []
            break
        left = [left[index] for index in choose(now, spreads[number, left], following.candidates, confidence).kept]
    taken[left] = 1.0
    reached = finals[left].min(initial=np.inf)
    spent = float(np.average(taken, weights=steps))
    return Replayed(float(reached - finals.min()), 1 - spent, tuple(left))


def uncertain(
    rungs: Sequence[Rung],
    values: np.ndarray,
    spreads: np.ndarray,
    finals: np.ndarray,
    confidence: float,
    steps: Optional[np.ndarray] = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Uncertain:
    """Intervals from a bootstrap over candidates: as many are drawn with replacement, and searched again.

    Args:
        rungs, values, spreads, finals, confidence, steps: see `replay`.
        draws: of the bootstrap; those of which all candidates diverged are left out.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    regrets, savings = [], []
    for _ in range(draws):
        own = rng.integers(0, len(finals), len(finals))
        if not np.isfinite(finals[own]).any() or not np.isfinite(values[0, own]).any():
            continue
        weights = None if steps is None else steps[own]
        one = replay(rungs, values[:, own], spreads[:, own], finals[own], confidence, weights)
        regrets.append(one.regret)
        savings.append(one.saving)
    ends = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]

    def interval(drawn: Sequence[float]) -> Tuple[float, float]:
        if not drawn:
            return float("nan"), float("nan")
        low, high = np.quantile(drawn, ends, method="nearest")
        return float(low), float(high)

    return Uncertain(interval(regrets), interval(savings))
