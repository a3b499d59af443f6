"""Estimators of a search: predictions of a run's final metric from the rows it has logged up to an early evaluation.

``tail``, the mean training loss of the last steps, is there for every run. ``validation``, the metric of the last
evaluation, sees through the noise of high learning rates where the evaluated weights are averaged
(``training.ema_decay``), as falling rates will remove it later. ``tse``, ``tse_e`` and ``tse_ema`` are there to compare
with; see `ipu_chem.scaling.tse`.
"""

import math
from typing import Any, Callable, Dict, Mapping, Sequence

from ipu_chem.scaling.candidates import Candidate, Progress, budget_steps
from ipu_chem.scaling.tse import DRAWS, Estimate, step_losses, tail_mean, tse, tse_e, tse_ema
from ipu_chem.training.logging import read_rows

TAIL, VALIDATION = "tail", "validation"
_OF_EPOCHS: Dict[str, Callable[..., Estimate]] = {"tse": tse, "tse_e": tse_e, "tse_ema": tse_ema}
ESTIMATORS = (TAIL, VALIDATION, *_OF_EPOCHS)
_NO_METRIC = ("kind", "step", "epoch", "loss", "learning_rate", "molecules_per_s", "seconds")


def estimate_of(
    candidate: Candidate,
    reached: Progress,
    budget: float,
    name: str = TAIL,
    fraction: float = 0.1,
    metric: str = "",
    draws: int = DRAWS,
) -> Estimate:
    """The estimate at a fraction of a run's steps, also when it has gone on since.

    Args:
        candidate: the run.
        reached: how far it is.
        budget: fraction of its steps.
        name: of `ESTIMATORS`.
        fraction: of the steps so far; see `tail_mean`.
        metric: that ``validation`` reads; see `counted_metric`.
        draws: of the bootstrap.

    Raises:
        ValueError: ``validation`` without an evaluation that early or without the metric, or an estimator over epochs
            and the first one is not over; says what to do.
    """
    end = budget_steps(reached.total, budget)
    rows = read_rows(candidate.folder)
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    if reached.status == "diverged" and (not steps or steps[-1] < end):
        return Estimate(name, math.inf, math.inf, math.inf, reached.step, reached.step)
    if name == VALIDATION:
        return _validation(candidate, [row for row in rows if row["step"] <= end], end, metric)
    losses = step_losses(rows)[:end]
    if name == TAIL:
        return tail_mean(losses, fraction, draws)
    if name not in _OF_EPOCHS:
        raise ValueError(f"estimator={name!r}: choose {', '.join(ESTIMATORS)}.")
    per_epoch = reached.total // candidate.config["training"]["epochs"]
    if len(losses) < per_epoch:
        raise ValueError(
            f"candidate {candidate.name}: {name} adds up epochs, and the first one of {per_epoch:,} steps is not over "
            f"at the early evaluation after {end:,}: take {TAIL}, or train more epochs."
        )
    return _OF_EPOCHS[name](losses, per_epoch, len(losses) // per_epoch, draws=draws)


def counted_metric(names: Sequence[str], asked: str = "") -> str:
    """The validation metric by which runs are compared: what is asked for, else the forces' error, else the first one.

    Raises:
        ValueError: there are none, or not the one that is asked for; names those that there are.
    """
    chosen = asked or next((name for name in names if name.startswith("mae_forces")), names[0] if names else "")
    if chosen not in names:
        known = f"they have {', '.join(names)}" if names else "give the runs validation molecules"
        raise ValueError(f"the runs have no validation metric {chosen!r}: {known}.")
    return chosen


def _validation(candidate: Candidate, rows: Sequence[Mapping[str, Any]], end: int, metric: str) -> Estimate:
    """The metric of the last evaluation; it has no interval."""
    seen = [row for row in rows if row["kind"] == "validation"]
    if not seen:
        raise ValueError(
            f"candidate {candidate.name}: there is no evaluation within the budget of {end:,} steps: set "
            f"training.evaluate_every or training.evaluate_calls to less, or take {TAIL}."
        )
    chosen = counted_metric([name for name in seen[-1] if name not in _NO_METRIC], metric)
    value = float(seen[-1][chosen])
    return Estimate(VALIDATION, value if math.isfinite(value) else math.inf, math.nan, math.nan, seen[-1]["step"])
