"""Figures of a scaling study, for papers: vector or bitmap by the name of the file."""

from textwrap import wrap
from typing import Any, Sequence, Tuple

import numpy as np

from ipu_chem.reports.figures import BLUE, GRAY, colormap, figure_of, legend_beside, log_scale, shades, short, words_of
from ipu_chem.scaling.broken_law import BrokenLaw
from ipu_chem.scaling.frontier import frontier_of
from ipu_chem.scaling.joint_law import JointLaw
from ipu_chem.scaling.points import Point, check_comparable, check_loss
from ipu_chem.scaling.power_law import fit_power_law

_NAMES = {
    "parameters": "parameters without embeddings",
    "tokens": "training tokens",
    "molecules": "training molecules",
    "flops": "training FLOPs",
}


def loss_over(points: Sequence[Point], over: str, overfitted: Sequence[Point] = ()) -> Any:
    """Loss against parameters, for each amount of data, or against tokens or molecules, for each size.

    Points are means over seeds with their range; the line of 3 sizes or more is their power law.

    Args:
        points: of the laws.
        over: parameters, tokens or molecules.
        overfitted: points that no law is fitted to; each is marked by a cross.

    Raises:
        ValueError: ``over`` is none of these, or the points do not make one study; see `check_comparable`.
    """
    if over not in ("parameters", "tokens", "molecules"):
        raise ValueError(f"over={over!r}: choose parameters, tokens or molecules.")
    check_comparable(points)
    each = "molecules" if over == "parameters" else "parameters"
    figure, axis = figure_of(1, 1)
    values = sorted({getattr(point, each) for point in points})
    for value, color in zip(values, shades(len(values))):
        line = [point for point in points if getattr(point, each) == value]
        label = f"{short(value)} {each}"
        x = np.array(sorted({getattr(point, over) for point in line}), np.float64)
        if len(x) >= 3:
            fitted = fit_power_law(line, over)
            axis.plot(x, fitted(x), color=color, linewidth=1)
            label += f": exponent {fitted.beta.value:.3f}, R² {fitted.r2:.3f}"
        losses = [[point.loss for point in line if getattr(point, over) == size] for size in x]
        means = np.array([np.mean(group) for group in losses])
        spread = [means - [min(group) for group in losses], [max(group) for group in losses] - means]
        # Rounding may put a mean of equal losses beyond them.
        style = {"color": color, "marker": "o", "markersize": 4, "linestyle": "none" if len(x) >= 3 else "-"}
        axis.errorbar(x, means, np.maximum(spread, 0), linewidth=1, label=label, **style)
    if overfitted:
        losses = [point.loss for point in overfitted]
        label = "overfits: in no law"
        axis.scatter([getattr(p, over) for p in overfitted], losses, s=24, color=GRAY, marker="x", label=label)
    logarithmic(axis, axis_name(points, over), words_of(points[0].loss_name))
    legend_beside(axis, "lines: power laws")
    return figure


def compute_frontier_figure(points: Sequence[Point]) -> Any:
    """Loss against FLOPs of all runs, and the frontier that no run lies below; see `check_loss`."""
    check_loss(points)
    figure, axis = figure_of(1, 1)
    axis.scatter([p.flops for p in points], [p.loss for p in points], s=12, color=GRAY, label="runs")
    best = frontier_of(points)
    axis.plot([p.flops for p in best], [p.loss for p in best], color=BLUE, marker="o", markersize=4, label="frontier")
    for before, point in zip([None, *best], best):
        where = (point.flops, point.loss)
        if before is None or before.parameters != point.parameters:  # each size once
            axis.annotate(short(point.parameters), where, (4, 4), textcoords="offset points", fontsize=6)
    logarithmic(axis, _NAMES["flops"], words_of(points[0].loss_name))
    legend_beside(axis, "numbers: parameters")
    return figure


