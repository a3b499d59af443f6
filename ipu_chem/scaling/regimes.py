"""Regimes of a study: local exponents between neighbors, breaks along each line of a grid, and sizes that overfit."""

import math
from typing import Dict, List, Mapping, NamedTuple, Sequence, Set, Tuple

import numpy as np

from ipu_chem.scaling.broken_law import BrokenLaw, fit_broken
from ipu_chem.scaling.intervals import LEVEL, spread
from ipu_chem.scaling.joint_law import joint_minimum
from ipu_chem.scaling.points import Point

_NAMES = {"parameters": "N", "tokens": "D"}
_SURE = 2.0  # standard errors above which an exponent is not noise
_SURELY_WORSE = 3.0  # standard errors of a difference by which a larger size counts as worse
_WORSE = 0.02  # of log L, the least for that where there is one seed of each
_FEW = 6  # second differences that their median is believed of
_TOLD = 0.5  # about what a median tells of a scatter, of what squares would
_ROUNDING = 1e-9  # exponent below which one is none
OVERFITTING = (
    f"a size overfits where its loss lies above the lowest of smaller sizes on the same data by more than "
    f"{_SURELY_WORSE:g} standard errors between seeds, or with one seed by {_WORSE:.0%} and {_SURELY_WORSE:g} standard "
    "errors of the scatter of runs, more where few runs tell what that is"
)
_FLAT = 0.05  # exponent up to which more changes little: 11 % for ten times as much


class Regime(NamedTuple):
    """Limit of the loss at one size and amount of data.

    Attributes:
        parameters, tokens: N and D.
        loss: geometric mean over seeds.
        size_exponent, data_exponent: by which log L falls per unit of log N and of log D there.
        limited_by: data or model, whichever more of lowers the loss more; neither if neither does beyond the noise
            between seeds, where there are several.
    """

    parameters: int
    tokens: int
    loss: float
    size_exponent: float
    data_exponent: float
    limited_by: str


class Line(NamedTuple):
    """Runs of one amount of data over sizes, or of one size over amounts of data, and their law.

    Attributes:
        over: parameters or tokens.
        held: the other one.
        law: see `broken_law`.
    """

    over: str
    held: int
    law: BrokenLaw

    def lines(self) -> List[str]:
        """Lines to print."""
        name, other = _NAMES[self.over], "D" if self.over == "parameters" else "N"
        law = self.law
        found = [f"over {name} at {other}={self.held:,}: {law.name} (p of a break {law.chance:.2g})"]
        if law.breaks is not None:
            found[0] += f"; break at {name} = {law.breaks}"
        for one in law.ranges:
            limit = f"{name} limits the loss"
            if not one.limited:  # an interval that also holds a steep fall says nothing of what limits
                limit = f"limited by {other}, not by {name}"
                if one.exponent.open_high or one.exponent.high > _FLAT:
                    limit = f"not known if {name} limits the loss"
            found.append(f"  {name} {one.low:.3g} to {one.high:.3g}: exponent {one.exponent}, {limit}")
        if law.floor is not None:
            end = law.ranges[-1].high
            loss = float(law([end])[0])
            left, most = (1 - floor / loss for floor in (law.floor.value, law.floor.low))
            least = "anything" if law.floor.open_low else f"{most:.1%}"
            found.append(
                f"  floor {law.floor}: at {name} = {end:.3g} {left:.1%} is left to gain by {name}, {least} at most"
            )
        return found


def regimes_of(points: Sequence[Point]) -> List[Regime]:
    """Local exponents between neighbors of a full grid of sizes and amounts, central ones inside it.

    Raises:
        ValueError: fewer than 2 sizes or amounts, or a combination is missing.
    """
    sizes, amounts = sorted({p.parameters for p in points}), sorted({p.tokens for p in points})
    if min(len(sizes), len(amounts)) < 2:
        raise ValueError(f"needs 2 sizes and 2 amounts of data, and there are {len(sizes)} and {len(amounts)}.")
    logs: Dict[Tuple[int, int], List[float]] = {}
    for point in points:
        logs.setdefault((point.parameters, point.tokens), []).append(math.log(point.loss))
    means = np.full((len(sizes), len(amounts)), np.nan)
    for row, size in enumerate(sizes):
        for column, amount in enumerate(amounts):
            if (size, amount) not in logs:
                raise ValueError(f"needs every combination, and N={size:,}, D={amount:,} is missing.")
            means[row, column] = np.mean(logs[size, amount])
    error = _error_of_means(list(logs.values()))
    exponents = np.gradient(-means, np.log(sizes), np.log(amounts))
    # Of a gradient of values that have this error each.
    weights = [[np.gradient(one, np.log(values)) for one in np.eye(len(values))] for values in (sizes, amounts)]
    errors = [error * np.sqrt(np.square(one).sum(0)) for one in weights]
    found = []
    for row, size in enumerate(sizes):
        for column, amount in enumerate(amounts):
            by_size, by_data = (float(one[row, column]) for one in exponents)
            surely = max(_SURE * errors[0][row], _ROUNDING), max(_SURE * errors[1][column], _ROUNDING)
            sure = by_size > surely[0], by_data > surely[1]
            limit = "data" if by_data > by_size else "model"
            if not any(sure):
                limit = "neither"
            found.append(Regime(size, amount, math.exp(means[row, column]), by_size, by_data, limit))
    return found


