"""The figure of a search: how candidates trained, which of them the looks chose, and what they would have reached."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.reports.parts import BLUE, GREY, ORANGE
from ipu_chem.scaling.figures import diagonal, logarithmic, new_figure, words_of
from ipu_chem.scaling.search_report import Result

_LEGEND = 8  # values of an option that a legend has room for


def search_figure(result: Result) -> Any:
    """Losses of all candidates with the looks; where there is a calibration, its predictions against final values.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if result.calibration is None:
        figure, left = new_figure()
    else:
        figure, (left, right) = new_figure(2)
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
    """Kept ones in blue and above, the others grey, what diverged dotted; the looks as lines."""
    from matplotlib.ticker import LogLocator, NullFormatter

    kept = set(result.kept)
    diverged = {row.name for row in result.rows if row.status == "diverged"}
    styles = {  # last drawn is on top
        "diverged": {"color": ORANGE, "linewidth": 0.8, "linestyle": ":"},
        "others": {"color": GREY, "linewidth": 0.8, "alpha": 0.8},
        "kept": {"color": BLUE, "linewidth": 1.4},
    }
    groups: Dict[str, List[Any]] = {group: [] for group in styles}
    for curve in result.curves:
        groups["diverged" if curve.name in diverged else "kept" if curve.name in kept else "others"].append(curve)
    seen: List[float] = []
    for group, style in styles.items():
        for number, curve in enumerate(groups[group]):
            label = f"{len(groups[group])} {group}" if number == 0 else None
            axis.plot(100 * np.array(curve.shares), curve.losses, label=label, **style)
            seen += [loss for loss in curve.losses if group != "diverged" and loss > 0]
    if seen:  # those that diverge would squeeze the others
        axis.set_ylim(min(seen) / 1.05, max(seen) * 1.05)
    for number, look in enumerate(result.looks):
        label = ("look" if len(result.looks) == 1 else "looks") if number == 0 else None
        axis.axvline(100 * look.share, color="black", linewidth=0.8, linestyle="--", label=label)
    logarithmic(axis, "steps of a run (%)", "training loss, running mean")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title(
        f"{len(result.rows)} candidates; looking saves {result.chosen.saving:.0%} of steps", fontsize=8, pad=18
    )
    handles, labels = axis.get_legend_handles_labels()
    order = [*range(len(labels) - 1)][::-1] + [len(labels) - 1]  # what was kept first
    axis.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncol=len(order),
        frameon=False,
        fontsize=7,
        handlelength=1.5,
        columnspacing=1.2,
    )


def _predictions(axis: Any, result: Result) -> None:
    """Predicted against final values, coloured by an option; diverged ones are counted in the title."""
    import matplotlib

    assert result.calibration is not None
    ended = [row for row in result.rows if row.final is not None]
    shown = [row for row in ended if np.isfinite(row.estimate) and np.isfinite(row.final or 0.0)]
    predicted = result.calibration([row.estimate for row in shown])
    final = np.array([row.final for row in shown], np.float64)
    name = f"final {words_of(result.metric)}"
    diagonal(axis, predicted, final, "predicted", name, result.calibration.r2)
    grouped = options_of([row.name for row in shown])
    option, value_of = grouped or ("", {row.name: "" for row in shown})
    values = list(dict.fromkeys(value_of.values()))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(values))) if grouped else [BLUE]
    for value, color in zip(values, colors):
        own = [index for index, row in enumerate(shown) if value_of[row.name] == value]
        axis.scatter(predicted[own], final[own], s=18, color=[color], label=value, zorder=2)
    own = [index for index, row in enumerate(shown) if row.name in result.kept]
    axis.scatter(predicted[own], final[own], s=48, facecolors="none", edgecolors="black", linewidths=0.8, label="kept")
    notes = [axis.get_title()]
    if result.assessment is not None:
        seen = result.assessment
        notes.append(f"Spearman {seen.spearman:.2f}, Kendall {seen.kendall:.2f}; regret {seen.regret:.2g}")
    if len(shown) < len(ended):
        notes.append(f"{len(ended) - len(shown)} diverged")
    axis.set_title("; ".join(notes), fontsize=8)
    axis.legend(frameon=False, fontsize=7, title=option.replace("_", " "), title_fontsize=7)


def _order(value: str) -> Tuple[float, str]:
    """Numbers by their size, before words."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
