"""Families of models side by side: the exponents of several studies, each in the unit of its own loss.

Losses of different units do not compare and exponents do, if all runs ended by one rule. Families that share a unit are
drawn in the same axes, and so have to be measured on the same molecules after as many steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ipu_chem.json_file import read_json
from ipu_chem.scaling.intervals import LEVEL
from ipu_chem.scaling.points import STEPS_HELD, Point, check_comparable, edge, read_points, steps_agree
from ipu_chem.scaling.power_law import PowerLaw, fit_power_law
from ipu_chem.scaling.regimes import without_overfitted
from ipu_chem.scaling.study_report import without_diverged

_FREY = 'Frey et al., "Neural scaling of deep chemical models", Nat. Mach. Intell. 5, 1297 (2023)'
# Of the models of that study; it has none of the others.
PUBLISHED: Dict[str, float] = {"chemgpt": 0.17, "painn": 0.26, "spookynet": 0.26}
WHICH = f"published: 0.17 ChemGPT, 0.26 equivariant graph networks of forces, each for the most data; {_FREY}"
_NAMES = {"parameters": "N", "tokens": "D"}


@dataclass(frozen=True)
class Family:
    """A study of one model, as far as others compare with it.

    Attributes:
        name: of the model.
        folder: of the study.
        points: that are fitted.
        width: loss over parameters at the most data; None where a note says why.
        data: loss over tokens at the largest size.
        published: exponent over parameters; None where there is none.
        options: of its data, by name; empty where the folder says nothing of them.
        notes: sentences.
        level: nominal coverage of the intervals of the exponents.
    """

    name: str
    folder: str
    points: List[Point]
    width: Optional[PowerLaw]
    data: Optional[PowerLaw]
    published: Optional[float]
    options: Mapping[str, Any]
    notes: List[str]
    level: float = LEVEL

    def edge(self, over: str) -> List[Point]:
        """Points of the most data, or of the largest size, that a law over parameters or over tokens is fitted to."""
        return edge(self.points, over)

    def law(self, over: str) -> Optional[PowerLaw]:
        """The law over parameters or over tokens."""
        return self.width if over == "parameters" else self.data


def read_family(folder: Path, level: float = LEVEL) -> Family:
    """Read a study's points.json, and its plan.json for what the points are of.

    Args:
        folder: of the study.
        level: nominal coverage of the intervals of its exponents.

    Raises:
        ValueError: the folder holds no study, or none of its runs can be fitted; says what to do.
    """
    path = folder / "points.json"
    if not path.is_file():
        raise ValueError(
            f"--compare {folder}: there is no points.json in it; give folders of studies, --out of `ipu-chem scale`."
        )
    points, notes = without_diverged(read_points(path))
    try:
        check_comparable(points)
    except ValueError as error:
        raise ValueError(f"--compare {folder}: {error}") from error
    points, left_out = without_overfitted(points)
    notes += left_out
    plan = folder / "plan.json"
    asked: Mapping[str, Any] = {}
    if plan.is_file():
        asked = read_json(plan, "delete it, and the command of the study makes it again").get("asked", {})
    else:
        notes.append("no plan.json is there, so that the name is the folder's and its molecules are not known.")
    name = asked.get("model", {}).get("name", "") or folder.resolve().name
    options = {key: value for key, value in asked.get("data", {}).items() if key != "train"}
    laws: Dict[str, Optional[PowerLaw]] = {}
    for over in _NAMES:
        try:
            laws[over] = fit_power_law(edge(points, over), over, level)
        except ValueError as error:
            laws[over] = None
            notes.append(f"no exponent over {_NAMES[over]}: {error}")
    width, data = laws["parameters"], laws["tokens"]
    return Family(name, str(folder), points, width, data, PUBLISHED.get(name), options, notes, level)


def compare(folders: Sequence[Path], level: float = LEVEL) -> List[Family]:
    """Studies that compare, in the order given, with intervals of this level.

    Raises:
        ValueError: fewer than two, one that is none, or two that do not compare; see `read_family`.
    """
    if len(folders) < 2:
        raise ValueError("--compare needs the folders of two studies or more: --compare FOLDER FOLDER.")
    families = [read_family(folder, level) for folder in folders]
    for index, one in enumerate(families):
        for other in families[:index]:
            _check_pair(other, one)
    return families


def family_lines(families: Sequence[Family]) -> List[str]:
    """Table to print."""
    width = max(6, *(len(one.name) for one in families))
    rule = families[0].points[0].rule
    lines = [
        f"{'family':{width}} {'over':>4} {'from':>13} {'to':>13}  {'exponent':24} {'R2':>6} {'published':>9}  loss"
    ]
    for row in rows_of(families):
        exponent = "none" if row["exponent"] is None else f"{row['exponent']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        r2 = "" if row["r2"] is None else f"{row['r2']:.3f}"
        published = "" if row["published"] is None else f"{row['published']:g}"
        lines.append(
            f"{row['family']:{width}} {_NAMES[row['over']]:>4} {row['from']:>13,} {row['to']:>13,}  {exponent:24} "
            f"{r2:>6} {published:>9}  {row['loss']}"
        )
    level = f"{100 * families[0].level:.3g}%"
    lines += [f"single power laws at the most data and at the largest size, intervals of {level}; {rule}", WHICH]
    if rule != STEPS_HELD:
        lines.append("steps differ with the data: exponents over D are of more data and more steps together")
    return lines + [f"{one.name}: {note}" for one in families for note in one.notes]


def rows_of(families: Sequence[Family]) -> List[Dict[str, Any]]:
    """Values of the table, two rows of a family: over parameters and over tokens."""
    rows = []
    for one in families:
        for over in _NAMES:
            law, runs = one.law(over), one.edge(over)
            values = [getattr(point, over) for point in runs]
            held = "tokens" if over == "parameters" else "parameters"
            rows.append(
                {
                    "family": one.name,
                    "over": over,
                    "from": min(values),
                    "to": max(values),
                    "held": held,
                    "at": getattr(runs[0], held),
                    "exponent": law.beta.value if law else None,
                    "low": law.beta.low if law else None,
                    "high": law.beta.high if law else None,
                    "r2": law.r2 if law else None,
                    "published": one.published if over == "parameters" else None,
                    "runs": len(runs),
                    "loss": runs[0].loss_name,
                    "folder": one.folder,
                }
            )
    return rows


def _check_pair(one: Family, other: Family) -> None:
    """Refuse two studies that do not compare."""
    if one.name == other.name:
        raise ValueError(
            f"--compare: {one.folder} and {other.folder} are both of {one.name}; give one study of each model."
        )
    rules = one.points[0].rule, other.points[0].rule
    if rules[0] != rules[1]:
        raise ValueError(
            f"--compare: runs of {one.name} and {other.name} ended by different rules ({rules[0]!r} and {rules[1]!r}), "
            "and so do their exponents not compare; train one of them by the rule of the other."
        )
    if one.points[0].loss_name != other.points[0].loss_name:
        return
    for key in sorted(set(one.options) & set(other.options)):
        if one.options[key] != other.options[key]:
            raise ValueError(
                f"--compare: {one.name} and {other.name} have the same loss of other molecules "
                f"(data.{key}={one.options[key]!r} and {other.options[key]!r}); train both on the same ones."
            )
    steps = _steps(one), _steps(other)
    if rules[0] == STEPS_HELD and not steps_agree([*steps[0], *steps[1]]):
        raise ValueError(
            f"--compare: runs of {one.name} take {steps[0][1]:,} steps and those of {other.name} {steps[1][1]:,}, so "
            f"that their losses do not compare; train one of them with --steps of the other."
        )


def _steps(family: Family) -> Tuple[int, int]:
    steps = [point.steps for point in family.points]
    return min(steps), max(steps)
