"""Held-out check of a study's laws, and what larger models or more data would bring.

A law is fitted without the largest size, and without the most data, and has to predict them. Only laws whose intervals
hold the loss of the largest size at the most data, where predictions begin, say what lies beyond the runs.
"""

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.extrapolation import JOINT, extrapolation_of, predict
from ipu_chem.scaling.intervals import LEVEL, Interval
from ipu_chem.scaling.points import Point, edge

FACTORS = (2, 4, 10)  # of size, of data, and of both
_NAMES = {"parameters": "N", "tokens": "D"}


class Check(NamedTuple):
    """Prediction of runs that a law was not fitted to.

    Attributes:
        law: in words.
        left_out: parameters or tokens, whose largest value was.
        parameters, tokens: N and D.
        predicted: with the interval.
        measured: geometric mean over seeds.
    """

    law: str
    left_out: str
    parameters: int
    tokens: int
    predicted: Interval
    measured: float

    @property
    def holds(self) -> bool:
        """True where the interval holds the measured loss."""
        return self.predicted.holds(self.measured)


class Gain(NamedTuple):
    """Predicted loss of larger models or more data.

    Attributes:
        law: in words.
        more: of what, by which factor.
        parameters, tokens: N and D.
        loss: predicted, with the interval.
        here: what the law says of the largest size and the most data.
    """

    law: str
    more: str
    parameters: float
    tokens: float
    loss: Interval
    here: float

    @property
    def change(self) -> float:
        """Change of the loss as a fraction of ``here``."""
        return self.loss.value / self.here - 1


def held_out_checks(points: Sequence[Point]) -> Tuple[List[Check], List[str]]:
    """Predict the largest size, and the most data, from all others.

    Args:
        points: that compare, see `check_comparable`.

    Returns:
        (checks, of the laws over size at the most data, over data at the largest size, and of both; sentences on what
        could not be checked, each reason once).
    """
    means = _means(points)
    checks: List[Check] = []
    reasons: List[str] = []
    for over in ("parameters", "tokens"):
        most = max(getattr(point, over) for point in points)
        for word, among in ((over, edge(points, over)), ("", points)):
            kept = [point for point in among if getattr(point, over) != most]
            if not kept:  # one size, or one amount of data
                continue
            try:
                law = extrapolation_of(kept, word)
                for where in sorted({(p.parameters, p.tokens) for p in among if getattr(p, over) == most}):
                    checks.append(Check(str(law), over, *where, predict(law, *where), means[where]))
            except ValueError as error:
                what = f"over {_NAMES[over]}" if word else f"of {JOINT} without the largest {_NAMES[over]}"
                reasons.append(f"held-out check {what}: {error}")
    return checks, reasons


def gains_of(points: Sequence[Point], checks: Sequence[Check]) -> Tuple[List[Gain], List[str]]:
    """Losses of more parameters and more data than there were, by laws that hold in their checks.

    Args:
        points: that compare.
        checks: of `held_out_checks` of them.

    Returns:
        (predictions; sentences on laws that predict nothing).
    """
    size, amount = max(point.parameters for point in points), max(point.tokens for point in points)
    if not checks:
        return [], ["no predictions beyond the runs: no law could be checked on a size that it was not fitted to."]
    found: List[Gain] = []
    reasons: List[str] = []
    for over in ("parameters", "tokens", ""):
        among = edge(points, over) if over else points
        name = f"the law over {_NAMES[over]}" if over else JOINT
        # Errors of one law at several places go together, so that the one that predictions begin at decides.
        there = [one for one in checks if (one.parameters, one.tokens) == (size, amount)]
        own = [one for one in there if (one.law == JOINT if not over else one.law != JOINT and one.left_out == over)]
        wrong = [f"without {_NAMES[one.left_out]}" for one in own if not one.holds]
        unchecked = len(own) < (1 if over else 2)
        if unchecked or wrong:
            why = f"its held-out prediction {' and '.join(wrong)} did not hold" if wrong else "it could not be checked"
            reasons.append(f"no prediction by {name} beyond the runs: {why}.")
            continue
        try:
            law = extrapolation_of(among, over)
            for more, times in _steps(over):
                where = size * times[0], amount * times[1]
                here = predict(law, size, amount).value
                found.append(Gain(str(law), more, *where, predict(law, *where), here))
        except ValueError as error:
            reasons.append(f"no prediction by {name} beyond the runs: {error}")
    return found, reasons


def check_lines(checks: Sequence[Check]) -> List[str]:
    """Table to print; nothing where there are no checks."""
    if not checks:
        return []
    lines = [
        f"held-out check, intervals of {LEVEL:.0%}: the largest size, or the most data, predicted from all others",
        f"  {'N':>14} {'D':>14} {'predicted':>24} {'measured':>9}  holds  without, by",
    ]
    for one in checks:
        lines.append(
            f"  {one.parameters:>14,} {one.tokens:>14,} {_interval(one.predicted):>24} {one.measured:>9.4g}  "
            f"{'yes' if one.holds else 'NO':5}  {_NAMES[one.left_out]}, {one.law}"
        )
    held = sum(one.holds for one in checks)
    return [*lines, f"  {held} of {len(checks)} predictions hold"]


def gain_lines(gains: Sequence[Gain]) -> List[str]:
    """Table to print; nothing where there are no predictions."""
    if not gains:
        return []
    lines = [
        f"EXTRAPOLATED, not measured: losses beyond the runs, intervals of {LEVEL:.0%}",
        f"  {'more':20} {'N':>14} {'D':>14} {'loss':>24} {'change':>7}  by",
    ]
    for one in gains:
        lines.append(
            f"  {one.more:20} {one.parameters:>14,.0f} {one.tokens:>14,.0f} {_interval(one.loss):>24} "
            f"{one.change:>+7.1%}  {one.law}{', may be none' if one.loss.holds(one.here) else ''}"
        )
    return lines


def _steps(over: str) -> List[Tuple[str, Tuple[int, int]]]:
    """Names of what there is more of, and the factors of N and D."""
    if over:
        name = {"parameters": "parameters", "tokens": "data"}[over]
        return [(f"{n} x {name}", (n, 1) if over == "parameters" else (1, n)) for n in FACTORS]
    most = FACTORS[-1]
    return [(f"{most} x parameters", (most, 1)), (f"{most} x data", (1, most)), (f"{most} x both", (most, most))]


def _means(points: Sequence[Point]) -> Dict[Tuple[int, int], float]:
    """Geometric means over seeds by (N, D)."""
    logs: Dict[Tuple[int, int], List[float]] = {}
    for point in points:
        logs.setdefault((point.parameters, point.tokens), []).append(math.log(point.loss))
    return {where: math.exp(float(np.mean(values))) for where, values in logs.items()}


def _interval(one: Interval) -> str:
    low = "(open" if one.open_low else f"[{one.low:.4g}"
    return f"{one.value:.4g} {low}, {'open)' if one.open_high else f'{one.high:.4g}]'}"
