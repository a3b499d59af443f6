"""One power law or two: whether the exponent of a scaling curve changes, and where.

The smoothly broken law is L = e + a x^-c0 (1 + (x / d)^(1 / f))^(-c1 f), with one break (Caballero et al., "Broken
neural scaling laws", 2022): exponent c0 well below the break d, c0 + c1 well above it, f the number of e-folds in
between. It is compared with a single power law, each with a floor e and without: of either kind the one of the lowest
Bayesian information criterion, and the broken one of the two where that is lower still and an F test says that noise
hardly explains as much. The criterion alone finds breaks where there are none: of seven runs six parameters leave no
noise.
"""

import math
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.fitting import fit
from ipu_chem.scaling.intervals import LEVEL, Asked, Estimate, Interval
from ipu_chem.scaling.points import Point, check_over, columns
from ipu_chem.scaling.power_law import check_logarithms, r_squared
from ipu_chem.scaling.size_effects import averaged
from ipu_chem.scaling.tse import Values

SINGLE, SINGLE_FLOOR = "single power law", "single power law with a floor"
BROKEN, BROKEN_FLOOR = "broken power law", "broken power law with a floor"
_WIDTHS = np.array([0.1, 0.4, 1.0])  # of the grid of starts
_LIMITS_OF_WIDTH = (0.05, 1.5)
_BREAKS = 24  # of the grid
_STARTS = 6
_FLOORS = np.array([0.3, 0.7, 0.95])  # of the grid, as fractions of the lowest loss
_NOTHING = 12.0  # logarithm by which a floor may be below the lowest loss: it is not there then
_SIZES = {SINGLE: 3, SINGLE_FLOOR: 4, BROKEN: 6, BROKEN_FLOOR: 7}  # different x that a fit needs
_CHANCE = 0.05  # that noise explains as much, below which a break is believed
_PARAMETERS = {SINGLE: 2, SINGLE_FLOOR: 3, BROKEN: 5, BROKEN_FLOOR: 6}


class Range(NamedTuple):
    """Range where a curve is a power law: log L falls by ``exponent`` per unit of log x, the floor left aside."""

    low: float
    high: float
    exponent: Interval

    @property
    def limited(self) -> bool:
        """True where x limits the loss: more of it still lowers it, beyond doubt."""
        return self.exponent.low > 0


@dataclass(frozen=True)
class BrokenLaw:
    """The better of the laws.

    Attributes:
        name: which it is.
        theta: log a, c0, c1, log d, log f, log e; c1 is 0 without a break, log e is -inf without a floor.
        floor: e.
        ranges: one without a break, two with one; the stretch of the change itself belongs to neither, and a side of it
            with no runs is left out.
        breaks: d; None without one.
        r2: fraction of the variance of log L that the law explains.
        bic: of all laws that the runs allow.
        chance: that noise alone makes a break explain as much, by the F test.
        runs: that were fitted.
    """

    name: str
    theta: np.ndarray
    floor: Optional[Interval]
    ranges: List[Range]
    breaks: Optional[Interval]
    r2: float
    bic: Dict[str, float]
    chance: float
    runs: int

    def __call__(self, resource: Values) -> np.ndarray:
        """Loss at these x."""
        return np.exp(_Law(np.log(np.asarray(resource, np.float64)))(self.theta[None])[0][0])

    def refit(self, resource: Values, losses: np.ndarray, at: Values) -> np.ndarray:
        """Fit the same law to several samples of losses; see `PowerLaw.refit`."""
        theta, _ = _fit(self.name, np.log(np.asarray(resource, np.float64)), np.log(losses), 2)
        return np.exp(_Law(np.log(np.asarray(at, np.float64)))(theta)[0])


def fit_broken(points: Sequence[Point], over: str = "parameters", level: float = LEVEL) -> BrokenLaw:
    """Fit loss over parameters, tokens, molecules or flops by one power law or two; refuses as `check_over`."""
    check_over(points, over)
    return broken_law(*columns(points, over, "loss"), level=level)


