"""Do intervals of scaling laws hold the truth as often as they say? On synthetic studies, and on Chinchilla's runs.

    python benchmarks/law_coverage.py [--quick] [--studies 400] [--only LAW] [--shared FOLDER] [--out FILE] [--no-goals]

Losses of known laws get noise, equal for all runs or ten times as large at one end of the study as at the other, and
90 % intervals are made of each study; seeds of one size may share an error beside. By chance alone, a coverage of 200
studies has a standard deviation of 2.1 %.
The table of Chinchilla's runs (read from a figure by Besiroglu et al., "Chinchilla scaling: a replication attempt",
2024) has no known truth: there our intervals stand beside percentiles of fits to 4,000 draws of pairs (N, D, loss).
Goals: coverage of 86 to 94 % of every parameter; the sum of Huber's losses is not above that of the published fit, and
no interval is more than 25 % wider or narrower than that of pairs. What is finished is written to ``--out`` at once,
and taken from there.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, Goals, machine_line, print_table
from ipu_chem.scaling.broken_law import BROKEN, broken_law
from ipu_chem.scaling.fitting import fit, huber
from ipu_chem.scaling.intervals import Interval
from ipu_chem.scaling.joint_law import _Law, joint_law
from ipu_chem.scaling.power_law import power_law
from packing.files import atomic_file

LEVEL = 0.9
NOISES = ("equal", "falling", "rising")
NAMES = ("floor", "size_factor", "data_factor", "size_exponent", "data_exponent")
JOINT = (0.8, 12.0, 30.0, 0.34, 0.28)  # E, A, B, a, b
PUBLISHED = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)  # Besiroglu et al., table 2
Study = Callable[[np.random.Generator, str], Dict[str, Tuple[Interval, float]]]


def deviations(kind: str, *columns: np.ndarray) -> np.ndarray:
    """[n] standard deviations of log L: 1 %, or from 3 % to 0.3 % and the reverse over the range of the columns [n]."""
    logs = [np.log(one / one.min()) / np.log(one.max() / one.min()) for one in columns]
    place = np.mean(logs, 0)
    return {"equal": np.full(len(place), 0.01), "falling": 0.03 * 0.1**place, "rising": 0.003 * 10**place}[kind]


def joint_loss(sizes: np.ndarray, data: np.ndarray, law: Sequence[float] = JOINT) -> np.ndarray:
    """[n] losses of E, A, B, a, b at N and D [n]."""
    return law[0] + law[1] * sizes ** -law[3] + law[2] * data ** -law[4]


def joint_study(sizes: int, amounts: int, seeds: int, delta: Any = None, shared: float = 0.0) -> Study:
    """Studies of a grid of sizes and amounts of data, three decades each; seeds of a pair may share an error."""
    grid = np.meshgrid(np.geomspace(1e4, 1e7, sizes), np.geomspace(1e5, 1e8, amounts), np.arange(seeds))
    n, d = grid[0].ravel(), grid[1].ravel()

    def study(rng: np.random.Generator, kind: str) -> Dict[str, Tuple[Interval, float]]:
        loss = joint_loss(n, d) * np.exp(rng.normal(0, 1, len(n)) * deviations(kind, n, d))
        loss *= np.exp(shared * np.repeat(rng.normal(0, 1, len(n) // seeds), seeds))
        law = joint_law(n, d, loss, delta=delta, level=LEVEL, draws=400)
        return {name: (getattr(law, name), value) for name, value in zip(NAMES, JOINT)}

    return study


def power_study(sizes: int, seeds: int, shared: float = 0.0) -> Study:
    """Studies of one power law over four decades; seeds of a size may share an error."""
    n = np.repeat(np.geomspace(1e4, 1e8, sizes), seeds)

    def study(rng: np.random.Generator, kind: str) -> Dict[str, Tuple[Interval, float]]:
        noise = rng.normal(0, 1, len(n)) * deviations(kind, n) + shared * np.repeat(rng.normal(0, 1, sizes), seeds)
        law = power_law(n, 12 * n**-0.17 * np.exp(noise), level=LEVEL)
        return {"alpha": (law.alpha, 12.0), "beta": (law.beta, 0.17)}

    return study


def broken_study(sizes: int, seeds: int) -> Study:
    """Studies of a law that flattens; those that are given another law, or one side no run, hold nothing."""
    n = np.repeat(np.geomspace(1e3, 1e8, sizes), seeds)
    clean = 8 * n**-0.25 * (1 + (n / 3e5) ** (1 / 0.3)) ** (0.2 * 0.3)

    def study(rng: np.random.Generator, kind: str) -> Dict[str, Tuple[Interval, float]]:
        law = broken_law(n, clean * np.exp(rng.normal(0, 1, len(n)) * deviations(kind, n)), level=LEVEL)
        if law.name != BROKEN or law.breaks is None or len(law.ranges) < 2:
            return {}
        below, above = (one.exponent for one in law.ranges)
        return {"below": (below, 0.25), "above": (above, 0.05), "break": (law.breaks, 3e5)}

    return study


STUDIES: Dict[str, Study] = {
    "L(N, D), 5 x 5, 1 seed": joint_study(5, 5, 1),
    "L(N, D), 5 x 5, 3 seeds": joint_study(5, 5, 3),
    "L(N, D), 4 x 3, 3 seeds": joint_study(4, 3, 3),
    "L(N, D), 3 x 3, 3 seeds": joint_study(3, 3, 3),
    "L(N), 8 sizes, 1 seed": power_study(8, 1),
    "L(N), 4 sizes, 3 seeds": power_study(4, 3),
    "L(N), 4 sizes, 3 seeds that share 1 %": power_study(4, 3, shared=0.01),
    "L(N, D), 5 x 5, 3 seeds that share 1 %": joint_study(5, 5, 3, shared=0.01),
    "L(N) broken, 12 sizes, 3 seeds": broken_study(12, 3),
    "L(N, D), 8 x 8, 1 seed, delta 1e-3": joint_study(8, 8, 1, delta=1e-3),
}


def coverage(study: Study, kind: str, count: int, seconds: float) -> Dict[str, Any]:
    """Fractions of studies whose intervals hold the truth, and whose intervals are open, by parameter."""
    held: Dict[str, List[bool]] = {}
    widths: Dict[str, List[float]] = {}
    end = time.monotonic() + seconds
    done = 0
    for place in range(count):
        for name, (interval, truth) in study(np.random.default_rng([place, 7]), kind).items():
            held.setdefault(name, []).append(interval.holds(truth))
            widths.setdefault(name, []).append(interval.high - interval.low if not interval.open else np.inf)
        done += 1
        if time.monotonic() > end:
            break
    return {
        "studies": done,
        "fitted": max(map(len, held.values()), default=0),
        "coverage": {name: float(np.mean(one)) for name, one in held.items()},
        "open": {name: float(np.mean(np.isinf(one))) for name, one in widths.items()},
    }


def chinchilla(shared: Path, draws: int) -> Dict[str, Any]:
    """Our fit and intervals of the published table, beside those of drawn pairs; without the five highest losses."""
    with open(shared / "data" / "published_results" / "chinchilla_extracted.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    size, flops, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("Model Size", "Training FLOP", "loss")
    )
    kept = np.sort(np.argsort(loss)[:-5])
    size, data, loss = size[kept], (flops / 6 / size)[kept], loss[kept]
    found: Dict[str, Any] = {}
    for delta in (1e-3, 0.0075, np.inf):
        ours = joint_law(size, data, loss, delta=delta, level=LEVEL)
        values = tuple(getattr(ours, name).value for name in NAMES)
        costs = [float(huber(np.log(loss / joint_loss(size, data, law)), delta)) for law in (values, PUBLISHED)]
        pairs = drawn_pairs(size, data, loss, values, delta, draws)
        found[f"{delta:g}"] = {
            "values": values,
            "sums": costs,
            "ours": [getattr(ours, name)[1:] for name in NAMES],
            "pairs": np.quantile(pairs, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T.tolist(),
        }
    return found


def drawn_pairs(
    size: np.ndarray, data: np.ndarray, loss: np.ndarray, values: Sequence[float], delta: float, draws: int
) -> np.ndarray:
    """[draws, 5] E, A, B, a, b of runs drawn anew with replacement, each from the fit to all."""
    middle = np.array([np.log(size).mean(), np.log(data).mean()])
    law = _Law(np.stack([np.log(size), np.log(data)]) - middle[:, None])
    exponents = np.array(values[3:])
    start = np.concatenate([np.log(values[:1]), np.log(values[1:3]) - exponents * middle, exponents])
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(0, draws, 250):
        counts = rng.multinomial(len(loss), np.full(len(loss), 1 / len(loss)), 250).astype(float)
        theta, _ = fit(law, np.repeat(start[None], 250, 0), np.log(loss), delta, most=300, counts=counts)
        factors = np.exp(theta[:, 1:3] + theta[:, 3:] * middle)
        rows.append(np.concatenate([np.exp(theta[:, :1]), factors, theta[:, 3:]], 1))
    return np.concatenate(rows)[:draws]


def main() -> int:
    """Run all studies and judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 studies of each kind, 500 draws")
    parser.add_argument("--studies", type=int, default=400, help="of each law and noise (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most for each (default: %(default)s)")
    parser.add_argument("--only", default="", help="laws whose name holds this, chinchilla for its table")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of real data")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "law_coverage.json")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    options = parser.parse_args()
    count = 20 if options.quick else options.studies
    goals = Goals()
    result: Dict[str, Any] = {"studies": {}}
    if options.out.is_file():
        result = json.loads(options.out.read_text(encoding="utf-8"))
    result["machine"] = machine_line("float64", "numpy", "scipy")
    print(result["machine"])

    def write() -> None:
        with atomic_file(options.out, "w") as file:
            json.dump(result, file, indent=1)

    rows = []
    chosen = {name: study for name, study in STUDIES.items() if options.only in name}
    for name, study in chosen.items():
        for kind in NOISES:
            key = f"{name}, {kind}"
            if key not in result["studies"]:
                result["studies"][key] = coverage(study, kind, count, options.seconds)
            one = result["studies"][key]
            write()
            held = ", ".join(f"{what} {value:.1%}" for what, value in one["coverage"].items())
            opened = ", ".join(f"{what} {value:.1%}" for what, value in one["open"].items() if value)
            rows.append((name, kind, f"{one['fitted']} of {one['studies']}", held, opened or "none"))
            print(*rows[-1], sep=" | ", flush=True)
            for what, value in one["coverage"].items():
                goals.at_least(f"{name}, {kind} noise: coverage of {what}", value, 0.86)
                goals.at_most(f"{name}, {kind} noise: coverage of {what}", value, 0.94)
    print_table("90 % intervals", ["law", "noise", "studies", "coverage", "open"], rows)

    if options.only not in ("", "chinchilla"):
        return goals.finish(not options.no_goals)
    if (options.shared / "data" / "published_results" / "chinchilla_extracted.csv").is_file():
        if "chinchilla" not in result:
            result["chinchilla"] = chinchilla(options.shared, 500 if options.quick else 4000)
            write()
        rows = []
        for delta, one in result["chinchilla"].items():
            goals.at_most(f"Chinchilla, delta {delta}: sum of Huber's losses to that of the published fit",
                          one["sums"][0] / one["sums"][1], 1.0)  # fmt: skip
            for key, value, ours, pairs in zip(NAMES, one["values"], one["ours"], one["pairs"]):
                ratio = (ours[1] - ours[0]) / (pairs[1] - pairs[0])
                rows.append(
                    (delta, key, f"{value:.4g}", *(f"{a:.4g} to {b:.4g}" for a, b in (ours, pairs)), f"{ratio:.2f}")
                )
                goals.at_least(f"Chinchilla, delta {delta}, {key}: width to that of pairs", ratio, 0.75)
                goals.at_most(f"Chinchilla, delta {delta}, {key}: width to that of pairs", ratio, 1.25)
        print_table("Chinchilla", ["delta", "parameter", "ours", "interval", "drawn pairs", "ratio"], rows)
    else:
        print(f"SKIPPED: no table of Chinchilla's runs in {options.shared}")
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
