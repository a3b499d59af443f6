"""Curves of a run up to an early evaluation: training losses, learning rates of all its steps, validation metrics."""

from dataclasses import dataclass
from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.tse import step_losses

_FIRST = 0.3  # of the steps that were seen: what comes before is a transient
_POINTS = 16
_LEAST_DRIFT = 0.02


class Points(NamedTuple):
    """Means of a curve over windows of steps.

    Attributes:
        steps: [P] centers, counted from 1, rising.
        means: [P] of the losses.
        errors: [P] standard deviations of these means.
    """

    steps: np.ndarray
    means: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class RunCurve:
    """A run as far as it may be read.

    Attributes:
        name: of the candidate.
        losses: [S] training losses of its first optimizer steps.
        rates: [T] learning rates of all steps of the run, also of those to come.
        warmup: steps of rising learning rates.
        batch: packs per optimizer step of a replica; noise falls with them.
    """

    name: str
    losses: np.ndarray
    rates: np.ndarray
    warmup: int
    batch: int = 1

    @property
    def is_whole(self) -> bool:
        """True where the run was read to its end, so that it teaches what becomes of others."""
        return len(self.losses) >= len(self.rates)

    @property
    def seen(self) -> float:
        """Fraction of the steps that was read."""
        return len(self.losses) / len(self.rates)


def curve_of(name: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], end: int, total: int) -> RunCurve:
    """The curve of a run.

    Args:
        name: of the candidate.
        config: nested values of the run.
        rows: of its metrics.jsonl.
        end: optimizer steps that may be read.
        total: of the whole run.

    Raises:
        ValueError: it has no losses.
    """
    from ipu_chem.optim import Schedule, ScheduleConfig

    section = dict(config["schedule"])
    peak = float(config["optimizer"]["learning_rate"])
    schedule = Schedule(ScheduleConfig(**section), peak, total)
    rates = np.array([schedule.learning_rate(step) for step in range(total)])
    if section["name"] == "plateau":  # its falls are not known before they come
        for row in rows:
            if row["kind"] == "train" and row["step"] <= end and row.get("learning_rate"):
                rates[row["step"] - 1 :] = row["learning_rate"]
    batching = config["batching"]
    batch = int(batching["micro_batch_size"]) * int(batching["gradient_accumulation"])
    return RunCurve(name, step_losses(rows)[:end], rates, int(section["warmup_steps"]), batch)


def points_of(curve: RunCurve, count: int = _POINTS, first: float = _FIRST) -> Points:
    """Means over windows of rising length, from the end of the warm-up on, or of the transient.

    Args:
        curve: with at least one loss; all of them finite.
        count: windows at most.
        first: fraction of the steps that is left out.
    """
    losses, end = curve.losses, len(curve.losses)
    begin = min(max(curve.warmup, round(first * end)), max(0, end - count // 2), end - 1)
    edges = np.unique(np.round(np.geomspace(begin + 1, end + 1, min(count, end - begin) + 1)).astype(int)) - 1
    counts = np.diff(edges)
    means = np.add.reduceat(losses, edges[:-1])[: len(counts)]
    if edges[-1] < end:
        means[-1] = losses[edges[-2] : edges[-1]].sum()
    means = means / counts
    own = losses[begin:]
    noise = float(np.sqrt(np.square(np.diff(own)).mean() / 2)) if len(own) > 1 else 0.0
    errors = np.maximum(noise / np.sqrt(counts), 1e-3 * np.abs(means) + 1e-12)
    return Points((edges[:-1] + 1 + edges[1:]) / 2, means, errors)


def level(curve: RunCurve, relative: float, width: float = 0.1) -> float:
    """Mean loss over the ``width`` before a fraction of the run's steps, relative to that fraction."""
    end = max(1, round(relative * len(curve.rates)))
    return float(curve.losses[max(0, end - max(1, round(width * end))) : end].mean())


def drift(courses: np.ndarray) -> float:
    """Spread of the courses of runs, from which the spread of what is still to come is extrapolated.

    A course is the change of a logarithm per unit of log(step). Few courses that happen to be alike are no proof that
    all are: half their mean counts like two more of them, and they may always begin to change.

    Args:
        courses: [K] of runs that have come equally far; of one run, its own change counts.
    """
    if len(courses) == 1:
        return float(np.hypot(courses[0], _LEAST_DRIFT))
    squares = np.square(courses - courses.mean()).sum() + 2 * (courses.mean() / 2) ** 2
    return float(np.sqrt(squares / (len(courses) + 1) + _LEAST_DRIFT**2))


def departures(curves: Sequence[RunCurve]) -> List[Tuple[int, str]]:
    """Runs that leave the common curve: their losses rise at the end of what was seen, as no other's do.

    A run's course is the change of the logarithm of its loss over the second half of its steps so far. It departs
    where its loss rises by more than four times its noise and by more than that of the others' courses. Departures
    from collapse are an early sign of runs that go wrong (Bergsma et al., arXiv 2509.25087).

    Returns:
        (place of the run, sentence) of each.
    """
    courses, noises = [], []
    for curve in curves:
        half = len(curve.losses) // 2
        middle, end = curve.losses[max(0, half - half // 4) : half + 1], curve.losses[-max(1, half // 4) :]
        courses.append(float(np.log(max(end.mean(), 1e-12)) - np.log(max(middle.mean(), 1e-12))))
        noise = np.sqrt(np.square(np.diff(curve.losses[half:])).mean() / 2) if len(curve.losses) > 4 else np.inf
        noises.append(float(noise / max(end.mean(), 1e-12) * np.sqrt(2 / max(len(end), 1))))
    center = float(np.median(courses)) if courses else 0.0
    spread = 1.4826 * float(np.median(np.abs(np.array(courses) - center))) if courses else 0.0
    found = []
    for place, (curve, course, noise) in enumerate(zip(curves, courses, noises)):
        if course > 4 * noise and course > 0.02 and course > center + 4 * spread:
            found.append((place, f"{curve.name}: its losses rise by {np.expm1(course):.0%} where others' fall"))
    return found