def surface(points: Sequence[Point], law: JointLaw) -> Any:
    """Lines of equal loss of L(N, D) with its runs, and fitted losses against theirs; see `check_comparable`.

    Where runs do not identify the law its lines are dashed and end with the runs.
    """
    check_comparable(points)
    figure, (left, right) = figure_of(1, 2)
    size = np.array([p.parameters for p in points], np.float64)
    amount = np.array([p.tokens for p in points], np.float64)
    loss = np.array([p.loss for p in points])
    beyond = 1.0 if law.open else 1.5
    x, y = (np.geomspace(values.min() / beyond, values.max() * beyond, 60) for values in (size, amount))
    levels = np.unique([float(f"{level:.3g}") for level in np.geomspace(loss.min(), loss.max(), 10)])
    style = "dashed" if law.open else "solid"
    surface_of = law(x[None], y[:, None])
    contours = left.contour(x, y, surface_of, levels=levels, cmap=colormap(), linewidths=1, linestyles=style)
    left.clabel(contours, fontsize=6)
    left.scatter(size, amount, s=12, color=GRAY, label="runs")
    left.set(xscale="log", yscale="log", xlabel=_NAMES["parameters"], ylabel=axis_name(points, "tokens"))
    loss_name = words_of(points[0].loss_name)
    diagonal(right, law(size, amount), loss, "fitted", loss_name, law.r2)
    right.scatter(law(size, amount), loss, s=14, color=BLUE, label="runs")
    fitted = f"a = {law.size_exponent}\nb = {law.data_exponent}\nE = {law.floor}, R² {law.r2:.3f}"
    lines = f"lines: equal {loss_name}"
    if law.open:
        lines = f"dashed: equal {loss_name}, not identified"
    legend_beside(right, f"L = E + A/N^a + B/D^b\n{fitted}\n{lines}")
    return figure


def broken_figure(points: Sequence[Point], laws: Sequence[Tuple[int, BrokenLaw]], over: str = "parameters") -> Any:
    """Loss over parameters for each amount of tokens, or the reverse, with the best laws and their breaks.

    Args:
        points: of the study.
        laws: (what is held, law over the other) of every line to draw.
        over: parameters or tokens.
    """
    check_comparable(points)
    held = "tokens" if over == "parameters" else "parameters"
    figure, axis = figure_of(1, 1)
    word = "parameters" if held == "parameters" else axis_name(points, held).split()[-1]
    for (value, law), color in zip(laws, shades(len(laws))):
        line = [point for point in points if getattr(point, held) == value]
        x = np.array([getattr(point, over) for point in line], np.float64)
        axis.scatter(x, [point.loss for point in line], s=10, color=color)
        grid = np.geomspace(x.min(), x.max(), 200)
        exponents = ", ".join(f"{one.exponent.value:.3f}" for one in law.ranges)
        label = f"{short(value)} {word}, exponent {exponents}"
        if law.floor is not None:
            label += f" above {law.floor.value:.3g}"
        axis.plot(grid, law(grid), color=color, linewidth=1, label=label)
        if law.breaks is not None:
            at, ends = law.breaks.value, law.breaks
            low = min(x.min(), at) if ends.open_low else ends.low
            high = max(x.max(), at) if ends.open_high else ends.high
            for end, opened, arrow in ((low, ends.open_low, "<"), (high, ends.open_high, ">")):
                if opened:
                    axis.plot([end], law([at]), color=color, marker=arrow, markersize=6, alpha=0.6)
            axis.errorbar(
                [at], law([at]), xerr=[[max(at - low, 0)], [max(high - at, 0)]], color=color, marker="|",
                markersize=12, capsize=2, linewidth=2.5, alpha=0.6,
            )  # fmt: skip
    logarithmic(axis, axis_name(points, over), words_of(points[0].loss_name))
    legend_beside(axis, "lines: one power law or two\nbars: breaks with intervals,\narrows: open")
    return figure


def diagonal(axis: Any, predicted: np.ndarray, true: np.ndarray, word: str, loss_name: str, r2: float) -> None:
    """Line of equal predicted and true values, with axes and R², to draw points over."""
    ends = [min(predicted.min(), true.min()), max(predicted.max(), true.max())]
    axis.plot(ends, ends, color=GRAY, linewidth=0.8)
    axis.set(xlabel=f"{word} {loss_name}", ylabel=loss_name)
    axis.set_title(f"R² = {r2:.3f}", fontsize=8)


def caption_below(figure: Any, lines: Sequence[str]) -> None:
    """Put small lines below the axes, wrapped to the figure's width; the figure becomes higher by them."""
    width, height = figure.get_size_inches()
    wrapped = [part for line in lines for part in wrap(line, int(22 * width), subsequent_indent="    ")]
    if wrapped:
        figure.set_size_inches(width, height + 0.12 * len(wrapped))
        figure.supxlabel("\n".join(wrapped), x=0.01, ha="left", fontsize=6, color=GRAY, linespacing=1.3)


def axis_name(points: Sequence[Point], over: str) -> str:
    """Name of an axis; tokens of graphs are atoms."""
    atoms = over == "tokens" and not points[0].loss_name.startswith("nats")
    return "training atoms" if atoms else _NAMES[over]


def logarithmic(axis: Any, xlabel: str, ylabel: str) -> None:
    """Both scales logarithmic, losses as plain numbers, since they seldom span more than a decade."""
    axis.set(xlabel=xlabel, ylabel=ylabel)
    for which in ("x", "y"):
        log_scale(axis, which)
