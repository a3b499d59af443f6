"""What the points of a scaling study say: exponents, breaks, what limits the loss; what cannot be said, and why.

On data's way: points -> `analyse` -> lines to print, study.json, points.csv, figures.
"""

import csv
import json
import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.broken_law import BrokenLaw, fit_broken
from ipu_chem.scaling.frontier import frontier_of
from ipu_chem.scaling.joint_law import JointLaw, fit_joint
from ipu_chem.scaling.points import STEPS_HELD, Point, check_comparable, write_points
from ipu_chem.scaling.power_law import PowerLaw, fit_power_law
from packing.files import atomic_file


class Regime(NamedTuple):
    """What limits the loss at one size and amount of data.

    Attributes:
        parameters, tokens: N and D.
        loss: geometric mean over seeds.
        size_slope, data_slope: by which log L falls per unit of log N and of log D there.
        limited_by: data or model, whichever more of lowers the loss more; neither if neither does.
    """

    parameters: int
    tokens: int
    loss: float
    size_slope: float
    data_slope: float
    limited_by: str


@dataclass(frozen=True)
class Study:
    """Everything that a study says; a law is None where its note says why.

    Attributes:
        points: all of them, also runs that diverged.
        fitted: those that the laws are fitted to.
        width: loss over parameters at the most data.
        data: loss over tokens at the largest size.
        broken_width, broken_data: the same, one power law or two.
        joint: loss over both.
        regimes: of every size and amount.
        frontier: runs on the compute frontier, cheapest first.
        notes: sentences.
    """

    points: List[Point]
    fitted: List[Point]
    width: Optional[PowerLaw]
    data: Optional[PowerLaw]
    broken_width: Optional[BrokenLaw]
    broken_data: Optional[BrokenLaw]
    joint: Optional[JointLaw]
    regimes: List[Regime]
    frontier: List[Point]
    notes: List[str]


def analyse(points: Sequence[Point]) -> Study:
    """Fit what the points allow; a size and amount of which a seed diverged is left out, and a note says so."""
    notes: List[str] = []
    bad = {(point.parameters, point.tokens) for point in points if point.diverged}
    for size, amount in sorted(bad):
        notes.append(f"N={size:,}, D={amount:,} diverged and is left out: repeat it with a lower learning rate.")
    fitted = [point for point in points if (point.parameters, point.tokens) not in bad]

    def attempt(what: str, fit: Callable[[], Any]) -> Any:
        try:
            return fit()
        except ValueError as error:
            notes.append(f"{what}: {error}")
            return None

    # What all laws would refuse is said once.
    if attempt("no law", lambda: check_comparable(fitted) or True) is None:
        return Study(list(points), fitted, None, None, None, None, None, [], [], notes)
    at_most_data, at_largest = _edges(fitted)
    return Study(
        points=list(points),
        fitted=fitted,
        width=attempt("exponent of size", lambda: fit_power_law(at_most_data, "parameters")),
        data=attempt("exponent of data", lambda: fit_power_law(at_largest, "tokens")),
        broken_width=attempt("break over size", lambda: fit_broken(at_most_data, "parameters")),
        broken_data=attempt("break over data", lambda: fit_broken(at_largest, "tokens")),
        joint=attempt("joint law", lambda: fit_joint(fitted)),
        regimes=attempt("what limits the loss", lambda: regimes_of(fitted)) or [],
        frontier=frontier_of(fitted),
        notes=notes,
    )


def regimes_of(points: Sequence[Point]) -> List[Regime]:
    """Slopes of log L between neighbours of a full grid of sizes and amounts, central ones inside it.

    Raises:
        ValueError: fewer than 2 sizes or amounts, or a combination is missing.
    """
    sizes, amounts = sorted({p.parameters for p in points}), sorted({p.tokens for p in points})
    if min(len(sizes), len(amounts)) < 2:
        raise ValueError(f"needs 2 sizes and 2 amounts of data, and there are {len(sizes)} and {len(amounts)}.")
    means = np.full((len(sizes), len(amounts)), np.nan)
    for row, size in enumerate(sizes):
        for column, amount in enumerate(amounts):
            losses = [math.log(p.loss) for p in points if (p.parameters, p.tokens) == (size, amount)]
            if not losses:
                raise ValueError(f"needs every combination, and N={size:,}, D={amount:,} is missing.")
            means[row, column] = np.mean(losses)
    by_size, by_data = np.gradient(-means, np.log(sizes), np.log(amounts))
    found = []
    for row, size in enumerate(sizes):
        for column, amount in enumerate(amounts):
            slopes = float(by_size[row, column]), float(by_data[row, column])
            limit = "neither" if max(slopes) <= 0 else "data" if slopes[1] > slopes[0] else "model"
            found.append(Regime(size, amount, math.exp(means[row, column]), *slopes, limit))
    return found


def lines(study: Study) -> List[str]:
    """What to print."""
    first = study.points[0]
    found = [f"loss: {first.loss_name} of the validation molecules; {first.rule}; FLOPs: 6 N D epochs"]
    if first.rule != STEPS_HELD:
        found.append("steps differ with the data: its exponents are of more data and more steps together")
    if study.regimes:
        found.append(f"{'N':>14} {'D':>14} {'loss':>10} {'over N':>8} {'over D':>8}  limited by (local exponents)")
        for one in study.regimes:
            found.append(
                f"{one.parameters:>14,} {one.tokens:>14,} {one.loss:>10.4g} {one.size_slope:>8.3f} "
                f"{one.data_slope:>8.3f}  {one.limited_by}"
            )
    if study.fitted and (study.width or study.data):
        found.append("exponents, with intervals of 95 %:")
    for law, broken, name, where in _laws(study):
        if law is not None:
            found.append(f"  L ~ {name}^-b at {where}: b = {law.beta}, R2 {law.r2:.3f}, {law.runs} runs")
        if broken is not None:
            found += [f"  {line}" for line in _of_break(broken, name)]
    if study.joint is not None:
        law = study.joint
        found.append(
            f"  L = E + A N^-a + B D^-b: a = {law.size_exponent}, b = {law.data_exponent}, E = {law.floor}, "
            f"R2 {law.r2:.3f}, {law.runs} runs"
        )
    return found + study.notes


def write_study(folder: Path, study: Study) -> List[Path]:
    """Write points.json, study.json, points.csv and the figures that the points allow; more notes where they do not."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "study.json", folder / "points.csv", folder / "points.json"]
    paths += _figures(folder, study)
    with atomic_file(paths[0], "w") as file:
        json.dump(_plain(study), file, indent=1)
    with atomic_file(paths[1], "w") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in study.points)
    write_points(paths[2], study.points)
    return paths


def _figures(folder: Path, study: Study) -> List[Path]:
    """Figures of a study; what cannot be drawn becomes a note, each reason once."""
    from ipu_chem.scaling import figures

    points = study.fitted
    at_most_data, at_largest = _edges(points) if points else ([], [])
    wanted: List[Tuple[str, Callable[[], Any]]] = [
        ("loss_over_parameters", lambda: figures.loss_over(points, "parameters")),
        ("loss_over_tokens", lambda: figures.loss_over(points, "tokens")),
        ("frontier", lambda: figures.compute_frontier_figure(points)),
    ]
    joint, over_size, over_data = study.joint, study.broken_width, study.broken_data
    if joint is not None:
        wanted.append(("surface", lambda: figures.surface(points, joint)))
    if over_size is not None:
        wanted.append(("break_over_parameters", lambda: figures.broken_figure(at_most_data, over_size)))
    if over_data is not None:
        wanted.append(("break_over_tokens", lambda: figures.broken_figure(at_largest, over_data, "tokens")))
    paths = []
    for name, draw in wanted:
        try:
            paths.append(figures.save(draw(), folder / f"{name}.png"))
        except ValueError as error:
            if not any(str(error) in note for note in study.notes):
                study.notes.append(f"{name}.png: {error}")
    return paths


def _edges(points: Sequence[Point]) -> Tuple[List[Point], List[Point]]:
    """Points of the most data, and points of the largest size."""
    most, largest = max(point.tokens for point in points), max(point.parameters for point in points)
    return [p for p in points if p.tokens == most], [p for p in points if p.parameters == largest]


def _laws(study: Study) -> List[Tuple[Optional[PowerLaw], Optional[BrokenLaw], str, str]]:
    if not study.fitted:
        return []
    at_most_data, at_largest = _edges(study.fitted)
    return [
        (study.data, study.broken_data, "D", f"N={at_largest[0].parameters:,}"),
        (study.width, study.broken_width, "N", f"D={at_most_data[0].tokens:,}"),
    ]


def _of_break(law: BrokenLaw, name: str) -> List[str]:
    """Which law has the lowest BIC, by how much, and where its variable limits the loss."""
    others = sorted(value for key, value in law.bic.items() if key != law.name)
    ahead = f", ahead of the next by {others[0] - law.bic[law.name]:.1f}" if others else ""
    found = [f"over {name}: {law.name} has the lowest BIC{ahead}"]
    if law.breaks is not None:
        found.append(f"break at {law.breaks}")
    for one in law.ranges:
        word = "limits" if one.limited else "does not limit"
        found.append(f"{name} {one.low:.3g} to {one.high:.3g}: exponent {one.exponent}, {name} {word} the loss")
    return found


def _plain(value: Any) -> Any:
    """As JSON: intervals by name, what is not finite as null."""
    if hasattr(value, "_asdict"):
        return {name: _plain(inner) for name, inner in value._asdict().items()}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
