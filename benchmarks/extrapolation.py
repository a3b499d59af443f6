"""Predictions of scaling laws beyond their runs: coverage of the intervals, and whether the held-out check sees breaks.

    python benchmarks/extrapolation.py [--quick] [--no-goals] [--studies 300]

Studies are made up from known laws: 5 sizes, 4 amounts of data, 2 seeds, noise of 0.4 % between seeds, as small models
have it. A law that is fitted to one predicts a model of four times its largest size, and that is compared with a draw
of the truth. Of a world in which size stops to help at the largest size, the check must say so.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Callable, List

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.common import Goals, machine_line, print_table
from ipu_chem.scaling.extrapolation import JOINT, extrapolation_of, predict
from ipu_chem.scaling.held_out_check import gains_of, held_out_checks
from ipu_chem.scaling.points import STEPS_HELD, Point

SIZES, AMOUNTS, SEEDS, NOISE = 1000 * 4 ** np.arange(5), 5000 * 4 ** np.arange(4), 2, 0.004
LARGER = 4 * int(SIZES[-1])


def joint(n: float, d: float) -> float:
    """Loss by L(N, D)."""
    return 0.3 + 40 * n**-0.4 + 90 * d**-0.45


def power(n: float, d: float) -> float:
    """Loss by a power law over N at every D."""
    return 9 * n**-0.2 * d**-0.05


def stops(n: float, d: float) -> float:
    """Loss that the largest size no longer lowers."""
    return joint(min(n, float(SIZES[-2])), d)


def study(truth: Callable[[float, float], float], generator: np.random.Generator) -> List[Point]:
    """Points of a study in a world of this law."""
    return [
        Point(n, d, d // 30, 6.0 * n * d, 500, seed, loss, "nats_per_heavy_atom", STEPS_HELD)
        for n in SIZES.tolist()
        for d in AMOUNTS.tolist()
        for seed in range(SEEDS)
        for loss in [truth(n, d) * math.exp(NOISE * generator.normal())]
    ]


def measure(truth: Callable[[float, float], float], over: str, studies: int) -> List[Any]:
    """Fraction of intervals that hold, and of studies whose check lets the law predict."""
    generator = np.random.default_rng(0)
    most = int(AMOUNTS[-1])
    held, widths, predicts = [], [], []
    for index in range(studies):
        points = study(truth, generator)
        line = [point for point in points if point.tokens == most] if over else points
        found = predict(extrapolation_of(line, over, seed=index), LARGER, most)
        measured = truth(LARGER, most) * math.exp(NOISE / math.sqrt(SEEDS) * generator.normal())
        held.append(found.holds(measured))
        widths.append(found.high / found.low - 1)
        if index < studies // 6:  # which costs more
            gains, _ = gains_of(points, held_out_checks(points)[0])
            predicts.append(any((one.law == JOINT) == (not over) and "param" in one.more for one in gains))
    return [float(np.mean(held)), float(np.median(widths)), float(np.mean(predicts))]


def main() -> int:
    """Print the table, then judge the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the studies")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    parser.add_argument("--studies", type=int, default=300, help="of each kind (default: 300)")
    options = parser.parse_args()
    studies = max(12, options.studies // 10 if options.quick else options.studies)
    print(machine_line("float64", "numpy", "scipy"))
    rows, goals = [], Goals()
    cases = (("L(N, D)", joint, ""), ("a power law", power, "parameters"), ("size stops to help", stops, ""))
    for world, truth, over in cases:
        coverage, width, predicts = measure(truth, over, studies)
        law = "power law over N" if over else JOINT
        rows.append([world, law, studies, f"{coverage:.1%}", f"{width:.1%}", f"{predicts:.0%}"])
        if truth is stops:
            goals.at_most("studies of that world whose law may predict", predicts, 0.05)
        else:
            goals.at_least(f"coverage of 95 % intervals, {world}", coverage, 0.9)
            goals.at_least(f"studies whose law may predict, {world}", predicts, 0.8)
    header = ["world", "fitted", "studies", "intervals that hold", "their width", "may predict, by the check"]
    print_table(f"Four times the largest size, {len(SIZES)} sizes and {len(AMOUNTS)} amounts", header, rows)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
