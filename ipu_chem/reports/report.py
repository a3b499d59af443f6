"""One self-contained HTML page about a run, made of its files alone: learning, predictions, packs."""

import csv
import html
import json
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.metrics import FORCES
from ipu_chem.reports.classes import class_figure, class_validation
from ipu_chem.reports.parts import BLUE, GREY, ORANGE, figure_of, image, table
from ipu_chem.training.logging import read_rows
from packing import PackingPlan
from packing.files import PathLike, atomic_file

_MOST_POINTS = 20000  # of a figure that is to stay small
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 980px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 0.5em 0; } td, th { padding: 0.2em 0.9em 0.2em 0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 13px; } .big { font-size: 1.3em; }
"""


def write_report(folder: PathLike) -> Path:
    """Write report.html into a run's folder.

    Returns:
        Path of the page.

    Raises:
        ValueError: the folder holds no run, or matplotlib is missing; says what to do.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds no run (no run.json); give the --out folder of `ipu-chem train`.")
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("a report needs matplotlib: pip install 'ipu-chem[plot]'.") from error
    matplotlib.use("Agg")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = read_rows(folder)
    parts = [
        f"<h1>{html.escape(run['title'])}</h1>",
        *_sections(folder, run, rows),
        "<h2>Packing</h2>",
        _packing(folder, run),
        "<h2>Data</h2>",
        table(run["data"]),
        "<h2>Environment</h2>",
        table(run["environment"]),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape((folder / 'config.yaml').read_text(encoding='utf-8'))}</pre>",
    ]
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(run['title'])}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    path = folder / "report.html"
    with atomic_file(path, "w") as file:
        file.write(page)
    return path


