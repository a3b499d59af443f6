"""Final values from the shape that curves of a search have in common.

Loss curves of one schedule collapse: (L(t) - L0) / (L(T) - L0) is one curve of t / T, where L0 is the floor for which
curves agree best (Qiu et al., "Scaling collapse reveals universal dynamics in compute-optimally trained neural
networks", ICML 2025, arXiv 2507.02119), which lets runs be stopped early (Bergsma et al., "Scaling with collapse",
arXiv 2509.25087). Runs that were read to their end teach the shape, from the first one on. Before that the common
curve goes on as the power law that the runs have followed so far, and the interval says how little that is.
"""

from typing import Sequence, Tuple

import numpy as np

from ipu_chem.scaling.curves import RunCurve, drift, level
from ipu_chem.scaling.multi_power import Forecast

_FLOORS = np.linspace(0, 0.95, 20)  # as fractions of the lowest loss
_DEGREES = 3.0  # of freedom that the prior of the spread counts for
_LEAST = 0.02  # spread of logarithms over the whole of a run that no collapse falls below


def forecast(curves: Sequence[RunCurve], fraction: float = 0.1) -> Forecast:
    """Final losses of runs from their early parts and from the whole runs among them.

    Args:
        curves: of all candidates, each as far as it may be read; their losses finite.
        fraction: last part of the steps whose mean loss is the final one, and that of the present.
    """
    whole = [curve for curve in curves if curve.is_whole]
    values, errors, own = [], [], []
    for curve in curves:
        at = curve.seen
        now = level(curve, at, fraction)
        if curve.is_whole:
            remaining, common, apart = 0.0, 0.0, 0.0
            floor = 0.0
        else:
            others = [one for one in curves if one is not curve and one.seen >= at]
            floor, remaining, common, apart = _remaining(curve, others, whole, fraction)
            floor = min(floor, 0.95 * now)  # of a run that is below all others
        noise = _noise(curve, fraction) / max(now - floor, 1e-12)
        values.append(floor + (now - floor) * np.exp(remaining))
        own.append((values[-1] - floor) * np.hypot(apart, noise))
        errors.append(np.hypot(own[-1], (values[-1] - floor) * common))
    return Forecast(np.array(values), np.array(errors), np.array(own))


def _remaining(
    curve: RunCurve, others: Sequence[RunCurve], whole: Sequence[RunCurve], fraction: float
) -> Tuple[float, float, float, float]:
    """(floor, logarithm of the part of the loss above it that is left at the end, its error common to all, own)."""
    at, steps = curve.seen, np.log(1 / curve.seen)
    courses = _courses([curve, *others], at, fraction)
    drifted = drift(courses) * steps
    if whole:
        floor = _floor(whole, at, fraction)
        ratios = np.array([np.log((level(o, 1.0, fraction) - floor) / _above(o, at, fraction, floor)) for o in whole])
        prior = drifted**2 + _LEAST**2
        variance = (np.square(ratios - ratios.mean()).sum() + _DEGREES * prior) / (len(whole) - 1 + _DEGREES)
        return floor, float(ratios.mean()), float(np.sqrt(variance / len(whole))), float(np.sqrt(variance))
    course = float(np.median(courses))
    return 0.0, course * steps, abs(course) * steps / 2, float(np.hypot(drifted, _LEAST))


def _floor(whole: Sequence[RunCurve], at: float, fraction: float) -> float:
    """The floor for which whole runs agree best about what is left from ``at`` on; 0 below three runs."""
    ends = np.array([level(one, 1.0, fraction) for one in whole])
    starts = np.array([level(one, at, fraction) for one in whole])
    lowest = float(min(ends.min(), starts.min()))
    if len(whole) < 3 or lowest <= 0:
        return 0.0
    floors = _FLOORS * lowest
    ratios = np.log((ends - floors[:, None]) / (starts - floors[:, None]))
    spread = ratios.std(1) / np.maximum(np.abs(ratios.mean(1)), 1e-9)
    return float(floors[int(spread.argmin())])


def _above(curve: RunCurve, at: float, fraction: float, floor: float) -> float:
    return max(level(curve, at, fraction) - floor, 1e-12)


def _courses(curves: Sequence[RunCurve], at: float, fraction: float) -> np.ndarray:
    """[K] changes of the logarithm of the loss per unit of log(step), over the second half of the steps so far."""
    changes = [np.log(_above(one, at, fraction, 0.0)) - np.log(_above(one, at / 2, fraction, 0.0)) for one in curves]
    return np.array(changes) / np.log(2)


def _noise(curve: RunCurve, fraction: float) -> float:
    """Standard deviation of the present level, from differences between neighboring steps."""
    end = len(curve.losses)
    window = curve.losses[-max(2, round(fraction * end)) :]
    return float(np.sqrt(np.square(np.diff(window)).mean() / 2 / len(window))) if len(window) > 1 else float("inf")