def broken_law(resource: np.ndarray, loss: np.ndarray, level: float = LEVEL) -> BrokenLaw:
    """Fit all laws by least squares of logarithms and keep the best; intervals as of `Estimate`.

    Where sizes scatter around the best broken law by more than their seeds do, means over seeds count as runs, see
    `averaged`.

    Args:
        resource: [n] x of each run; runs of equal x differ in their seed.
        loss: [n] of each run.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: fewer than 6 different x, which no break can be seen in; values that have no logarithm.
    """
    resource, loss = check_logarithms(resource, loss)
    sizes = len(np.unique(resource))
    if sizes < _SIZES[BROKEN]:
        raise ValueError(
            f"a break needs runs of {_SIZES[BROKEN]} sizes and there are {sizes}: train {_SIZES[BROKEN] - sizes} more, "
            "or fit a single power law."
        )
    x, y = np.log(resource), np.log(loss)
    chosen = _chosen(x, y, level)
    # Only what bends as much as a law with a break tells scatter of sizes from a bend.
    means = averaged(x, y, _Law(x), *chosen.bent)
    x, y = means or (x, y)
    if means is not None:
        chosen = _chosen(x, y, level)
    theta = chosen.estimate.law.full(chosen.estimate.theta[None])[0]
    floor, ranges, breaks = _intervals(chosen.name, theta, chosen.estimate, x)
    fitted = _Law(np.log(resource))(theta[None])[0][0]
    r2 = r_squared(np.log(loss), fitted)
    return BrokenLaw(chosen.name, theta, floor, ranges, breaks, r2, chosen.bic, chosen.chance, len(loss))


class _Chosen(NamedTuple):
    name: str
    bent: Tuple[np.ndarray, int]
    bic: Dict[str, float]
    chance: float
    estimate: "Estimate"


def _chosen(x: np.ndarray, y: np.ndarray, level: float) -> _Chosen:
    """The best law of logarithms, its criteria, and the parameters of the best one with a break with their number."""
    from scipy.special import fdtrc

    sizes, count = len(np.unique(x)), len(y)
    fits = {name: _fit(name, x, y[None], _STARTS) for name in _SIZES if sizes >= _SIZES[name]}
    # A floor of rounding keeps a perfect fit's BIC finite.
    squares = {name: max(2 * float(cost[0]), 1e-24 * count) for name, (_, cost) in fits.items()}
    bic = {name: count * math.log(squares[name] / count) + _PARAMETERS[name] * math.log(count) for name in fits}
    single, broken = (
        min((name for name in bic if (name in (BROKEN, BROKEN_FLOOR)) == bent), key=lambda law: bic[law])
        for bent in (False, True)
    )
    more, left = _PARAMETERS[broken] - _PARAMETERS[single], count - _PARAMETERS[broken]
    gained = max(squares[single] / squares[broken] - 1, 0.0)
    chance = float(fdtrc(more, left, gained * left / more))
    name = broken if chance < _CHANCE and bic[broken] < bic[single] else single
    free, fixed, limits = _parts(name, x, y)
    law = _Law(x, free, fixed)
    best, _ = fit(law, fits[name][0][:, free], y, np.inf, limits, most=1000, tolerance=1e-15)
    bent = (fits[broken][0][0], _PARAMETERS[broken])
    return _Chosen(name, bent, bic, chance, Estimate(law, best[0], y, limits=limits, level=level))


