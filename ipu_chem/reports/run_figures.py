"""Figures of a run: how it learned, predictions beside labels, and how full its packs are."""

from typing import Any, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.metrics import FORCES
from ipu_chem.reports.figures import BLUE, GREY, ORANGE, colors, figure_of, legend_beside, log_scale
from packing import PackingPlan

_BINS = np.linspace(0.0, 1.0, 41)  # of probabilities
BASELINE, BIGRAM = ORANGE, "#8c5fbf"


def learning_figure(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    """Training loss, and metrics of the validation split, over optimizer steps; baselines are dashed.

    Args:
        run: what run.json holds.
        rows: of metrics.jsonl.
    """
    figure, (left, right) = figure_of(1, 2)
    names, ylabel = _validated(run)
    is_text = "targets" not in run
    train = [row for row in rows if row["kind"] == "train" and row.get("loss") is not None]
    evaluated = [row for row in rows if row["kind"] == "validation"]
    steps = [row["step"] for row in evaluated]
    label = "single steps" if not is_text else "training"
    left.plot([row["step"] for row in train], [row["loss"] for row in train], color=GREY, linewidth=0.8, label=label)
    if is_text:
        left.set(ylabel="loss (nats per token)")
        _metrics(left, steps, evaluated, ["nats_per_token"], ["validation"])
        _baselines(left, run, "nats_per_token")
    else:
        unit = "nats" if "rocauc" in run["targets"][0] else "standardized"
        left.set(ylabel=f"training loss ({unit})")
        left.plot(steps, [row["loss"] for row in evaluated], color=BLUE, label="mean of an epoch")
        if any(row["loss"] > 0 for row in train + evaluated):
            log_scale(left)
    _metrics(right, steps, evaluated, names, ["validation"] if is_text else names)
    if len(names) == 1 or names[0].startswith("rocauc"):
        _baselines(right, run, names[0])
    right.set(ylabel=ylabel)
    if names[0].startswith("rocauc"):
        right.set_ylim(top=1.0)
    elif not is_text and any((row.get(name) or 0) > 0 for row in evaluated for name in names):
        log_scale(right)
    for axis in (left, right):
        axis.set(xlabel="optimizer step")
        axis.xaxis.set_major_locator(_whole_numbers())
        axis.xaxis.set_major_formatter("{x:,.0f}")
        if axis.get_legend_handles_labels()[0]:
            legend_beside(axis)
    return figure


def _validated(run: Mapping[str, Any]) -> Tuple[List[str], str]:
    """Metrics of the validation split that are drawn, and the name of their axis."""
    if "targets" not in run:
        return ["nats_per_heavy_atom"], "loss (nats per heavy atom)"
    kind = "rocauc" if "rocauc" in run["targets"][0] else "mae"
    names = [target[kind] for target in run["targets"]]
    if kind == "rocauc":
        return names, "validation ROC-AUC (0.5: chance)"
    units = {name[len(f"mae_{target['name']}_") :] for name, target in zip(names, run["targets"])}
    unit = units.pop().replace("_per_A", "/Å").replace("_per_", "/") if len(units) == 1 else "unit in its name"
    return names, f"validation MAE ({unit or 'no unit'})"


def _metrics(
    axis: Any, steps: Sequence[int], rows: Sequence[Mapping[str, Any]], names: Sequence[str], labels: Sequence[str]
) -> None:
    for name, label, color in zip(names, labels, colors(len(names))):
        values = [np.nan if row.get(name) is None else row[name] for row in rows]
        axis.plot(steps, values, color=color, marker="." if len(values) < 30 else None, label=label)


def _baselines(axis: Any, run: Mapping[str, Any], name: str) -> None:
    """Lines at what models reach that learn nothing, or merely count."""
    is_text = "targets" not in run
    for key, word, color, style in (("baseline", "unigram", BASELINE, "--"), ("bigram", "bigram", BIGRAM, ":")):
        value = run.get(key, {}).get("validation", {}).get(name)
        if value is not None:
            word = word if is_text else run.get("baseline_name", "per-composition")
            axis.axhline(value, color=color, linestyle=style, label=f"{word} baseline")


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True, steps=[1, 2, 5, 10])


def parity_figure(target: Mapping[str, Any], split: str, label: np.ndarray, prediction: np.ndarray) -> Any:
    """Predictions against labels with R² and MAE, and the distribution of the errors.

    Args:
        target: name and unit, as in run.json.
        split: whose molecules these are.
        label: [K], NaN where missing.
        prediction: [K].
    """
    known = np.isfinite(label)
    label, prediction = label[known], prediction[known]
    error = prediction - label
    unit = target["unit"] or "no unit"
    figure, (left, right) = figure_of(1, 2)
    left.scatter(label, prediction, s=6, alpha=0.4, color=BLUE, edgecolors="none")
    if len(label):
        ends = [min(label.min(), prediction.min()), max(label.max(), prediction.max())]
        left.plot(ends, ends, color=GREY, linewidth=0.8)
        spread = float(np.square(label - label.mean()).sum())
        r2 = 1 - float(np.square(error).sum()) / spread if spread > 0 else np.nan
        left.set_title(f"R² = {r2:.4f}, MAE = {np.abs(error).mean():.3g} {target['unit']}", fontsize=10)
    word = "component" if target["name"] == FORCES else "molecule"
    left.set(xlabel=f"{target['name']}, label ({unit})", ylabel=f"prediction ({unit})", aspect="equal")
    right.hist(error, bins=60, color=BLUE)
    right.set(xlabel=f"error of {target['name']} ({unit})", ylabel=f"number of {word}s")
    right.set_title(f"{split} split, {len(label):,} {word}s", fontsize=10)
    for scale in (left.xaxis, left.yaxis, right.xaxis):
        scale.get_major_locator().set_params(nbins=5)
    return figure


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
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="chance")
    left.set(xlabel="false positive rate (fraction)", ylabel="true positive rate (fraction)", aspect="equal")
    left.set_title(f"{name}, {split} split", fontsize=10)
    for value, color in ((False, GREY), (True, ORANGE)):
        mine = probability[positive == value]
        right.hist(mine, bins=_BINS, color=color, alpha=0.6, label=f"{name} = {int(value)}: {len(mine):,}")
    right.set(xlabel=f"probability of {name} = 1 (fraction)", ylabel="number of molecules")
    if len(probability):
        right.set(yscale="log")
    for axis in (left, right):
        legend_beside(axis)
    return figure


def packing_figure(plan: PackingPlan) -> Any:
    """Sizes of the molecules, and how much of each capacity the packs use."""
    names = list(plan.budget.measured)
    figure, axes = figure_of(1, 1 + len(names))
    axes[0].bar(*np.unique(plan.sizes[:, 0], return_counts=True), color=BLUE, width=0.9)
    axes[0].set(xlabel=f"size of a molecule ({names[0]})", ylabel="number of molecules")
    for axis, name in zip(axes[1:], names):
        axis.hist(plan.fills[name], bins=40, color=BLUE)
        axis.axvline(plan.budget[name], color=ORANGE, linestyle="--")
        axis.set(xlabel=f"fill of a pack ({name})", ylabel="number of packs", yscale="log")
        axis.set_title(f"capacity {plan.budget[name]:,} {name}", fontsize=10, color=ORANGE)
    for axis in axes:
        axis.xaxis.set_major_locator(_whole_numbers())
        axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure
