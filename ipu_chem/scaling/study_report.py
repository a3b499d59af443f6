"""Analysis of a scaling study: exponents, breaks, regimes, held-out checks, figures, and what could not be fitted."""

import csv
import json
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

from ipu_chem.scaling.frontier import frontier_of
from ipu_chem.scaling.held_fixed import HeldFixed
from ipu_chem.scaling.held_out_check import Check, Gain, check_lines, gain_lines, gains_of, held_out_checks
from ipu_chem.scaling.intervals import LEVEL
from ipu_chem.scaling.joint_law import JointLaw, fit_joint
from ipu_chem.scaling.points import STEPS_HELD, Point, as_json, check_comparable, edge, write_points
from ipu_chem.scaling.power_law import PowerLaw, fit_power_law
from ipu_chem.scaling.regimes import Line, Regime, lines_of, regimes_of, without_overfitted
from packing.files import atomic_file


@dataclass(frozen=True)
class Study:
    """Result of a study; a law is None where a note says why.

    Attributes:
        points: all of them, also runs that diverged.
        fitted: those that the laws are fitted to.
        overfitted: those that no law is fitted to because larger models do worse; see `regimes.OVERFITTING`.
        width: loss over parameters at the most data.
        data: loss over tokens at the largest size.
        breaks: one power law or two, over parameters at each amount of data and over tokens at each size.
        joint: loss over both.
        regimes: of every size and amount.
        frontier: runs on the compute frontier, cheapest first.
        notes: sentences.
        level: nominal coverage of intervals.
        held: what all runs share, and what differs; None where nothing but points is known.
        checks: predictions of the largest size and the most data from all others.
        gains: predictions beyond the runs.
    """

    points: List[Point]
    fitted: List[Point]
    width: Optional[PowerLaw]
    data: Optional[PowerLaw]
    breaks: List[Line]
    joint: Optional[JointLaw]
    regimes: List[Regime]
    frontier: List[Point]
    notes: List[str]
    overfitted: List[Point] = field(default_factory=list)
    level: float = LEVEL
    held: Optional[HeldFixed] = None
    checks: List[Check] = field(default_factory=list)
    gains: List[Gain] = field(default_factory=list)


def analyze(points: Sequence[Point], level: float = LEVEL, held: Optional[HeldFixed] = None) -> Study:
    """Fit what the points allow.

    A size and amount of which a seed diverged is left out, and laws leave out one that overfits; notes say so.

    Args:
        points: of all runs.
        level: nominal coverage of intervals.
        held: what they share, for the report.
    """
    fitted, notes = without_diverged(points)

    def attempt(what: str, fit: Callable[[], Any]) -> Any:
        try:
            return fit()
        except ValueError as error:
            notes.append(f"{what}: {error}")
            return None

    # What all laws would refuse is said once.
    if attempt("no law", lambda: check_comparable(fitted) or True) is None:
        return Study(list(points), fitted, None, None, [], None, [], [], notes, level=level, held=held)
    comparable = fitted
    fitted, left_out = without_overfitted(comparable)
    notes += left_out
    breaks, reasons = lines_of(fitted, level)
    checks, unchecked = held_out_checks(fitted)
    gains, without = gains_of(fitted, checks)
    notes += [*reasons, *unchecked, *without]
    return Study(
        points=list(points),
        fitted=fitted,
        width=attempt("exponent of size", lambda: fit_power_law(edge(fitted, "parameters"), "parameters", level)),
        data=attempt("exponent of data", lambda: fit_power_law(edge(fitted, "tokens"), "tokens", level)),
        breaks=breaks,
        joint=attempt("joint law", lambda: fit_joint(fitted, level=level)),
        regimes=attempt("what limits the loss", lambda: regimes_of(comparable)) or [],
        frontier=frontier_of(comparable),
        notes=notes,
        overfitted=[point for point in comparable if point not in fitted],
        level=level,
        held=held,
        checks=checks,
        gains=gains,
    )


def without_diverged(points: Sequence[Point]) -> Tuple[List[Point], List[str]]:
    """Points of sizes and amounts of data of which no seed diverged, and sentences on the others."""
    bad = {(point.parameters, point.tokens) for point in points if point.diverged}
    if not bad:
        return list(points), []
    diverged = sum(point.diverged for point in points)
    notes = [f"{diverged} of {len(points)} runs diverged; points.json keeps all, and laws leave out what follows:"]
    for size, amount in sorted(bad):
        notes.append(f"N={size:,}, D={amount:,} diverged and is left out: repeat it with a lower learning rate.")
    return [point for point in points if (point.parameters, point.tokens) not in bad], notes


def lines(study: Study) -> List[str]:
    """Lines to print."""
    first = (study.fitted or study.points)[0]
    found = study.held.lines() if study.held is not None else []
    found += [f"loss: {first.loss_name} of the validation molecules; {first.rule}; FLOPs: 6 N D epochs"]
    if first.rule != STEPS_HELD:
        found.append("steps differ with the data: its exponents are of more data and more steps together")
    if study.regimes:
        found.append(f"{'N':>14} {'D':>14} {'loss':>10} {'over N':>8} {'over D':>8}  limited by (local exponents)")
        for one in study.regimes:
            found.append(
                f"{one.parameters:>14,} {one.tokens:>14,} {one.loss:>10.4g} {one.size_exponent:>8.3f} "
                f"{one.data_exponent:>8.3f}  {one.limited_by}"
            )
    if study.fitted and (study.width or study.data):
        found.append(f"exponents, with intervals of {study.level:.0%}:")
    for law, name, where in _laws(study):
        if law is not None:
            found.append(f"  L ~ {name}^-b at {where}: b = {law.beta}, R2 {law.r2:.3f}, {law.runs} runs")
    if study.joint is not None:
        law = study.joint
        found.append(
            f"  L = E + A N^-a + B D^-b: a = {law.size_exponent}, b = {law.data_exponent}, E = {law.floor}, "
            f"R2 {law.r2:.3f}, {law.runs} runs"
        )
        if law.open:
            found.append(
                f"  not identified by these runs: {', '.join(law.open)} (an open end is not bounded); train sizes and "
                "amounts of data that lie further apart, or more of them"
            )
    if study.breaks:
        found.append("one power law or two, by F tests of a break:")
        found += [f"  {words}" for one in study.breaks for words in one.lines()]
    return [*found, *check_lines(study.checks), *gain_lines(study.gains), *study.notes]


def write_study(folder: Path, study: Study) -> List[Path]:
    """Write points.json, study.json, points.csv and the figures that the points allow; more notes where they do not."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "study.json", folder / "points.csv", folder / "points.json"]
    paths += _figures(folder, study)
    with atomic_file(paths[0], "w") as file:
        json.dump(as_json(study), file, indent=1)
    with atomic_file(paths[1], "w") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in study.points)
    write_points(paths[2], study.points)
    return paths


def _figures(folder: Path, study: Study) -> List[Path]:
    """Figures of a study; what cannot be drawn becomes a note, each reason once."""
    from ipu_chem.reports.figures import save
    from ipu_chem.scaling import figures

    points = study.fitted
    wanted: List[Tuple[str, Callable[[], Any]]] = [
        ("loss_over_parameters", lambda: figures.loss_over(points, "parameters", study.overfitted)),
        ("loss_over_tokens", lambda: figures.loss_over(points, "tokens", study.overfitted)),
        ("frontier", lambda: figures.compute_frontier_figure(points + study.overfitted)),
    ]
    joint = study.joint
    if joint is not None:
        wanted.append(("surface", lambda: figures.surface(points, joint)))
    for over in ("parameters", "tokens"):
        broken = [(one.held, one.law) for one in study.breaks if one.over == over]
        if broken:
            wanted.append((f"breaks_over_{over}", partial(figures.broken_figure, points, broken, over)))
    below = study.held.lines() if study.held is not None else []
    paths = []
    for name, draw in wanted:
        try:
            figure = draw()
            figures.caption_below(figure, below)
            paths.append(save(figure, folder / f"{name}.png"))
        except ValueError as error:
            if not any(str(error) in note for note in study.notes):
                study.notes.append(f"{name}.png: {error}")
    return paths


def _laws(study: Study) -> List[Tuple[Optional[PowerLaw], str, str]]:
    if not study.fitted:
        return []
    at_most_data, at_largest = edge(study.fitted, "parameters"), edge(study.fitted, "tokens")
    return [(study.data, "D", f"N={at_largest[0].parameters:,}"), (study.width, "N", f"D={at_most_data[0].tokens:,}")]
