"""Predictions of scaling laws beyond the runs that they were fitted to, with intervals, and only as far as that goes.

The interval holds the uncertainty of the law and the scatter of the sizes around it, whether that is noise between
seeds or a law that does not fit: a parametric bootstrap refits the law to losses that scatter as the measured ones do
(Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 6.5), and the new size scatters as well. It is
of Student's t, since the scatter is estimated. The law itself is taken for granted, which `held_out_checks` tests.
"""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.broken_law import BROKEN, BROKEN_FLOOR, SINGLE, SINGLE_FLOOR, broken_law
from ipu_chem.scaling.intervals import LEVEL, Interval
from ipu_chem.scaling.joint_law import joint_law
from ipu_chem.scaling.points import Point, check_comparable, check_over
from ipu_chem.scaling.power_law import power_law

REACH = 10.0  # times the largest size or amount of data, up to which a law predicts; below the least as well
DRAWS = 200  # of the bootstrap, of which a standard deviation is taken
JOINT = "L(N, D)"
_MOST_SIZES = 6  # from which a line is fitted by all laws of `broken_law`
_UNKNOWNS = {SINGLE: 2, SINGLE_FLOOR: 3, BROKEN: 5, BROKEN_FLOOR: 6, JOINT: 5}
_NAMES = {"parameters": "N", "tokens": "D"}


@dataclass(frozen=True)
class Extrapolation:
    """A law that predicts.

    Attributes:
        name: of the law.
        over: what it follows: parameters, tokens, or both.
        held: what is held at which value, where it follows one of them.
        columns: [len(over), n] of the fitted sizes.
        law: fitted, with ``refit``.
        samples: [draws, n] losses of the bootstrap.
        scatter: standard deviation of the logarithm of a mean over seeds around the law.
        degrees: of freedom that the scatter is estimated from.
    """

    name: str
    over: Tuple[str, ...]
    held: Dict[str, float]
    columns: np.ndarray
    law: Any
    samples: np.ndarray
    scatter: float
    degrees: int

    @property
    def ranges(self) -> Dict[str, Tuple[float, float]]:
        """Least and largest value of each in ``over``."""
        return {name: (float(values.min()), float(values.max())) for name, values in zip(self.over, self.columns)}

    def __str__(self) -> str:
        at = "".join(f" at {_NAMES[name]}={value:,.0f}" for name, value in self.held.items())
        return f"{self.name} over {_NAMES[self.over[0]]}{at}" if self.held else self.name


def extrapolation_of(points: Sequence[Point], over: str = "", draws: int = DRAWS, seed: int = 0) -> Extrapolation:
    """Fit a law that can predict.

    Args:
        points: of a study; for a law over one quantity, all of one value of the other.
        over: parameters or tokens, by one power law or two where there are 6 values or more, else by a power law;
            empty is L(N, D), over both.
        draws, seed: of the bootstrap.

    Raises:
        ValueError: see `check_over` and the laws; or there are no more sizes than unknowns, which leaves nothing to
            tell how far the law is off.
    """
    if over not in ("", *_NAMES):
        raise ValueError(f"over={over!r}: choose parameters, tokens, or an empty word for both.")
    check_over(points, over) if over else check_comparable(points)
    axes = (over,) if over else tuple(_NAMES)
    groups: Dict[Tuple[float, ...], List[float]] = {}
    for point in points:
        groups.setdefault(tuple(float(getattr(point, name)) for name in axes), []).append(math.log(point.loss))
    columns = np.array(sorted(groups)).T
    y = np.array([np.mean(groups[where]) for where in sorted(groups)])

    losses = np.exp(y)
    if not over:
        law: Any = joint_law(columns[0], columns[1], losses)
    else:
        law = (broken_law if len(y) >= _MOST_SIZES else power_law)(columns[0], losses)
    name = getattr(law, "name", SINGLE) if over else JOINT
    fitted = np.log(law(*columns))
    degrees = len(y) - _UNKNOWNS[name]
    if degrees < 1:
        raise ValueError(
            f"{len(y)} sizes leave nothing to tell how far a {name} with {_UNKNOWNS[name]} unknowns is off: train more "
            "sizes."
        )
    scatter = math.sqrt(float(np.square(y - fitted).sum()) / degrees)
    samples = np.exp(fitted + np.random.default_rng(seed).normal(0.0, scatter, (draws, len(y))))
    held = {other: float(getattr(points[0], other)) for other in _NAMES if other not in axes}
    return Extrapolation(name, axes, held, columns, law, samples, scatter, degrees)


def predict(law: Extrapolation, parameters: float, tokens: float) -> Interval:
    """Mean loss over seeds of a size and amount of data, with its interval of `LEVEL`.

    Args:
        law: of `extrapolation_of`.
        parameters, tokens: N and D.

    Raises:
        ValueError: the law knows one amount of data, or one size, and another is asked for; or N or D is more than
            `REACH` times beyond the runs.
    """
    from scipy.special import stdtrit

    at = {"parameters": float(parameters), "tokens": float(tokens)}
    for name, value in law.held.items():
        if at[name] != value:
            raise ValueError(
                f"{law} knows nothing of {_NAMES[name]}={at[name]:,.0f}: ask for {_NAMES[name]}={value:,.0f}, or use "
                "the law L(N, D)."
            )
    for name, (low, high) in law.ranges.items():
        if not low / REACH <= at[name] <= high * REACH:
            raise ValueError(
                f"{_NAMES[name]}={at[name]:,.0f} is more than {REACH:g} times beyond the runs, which have "
                f"{_NAMES[name]} from {low:,.0f} to {high:,.0f}: no prediction; train nearer sizes first."
            )
    where = tuple(np.array([at[name]]) for name in law.over)
    middle = math.log(float(law.law(*where)[0]))
    drawn = law.law.refit(*law.columns, law.samples, where[0] if law.held else where)[:, 0]
    drawn = np.log(np.maximum(drawn, 1e-300))  # a floor far below all losses may be lost to rounding
    spread = math.hypot(float(np.sqrt(np.mean(np.square(drawn - middle)))), law.scatter)
    half = -float(stdtrit(law.degrees, (1 - LEVEL) / 2)) * spread
    with np.errstate(over="ignore"):  # an end that is not bounded is open
        return Interval(*np.exp([middle, middle - half, middle + half]).tolist())
