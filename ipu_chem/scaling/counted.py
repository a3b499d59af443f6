"""The validation metric by which runs are compared, and its value where the validation molecules have one."""

import math
from typing import Any, List, Mapping, Sequence, Tuple

from ipu_chem.metrics import FORCES, lower_is_better

_NO_METRIC = ("kind", "step", "epoch", "loss", "learning_rate", "molecules_per_s", "seconds")
_CLASSES = ("rocauc", "ap")
_OF_TARGETS = (*_CLASSES, "mae", "rmse")  # each named after its target, whose values molecules may lack
_MEAN = "rocauc"  # over several classes


def names_of(row: Mapping[str, Any]) -> List[str]:
    """Metrics of an evaluation's row in metrics.jsonl."""
    return [name for name in row if name not in _NO_METRIC]


def usual_metric(names: Sequence[str]) -> str:
    """The forces' error, else the mean ROC-AUC of several classes, else the first one; "" of none."""
    forces = next((name for name in names if name.startswith("mae_forces")), "")
    return forces or (_MEAN if _MEAN in names else next(iter(names), ""))


def counted_metric(names: Sequence[str], asked: str = "") -> str:
    """The validation metric by which runs are compared: what is asked for, else `usual_metric`.

    Raises:
        ValueError: there are none, or not the one that is asked for; names those that there are.
    """
    if not names:
        raise ValueError("the runs have no validation metric to compare: set data.validation.")
    chosen = asked or usual_metric(names)
    if chosen not in names:
        raise ValueError(f"--metric {chosen}: the runs have {', '.join(names)}.")
    return chosen


def value_of(metric: str, metrics: Mapping[str, Any]) -> Tuple[str, float]:
    """Name and value that count, lowest first (`lower_is_better`); inf where the model's predictions are not finite.

    Args:
        metric: of `counted_metric`.
        metrics: of one evaluation, None or NaN for what is not finite.

    Raises:
        ValueError: the validation molecules have no such metric, since others are known; names these.
    """
    if _is_finite(metrics[metric]):
        return lower_is_better(metric, float(metrics[metric]))
    kind, _, target = metric.partition("_")
    known = [name for name in names_of(metrics) if name.partition("_")[0] == kind and _is_finite(metrics[name])]
    if kind in _OF_TARGETS and not target.startswith(FORCES) and known:
        why = "one class in validation" if kind in _CLASSES else "no values of it in validation"
        better = [name for name in known if name == kind] or known
        raise ValueError(f"{metric} is not known for these runs ({why}): give --metric {' or '.join(better)}.")
    return lower_is_better(metric, 0.0)[0], math.inf


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
