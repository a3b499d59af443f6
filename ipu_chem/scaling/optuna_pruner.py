"""Searches with Optuna: every trial is evaluated early, by the estimates of `ipu_chem.scaling.tse`.

Optuna's sampler makes a config, `train(config, callbacks=[TrialReporter(trial)])` reports losses, a pruner stops it.
"""

import math
from typing import Any, Dict, List, Mapping, Optional

from ipu_chem.scaling.selection import LEAST_KEPT
from ipu_chem.scaling.tse import step_losses, tail_mean
from ipu_chem.training.callbacks import Callback


class TrialReporter(Callback):
    """A callback of `ipu_chem.train.train` that reports a trial's losses, per step, and stops a run that is pruned.

    It does not care which sampler made the trial. A study that maximizes gets negative losses, as Optuna's pruners read
    what is reported in the study's direction. When the run returns, raise `optuna.TrialPruned` if
    ``trial.should_prune()``; a run that diverges raises FloatingPointError, which belongs into ``catch`` of
    ``study.optimize``.
    """

    def __init__(self, trial: Any) -> None:
        """Take an `optuna.trial.Trial` or what has its ``report`` and ``should_prune``."""
        self.trial = trial
        self._sign = _sign(getattr(trial, "study", None))

    def on_step(self, step: int, total: int, losses: List[float]) -> bool:
        for before, loss in enumerate(losses, 1 - len(losses)):
            self.trial.report(self._sign * loss, step + before)
        return step < total and self.trial.should_prune()  # what has come to the end may finish


def estimate_pruner(budget_steps: int, keep: int = 3, fraction: float = 0.1) -> Any:
    """A pruner that stops a trial at the budget unless its estimate is among the best ``keep`` so far.

    Estimates are means of the last ``fraction`` of the reported losses up to the budget; nothing later counts. In a
    study that maximizes, scores are reported, and the best are the highest. A trial is pruned at once when a loss is
    not finite. The first ``keep`` trials are never pruned for their rank, and those of the ``keep`` best estimates of a
    whole study go on to the end in any case, in whatever order they came.

    Args:
        budget_steps: optimizer steps before the early evaluation, 10 to 20 % of a full run.
        keep: trials that go on at least.
        fraction: see `tail_mean`.

    Returns:
        `optuna.pruners.BasePruner`.

    Raises:
        ValueError: a budget or fraction that is none, ``keep`` below 2, or Optuna is not installed.
    """
    if budget_steps < 1 or keep < LEAST_KEPT or not 0 < fraction <= 1:
        raise ValueError(
            f"budget_steps={budget_steps}, keep={keep}, fraction={fraction}: give a budget of 1 step or more, "
            f"{LEAST_KEPT} trials or more that are kept, and a fraction above 0 and at most 1."
        )
    try:
        from optuna.pruners import BasePruner
    except ImportError as error:
        raise ValueError("a search with Optuna needs it: pip install 'ipu-chem[search]'.") from error

    class EstimatePruner(BasePruner):
        """See `estimate_pruner`."""

        def prune(self, study: Any, trial: Any) -> bool:
            sign, reported = _sign(study), trial.intermediate_values
            if any(not math.isfinite(loss) for loss in reported.values()):
                return True
            own = estimate_at(reported, budget_steps, fraction, sign)
            if own is None:
                return False
            others = (
                estimate_at(other.intermediate_values, budget_steps, fraction, sign)
                for other in study.get_trials(deepcopy=False)
                if other.number != trial.number
            )
            return sum(other is not None and other < own for other in others) >= keep

    return EstimatePruner()


def estimate_at(
    reported: Mapping[int, float], budget_steps: int, fraction: float = 0.1, sign: int = 1
) -> Optional[float]:
    """Tail mean of losses reported by step, up to the budget; None before, inf if one of them is not finite.

    A loss stands for all steps since the one reported before it. Steps count from 1, or from 0 if one is reported as 0.

    Args:
        reported: loss by step.
        budget_steps: optimizer steps before the early evaluation.
        fraction: see `tail_mean`.
        sign: -1 for scores, of which the highest are best.
    """
    first = 1 if 0 in reported else 0
    if not reported or max(reported) + first < budget_steps:
        return None
    rows: List[Dict[str, Any]] = [
        {"kind": "train", "step": step + first, "loss": sign * reported[step]} for step in sorted(reported)
    ]
    return tail_mean(step_losses(rows)[:budget_steps], fraction, draws=0).value


def _sign(study: Any) -> int:
    """-1 for a study that maximizes, else 1."""
    return -1 if getattr(getattr(study, "direction", None), "name", "") == "MAXIMIZE" else 1
