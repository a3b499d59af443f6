"""Judgment of a search whose candidates were all trained to the end: its estimator beside others, and intervals."""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.scaling.estimators import ESTIMATORS, Seen, estimates_of
from ipu_chem.scaling.replay import Uncertain, uncertain
from ipu_chem.scaling.search import Searched, SearchOptions, evaluate
from ipu_chem.scaling.selection import survivors
from ipu_chem.scaling.tpe import assess, calibrate, covered

LEVEL = 0.9  # of intervals


class Compared(NamedTuple):
    """Ranking of candidates of known final value by an estimator at the first early evaluation; see `Assessment`.

    ``coverage`` is the fraction of their final values in the intervals of 90 % that the line makes of those of the
    estimates, fitted without the candidate in question; see `ipu_chem.scaling.tpe.covered`.
    """

    estimator: str
    r2: float
    spearman: float
    kendall: float
    regret: float
    coverage: float


def compare(found: Searched, options: SearchOptions, metric: str, finals: Dict[str, Optional[float]]) -> List[Compared]:
    """Every estimator at the first early evaluation; those that the runs do not allow are left out."""
    compared = []
    seen = _seen(found, found.evaluations[0].budget)
    places = dict(enumerate(found.candidates))
    for name in ESTIMATORS:
        try:
            estimates = estimates_of(seen, name, options.fraction, metric, draws=0)
            early = evaluate(places, dict(enumerate(estimates)), seen[0].budget)
            means, spreads = list(early.estimates.values()), list(early.spreads.values())
            ends = [finals[one] for one in early.estimates]
            line = calibrate(means, ends, is_power=options.calibration == "power")
            ranking = assess(means, ends, [int(one) for one in survivors(means, options.keep)])
            inside = covered(means, spreads, ends, LEVEL, options.calibration == "power")
        except ValueError:  # no epoch is over, there was no evaluation, or what it would keep was not trained
            continue
        compared.append(Compared(name, line.r2, ranking.spearman, ranking.kendall, ranking.regret, inside))
    return compared


def uncertainty(found: Searched, options: SearchOptions, finals: Sequence[Optional[float]]) -> Optional[Uncertain]:
    """Intervals of regret and saving; None where candidates have no final value or no estimate at a later rung."""
    if any(final is None for final in finals):
        return None
    rungs = options.rungs(len(finals))
    values, spreads = [], []
    places = dict(enumerate(found.candidates))
    for rung in rungs[:-1]:
        try:
            seen = _seen(found, rung.budget)
            estimates = estimates_of(seen, options.estimator, options.fraction, options.metric)
        except ValueError:
            return None
        early = evaluate(places, dict(enumerate(estimates)), rung.budget)
        values.append(list(early.estimates.values()))
        spreads.append(list(early.spreads.values()))
    ends = np.array([math.inf if final is None else final for final in finals])
    confidence = options.confidence if options.halving else 0.0
    totals = dict.fromkeys(early.estimates, 0)
    for one, p in zip(found.candidates, found.reached):
        totals[one.name] += p.total
    return uncertain(rungs, np.array(values), np.array(spreads), ends, confidence, np.array(list(totals.values())))


def _seen(found: Searched, budget: float) -> List[Seen]:
    """All runs as an early evaluation at this budget sees them."""
    return [Seen.of(one, p, budget) for one, p in zip(found.candidates, found.reached)]
