"""Figures of a run: how it learned, predictions beside labels, and how full its packs are."""

from typing import Any, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.metrics import FORCES
from ipu_chem.reports.figures import BLUE, GRAY, ORANGE, colors, figure_of, legend_beside, log_scale
from packing import PackingPlan

_BINS = np.linspace(0.0, 1.0, 41)  # of probabilities
_MOST_POINTS = 20000  # of a scatter plot


def baselines(run: Mapping[str, Any]) -> List[Tuple[str, Mapping[str, Any]]]:
    """Results of models that learn nothing, or merely count, by name: split -> metric -> value."""
    if "targets" in run:
        return [(run.get("baseline_name", "per-composition"), run.get("baseline", {}))]
    return [("bigram", run.get("bigram", {})), ("unigram", run.get("baseline", {}))]


def learning_figure(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    """Training loss, and metrics of the validation split, over optimizer steps; baselines are dashed.

    Args:
        run: what run.json holds.
        rows: of metrics.jsonl.
    """
    figure, (left, right) = figure_of(1, 2)
    names, ylabel = _validated(run)
    train = [row for row in rows if row["kind"] == "train" and row.get("loss") is not None]
    evaluated = [row for row in rows if row["kind"] == "validation"]
    left.plot([row["step"] for row in train], [row["loss"] for row in train], color=GRAY, linewidth=0.8, label="steps")
    if "targets" not in run:
        left.set(ylabel="loss (nats per token)")
        _metrics(left, evaluated, {"validation": "nats_per_token"}, run)
        _metrics(right, evaluated, {"validation": names[0]}, run)
    else:
        unit = "nats" if "rocauc" in run["targets"][0] else "standardized"
        left.set(ylabel=f"training loss ({unit})")
        _metrics(left, evaluated, {"mean of an epoch": "loss"}, {})
        _metrics(right, evaluated, dict(zip(names, names)), run)
        if unit == "nats":
            right.set_ylim(top=1.0)
        for axis in (left, right) if unit != "nats" else (left,):
            if any((np.asarray(line.get_ydata()) > 0).any() for line in axis.get_lines()):
                log_scale(axis)
    right.set(ylabel=ylabel)
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


def _metrics(axis: Any, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], run: Mapping[str, Any]) -> None:
    """Metrics by label, with the baselines of a single one; those of classes are the same for all."""
    for (label, name), color in zip(names.items(), colors(len(names))):
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
        axis.plot([row["step"] for row in rows], values, color=color, marker="." if len(rows) < 30 else "", label=label)
    first = next(iter(names.values()))
    if run and (len(names) == 1 or first.startswith("rocauc")):
        for (label, of_split), color, style in zip(baselines(run), (ORANGE, "#8c5fbf"), ("--", ":")):
            value = of_split.get("validation", {}).get(first)
            if value is not None:
                axis.axhline(value, color=color, linestyle=style, label=f"{label} baseline")


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
    shown = np.linspace(0, len(label) - 1, min(len(label), _MOST_POINTS)).astype(np.int64)
    left.scatter(label[shown], prediction[shown], s=9, alpha=0.5, color=BLUE, edgecolors="none")
    if len(label):
        ends = [min(label.min(), prediction.min()), max(label.max(), prediction.max())]
        left.plot(ends, ends, color=GRAY, linewidth=0.8)
        spread = float(np.square(label - label.mean()).sum())
        r2 = 1 - float(np.square(error).sum()) / spread if spread > 0 else np.nan
        left.set_title(f"R² = {r2:.4f}, MAE = {np.abs(error).mean():.3g} {target['unit']}", fontsize=10)
    word = "component" if target["name"] == FORCES else "molecule"
    left.set(xlabel=f"{target['name']}, label ({unit})", ylabel=f"prediction ({unit})", aspect="equal")
    right.hist(error, bins=60, color=BLUE)
    right.set(xlabel=f"error of {target['name']} ({unit})", ylabel=f"number of {word}s")
    right.set_title(f"{split} split, {len(label):,} {word}s", fontsize=10)
    for axis in (left, right):
        axis.ticklabel_format(useOffset=False)
        axis.locator_params(nbins=5)
    right.yaxis.set_major_locator(_whole_numbers())
    return figure


def class_figure(name: str, split: str, label: np.ndarray, probability: np.ndarray) -> Any:
    """ROC curve of a class with labels 0 and 1, and the probabilities of either; see `parity_figure`."""
    from sklearn.metrics import auc, roc_curve

    known = np.isfinite(label)
    positive, probability = label[known] == 1, probability[known]
    figure, (left, right) = figure_of(1, 2)
    if positive.any() and not positive.all():
        false, true, _ = roc_curve(positive, probability)
        left.plot(false, true, color=BLUE, label=f"area {auc(false, true):.3f}")
    left.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, label="chance")
    left.set(xlabel="false positive rate (fraction)", ylabel="true positive rate (fraction)", aspect="equal")
    left.set_title(f"{name}, {split} split", fontsize=10)
    for value, color in ((False, GRAY), (True, ORANGE)):
        mine = probability[positive == value]
        right.hist(mine, bins=_BINS, color=color, alpha=0.6, label=f"{name} = {int(value)}: {len(mine):,}")
    right.set(xlabel=f"probability of {name} = 1 (fraction)", ylabel="number of molecules")
    if len(probability):
        log_scale(right)
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
        axis.set(xlabel=f"fill of a pack ({name})", ylabel="number of packs")
        log_scale(axis)
        axis.set_title(f"capacity {plan.budget[name]:,} {name}", fontsize=10, color=ORANGE)
    for axis in axes:
        axis.xaxis.set_major_locator(_whole_numbers())
        axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure
