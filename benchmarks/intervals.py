"""Do intervals hold as many labels as they say? On held-out molecules of QM9 and ESOL, and on frames of revised MD17.

    python benchmarks/intervals.py [--quick] [--shared FOLDER] [--out FOLDER] [--no-goals]

Every data set is split three times at random; for each split three runs are trained, in a minute or less, from other
weights. Intervals of 90 % are calibrated with the validation split, for the first run alone and for the mean of all,
and their coverage is measured on the test split. By chance alone, with n molecules to calibrate with and m to measure
with, that of one split has a standard deviation of sqrt(0.9 * 0.1 * (1 / n + 1 / m)).
Goals: 88 to 92 % on the mean of the splits. Runs that are in ``--out`` already are taken as they are. About a quarter
of an hour on two cores.
"""

import argparse
import gzip
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import Goals, arguments, machine_line, print_table, throughput_line
from ipu_chem.checkpoint import BEST
from ipu_chem.config import from_dict
from ipu_chem.prediction.calibration import Measured, measure
from ipu_chem.run_intervals import intervals_of
from ipu_chem.train import train
from ipu_chem.trained_run import TrainedRun
from ipu_chem.uncertainty.residuals import FILE

COVERAGE = 0.9
SPLITS, MEMBERS = 3, 3
_SCHNET = {"name": "schnet", "hidden_features": 64, "num_filters": 64, "num_interactions": 3, "num_gaussians": 25}


def sets(shared: Path, folder: Path, quick: bool) -> Dict[str, Dict[str, Any]]:
    """Options of the runs by data set: few molecules and steps, for what is measured is honesty, not accuracy."""
    esol = folder / "esol.csv"
    if not esol.is_file():
        esol.write_bytes(gzip.decompress((shared / "data" / "moleculenet" / "delaney-processed.csv.gz").read_bytes()))
    cosine = {"name": "cosine", "warmup_steps": 30}
    qm9 = {
        "data": {"name": "qm9", "path": str(shared / "data" / "qm9"), "target": "u0", "references": "atoms"},
        "model": {**_SCHNET, "cutoff": 5.0},
        "pack": {"nodes": 128},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": cosine,
        "training": {"epochs": 15},
    }
    qm9["data"].update(train=2000, validation=1000, test=2000)  # type: ignore[attr-defined]
    text = {
        "data": {"name": "file", "path": str(esol), "target": "measured log solubility in mols per litre"},
        "model": {"name": "chemgpt", "hidden_features": 64, "num_layers": 2},
        "optimizer": {"learning_rate": 2e-3, "weight_decay": 0.1, "max_grad_norm": 1.0},
        "batching": {"micro_batch_size": 4},
        "schedule": cosine,
        "training": {"epochs": 25},
    }
    text["data"].update(unit="log(mol/L)", extensive=False, validation=350, test=400)  # type: ignore[attr-defined]
    frames = {
        "data": {"name": "rmd17", "path": str(shared / "data" / "md17" / "raw" / "rmd17"), "molecule": "ethanol"},
        "force_share": 0.95,
        "model": {**_SCHNET, "cutoff": 5.0},
        "pack": {"nodes": 45},
        "optimizer": {"learning_rate": 1e-3, "max_grad_norm": 10.0},
        "schedule": cosine,
        "training": {"epochs": 25},
    }
    frames["data"].update(train=500, validation=500, test=1000)  # type: ignore[attr-defined]
    made = {"QM9, u0": qm9, "ESOL as text": text, "rMD17 ethanol": frames}
    for options in made.values():
        options["data"]["cache"] = str(folder / "cache")
        options["training"].update(progress=False, report=False, log_every=50, **({"epochs": 1} if quick else {}))
        options.update(accelerator="cpu", torch={"threads": 1})
    return made


def trained(options: Dict[str, Any], folder: Path, split: int, member: int) -> TrainedRun:
    """A finished run of a split, trained unless it is there."""
    if not (folder / FILE).is_file():
        made = {**options, "out": str(folder), "data": {**options["data"], "split_seed": split}}
        made["training"] = {**options["training"], "seed": 10 * split + member}
        train(from_dict(made), resume=(folder / BEST).is_file())
    return TrainedRun.load(folder)


def table_of(found: Dict[Tuple[str, str, str], List[Measured]]) -> Tuple[List[List[str]], Dict[str, float]]:
    """Rows of a table, and mean coverage over splits by data set, target and runs."""
    rows, means = [], {}
    for (name, target, runs), measured in found.items():
        covered = [one.covered[target] for one in measured]
        fractions = [one.fraction for one in covered]
        means[f"{name}, {target}, {runs}"] = float(np.mean(fractions))
        width = f"{np.mean([one.width for one in covered]):.3g} {covered[0].unit}"
        metric = next(metric for metric in measured[0].metrics if metric.startswith(f"mae_{target}"))
        error = f"{np.mean([one.metrics[metric] for one in measured]):.3g}"
        each = ", ".join(f"{fraction:.1%}" for fraction in fractions)
        rows.append([name, target, runs, f"{np.mean(fractions):.1%}", each, width, error])
    return rows, means


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Train, measure and judge; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path)
    own, rest = parser.parse_known_args(argv)
    options = arguments(__doc__, rest)
    print(machine_line("float32", "torch", "numpy"))
    folder = own.out or Path(tempfile.mkdtemp(prefix="intervals-"))
    folder.mkdir(parents=True, exist_ok=True)
    began, molecules = time.process_time(), 0
    found: Dict[Tuple[str, str, str], List[Measured]] = {}
    selective = []
    for name, chosen in sets(options.shared, folder, options.quick).items():
        for split in range(1 if options.quick else SPLITS):
            places = [folder / f"{name.split()[0].strip(',')}_{split}_{member}" for member in range(MEMBERS)]
            members = [trained(chosen, place, split, member) for member, place in enumerate(places)]
            for runs, chosen_members in (("one run", members[:1]), ("mean of three", members)):
                measured = measure(chosen_members, "test", intervals_of(chosen_members, COVERAGE))
                for target, one in measured.covered.items():
                    found.setdefault((name, target, runs), []).append(measured)
                    molecules += one.count
                if split == 0:
                    for metric, values in measured.selective.items():
                        selective.append([name, metric, *(f"{value:.3g}" for value in values)])
    rows, means = table_of(found)
    header = ["data", "target", "intervals of", "coverage", "of each split", "mean width", "MAE"]
    print_table(f"{COVERAGE:.0%} intervals on test splits", header, rows)
    parts = ["100 %", "75 %", "50 %", "25 %", "10 %"]
    title = "MAE of the molecules on which the runs agree best, first split"
    print_table(title, ["data", "metric", *parts], selective)
    goals = Goals()
    for name, mean in means.items():
        goals.at_least(name, mean, COVERAGE - 0.02)
        goals.at_most(name, mean, COVERAGE + 0.02)
    status = goals.finish(enforce=not (options.no_goals or options.quick))
    print(throughput_line(molecules, time.process_time() - began))
    return status


if __name__ == "__main__":
    sys.exit(main())
