"""Figure of families: loss over size and over data, one row of axes for each unit of a loss."""

from typing import Any, Dict, List, Sequence

import numpy as np

from ipu_chem.reports.figures import colors, figure_of, legend_beside, words_of
from ipu_chem.scaling.families import Family
from ipu_chem.scaling.figures import axis_name, logarithmic


def family_figure(families: Sequence[Family]) -> Any:
    """Points are means over seeds with their range, lines are power laws; legends hold exponents with intervals.

    Raises:
        ValueError: matplotlib is not installed.
    """
    units: Dict[str, List[Family]] = {}
    for one in families:
        units.setdefault(one.points[0].loss_name, []).append(one)
    figure, axes = figure_of(len(units), 2)
    style = dict(zip((one.name for one in families), colors(len(families))))
    for row, (unit, members) in zip(np.atleast_2d(axes), units.items()):
        for axis, over in zip(row, ("parameters", "tokens")):
            for one in members:
                _draw(axis, one, over, style[one.name])
            logarithmic(axis, axis_name(members[0].points, over), words_of(unit))
        legend_beside(row[1], "lines: power laws; N: size at the most data,\nD: data at the largest size")
    return figure


def _draw(axis: Any, family: Family, over: str, color: str) -> None:
    """Points and law of a family; the legend is made of the axes on the right."""
    points = family.edge(over)
    x = np.array(sorted({getattr(point, over) for point in points}), np.float64)
    losses = [[point.loss for point in points if getattr(point, over) == size] for size in x]
    means = np.array([np.mean(group) for group in losses])
    # Rounding may put a mean of equal losses beyond them.
    spread = np.maximum([means - [min(group) for group in losses], [max(group) for group in losses] - means], 0)
    label = _label(family) if over == "tokens" else "_"
    axis.errorbar(x, means, spread, color=color, marker="o", markersize=4, linestyle="none", linewidth=1, label=label)
    law = family.law(over)
    if law is not None:
        axis.plot(x, law(x), color=color, linewidth=1)


def _label(family: Family) -> str:
    words = [
        f"{letter}: {'no exponent' if law is None else f'{law.beta}, R² {law.r2:.3f}'}"
        for letter, law in (("N", family.width), ("D", family.data))
    ]
    if family.published is not None:
        words[0] += f" (published {family.published:g})"
    return "\n".join([family.name, *words])