class _Law:
    """log L of rows (log a, c0, c1, log d, log f, log e)."""

    def __init__(self, x: np.ndarray, free: Optional[np.ndarray] = None, fixed: Optional[np.ndarray] = None) -> None:
        self.x = x
        self.free = np.arange(6) if free is None else free
        self.fixed = np.zeros(6) if fixed is None else fixed

    def full(self, theta: np.ndarray) -> np.ndarray:
        """Rows of all parameters from rows of the free ones."""
        rows = np.repeat(self.fixed[None], len(theta), 0)
        rows[:, self.free] = theta
        return rows

    def __call__(self, theta: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        log_a, c0, c1, log_d, log_f, log_e = self.full(theta).T[..., None]
        width = np.exp(log_f)
        inside = (self.x - log_d) / width
        bent = np.logaddexp(0.0, inside)
        reached = np.exp(inside - bent)  # fraction of the way from one exponent to the other
        falling = log_a - c0 * self.x - c1 * width * bent
        total = np.logaddexp(falling, log_e)
        part = np.exp(falling - total)
        derivatives = (1.0, -self.x, -width * bent, c1 * reached, -c1 * width * (bent - inside * reached))
        jacobian = np.empty((*total.shape, len(self.free)))
        for column, index in enumerate(self.free):
            jacobian[..., column] = part * derivatives[index] if index < 5 else 1 - part
        return total, jacobian


def _parts(name: str, x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Free parameters of a law, the values of the others, and the limits [2, p] of its own."""
    free = [0, 1] + ([2, 3, 4] if name in (BROKEN, BROKEN_FLOOR) else []) + ([5] if "floor" in name else [])
    fixed = np.array([0.0, 0.0, 0.0, x.mean(), 0.0, -np.inf])
    grid = np.unique(x)
    low = [-np.inf, -np.inf, -np.inf, grid[1], math.log(_LIMITS_OF_WIDTH[0]), y.min() - _NOTHING]
    high = [np.inf, np.inf, np.inf, grid[-2], math.log(_LIMITS_OF_WIDTH[1]), y.min()]
    return np.array(free), fixed, np.array([low, high])[:, free]


def _fit(name: str, x: np.ndarray, values: np.ndarray, starts: int) -> Tuple[np.ndarray, np.ndarray]:
    """All parameters of a law [K, 6] for each row of logarithms [K, n], and half the sums of squares [K]."""
    free, fixed, limits = _parts(name, x, values)
    law = _Law(x, free, fixed)
    start = np.clip(_starts(name, x, values, starts)[..., free], limits[0], limits[1])
    found, cost = fit(law, start.reshape(-1, len(free)), np.repeat(values, starts, 0), np.inf, limits)
    found, cost = found.reshape(start.shape), cost.reshape(len(values), starts)
    best = cost.argmin(1)
    rows = np.arange(len(values))
    return law.full(found[rows, best]), cost[rows, best]


def _starts(name: str, x: np.ndarray, values: np.ndarray, keep: int) -> np.ndarray:
    """[K, keep, 6] the best of a grid of breaks, widths and floors, for which the law is linear in the rest."""
    grid = np.unique(x)
    count = 3 if name in (BROKEN, BROKEN_FLOOR) else 2
    if count == 3:
        breaks, widths = np.meshgrid(np.linspace(grid[1], grid[-2], _BREAKS), _WIDTHS)
    else:  # any, since nothing bends
        breaks, widths = np.full((1, keep), x.mean()), np.ones((1, keep))
    breaks, widths = breaks.reshape(-1, 1), widths.reshape(-1, 1)
    bent = -widths * np.logaddexp(0.0, (x - breaks) / widths)
    design = np.stack([np.ones_like(bent), np.broadcast_to(-x, bent.shape), bent], 2)[:, :, :count]
    found, costs = [], []
    for fraction in _FLOORS if "floor" in name else (0.0,):
        floor = fraction * np.exp(values.min(1, keepdims=True))
        weight = (1 - floor / np.exp(values)).mean(0)  # turns errors of the falling part into those of the sum
        left = np.log(np.exp(values) - floor) * weight
        q, r = np.linalg.qr(design * weight[:, None])
        inner = left @ q  # [grid, K, count]
        costs.append(np.square(left).sum(1) - np.square(inner).sum(2))
        theta = np.zeros((len(breaks), len(values), 6))
        theta[..., :count] = np.linalg.solve(r[:, None], inner[..., None])[..., 0]
        theta[..., 3], theta[..., 4] = breaks, np.log(widths)
        theta[..., 5] = np.log(np.maximum(floor[:, 0], 1e-300))
        found.append(theta)
    best = np.argsort(np.concatenate(costs), 0, kind="stable")[:keep]
    return np.concatenate(found)[best, np.arange(len(values))].transpose(1, 0, 2)


def _intervals(
    name: str, theta: np.ndarray, estimate: Estimate, x: np.ndarray
) -> Tuple[Optional[Interval], List[Range], Optional[Interval]]:
    """Floor, ranges and break of a fit."""
    unknowns = np.eye(len(estimate.theta))
    asked = {"below": Asked(unknowns[1], 1)}
    if "floor" in name:
        last = len(unknowns) - 1
        asked["floor"] = Asked(unknowns[last], last, (-np.inf, float(estimate.values.min())))
    if name in (BROKEN, BROKEN_FLOOR):
        asked["above"] = Asked(unknowns[1] + unknowns[2], 2)
        asked["break"] = Asked(unknowns[3], 3)
    found = dict(zip(asked, estimate.profiles(list(asked.values()))))
    floor, breaks = (Interval(*np.exp(found[what]).tolist()) if what in found else None for what in ("floor", "break"))
    low, high = float(np.exp(x.min())), float(np.exp(x.max()))
    below = found["below"]
    if breaks is None:
        return floor, [Range(low, high, below)], None
    above = found["above"]
    middle, width = theta[3], math.exp(theta[4])
    sides = [
        Range(low, float(np.exp(middle - 2 * width)), below),  # three quarters of the change lie between
        Range(float(np.exp(middle + 2 * width)), high, above),
    ]
    return floor, [side for side in sides if side.low < side.high], breaks
