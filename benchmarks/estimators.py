"""Estimators of a search, judged by runs that were trained to the end: which one should rank candidates?

    python benchmarks/estimators.py FOLDER... [--keep 2] [--halving 2] [--calibration line] [--no-goals]

A folder is one of `ipu-chem search ... --finish_all true`. For every estimator and an early evaluation at 10, 20, 35
and 50 % of the steps, of all candidates:

error      of final values, predicted by the line through the other candidates, root mean square, relative to the spread
           of the final values; the noise between seeds beside it, where the grid has seeds
coverage   final values in the intervals of 90 % that the line makes of those of the estimates
Spearman   rank correlation of estimates and final values
regret     final value of the best of those kept above the best of all, in percent of that (of 1 where that is 0)
halving    regret and saved steps of a search that halves from this budget on, by rank and by intervals

``+2`` is an estimator with two whole runs to learn from, the best two at that budget. Goals: with the default estimator
a search that halves by intervals from 10 or 20 % on has no regret, and saves 70 % of the steps; at 20 % its error is no
more than the noise between seeds, and its intervals hold 85 % of the final values.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import Goals, machine_line, print_table
from ipu_chem.scaling.candidates import Candidate, Progress
from ipu_chem.scaling.counted import counted_metric, value_of
from ipu_chem.scaling.estimators import DEFAULT, ESTIMATORS, Seen, estimates_of
from ipu_chem.scaling.replay import Replayed, replay
from ipu_chem.scaling.search import evaluate
from ipu_chem.scaling.selection import rungs_of, survivors
from ipu_chem.scaling.tpe import Trial, assess, calibrate, covered, over_seeds
from ipu_chem.training.logging import read_rows

BUDGETS = (0.1, 0.2, 0.35, 0.5)
TAUGHT = ("multi_power", "collapse")
TEACHERS = 2
CONFIDENCE = 0.9


class Grid(NamedTuple):
    """Runs of a search that were trained to the end, or diverged."""

    name: str
    candidates: List[Candidate]
    reached: List[Progress]
    rows: List[List[Dict[str, Any]]]
    finals: List[float]
    noise: float
    found: Dict[Tuple[float, str], Tuple[np.ndarray, np.ndarray]]  # without teachers


def read_grid(folder: Path) -> Grid:
    """Whole runs of a folder.

    Raises:
        ValueError: there are fewer than 4 candidates that were trained to the end.
    """
    candidates, reached, rows = [], [], []
    for path in sorted(folder.glob("*/candidate.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["status"] == "stopped":
            continue
        config = {**saved["config"], "out": str(path.parent)}
        name = ",".join(part for part in path.parent.name.split(",") if not part.startswith("seed="))
        candidates.append(Candidate(name, int(config["training"]["seed"]), config))
        fields = ("status", "step", "total", "seconds", "metrics")
        reached.append(Progress(*(saved[key] for key in fields)))
        rows.append(read_rows(path.parent))
    metric = next((counted_metric(list(p.metrics)) for p in reached if p.status == "finished" and p.metrics), "")
    trials = [
        Trial(one.name, one.seed, 0.0, value_of(metric, p.metrics)[1] if p.status == "finished" else math.inf)
        for one, p in zip(candidates, reached)
    ]
    names, _, finals = over_seeds(trials) if trials else ([], [], [])
    finite = sum(1 for one in finals if one is not None and math.isfinite(one))
    if finite < 4:
        raise ValueError(f"{folder} has {finite} candidates that were trained to the end: give one with 4 or more.")
    groups: Dict[str, List[float]] = {}
    for trial in trials:
        groups.setdefault(trial.name, []).append(math.inf if trial.final is None else float(trial.final))
    spread = [np.var(own, ddof=1) for own in groups.values() if len(own) > 1 and np.isfinite(own).all()]
    noise = float(np.sqrt(np.mean(spread))) if spread else math.nan
    return Grid(folder.name, candidates, reached, rows, [float(one) for one in finals if one is not None], noise, {})


def estimates(grid: Grid, budget: float, name: str, teachers: Sequence[str] = ()) -> Tuple[np.ndarray, np.ndarray]:
    """Estimates [K] of candidates and their spreads, from what an early evaluation sees and whole runs of teachers."""
    if not teachers and (budget, name) in grid.found:
        return grid.found[budget, name]
    runs = list(zip(grid.candidates, grid.reached, grid.rows))
    seen = [Seen(one, p, budget, rows) for one, p, rows in runs]
    taught = [Seen(one, p, 1.0, rows) for one, p, rows in runs if one.name in teachers and p.status == "finished"]
    found = estimates_of([*seen, *taught], name, draws=0)[: len(seen)]
    early = evaluate(dict(enumerate(grid.candidates)), dict(enumerate(found)), budget)
    both = np.array(list(early.estimates.values())), np.array(list(early.spreads.values()))
    if not teachers:
        grid.found[budget, name] = both
    return both


def halved(grid: Grid, budget: float, name: str, keep: int, eta: int, confidence: float) -> Optional[Replayed]:
    """A search that halves from a budget on; None where the estimator does not work at one of its rungs."""
    rungs = rungs_of(len(grid.finals), budget, keep, eta, is_race=confidence > 0)
    try:
        both = [estimates(grid, rung.budget, name) for rung in rungs[:-1]]
    except ValueError:
        return None
    values, spreads = (np.stack([one[place] for one in both]) for place in range(2))
    totals: Dict[str, int] = {}
    for one, p in zip(grid.candidates, grid.reached):
        totals[one.name] = totals.get(one.name, 0) + p.total
    return replay(rungs, values, spreads, np.array(grid.finals), confidence, np.array(list(totals.values())))


def row_of(grid: Grid, budget: float, name: str, options: argparse.Namespace) -> Optional[List[str]]:
    """A line of the table; None where the estimator does not work at this budget."""
    base, _, plus = name.partition(" +")
    finals = np.array(grid.finals)
    finite = finals[np.isfinite(finals)]
    unit = abs(float(finite.min())) or 1.0
    try:
        values, spreads = estimates(grid, budget, base)
        if plus:
            names = list(dict.fromkeys(one.name for one in grid.candidates))
            teachers = [names[place] for place in survivors(values, max(2, int(plus)))]
            values, spreads = estimates(grid, budget, base, teachers)
        power = options.calibration == "power"
        ranking = assess(values, grid.finals, [int(place) for place in survivors(values, options.keep)])
        inside = covered(values, spreads, grid.finals, CONFIDENCE, power)
        errors = left_out(values, finals, power)
    except ValueError:
        return None
    cells = [f"{np.sqrt(np.mean(np.square(errors))) / finite.std():.2f}", _percent(inside), f"{ranking.spearman:.2f}"]
    cells.append(f"{ranking.regret / unit:.1%}")
    for confidence in (0.0, CONFIDENCE):
        one = None if plus else halved(grid, budget, base, options.keep, options.halving, confidence)
        cells.append("" if one is None else f"{one.regret / unit:.1%}, {one.saving:.0%}")
    return [grid.name, f"{budget:.0%}", name, *cells]


def left_out(values: np.ndarray, finals: np.ndarray, is_power: bool) -> np.ndarray:
    """Errors of final values that the line through the other candidates predicts; what diverged is left out."""
    places = np.nonzero(np.isfinite(values) & np.isfinite(finals))[0]
    errors = []
    for place in places:
        others = places[places != place]
        line = calibrate(values[others], finals[others].tolist(), is_power=is_power)
        errors.append(float(line([values[place]])[0] - finals[place]))
    return np.array(errors)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--halving", type=int, default=2)
    parser.add_argument("--calibration", choices=("line", "power"), default="line")
    parser.add_argument("--no-goals", action="store_true", help="report without judging")
    options = parser.parse_args()
    print(machine_line("float64", "numpy", "scipy"))
    goals = Goals()
    names = [*ESTIMATORS, *(f"{name} +{TEACHERS}" for name in TAUGHT)]
    header = ["grid", "budget", "estimator", "error", "coverage", "Spearman", "regret", "by rank", "by intervals"]
    table: List[List[str]] = []
    for folder in options.folders:
        grid = read_grid(folder)
        spread = np.std([one for one in grid.finals if math.isfinite(one)])
        noise = "one seed" if math.isnan(grid.noise) else f"noise between seeds {grid.noise / spread:.2f} of the spread"
        print(f"{grid.name}: {len(grid.finals)} candidates, {noise}")
        for budget in BUDGETS:
            table += [row for name in names if (row := row_of(grid, budget, name, options)) is not None]
        reached = [
            one
            for budget in BUDGETS[:2]
            if (one := halved(grid, budget, DEFAULT, options.keep, options.halving, CONFIDENCE)) is not None
        ]
        if reached:
            best = min(reached, key=lambda one: (one.regret, -one.saving))
            goals.at_most(f"{grid.name}: regret of {DEFAULT}", best.regret, 0.0)
            goals.at_least(f"{grid.name}: steps saved", best.saving, 0.7)
        values, spreads = estimates(grid, BUDGETS[1], DEFAULT)
        is_power = options.calibration == "power"
        goals.at_least(f"{grid.name}: coverage", covered(values, spreads, grid.finals, CONFIDENCE, is_power), 0.85)
        if not math.isnan(grid.noise):
            error = float(np.sqrt(np.mean(np.square(left_out(values, np.array(grid.finals), is_power)))))
            goals.at_most(f"{grid.name}: error relative to the noise between seeds", error / grid.noise, 1.0)
    print_table("estimators", header, table)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
