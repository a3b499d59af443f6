"""What the report shows of classes: how well they are told apart, and how sure the model is."""

from typing import Any, Mapping, Sequence

import numpy as np

from ipu_chem.reports.parts import BLUE, GREY, ORANGE, figure_of

_BINS = np.linspace(0.0, 1.0, 41)


def class_figure(name: str, split: str, label: np.ndarray, probability: np.ndarray) -> Any:
    """ROC curve of a class, and the probabilities of the molecules that are in it and of those that are not.

    Args:
        name: of the class.
        split: whose molecules these are.
        label: [K] 0 or 1, NaN where missing.
        probability: [K].
    """
    from sklearn.metrics import auc, roc_curve

    known = np.isfinite(label)
    positive, probability = label[known] == 1, probability[known]
    figure, (left, right) = figure_of(1, 2)
    if positive.any() and not positive.all():
        false, true, _ = roc_curve(positive, probability)
        left.plot(false, true, color=BLUE, label=f"area {auc(false, true):.3f}")
        left.legend(frameon=False, loc="lower right")
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title=f"{name}, {split} split", aspect="equal")
    for value, color in ((False, GREY), (True, ORANGE)):
        mine = probability[positive == value]
        right.hist(mine, bins=_BINS, color=color, alpha=0.6, label=f"{name} = {int(value)}: {len(mine):,}")
    right.set(xlabel=f"probability of {name} = 1", ylabel="molecules", yscale="log")
    right.legend(frameon=False)
    return figure


def class_validation(
    axis: Any, run: Mapping[str, Any], steps: Sequence[int], evaluated: Sequence[Mapping[str, Any]]
) -> None:
    """ROC-AUC of the validation molecules over optimizer steps."""
    for index, target in enumerate(run["targets"]):
        name = target["rocauc"]
        values = [np.nan if row.get(name) is None else row[name] for row in evaluated]
        axis.plot(steps, values, color=None if index else BLUE, label=name)
    axis.axhline(0.5, color=ORANGE, linestyle="--", label="constant baseline")
    axis.set(xlabel="optimizer step", ylabel="validation ROC-AUC")
    axis.set_ylim(top=1.0)
    axis.legend(frameon=False, loc="lower right")
