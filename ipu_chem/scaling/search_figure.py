"""Figure of a search: training curves of the candidates, those that were chosen, and predicted final values."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.reports.figures import BLUE, ORANGE, figure_of, legend_beside, shades, words_of
from ipu_chem.scaling.figures import diagonal, logarithmic
from ipu_chem.scaling.search_result import Result

_LEGEND = 8  # values of an option that a legend has room for


def search_figure(result: Result) -> Any:
    """Losses of all candidates and early evaluations; where there is a calibration, predicted against final values.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if result.calibration is None:
        figure, left = figure_of(1, 1)
    else:
        figure, (left, right) = figure_of(1, 2)
        _predictions(right, result)
    _curves(left, result)
    return figure


def options_of(names: Sequence[str]) -> Optional[Tuple[str, Dict[str, str]]]:
    """The option that candidates differ in most, of those with few values, and its value of each.

    Args:
        names: of candidates, such as learning_rate=0.001,name=painn.

    Returns:
        (option, {name: value}, values in rising order); None where no option has 2 to 8 values.
    """
    values = {name: dict(part.split("=", 1) for part in name.split(",") if "=" in part) for name in names}
    counts = {option: len({own[option] for own in values.values()}) for option in next(iter(values.values()))}
    counts = {option: count for option, count in counts.items() if 2 <= count <= _LEGEND}
    if not counts:
        return None
    option = max(counts, key=lambda one: counts[one])
    return option, {name: values[name][option] for name in sorted(names, key=lambda name: _order(values[name][option]))}


def _curves(axis: Any, result: Result) -> None:
    """Chosen candidates in shades of blue, the others of gray, diverged ones dotted; early evaluations are lines."""
    kept = set(result.kept)
    diverged = {row.name for row in result.rows if row.status == "diverged"}
    styles = {  # last drawn is on top
        "diverged": (ORANGE, "#7a3d00", {"linewidth": 0.8, "linestyle": ":"}),
        "others": ("#c4c4c4", "#6e6e6e", {"linewidth": 0.8}),
        "kept": ("#8fc1ea", "#123f6b", {"linewidth": 1.4}),
    }
    groups: Dict[str, List[Any]] = {group: [] for group in styles}
    for curve in result.curves:
        groups["diverged" if curve.name in diverged else "kept" if curve.name in kept else "others"].append(curve)
    seen: List[float] = []
    for group, (first, last, style) in styles.items():
        for number, (curve, color) in enumerate(zip(groups[group], shades(len(groups[group]), first, last))):
            label = f"{len(groups[group])} {group}" if number == 0 else None
            axis.plot(100 * np.array(curve.budgets), curve.losses, color=color, label=label, **style)
            seen += [loss for loss in curve.losses if group != "diverged" and loss > 0]
    if seen:  # those that diverge would squeeze the others
        axis.set_ylim(min(seen) / 1.05, max(seen) * 1.05)
    for number, one in enumerate(result.evaluations):
        label = ("early evaluation" + "s" * (len(result.evaluations) > 1)) if number == 0 else None
        axis.axvline(100 * one.budget, color="#b8473d", linewidth=0.8, linestyle="--", label=label)
    unit = "nats" if result.metric.startswith(("nats", "1 - ")) else "standardized"
    logarithmic(axis, "steps of a run (%)", f"running mean of the training loss ({unit})")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick >= axis.get_xlim()[0]]
    axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axis.set_title(f"{len(result.rows)} candidates, {result.chosen.saving:.0%} of steps saved", fontsize=9)
    *lines, early = axis.get_legend_handles_labels()[0]
    legend_beside(axis, handles=[*lines[::-1], early])  # those kept first


def _predictions(axis: Any, result: Result) -> None:
    """Predicted against final values, colored by an option; diverged ones are counted in the title."""
    assert result.calibration is not None
    ended = [row for row in result.rows if row.final is not None]
    shown = [row for row in ended if np.isfinite(row.estimate) and np.isfinite(row.final or 0.0)]
    predicted = result.calibration([row.estimate for row in shown])
    final = np.array([row.final for row in shown], np.float64)
    name = words_of(result.metric)
    diagonal(axis, predicted, final, "predicted", name, result.calibration.r2)
    grouped = options_of([row.name for row in shown])
    option, value_of = grouped or ("", {row.name: "" for row in shown})
    values = list(dict.fromkeys(value_of.values()))
    for value, color in zip(values, shades(len(values), "#3b0f70", "#e8a030") if grouped else [BLUE]):
        own = [index for index, row in enumerate(shown) if value_of[row.name] == value]
        axis.scatter(predicted[own], final[own], s=18, color=[color], label=value, zorder=2)
    own = [index for index, row in enumerate(shown) if row.name in result.kept]
    axis.scatter(predicted[own], final[own], s=48, facecolors="none", edgecolors="black", linewidths=0.8, label="kept")
    notes = [axis.get_title()]
    if result.assessment is not None:
        seen = result.assessment
        notes[0] += f"; Spearman {seen.spearman:.2f}, Kendall {seen.kendall:.2f}"
        notes.append(f"regret {seen.regret:.2g}")
    if len(shown) < len(ended):
        notes.append(f"{len(ended) - len(shown)} diverged")
    axis.set_title(f"{notes[0]}\n{'; '.join(notes[1:])}".strip(), fontsize=9)
    legend_beside(axis, option.replace("_", " "))


def _order(value: str) -> Tuple[float, str]:
    """Numbers by their size, before words."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
