"""Figures of a scaling study, for papers: vector or bitmap by the name of the file."""

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np

from ipu_chem.reports.parts import BLUE, GREY, ORANGE, figure_of
from ipu_chem.scaling.broken_law import BrokenLaw
from ipu_chem.scaling.frontier import frontier_of
from ipu_chem.scaling.joint_law import JointLaw
from ipu_chem.scaling.points import Point, check_comparable, check_loss
from ipu_chem.scaling.power_law import PowerLaw, fit_power_law
from packing.files import PathLike, atomic_file

_NAMES = {
    "parameters": "parameters without embeddings",
    "tokens": "training tokens",
    "molecules": "training molecules",
    "flops": "training FLOPs",
}


def save(figure: Any, path: PathLike) -> Path:
    """Write a figure, atomically, in the format that the file's name ends with, and close it.

    Raises:
        ValueError: matplotlib knows no such format.
    """
    from matplotlib import pyplot

    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise ValueError(f"{path}: a figure's file ends with {', '.join(sorted(known))}.")
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=200)
    pyplot.close(figure)
    return path


def loss_over(points: Sequence[Point], over: str, law: bool = True) -> Any:
    """Loss against parameters, one line per amount of data, or against tokens or molecules, one per size.

    Points are means over seeds with their range; with ``law`` each line of 3 points or more has its power law.

    Raises:
        ValueError: ``over`` is none of these, or the points do not make one study; see `check_comparable`.
    """
    if over not in ("parameters", "tokens", "molecules"):
        raise ValueError(f"over={over!r}: choose parameters, tokens or molecules.")
    check_comparable(points)
    each = "molecules" if over == "parameters" else "parameters"
    figure, axis = new_figure()
    values = sorted({getattr(point, each) for point in points})
    for value, color in zip(values, _shades(len(values))):
        line = [point for point in points if getattr(point, each) == value]
        label = f"{_short(value)} {each}"
        x = np.array(sorted({getattr(point, over) for point in line}), np.float64)
        if law and len(x) >= 3:
            fitted = _law_of(line, over)
            axis.plot(x, fitted(x), color=color, linewidth=0.8, linestyle="--")
            label += f", exponent {fitted.beta.value:.3f}"
        losses = [[point.loss for point in line if getattr(point, over) == size] for size in x]
        means = np.array([np.mean(group) for group in losses])
        spread = [means - [min(group) for group in losses], [max(group) for group in losses] - means]
        # Rounding may put a mean of equal losses beyond them.
        axis.errorbar(x, means, np.maximum(spread, 0), color=color, marker="o", markersize=4, linewidth=1, label=label)
    logarithmic(axis, _name(points, over), _loss_name(points))
    _legend_beside(figure, axis)
    return figure


def compute_frontier_figure(points: Sequence[Point]) -> Any:
    """Loss against FLOPs of all runs, and the frontier that no run lies below.

    Raises:
        ValueError: see `check_loss`.
    """
    check_loss(points)
    figure, axis = new_figure()
    axis.scatter([p.flops for p in points], [p.loss for p in points], s=12, color=GREY, label="runs")
    best = frontier_of(points)
    axis.plot([p.flops for p in best], [p.loss for p in best], color=BLUE, marker="o", markersize=4, label="frontier")
    for before, point in zip([None, *best], best):
        where = (point.flops, point.loss)
        if before is None or before.parameters != point.parameters:  # each size once
            axis.annotate(_short(point.parameters), where, (4, 4), textcoords="offset points", fontsize=6)
    logarithmic(axis, _NAMES["flops"], _loss_name(points))
    axis.legend(frameon=False, title="numbers: parameters", fontsize=8, title_fontsize=7)
    return figure


def surface(points: Sequence[Point], law: JointLaw, data: str = "tokens") -> Any:
    """Lines of equal loss of L(N, D) with the runs it was fitted to, and what it says against what they reached.

    Raises:
        ValueError: see `check_comparable`.
    """
    check_comparable(points)
    figure, (left, right) = new_figure(2)
    size = np.array([p.parameters for p in points], np.float64)
    amount = np.array([getattr(p, data) for p in points], np.float64)
    loss = np.array([p.loss for p in points])
    x, y = (np.geomspace(values.min() / 1.5, values.max() * 1.5, 60) for values in (size, amount))
    levels = np.unique(np.geomspace(loss.min(), loss.max(), 10).round(2))  # where the runs are
    contours = left.contour(x, y, law(x[None], y[:, None]), levels=levels, cmap=_colormap(), linewidths=1)
    left.clabel(contours, fontsize=6)
    left.scatter(size, amount, s=12, color=GREY)
    left.set(xscale="log", yscale="log", xlabel=_NAMES["parameters"], ylabel=_name(points, data))
    left.set_title(
        f"a = {law.size_exponent}, b = {law.data_exponent}\nE = {law.floor}", fontsize=8, fontweight="normal"
    )
    diagonal(right, law(size, amount), loss, "fitted", _loss_name(points), law.r2)
    right.scatter(law(size, amount), loss, s=14, color=BLUE)
    return figure


