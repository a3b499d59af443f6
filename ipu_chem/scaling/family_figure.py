"""Figure and files of families: loss over size and over data, one row of axes for each unit of a loss."""

import csv
import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from ipu_chem.reports.figures import colors, figure_of, legend_beside, save, words_of
from ipu_chem.scaling.families import WHICH, Family, family_lines, rows_of
from ipu_chem.scaling.figures import axis_name, logarithmic
from ipu_chem.scaling.points import as_json
from packing.files import atomic_file


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


def write_families(folder: Path, families: Sequence[Family]) -> List[Path]:
    """Write families.csv, families.json, families.txt and, where there is matplotlib, families.png."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(families)
    paths = [folder / f"families.{end}" for end in ("csv", "json", "txt")]
    with atomic_file(paths[0], "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_file(paths[1], "w") as file:
        json.dump({"exponents": as_json(rows), "published": WHICH, "families": as_json(list(families))}, file, indent=1)
    with atomic_file(paths[2], "w") as file:
        file.write("\n".join(family_lines(families)) + "\n")
    try:
        paths.append(save(family_figure(families), folder / "families.png"))
    except ValueError as error:
        print(error)
    return paths


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
