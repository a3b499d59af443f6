"""Drift of the total energy of a hundred copies of ethanol, by `ipu-chem md --copies 100`.

    python benchmarks/md_drift.py [--quick] [--shared PATH] [--no-goals] [--run FOLDER] [--time PS] [--out FOLDER]

A PaiNN of 64 features is trained on 950 frames of revised MD17 by the recipe, 120 epochs, unless --run names a run;
100 copies of a frame get velocities of 300 K of their own and move for --time ps at constant energy in steps of
0.5 fs. With --out the simulation stays, and goes on where it was interrupted. Exits with 1 when a goal is missed. Use
one thread; seconds are CPU seconds.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.common import Goals, arguments, machine_line, print_table, throughput_line
from benchmarks.engines import frames_of

COPIES, GOAL = 100, 0.1  # meV per atom and ps


def trained(shared: Path, folder: Path, epochs: int) -> Path:
    """A run by the recipe, smaller and shorter; returns its folder."""
    from ipu_chem.commands.recipes import path_of
    from ipu_chem.config import from_dict
    from ipu_chem.train import train
    from ipu_chem.yaml_file import read_yaml

    source = shared / "data" / "md17" / "raw" / "rmd17" / "npz_data" / "rmd17_ethanol.npz"
    if not source.is_file():
        raise SystemExit(f"{source} is not there; name the folder of data with --shared.")
    values = read_yaml(path_of("config", "rmd17_ethanol_painn"))
    changes = {
        "data": {"path": str(source), "cache": str(folder / "cache")},
        "model": {"hidden_features": 64},
        "training": {"epochs": epochs, "evaluate_every": epochs, "progress": False, "report": False},
        "torch": {"threads": 1},
        "accelerator": "cpu",
        "out": str(folder / "run"),
    }
    for name, value in changes.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    train(from_dict(values))
    return folder / "run"


def main() -> int:
    """Simulate and print; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--time", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    own, rest = parser.parse_known_args()
    args = arguments(__doc__, rest)
    from ase.io import write

    from ipu_chem.simulation.md import run_md
    from ipu_chem.simulation.options import MdOptions

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = own.run or trained(args.shared, folder, 2 if args.quick else 120)
        write(folder / "start.xyz", frames_of("ethanol", args.shared, 1)[0], format="extxyz")
        out = own.out or folder / "md"
        resume = (out / "restart.npz").is_file()
        options = MdOptions(
            str(folder / "start.xyz"),
            copies=COPIES,
            time=own.time or (0.1 if args.quick else 20.0),
            stride=20,
            out=str(out),
            threads=1,
        )
        began = time.process_time()
        summary = run_md([str(run)], options, resume)
        seconds = time.process_time() - began
    print(machine_line("float32", "torch", "ase"))
    drifts = np.array([one["drift_meV_per_atom_per_ps"] for one in summary["each"]])
    header = [
        "copies",
        "ps",
        "drift of the mean",
        "mean size of drifts",
        "worst",
        "largest deviation, meV/atom",
        "exploded",
    ]
    names = ("drift_meV_per_atom_per_ps", "mean_absolute_drift_meV_per_atom_per_ps", "worst_drift_meV_per_atom_per_ps")
    figures = [f"{summary[name]:+.4f}" for name in (*names, "largest_deviation_meV_per_atom")]
    exploded = summary["copies_that_exploded"]
    row = [len(drifts), f"{summary['time_ps']:.3g}", *figures, exploded]
    print_table("Total energy of ethanol at constant energy, meV per atom and ps", header, [row])
    goals = Goals()
    goals.at_most("mean size of drifts, meV per atom and ps", float(np.abs(drifts).mean()), GOAL)
    goals.at_most("copies that exploded", exploded, 0)
    if not resume:
        print(throughput_line(summary["steps"] * len(drifts), seconds))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
