"""Filters from a table cost no accuracy: QM9's U0 learned with table and with exact filters, three seeds each.

    python benchmarks/filter_accuracy.py [--quick] [--epochs 50] [--seeds 3] [--jobs 2] [--shared PATH] [--out DIR]

The recipe of `qm9_accuracy.py`, run as `ipu-chem train` by as many single-thread processes at once as there are jobs.
Goal: the means differ by no more than the seeds do (one standard deviation). Runs that are finished in the folder are
not trained again. Exits with 1 when the goal is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, Goals, machine_line, print_table, throughput_line
from ipu_chem.training.logging import read_rows

METRIC = "mae_u0_meV"
FILTERS = ("table", "exact")


class Result(NamedTuple):
    """Result of one run.

    Attributes:
        validation, test: MAE in meV of the best checkpoint.
        rate: molecules per second of wall time, evaluations left out.
        error: of the table at the end, relative to the largest filter.
    """

    validation: float
    test: float
    rate: float
    error: float


def train(filter: str, seed: int, out: Path, options: argparse.Namespace) -> Result:
    """Train in a process of its own, or read what is there."""
    folder = out / f"{filter}-{seed}"
    command = [sys.executable, "-m", "ipu_chem", "train"]
    if (folder / "checkpoints" / "last.safetensors").is_file():
        command += ["--resume", str(folder)]
    else:
        command += ["--config", "qm9_u0_10k", "--out", str(folder), "--data.path", str(options.shared / "data" / "qm9")]
        command += ["--accelerator", "cpu", "--torch.threads", "1", "--training.progress", "false"]
        command += ["--model.filter", filter, "--training.seed", str(seed), "--training.epochs", str(options.epochs)]
        if options.quick:
            command += ["--data.train", "1000", "--data.test", "500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    run = json.loads((folder / "run.json").read_text())
    rates = [float(row["molecules_per_s"]) for row in read_rows(folder) if row["kind"] == "train"]
    results = {split: run["results"][split][METRIC] for split in ("validation", "test")}
    error = float(run["filters"].split("off by ")[1].split()[0]) if "off by" in run["filters"] else 0.0
    result = Result(results["validation"], results["test"], statistics.median(rates), error)
    print(f"{filter}, seed {seed}: {result}", flush=True)
    return result


def main() -> int:
    """Train all, print all, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 molecules, 3 epochs, no goals")
    parser.add_argument("--epochs", type=int, default=50, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: %(default)s)")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if the goal is missed")
    options = parser.parse_args()
    options.epochs = 3 if options.quick else options.epochs
    out = options.out or Path(tempfile.mkdtemp(prefix="filter-accuracy-"))
    print(machine_line(f"float32, {options.jobs} processes of 1 thread", "torch", "numpy"))
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {
            (filter, seed): pool.submit(train, filter, seed, out, options)
            for seed in range(options.seeds)
            for filter in FILTERS
        }
        results: Dict[str, List[Result]] = {
            filter: [futures[filter, seed].result() for seed in range(options.seeds)] for filter in FILTERS
        }
    rows = []
    for filter, runs in results.items():
        for split in ("validation", "test"):
            values = [getattr(run, split) for run in runs]
            spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
            each = ", ".join(f"{value:.2f}" for value in values)
            rows.append([filter, split, each, f"{statistics.mean(values):.2f}", spread])
    title = f"MAE of U0 in meV after {options.epochs} epochs, {options.seeds} seeds"
    print_table(title, ["filter", "split", "seeds", "mean", "standard deviation"], rows)
    rates = {filter: statistics.median(run.rate for run in runs) for filter, runs in results.items()}
    print(f"\nmolecules/s while training, one thread: table {rates['table']:,.0f}, exact {rates['exact']:,.0f}")
    print(f"largest error of a table at the end of training: {max(run.error for run in results['table']):.1e}")
    goals = Goals()
    for split in ("validation", "test"):
        table, exact = ([getattr(run, split) for run in results[filter]] for filter in FILTERS)
        spread = max(statistics.stdev(table), statistics.stdev(exact)) if options.seeds > 1 else 0.0
        difference = abs(statistics.mean(table) - statistics.mean(exact))
        goals.at_most(f"{split}: difference of the means in meV, against the seeds' spread", difference, spread)
    status = goals.finish(not (options.no_goals or options.quick or options.seeds < 2))
    print(throughput_line(rates["table"], 1.0))
    return status


if __name__ == "__main__":
    sys.exit(main())