def broken_figure(points: Sequence[Point], laws: Sequence[Tuple[int, BrokenLaw]], over: str = "parameters") -> Any:
    """Loss over parameters for each amount of tokens, or the reverse, with the laws of lowest BIC and their breaks.

    Args:
        points: of the study.
        laws: (what is held, law over the other) of every line to draw.
        over: parameters or tokens.

    Raises:
        ValueError: see `check_comparable`.
    """
    check_comparable(points)
    held = "tokens" if over == "parameters" else "parameters"
    figure, axis = new_figure()
    word = "parameters" if held == "parameters" else _name(points, held).split()[-1]
    for (value, law), color in zip(laws, _shades(len(laws))):
        line = [point for point in points if getattr(point, held) == value]
        x = np.array([getattr(point, over) for point in line], np.float64)
        axis.scatter(x, [point.loss for point in line], s=10, color=color)
        grid = np.geomspace(x.min(), x.max(), 200)
        slopes = ", ".join(f"{one.exponent.value:.3f}" for one in law.ranges)
        label = f"{_short(value)} {word}, exponent {slopes}"
        if law.floor is not None:
            label += f" above {law.floor.value:.3g}"
        axis.plot(grid, law(grid), color=color, linewidth=1, label=label)
        if law.breaks is not None:
            at, ends = law.breaks.value, law.breaks
            axis.errorbar(
                [at], law([at]), xerr=[[max(at - ends.low, 0)], [max(ends.high - at, 0)]], color=color, marker="|",
                markersize=12, capsize=2, linewidth=2.5, alpha=0.6,
            )  # fmt: skip
    logarithmic(axis, _name(points, over), _loss_name(points))
    _legend_beside(figure, axis, "bars: breaks with intervals")
    return figure


def diagonal(axis: Any, predicted: np.ndarray, true: np.ndarray, word: str, loss_name: str, r2: float) -> None:
    """Where what a line or law says is what was reached, with axes and R², to draw points over."""
    ends = [min(predicted.min(), true.min()), max(predicted.max(), true.max())]
    axis.plot(ends, ends, color=GREY, linewidth=0.8)
    axis.set(xlabel=f"{word} {loss_name}", ylabel=loss_name)
    axis.set_title(f"R² = {r2:.3f}", fontsize=8)


def _law_of(line: Sequence[Point], over: str) -> PowerLaw:
    """Of one line; the bootstrap is left out because only the slope is shown."""
    return fit_power_law(line, over, draws=1)


def new_figure(columns: int = 1) -> Any:
    """A figure and its axes, side by side, drawn without a screen.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install 'ipu-chem[plot]'.") from error
    matplotlib.use("Agg")
    return figure_of(1, columns)


def _name(points: Sequence[Point], over: str) -> str:
    """Of an axis; what counts as tokens of graphs are atoms."""
    atoms = over == "tokens" and not points[0].loss_name.startswith("nats")
    return "training atoms" if atoms else _NAMES[over]


def _legend_beside(figure: Any, axis: Any, title: str = "") -> None:
    """Beside the axes, since lines cross all of them."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 1.7, height)
    axis.legend(
        frameon=False, fontsize=7, title=title or None, title_fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5)
    )


def logarithmic(axis: Any, xlabel: str, ylabel: str) -> None:
    """Both scales logarithmic, losses as plain numbers, since they seldom span more than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    decades = np.log10(np.divide(*axis.get_ylim()[::-1]))
    few = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    subs = (1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) if decades < 1.2 else few
    low, high = axis.get_xlim()
    axis.xaxis.set_minor_formatter(NullFormatter())
    if high < 50 * low:  # one or no power of ten would be named
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter("{x:g}")


def words_of(metric: str) -> str:
    """mae_forces_meV_per_A as mae forces meV/Å."""
    return metric.replace("_per_A", "/Å").replace("_", " ")


def _short(number: int) -> str:
    """77568 as 77.6K."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _loss_name(points: Sequence[Point]) -> str:
    return words_of(points[0].loss_name)


def _colormap() -> Any:
    """From the reports' blue to their orange."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ipu_chem", [BLUE, GREY, ORANGE])


def _shades(count: int) -> List[Any]:
    return [_colormap()(share) for share in np.linspace(0, 1, count)]
