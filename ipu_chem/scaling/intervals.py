"""Intervals of fitted laws that hold when noise differs between runs: profiles of the cost, and pairs drawn anew."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.fitting import Law, fit, huber

LEVEL = 0.95
_EXACT = 1e-9  # relative deviation of all losses below which a law is exact, and an interval is a point
# Half-widths of a linear law at which a profile is evaluated, and more where it is not high enough there.
_STEPS = (np.array([0.7, 1.0, 1.4]), np.array([0.3, 2.0, 3.0, 5.0, 10.0, 25.0, 60.0]))
_REFINED = 8  # times that its root is refined at most,
_GAP = 0.15  # until it is known from heights that lie this fraction of the quantile apart
_STEEP = 1.5  # ratio of heights per distance of neighbors from which the further one is doubted
_SETTLED = 1e-6  # relative change of the cost at which it counts as lowest
_FULL = 0.95  # largest leverage that is corrected for


class Interval(NamedTuple):
    """An estimate with the ends of its interval; an end that the runs do not bound is open: 0 or -inf, and inf."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        low = "(open" if self.open_low else f"[{self.low:.3g}"
        return f"{self.value:.3g} {low}, {'open)' if self.open_high else f'{self.high:.3g}]'}"

    @property
    def open_low(self) -> bool:
        """True where the runs do not bound the value from below."""
        return self.low in (0.0, -math.inf) and self.low < self.value

    @property
    def open_high(self) -> bool:
        """True where the runs do not bound the value from above."""
        return self.high == math.inf

    @property
    def open(self) -> bool:
        """True where an end is open: the runs do not identify the value."""
        return self.open_low or self.open_high

    def holds(self, value: float) -> bool:
        """True where a value lies between the ends, as far as rounding lets that be known."""
        near = _EXACT * abs(value)
        return self.low - near <= value <= self.high + near


class Asked(NamedTuple):
    """A combination of parameters whose interval is asked.

    Attributes:
        direction: [p] weights of the parameters.
        pivot: parameter of weight 1 that gives way for the others.
        ends: of the interval where the cost stays below the threshold up to the limit.
    """

    direction: np.ndarray
    pivot: int
    ends: Tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Estimate:
    """A law at its minimum, of which intervals are asked.

    An interval is where the cost, minimized over all other parameters, stays below a threshold: it follows the bend of
    the law, needs no draws, and is open where the cost stays low to the limit. The threshold counts the noise of each
    run by its own residual, since noise differs by size: Huber's sandwich (1967), corrected for leverage and with
    degrees of freedom as by Bell and McCaffrey, Survey Methodology 28, 169 (2002). For a linear law with equal noise
    that is Student's interval.

    Attributes:
        law: see `Law`.
        theta: [p] parameters at the minimum.
        values: [n] logarithms of losses.
        delta: of Huber's loss.
        limits: [2, p] of the parameters; None for none.
        level: nominal coverage of intervals.
    """

    law: Law
    theta: np.ndarray
    values: np.ndarray
    delta: float = math.inf
    limits: Optional[np.ndarray] = None
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level}: give a fraction between 0 and 1, such as 0.9.")
        if len(self.values) <= len(self.theta):
            raise ValueError(
                f"{len(self.values)} runs leave nothing to tell noise from with {len(self.theta)} unknowns: train more "
                "sizes, or 3 seeds of each."
            )

    @cached_property
    def _at_minimum(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Residuals [n], Jacobian [n, p], inverse second derivative of the cost [p, p], mean weight of a run in it."""
        predicted, jacobian = (one[0] for one in self.law(self.theta[None]))
        residuals = self.values - predicted
        weights = np.ones(len(residuals))
        if np.isfinite(self.delta):
            # Second derivatives are 1 or 0, of few runs by chance: their mean counts, spread smoothly by sizes of
            # residuals; the power is the one whose intervals held 90 % where noise differs by size.
            # A delta far below the noise leaves too few to tell even that from, so more are counted.
            width = max(self.delta, 0.5 * spread(residuals))
            weights = np.minimum(1.0, width / np.maximum(np.abs(residuals), 1e-300)) ** 3
            inside = max(float(np.mean(np.abs(residuals) <= width)), 1 / len(residuals))
            weights *= inside / weights.mean() * self.delta / width
        scale = np.sqrt(np.square(jacobian).sum(0)) + 1e-150
        scaled = jacobian / scale
        if self.limits is not None:  # what stands at a limit does not move
            scaled = scaled * ((self.theta > self.limits[0]) & (self.theta < self.limits[1]))
        inverse = np.linalg.pinv((scaled * weights[:, None]).T @ scaled, rcond=1e-13, hermitian=True)
        return residuals, jacobian, inverse / np.outer(scale, scale), float(weights.mean())

    def _threshold(self, direction: np.ndarray) -> Tuple[float, float, float]:
        """Standard error along a direction, twice the cost that its square adds, and the quantile of an interval."""
        from scipy.special import stdtrit

        residuals, jacobian, inverse, weight = self._at_minimum
        leverage = np.clip(weight * np.einsum("ip,pq,iq->i", jacobian, inverse, jacobian), 0.0, _FULL)
        along = np.square(jacobian @ (inverse @ direction)) / (1 - leverage)
        variance = float(along @ np.square(np.clip(residuals, -self.delta, self.delta)))
        if np.isfinite(self.delta):  # few runs: Huber, "Robust statistics" (1981), section 7.6
            variance *= (1 + len(self.theta) / len(residuals) * (1 - weight) / weight) ** 2
        # Moments of that sum under equal noise; the matrix of squared projections is never formed.
        mixed = weight * (jacobian.T * along) @ jacobian @ inverse
        square = np.square(along) @ (1 - 2 * leverage) + np.trace(mixed @ mixed)
        degrees = max(1.0, float(np.square(along @ (1 - leverage)) / max(square, 1e-300)))
        plain = float(direction @ inverse @ direction)
        if plain <= 0:  # at a limit, from which no derivative leads away: the noise of all runs
            degrees = len(residuals) - len(self.theta)
            squares = np.square(np.clip(residuals, -self.delta, self.delta)) / (1 - leverage)
            variance, plain = 1.0, weight / float(squares.mean())
        return math.sqrt(variance), variance / plain, float(-stdtrit(degrees, (1 - self.level) / 2))

    def linear(self, direction: np.ndarray) -> Interval:
        """Interval of a combination of parameters of a law that is linear in them.

        Args:
            direction: [p] weights of the parameters.
        """
        error, _, quantile = self._threshold(direction)
        value = float(direction @ self.theta)
        return Interval(value, value - quantile * error, value + quantile * error)

    def profiles(self, asked: Sequence[Asked]) -> List[Interval]:
        """Intervals of combinations of parameters, by profiles of the cost."""
        if np.abs(self._at_minimum[0]).max() < _EXACT:
            values = [float(one.direction @ self.theta) for one in asked]
            return [Interval(value, value, value) for value in values]
        sides = [_Side(self, one, sign) for one in asked for sign in (-1, 1)]
        for steps in _STEPS:
            self._raise([(side, side.width * steps) for side in sides if not side.over])
        for _ in range(_REFINED):
            self._raise([(side, side.root()[None]) for side in sides if side.over and side.gap > _GAP * side.quantile])
        ends = [side.end for side in sides]
        return [Interval(side.value, *pair) for side, pair in zip(sides[::2], zip(ends[::2], ends[1::2]))]

    def _raise(self, asked: "List[Tuple[_Side, np.ndarray]]") -> None:
        """Evaluate profiles at distances on their sides, all at once."""
        if not asked:
            return
        sides = [side for side, away in asked for _ in away]
        away = np.concatenate([side.within(away) for side, away in asked])
        tried = np.array([side.value + side.sign * one for side, one in zip(sides, away)])
        pivots = np.array([side.asked.pivot for side in sides])
        rows = np.arange(len(sides))
        start = self.theta + np.stack([side.sign * side.along for side in sides]) * away[:, None]
        start[rows, pivots] = tried
        limits = np.full((2, *start.shape), [[[-np.inf]], [[np.inf]]])
        if self.limits is not None:
            limits[:] = self.limits[:, None]
        limits[:, rows, pivots] = tried
        turn = np.stack([side.turn for side in sides])

        def fitted(begin: np.ndarray, which: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
            ends = limits[:, which]
            begin = np.clip(begin, *ends)
            return fit(self.law, begin, self.values, self.delta, ends, tolerance=_SETTLED, turn=turn[which])

        found, cost = fitted(start, rows)
        # A profile rises, and seldom faster than in proportion: what went astray begins anew at a neighbor's end.
        lowest = huber(self._at_minimum[0], self.delta)
        later = rows[1:][[one is other for one, other in zip(sides[1:], sides[:-1])]]
        steep = np.sqrt(np.maximum(cost - lowest, 0.0)) / np.maximum(away, 1e-300)
        high = cost[later] < cost[later - 1]
        jumped = later[steep[later] > _STEEP * steep[later - 1]]
        astray, neighbor = np.append(later[high] - 1, jumped), np.append(later[high], jumped - 1)
        if len(astray):
            again = found[neighbor]
            again[np.arange(len(astray)), pivots[astray]] = tried[astray]
            np.minimum.at(cost, astray, fitted(again, astray)[1])
        increase = 2 * np.maximum(cost - lowest, 0.0)
        for side, distances in asked:
            side.add(away[: len(distances)], np.sqrt(increase[: len(distances)] / side.per_square))
            away, increase = away[len(distances) :], increase[len(distances) :]


class _Side:
    """One side of a profile: its square root, in standard errors, at distances from the estimate."""

    def __init__(self, estimate: Estimate, asked: Asked, sign: int) -> None:
        direction, pivot = asked.direction, asked.pivot
        self.asked, self.sign = asked, sign
        self.value = float(direction @ estimate.theta)
        error, self.per_square, self.quantile = estimate._threshold(direction)
        self.width = error * self.quantile  # of the interval of a linear law
        self.limit = math.inf
        if estimate.limits is not None and np.count_nonzero(direction) == 1:
            self.limit = abs(float(estimate.limits[(sign + 1) // 2, pivot]) - self.value)
        # The pivot is what the combination leaves to it, so that the combination is a parameter and can be held.
        self.turn = np.eye(len(direction))
        self.turn[pivot] = -direction
        self.turn[pivot, pivot] = 1.0
        inverse = estimate._at_minimum[2]
        plain = float(direction @ inverse @ direction)
        self.along = inverse @ direction / plain if plain > 0 else np.zeros(len(direction))
        self.away, self.height = np.zeros(1), np.zeros(1)

    def within(self, away: np.ndarray) -> np.ndarray:
        """Distances, none beyond the limit."""
        return np.minimum(away, self.limit)

    def add(self, away: np.ndarray, height: np.ndarray) -> None:
        """Add heights at distances."""
        self.away, self.height = np.append(self.away, away), np.append(self.height, height)
        order = np.argsort(self.away, kind="stable")
        self.away, self.height = self.away[order], self.height[order]

    @property
    def over(self) -> bool:
        """True where the profile is known to reach the quantile."""
        return bool(self.height.max() >= self.quantile)

    @property
    def gap(self) -> float:
        """Difference of the nearest heights on both sides of the quantile."""
        above = int(np.argmax(self.height >= self.quantile))
        return float(self.height[above] - self.height[above - 1])

    def root(self) -> np.ndarray:
        """Distance at which the line between the nearest heights on both sides of the quantile reaches it.

        Where they lie far apart it is no line, and the middle is safer.
        """
        above = int(np.argmax(self.height >= self.quantile))
        fraction = (self.quantile - self.height[above - 1]) / max(self.gap, 1e-300)
        if self.gap > self.quantile:
            fraction = 0.5
        return np.asarray(self.away[above - 1] + fraction * (self.away[above] - self.away[above - 1]))

    @property
    def end(self) -> float:
        """End of the interval."""
        return self.value + self.sign * float(self.root()) if self.over else self.asked.ends[(self.sign + 1) // 2]


def spread(residuals: np.ndarray) -> float:
    """Standard deviation of residuals that outliers do not move: 1.4826 times the median of their sizes."""
    return 1.4826 * float(np.median(np.abs(residuals)))
