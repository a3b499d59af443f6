"""Searches with Optuna: every trial is evaluated early, by the estimates of `ipu_chem.scaling.tse`.

Optuna's sampler makes a config, `train(config, callbacks=[TrialReporter(trial)])` reports losses, a pruner stops it.
"""

import math
from typing import Any, Dict, List, Mapping, Optional

from ipu_chem.scaling.selection import LEAST_KEPT
from ipu_chem.scaling.tse import step_losses, tail_mean
from ipu_chem.training.callbacks import Callback

_ESTIMATE = "ipu_chem:estimate"  # attribute of trials of several objectives, for which Optuna takes no reports


class TrialReporter(Callback):
    """A callback of `ipu_chem.train.train` that reports a trial's losses, per step, and stops a run that is pruned.

    It does not care which sampler made the trial. A study that maximizes gets negative losses, as Optuna's pruners read
    what is reported in the study's direction. Optuna takes no reports from a study of several objectives: there the
    direction is that of the first one, the losses stay here, and their estimate at the budget is an attribute of the
    trial, by which `estimate_pruner` compares them. When the run returns, raise `optuna.TrialPruned` if ``pruned`` is
    true; a run that diverges raises FloatingPointError, which belongs into ``catch`` of ``study.optimize``.

    Attributes:
        trial: of a study.
        pruned: true once the run was stopped for its rank.
    """

    def __init__(self, trial: Any) -> None:
        """Take an `optuna.trial.Trial` or what has its ``report`` and ``should_prune``.

        Raises:
            ValueError: the study has several objectives, and its pruner is not of `estimate_pruner`.
        """
        self.trial = trial
        self.pruned = False
        study = getattr(trial, "study", None)
        self._sign = _sign(study)
        self._study = study if len(_directions(study)) > 1 else None
        self._losses: Dict[int, float] = {}
        if self._study is not None and not hasattr(self._study.pruner, "estimate"):
            raise ValueError(
                "the study has several objectives, which Optuna's pruners cannot judge: give it pruner="
                "estimate_pruner(...), which goes by the first one."
            )

    def on_step(self, step: int, total: int, losses: List[float]) -> bool:
        for before, loss in enumerate(losses, 1 - len(losses)):
            if self._study is None:
                self.trial.report(self._sign * loss, step + before)
            else:
                self._losses[step + before] = self._sign * loss
        if step < total and self._should_prune():  # what has come to the end may finish
            self.pruned = True
        return self.pruned

    def _should_prune(self) -> bool:
        if self._study is None:
            return bool(self.trial.should_prune())
        if any(not math.isfinite(loss) for loss in self._losses.values()):
            return True
        if _ESTIMATE in self.trial.user_attrs:
            return False  # judged at the budget
        estimate = self._study.pruner.estimate(self._losses, self._sign)
        if estimate is None:
            return False
        self.trial.set_user_attr(_ESTIMATE, estimate)
        return bool(self._study.pruner.is_behind(self._study, self.trial.number, estimate))


def estimate_pruner(budget_steps: int, keep: int = 3, fraction: float = 0.1) -> Any:
    """A pruner that stops a trial at the budget unless its estimate is among the best ``keep`` so far.

    Estimates are means of the last ``fraction`` of the reported losses up to the budget; nothing later counts. In a
    study that maximizes, scores are reported, and the best are the highest; of several objectives the first one counts.
    A trial is pruned at once when a loss is not finite. The first ``keep`` trials are never pruned for their rank, and
    those of the ``keep`` best estimates of a whole study go on to the end in any case, in whatever order they came.

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
            reported = trial.intermediate_values
            if any(not math.isfinite(loss) for loss in reported.values()):
                return True
            own = self.estimate(reported, _sign(study))
            return own is not None and self.is_behind(study, trial.number, own)

        def estimate(self, reported: Mapping[int, float], sign: int) -> Optional[float]:
            """See `estimate_at`."""
            return estimate_at(reported, budget_steps, fraction, sign)

        def is_behind(self, study: Any, number: int, own: float) -> bool:
            """True where as many others as are kept have a better estimate than this trial."""
            sign = _sign(study)
            others = (
                other.user_attrs.get(_ESTIMATE, self.estimate(other.intermediate_values, sign))
                for other in study.get_trials(deepcopy=False)
                if other.number != number
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


def _directions(study: Any) -> List[Any]:
    """Directions of a study, in the order of its objectives; none without a study."""
    return list(getattr(study, "directions", []))


def _sign(study: Any) -> int:
    """-1 for a study whose first objective is maximized, else 1."""
    return -1 if [getattr(one, "name", "") for one in _directions(study)][:1] == ["MAXIMIZE"] else 1