def _sections(folder: Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> List[str]:
    """Sections of a task: how its model learned and what it can do."""
    if "targets" not in run:
        from ipu_chem.reports.text import text_sections

        return text_sections(folder, run, rows)
    return [
        _results(run),
        "<h2>Learning</h2>",
        image(_learning_curve(rows, run)),
        "<h2>Predictions</h2>",
        *[image(_parity(folder, run, column)) for column in range(len(run["targets"])) if run.get("results")],
    ]


def _results(run: Mapping[str, Any]) -> str:
    """The errors, beside the baseline they must beat."""
    results = run.get("results")
    if not results:
        return "<p>The run has not finished yet.</p>"
    beside = html.escape(run.get("baseline_name", "per-composition"))
    lines = [f"<table class='big'><tr><th>split</th><th>metric</th><th>model</th><th>{beside} baseline</th></tr>"]
    for split, metrics in results.items():
        baseline = run.get("baseline", {}).get(split, {})
        for name, value in metrics.items():
            beside = f"{baseline[name]:.4g}" if name in baseline else ""
            lines.append(
                f"<tr><td>{split}</td><td>{html.escape(name)}</td><td class='n'>{value:.4g}</td>"
                f"<td class='n'>{beside}</td></tr>"
            )
    return "".join(lines) + "</table>"


def _learning_curve(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> Any:
    """Training loss and validation figures over optimizer steps, side by side, never on a double axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, (left, right) = figure_of(1, 2)
    train = [row for row in rows if row["kind"] == "train" and row.get("loss") is not None]
    left.plot([row["step"] for row in train], [row["loss"] for row in train], color=GREY, linewidth=0.8, label="steps")
    evaluated = [row for row in rows if row["kind"] == "validation"]
    steps = [row["step"] for row in evaluated]
    left.plot(steps, [row["loss"] for row in evaluated], color=BLUE, label="mean of the epoch")
    left.set(xlabel="optimizer step", ylabel="training loss (standardised)", yscale="log")
    left.legend(frameon=False)
    if "rocauc" in run["targets"][0]:
        left.set(ylabel="training loss (nats)")
        class_validation(right, run, steps, evaluated)
        return figure
    for index, target in enumerate(run["targets"]):
        name = target["mae"]
        color = None if index else BLUE
        right.plot(steps, [row.get(name) for row in evaluated], color=color, label=name)
        baseline = run.get("baseline", {}).get("validation", {}).get(name)
        if baseline is not None and len(run["targets"]) == 1:
            label = f"{run.get('baseline_name', 'per-composition')} baseline"
            right.axhline(baseline, color=ORANGE, linestyle="--", label=label)
    right.set(xlabel="optimizer step", ylabel="validation MAE", yscale="log")
    right.set_ylim(top=right.get_ylim()[1] * 1.5)  # room for the legend above the baseline
    right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False, loc="upper right")
    return figure


def _parity(folder: Path, run: Mapping[str, Any], column: int) -> Any:
    """Prediction against label, and the distribution of the errors; of classes what `class_figure` shows."""
    target = run["targets"][column]
    split = "test" if (folder / "predictions_test.csv").is_file() else "validation"
    if "rocauc" in target:
        return class_figure(target["name"], split, *_labels(folder, split, target["name"], "probability"))
    label, prediction = _labels(folder, split, target["name"])
    unit = f" ({target['unit']})" if target["unit"] else ""
    figure, (left, right) = figure_of(1, 2)
    left.scatter(label, prediction, s=6, alpha=0.4, color=BLUE, edgecolors="none")
    ends = [np.nanmin([label, prediction]), np.nanmax([label, prediction])]
    left.plot(ends, ends, color=GREY, linewidth=0.8)
    left.set(xlabel=f"{target['name']}{unit}, label", ylabel="prediction", title=f"{split} split", aspect="equal")
    right.hist((prediction - label)[np.isfinite(label)], bins=60, color=BLUE)
    right.set(
        xlabel=f"error of {target['name']}{unit}", ylabel="components" if target["name"] == FORCES else "molecules"
    )
    return figure


def _labels(folder: Path, split: str, name: str, column: str = "prediction") -> Tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a target of molecules, or of components of forces."""
    if name == FORCES:
        with np.load(folder / f"forces_{split}.npz") as arrays:
            label, prediction = arrays["label"].ravel(), arrays["prediction"].ravel()
        shown = np.linspace(0, len(label) - 1, min(len(label), _MOST_POINTS)).astype(np.int64)
        return label[shown], prediction[shown]
    with open(folder / f"predictions_{split}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    label, prediction = (np.array([float(row[f"{name}_{kind}"]) for row in rows]) for kind in ("label", column))
    return label, prediction


def _packing(folder: Path, run: Mapping[str, Any]) -> str:
    """Plan statistics per split and how full the training packs are."""
    header = ("split", "molecules", "packs", "lower bound", "gap", "filled", "closed by")
    lines = ["<table><tr>", *[f"<th>{name}</th>" for name in header], "</tr>"]
    figure = None
    for split in run["splits"]:
        path = folder / "plans" / f"{split}.npz"
        if not path.is_file():
            continue
        plan = PackingPlan.load(path)
        filled = ", ".join(f"{name} {share:.2%}" for name, share in plan.efficiency.items())
        closed = ", ".join(f"{name} {share:.1%}" for name, share in plan.closed_by.items() if share)
        cells = [f"{plan.num_items:,}", f"{plan.num_packs:,}", f"{plan.lower_bound:,}", str(plan.gap)]
        lines.append(f"<tr><td>{split}</td>" + "".join(f"<td class='n'>{cell}</td>" for cell in cells))
        lines.append(f"<td>{filled}</td><td>{closed}</td></tr>")
        if split == "train":
            figure = _fill_histogram(plan)
    return "".join(lines) + "</table>" + (image(figure) if figure is not None else "")


def _fill_histogram(plan: PackingPlan) -> Any:
    """Sizes of the molecules, and how much of each capacity the packs use."""
    names = list(plan.budget.measured)
    figure, axes = figure_of(1, 1 + len(names))
    sizes = plan.sizes[:, 0]
    axes[0].bar(*np.unique(sizes, return_counts=True), color=BLUE, width=0.9)
    axes[0].set(xlabel=f"{names[0]} per molecule", ylabel="molecules")
    for axis, name in zip(axes[1:], names):
        axis.hist(plan.fills[name], bins=40, color=BLUE)
        axis.axvline(plan.budget[name], color=ORANGE, linestyle="--")
        axis.set(xlabel=f"{name} per pack (capacity {plan.budget[name]:,})", ylabel="packs", yscale="log")
    return figure
