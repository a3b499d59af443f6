"""Intervals of fitted laws that hold when noise differs between runs: profiles of the cost, and pairs drawn anew."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from ipu_chem.scaling.fitting import Law, fit, huber

LEVEL = 0.95
_EXACT = 1e-9  # relative deviation of all losses below which a law is exact, and an interval is a point
# Half-widths of a linear law at which a profile is evaluated, and more where it is not high enough there.
_STEPS = (np.array([0.7, 1.0, 1.4]), np.array([0.3, 2.0, 3.0, 5.0, 10.0, 25.0, 60.0]))
_REFINED = 8  # times that its root is refined at most,
_GAP = 0.15  # until it is known from heights that lie this fraction of the quantile apart
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
        return self.low in (0.0, -math.inf)

    @property
    def open_high(self) -> bool:
        """True where the runs do not bound the value from above."""
        return self.high == math.inf

    @property
    def open(self) -> bool:
        """True where an end is open: the runs do not identify the value."""
        return self.open_low or self.open_high

    def holds(self, value: float) -> bool:
        """True where a value lies between the ends."""
        return self.low <= value <= self.high


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
            # Second derivatives are 1 or 0, of few runs by chance: their mean counts, spread by sizes of residuals.
            # A delta far below the noise leaves too few to tell even that from, so more are counted.
            width = max(self.delta, 0.5 * spread(residuals))
            weights = np.minimum(1.0, width / np.maximum(np.abs(residuals), 1e-300))
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

    def profile(self, direction: np.ndarray, pivot: int, ends: Tuple[float, float]) -> Interval:
        """Interval of a combination of parameters, by profile of the cost.

        Args:
            direction: [p] weights of the parameters.
            pivot: parameter of weight 1 that gives way for the others.
            ends: of the interval where the cost stays below the threshold up to the limit, as for `limits`.
        """
        value = float(direction @ self.theta)
        if np.abs(self._at_minimum[0]).max() < _EXACT:
            return Interval(value, value, value)
        error, per_square, quantile = self._threshold(direction)
        limits = np.array([-np.inf, np.inf])
        if self.limits is not None and np.count_nonzero(direction) == 1:
            limits = self.limits[:, pivot]
        sides = [_Side(side, quantile) for side in (-1, 1)]
        for steps in _STEPS:
            self._raise(
                direction,
                pivot,
                limits,
                per_square,
                [(side, error * quantile * steps) for side in sides if not side.over],
            )
        for _ in range(_REFINED):
            self._raise(
                direction, pivot, limits, per_square, [(side, side.root()[None]) for side in sides if side.over]
            )
        found = [value + side.sign * float(side.root()) if side.over else end for side, end in zip(sides, ends)]
        return Interval(value, found[0], found[1])

    def _raise(
        self,
        direction: np.ndarray,
        pivot: int,
        limits: np.ndarray,
        per_square: float,
        asked: "List[Tuple[_Side, np.ndarray]]",
    ) -> None:
        """Evaluate a profile at distances on its sides, all at once."""
        if not asked:
            return
        value = float(direction @ self.theta)
        tried = np.concatenate([np.clip(value + side.sign * away, *limits) for side, away in asked])
        height = np.sqrt(self._profiled(direction, pivot, tried) / per_square)
        for side, away in asked:
            side.add(np.abs(tried[: len(away)] - value), height[: len(away)])
            tried, height = tried[len(away) :], height[len(away) :]

    def _profiled(self, direction: np.ndarray, pivot: int, tried: np.ndarray) -> np.ndarray:
        """[m] twice the increase of the cost where the combination has these values [m], all else free."""
        inverse = self._at_minimum[2]
        # The pivot is what the combination leaves to it, so that the combination is a parameter and can be held.
        turn = np.eye(len(direction))
        turn[pivot] = -direction
        turn[pivot, pivot] = 1.0

        def turned(rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
            predicted, jacobian = self.law(rows @ turn.T)
            return predicted, jacobian @ turn

        away, plain = tried - direction @ self.theta, float(direction @ inverse @ direction)
        start = self.theta + (np.outer(away, inverse @ direction / plain) if plain > 0 else np.zeros((len(tried), 1)))
        start[:, pivot] = tried
        limits = np.full((2, *start.shape), [[[-np.inf]], [[np.inf]]])
        if self.limits is not None:
            limits[:] = self.limits[:, None]
        limits[:, :, pivot] = tried
        found, cost = fit(turned, np.clip(start, *limits), self.values, self.delta, limits, tolerance=_SETTLED)
        for side in (-1, 1):  # what went astray begins anew where its neighbor toward the estimate has ended
            rows = np.flatnonzero(side * away > 0)
            rows = rows[np.argsort(np.abs(away[rows]))]
            astray = rows[1:][cost[rows[1:]] < cost[rows[:-1]]]
            if len(astray):
                again = found[rows[:-1]]
                again[:, pivot] = tried[rows[1:]]
                _, other = fit(turned, again, self.values, self.delta, limits[:, rows[1:]], tolerance=_SETTLED)
                cost[rows[1:]] = np.minimum(cost[rows[1:]], other)
        return 2 * np.maximum(cost - huber(self._at_minimum[0], self.delta), 0.0)


class _Side:
    """One side of a profile: its square root, in standard errors, at distances from the estimate."""

    def __init__(self, sign: int, quantile: float) -> None:
        self.sign, self.quantile = sign, quantile
        self.away, self.height = np.zeros(1), np.zeros(1)

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


def spread(residuals: np.ndarray) -> float:
    """Standard deviation of residuals that outliers do not move: 1.4826 times the median of their sizes."""
    return 1.4826 * float(np.median(np.abs(residuals)))
