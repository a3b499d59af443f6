"""Estimators of a search: predictions of a run's final value from the rows it has logged up to an early evaluation.

``tail``, the mean training loss of the last steps, is there for every run. ``validation``, the metric of the last
evaluation, sees through the noise of high learning rates where the evaluated weights are averaged
(``training.ema_decay``), as falling rates will remove it later. Averaging removes a part of it only: ``annealed`` is
that metric less the noise that is left in it. ``multi_power`` and ``collapse`` predict final training losses from all
runs of a search together; see `ipu_chem.scaling.multi_power` and `ipu_chem.scaling.collapse`. ``tse``, ``tse_e`` and
``tse_ema`` are there to compare with; see `ipu_chem.scaling.tse`.

``auto`` takes ``annealed`` where all runs have averaged weights that were evaluated early enough, else ``multi_power``;
where values are not above 0, or runs differ in their loss or the weight of forces in it, ``validation`` and ``tail``.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling import collapse, multi_power
from ipu_chem.scaling.candidates import Candidate, Progress, budget_steps
from ipu_chem.scaling.counted import counted_metric, names_of, value_of
from ipu_chem.scaling.curves import RunCurve, curve_of, departures, drift
from ipu_chem.scaling.tse import DRAWS, Estimate, step_losses, tail_mean, tse, tse_e, tse_ema
from ipu_chem.training.logging import read_rows

AUTO, TAIL, VALIDATION, ANNEALED, MULTI_POWER = "auto", "tail", "validation", "annealed", "multi_power"
_OF_EPOCHS: Dict[str, Callable[..., Estimate]] = {"tse": tse, "tse_e": tse_e, "tse_ema": tse_ema}
_OF_ALL: Dict[str, Callable[..., multi_power.Forecast]] = {
    MULTI_POWER: multi_power.forecast,
    "collapse": collapse.forecast,
}
ESTIMATORS = (TAIL, VALIDATION, ANNEALED, *_OF_ALL, *_OF_EPOCHS)
CHOICES = (AUTO, *ESTIMATORS)
OF_EVALUATIONS = (VALIDATION, ANNEALED)
DEFAULT = AUTO  # what it takes won in benchmarks/estimators.py
# Averaged weights are above what falling rates will leave by half of what training losses are above them, in logarithms
# (benchmarks/estimators.py, force fields of three kinds at 10 to 50 % of their steps).
_NOISE_LEFT = 0.5
_Z = 1.645  # of an interval of 90 %
_Z_BOOTSTRAP = 1.96  # of those of `ipu_chem.scaling.tse`


@dataclass(frozen=True)
class Seen:
    """A run as far as an early evaluation sees it.

    Attributes:
        candidate: the run.
        reached: how far it is.
        budget: fraction of its steps that may be read, also when it has gone on since.
        rows: of its metrics.jsonl.
    """

    candidate: Candidate
    reached: Progress
    budget: float
    rows: List[Dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(candidate: Candidate, reached: Progress, budget: float) -> "Seen":
        """Read a run."""
        return Seen(candidate, reached, budget, read_rows(candidate.folder))

    @property
    def end(self) -> int:
        """Optimizer steps that may be read."""
        return budget_steps(self.reached.total, self.budget)

    @property
    def has_diverged(self) -> bool:
        """True where it did before the end of what may be read."""
        steps = [row["step"] for row in self.rows if row["kind"] == "train"]
        return self.reached.status == "diverged" and (not steps or steps[-1] < self.end)


def estimate_of(
    candidate: Candidate,
    reached: Progress,
    budget: float,
    name: str = TAIL,
    fraction: float = 0.1,
    metric: str = "",
    draws: int = DRAWS,
) -> Estimate:
    """The estimate of a run by itself; see `estimates_of`.

    Args:
        candidate: the run.
        reached: how far it is.
        budget: fraction of its steps.
        name: of `CHOICES`.
        fraction: of the steps so far; see `tail_mean`.
        metric: that ``validation`` and ``annealed`` read; see `ipu_chem.scaling.counted`.
        draws: of the bootstrap.

    Raises:
        ValueError: see `estimates_of`.
    """
    return estimates_of([Seen.of(candidate, reached, budget)], name, fraction, metric, draws)[0]


def estimates_of(
    runs: Sequence[Seen], name: str = TAIL, fraction: float = 0.1, metric: str = "", draws: int = DRAWS
) -> List[Estimate]:
    """Estimates of all runs of a search, which say together how far each can be believed.

    The interval of what describes the present (tail, validation, TSE) holds where the run would be now if it ranked as
    it will at the end. It comes from the spread of how fast runs have changed lately: as much again is to be expected
    per unit of log(step). The fall that all runs share is left out, since a calibration shows it.

    Args:
        runs: each as far as it may be read; whole ones teach ``multi_power`` and ``collapse``.
        name: of `CHOICES`.
        fraction: of the steps so far; see `tail_mean`.
        metric: that ``validation`` and ``annealed`` read; see `ipu_chem.scaling.counted`.
        draws: of the bootstrap.

    Raises:
        ValueError: ``validation`` or ``annealed`` without an evaluation that early or without the metric, ``annealed``
            of values that are not above 0, or an estimator over epochs and the first one is not over; says what to do.
    """
    if name not in CHOICES:
        raise ValueError(f"estimator={name!r}: choose {', '.join(CHOICES)}.")
    left_out = set()
    if name == AUTO:
        name = _best_for(runs, metric)
        deepest = max(run.budget for run in runs)
        # Of those that a search has left behind, an estimate is not needed.
        left_out = {p for p, run in enumerate(runs) if run.budget < deepest and not _allows(run, name, metric)}
    estimates: List[Estimate] = [
        Estimate(name, math.inf, math.inf, math.inf, r.reached.step, r.reached.step) for r in runs
    ]
    losses = {
        place: step_losses(run.rows)[: run.end]
        for place, run in enumerate(runs)
        if not run.has_diverged and place not in left_out
    }
    finite = {}
    for place, values in losses.items():
        bad = np.nonzero(~np.isfinite(values))[0]
        if len(bad):
            estimates[place] = replace(estimates[place], steps=len(values), diverged_at=int(bad[0]) + 1)
        else:
            finite[place] = values
    if not finite:
        return estimates
    curves = {
        place: curve_of(
            runs[place].candidate.folder.name,
            runs[place].candidate.config,
            runs[place].rows,
            len(values),
            runs[place].reached.total,
        )
        for place, values in finite.items()
    }
    if name in _OF_ALL:
        found = _forecasts(name, list(curves.values()), fraction)
    else:
        found = _presents([runs[place] for place in finite], list(finite.values()), name, fraction, metric, draws)
    notes = {list(finite)[place]: note for place, note in departures(list(curves.values()))}
    for place, estimate in zip(finite, found):
        estimates[place] = replace(estimate, note=notes.get(place, ""))
    return estimates


def _forecasts(name: str, curves: Sequence[RunCurve], fraction: float) -> List[Estimate]:
    """Final training losses from all curves together."""
    for curve in curves:
        if curve.losses.min() <= 0:
            raise ValueError(
                f"candidate {curve.name} has a training loss of {curve.losses.min():.4g}, and {name} needs losses "
                f"above 0: take {TAIL}."
            )
    forecast = _OF_ALL[name](curves, fraction)
    return [
        Estimate(name, *_ends(float(value), float(error)), len(curve.losses), spread=float(own))
        for curve, value, error, own in zip(curves, *forecast)
    ]


def _presents(
    runs: Sequence[Seen], losses: Sequence[np.ndarray], name: str, fraction: float, metric: str, draws: int
) -> List[Estimate]:
    """Present values, with intervals from the drift of those that have come as far."""
    estimates = [_present(run, own, name, fraction, metric, draws) for run, own in zip(runs, losses)]
    courses: Dict[float, Dict[int, float]] = {}
    is_ratio = all(one.value > 0 for one in estimates)
    for place, (run, own, now) in enumerate(zip(runs, losses, estimates)):
        before = _before(run, own, name, fraction, metric)
        if before is None or not (math.isfinite(before.value) and math.isfinite(now.value)):
            continue
        if before.value > 0 or not is_ratio:
            change = math.log(now.value / before.value) if is_ratio else now.value - before.value
            courses.setdefault(run.budget, {})[place] = change / math.log(now.steps / before.steps)
    drifts = {budget: drift(np.array(list(group.values()))) for budget, group in courses.items()}
    finished = []
    for run, one in zip(runs, estimates):
        boot = (one.high - one.low) / (2 * _Z_BOOTSTRAP)
        ahead = math.log(max(run.reached.total / one.steps, 1.0))
        relative = drifts.get(run.budget, math.nan) * ahead if ahead > 0 else 0.0
        spread = math.hypot(relative * one.value if is_ratio else relative, boot if math.isfinite(boot) else 0.0)
        value, low, high = (
            _ends(one.value, spread) if is_ratio else (one.value, one.value - _Z * spread, one.value + _Z * spread)
        )
        finished.append(replace(one, low=low, high=high, spread=spread))
    if name == ANNEALED:
        return _in_unit(finished, [_validation(run, metric).value for run in runs])
    return finished


def _present(run: Seen, losses: np.ndarray, name: str, fraction: float, metric: str, draws: int) -> Estimate:
    """The present value of a run."""
    if name == VALIDATION:
        return _validation(run, metric)
    if name == ANNEALED:
        return _annealed(run, losses, fraction, metric)
    if name == TAIL:
        return tail_mean(losses, fraction, draws)
    candidate = run.candidate
    per_epoch = run.reached.total // candidate.config["training"]["epochs"]
    if len(losses) < per_epoch:
        raise ValueError(
            f"candidate {candidate.name}: {name} adds up epochs, and the first one of {per_epoch:,} steps is not over "
            f"at the early evaluation after {run.end:,}: take {TAIL}, or train more epochs."
        )
    return _OF_EPOCHS[name](losses, per_epoch, len(losses) // per_epoch, draws=draws)


def _before(run: Seen, losses: np.ndarray, name: str, fraction: float, metric: str) -> Optional[Estimate]:
    """The value at half the steps, of an evaluation the one that is next to that; None where there is none."""
    if name in OF_EVALUATIONS:
        steps = [row["step"] for row in run.rows if row["kind"] == "validation" and row["step"] <= run.end]
        before = [step for step in steps if step < steps[-1]]
        earlier = [step for step in before if step <= steps[-1] / 2] or before[:1]
        if not earlier:
            return None
        run = replace(run, budget=earlier[-1] / run.reached.total)
    else:
        losses = losses[: len(losses) // 2]
    try:
        return _present(run, losses, name, fraction, metric, 0)
    except ValueError:  # one step, not an epoch, or nothing above 0
        return None


def _validation(run: Seen, metric: str) -> Estimate:
    """The metric of the last evaluation."""
    seen = [row for row in run.rows if row["kind"] == "validation" and row["step"] <= run.end]
    if not seen:
        raise ValueError(
            f"candidate {run.candidate.name}: there is no evaluation within the budget of {run.end:,} steps: set "
            f"training.evaluate_every or training.evaluate_calls to less, or take {TAIL}."
        )
    _, value = value_of(counted_metric(names_of(seen[-1]), metric), seen[-1])
    return Estimate(VALIDATION, value, math.nan, math.nan, seen[-1]["step"])


def _annealed(run: Seen, losses: np.ndarray, fraction: float, metric: str) -> Estimate:
    """The metric of the last evaluation, less the noise that averaged weights have left in it, in no unit."""
    now = _validation(run, metric)
    tail = tail_mean(losses[: now.steps], fraction, 0).value
    if min(now.value, tail) <= 0:
        raise ValueError(
            f"candidate {run.candidate.name} has a metric of {now.value:.4g} and a training loss of {tail:.4g}, and "
            f"{ANNEALED} needs both above 0: take {VALIDATION}."
        )
    noisy = math.sqrt(tail) if _is_squared(run, metric) else tail
    return replace(now, name=ANNEALED, value=now.value * (now.value / noisy) ** _NOISE_LEFT)


def _is_squared(run: Seen, metric: str) -> bool:
    """True where training losses are squares of errors, so that their noise is twice that of errors in logarithms."""
    loss = run.candidate.config.get("loss", "auto")
    last = [row for row in run.rows if row["kind"] == "validation"][-1]
    is_of_errors = counted_metric(names_of(last), metric).startswith(("mae", "rmse"))
    return loss in ("mse", "huber") or (loss == "auto" and is_of_errors)


def _in_unit(estimates: Sequence[Estimate], metrics: Sequence[float]) -> List[Estimate]:
    """Estimates in the unit of the metric: their geometric mean is that of the metrics."""
    ratios = [math.log(metric / one.value) for one, metric in zip(estimates, metrics) if math.isfinite(one.value)]
    factor = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    return [
        replace(one, value=one.value * factor, low=one.low * factor, high=one.high * factor, spread=one.spread * factor)
        for one in estimates
    ]


def _best_for(runs: Sequence[Seen], metric: str) -> str:
    """Choice of ``auto`` by the runs that have come furthest; see the start of this module."""
    deepest = max(run.budget for run in runs)
    going = [run for run in runs if run.budget == deepest and not run.has_diverged]
    training = [run.candidate.config["training"] for run in going]
    # Losses of different kinds or weights say nothing of each other.
    compare = len({tuple(run.candidate.config.get(key) for key in ("loss", "force_share")) for run in runs}) == 1
    if all(one.get("ema_decay") for one in training) and all(_allows(run, VALIDATION, metric) for run in going):
        return ANNEALED if compare and all(_allows(run, ANNEALED, metric) for run in going) else VALIDATION
    above_0 = all((step_losses(run.rows)[: run.end] > 0).all() for run in runs if not run.has_diverged)
    return MULTI_POWER if compare and above_0 else TAIL


def _allows(run: Seen, name: str, metric: str) -> bool:
    """False where a run has no evaluation in time, or nothing to take logarithms of, and the estimator needs it."""
    if name not in OF_EVALUATIONS:
        return True
    if not any(row["kind"] == "validation" and row["step"] <= run.end for row in run.rows):
        return False
    return name == VALIDATION or (_validation(run, metric).value > 0 and (step_losses(run.rows)[: run.end] > 0).all())


def _ends(value: float, error: float) -> Tuple[float, float, float]:
    """A positive value and the ends of its interval, which no error takes below 0."""
    wide = math.exp(min(_Z * error / max(value, 1e-300), 700.0)) if math.isfinite(error) else math.nan
    return value, value / wide, value * wide