def overfitted(points: Sequence[Point]) -> List[Point]:
    """Points of sizes that overfit their data, which no law that falls with size describes; see `OVERFITTING`.

    Losses are compared by their geometric means over seeds.
    """
    groups: Dict[Tuple[int, int], List[float]] = {}
    for point in points:
        groups.setdefault((point.tokens, point.parameters), []).append(math.log(point.loss))
    means = {where: float(np.mean(losses)) for where, losses in groups.items()}
    error = _error_of_means(list(groups.values()))
    if error:
        worse = _worse(means, _SURELY_WORSE * math.sqrt(2) * error)
    else:  # what surely overfits adds to the scatter, so that it is measured again without
        worse, more = set(), _worse(means, max(_WORSE, _margin(means)))
        while more - worse:
            worse |= more
            others = {where: mean for where, mean in means.items() if where not in worse}
            more = _worse(means, max(_WORSE, _margin(others)))
    return [point for point in points if (point.tokens, point.parameters) in worse]


def without_overfitted(points: Sequence[Point]) -> Tuple[List[Point], List[str]]:
    """Points that laws are fitted to, and a sentence on those of sizes that overfit; see `overfitted`."""
    worse = overfitted(points)
    if not worse:
        return list(points), []
    pairs = sorted({(point.parameters, point.tokens) for point in worse})
    named = "; ".join(f"N={size:,}, D={amount:,}" for size, amount in pairs)
    return [point for point in points if point not in worse], [f"left out of all laws: {named}: {OVERFITTING}."]


def lines_of(points: Sequence[Point], level: float = LEVEL) -> Tuple[List[Line], List[str]]:
    """Breaks of the exponent, over sizes for each amount of data and over amounts for each size.

    Args:
        points: of a study.
        level: nominal coverage of intervals.

    Returns:
        (lines that allow it, least of what is held first; why others do not, each reason once).
    """
    found: List[Line] = []
    reasons: List[str] = []
    for over, held in (("parameters", "tokens"), ("tokens", "parameters")):
        for value in sorted({getattr(point, held) for point in points}):
            try:
                law = fit_broken([point for point in points if getattr(point, held) == value], over, level)
                found.append(Line(over, value, law))
            except ValueError as error:
                reason = f"breaks over {_NAMES[over]}: {error}"
                if reason not in reasons:
                    reasons.append(reason)
    return found, reasons


def _error_of_means(groups: Sequence[Sequence[float]]) -> float:
    """Standard error of a mean over seeds, the noise taken as alike everywhere; 0 where there is one seed of each."""
    degrees = sum(len(group) - 1 for group in groups)
    if not degrees:
        return 0.0
    squares = sum(float(np.square(np.array(group) - np.mean(group)).sum()) for group in groups)
    return math.sqrt(squares / degrees / min(len(group) for group in groups))


def _worse(means: Mapping[Tuple[int, int], float], margin: float) -> Set[Tuple[int, int]]:
    """Those (D, N) whose logarithm lies above the lowest of smaller N at their D by more than a margin."""
    found = set()
    lowest: Dict[int, float] = {}
    for (tokens, size), mean in sorted(means.items()):
        if mean > lowest.get(tokens, math.inf) + margin:
            found.add((tokens, size))
        lowest[tokens] = min(mean, lowest.get(tokens, math.inf))
    return found


def _margin(means: Mapping[Tuple[int, int], float]) -> float:
    """Difference of two runs that their scatter does not explain, by logarithms of (D, N); 0 of too few.

    The scatter is that around L(N, D) or between neighbors, without outliers, whichever allows less: what a law or a
    line misses adds to both. It counts as often as in `_SURELY_WORSE`, by Student's distribution.
    """
    from scipy.special import ndtr, stdtrit

    found: List[Tuple[float, int]] = []
    amounts, sizes = np.array(list(means), np.float64).T
    values = np.array(list(means.values()))
    try:
        estimate, _ = joint_minimum(sizes, amounts, np.exp(values))
        residuals = values - estimate.law(estimate.theta[None])[0][0]
        left = len(values) - len(estimate.theta)
        found.append((spread(residuals) * math.sqrt(len(values) / left), left))
    except ValueError:
        pass
    between = [one for held, along in ((amounts, sizes), (sizes, amounts)) for one in _bends(held, along, values)]
    if len(between) >= _FEW:
        found.append((spread(np.array(between)), len(between)))
    sure = float(ndtr(_SURELY_WORSE))
    margins = [math.sqrt(2) * error * float(stdtrit(max(1.0, _TOLD * count), sure)) for error, count in found]
    return min(margins, default=0.0)


def _bends(held: np.ndarray, along: np.ndarray, values: np.ndarray) -> List[float]:
    """Second differences on lines of one value of what is held, less their median, as large as the noise."""
    found: List[float] = []
    for one in np.unique(held):
        order = np.argsort(along[held == one])
        x, y = np.log(along[held == one][order]), values[held == one][order]
        weight = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
        bend = weight * y[:-2] + (1 - weight) * y[2:] - y[1:-1]
        found += (bend / np.sqrt(1 + np.square(weight) + np.square(1 - weight))).tolist()
    return (np.array(found) - np.median(found)).tolist() if found else []
