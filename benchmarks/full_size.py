"""Accuracy at full size: QM9's energy with 110,000 training molecules and rMD17's energies and forces, as published.

    python benchmarks/full_size.py --out DIR [--only NAME ...] [--minutes M] [--processes 2] [--shared PATH]

Trains `ipu-chem train` on recipes, one after the other, each for its time (150 minutes for QM9, 60 for rMD17; --minutes
for all): a short measurement of training steps first says how many epochs that are. A run that was interrupted goes on
from its last checkpoint when the same command is given again, a finished one is only reported. In less time than an
epoch takes, fewer molecules are trained on: a trial, and marked so. The table has test errors beside published ones.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.common import ROOT, in_child, machine_line, print_table

_WARMUP, _STEPS, _LEAST_SECONDS = 3, 12, 10.0  # of a measurement
_OF_STEPS = 0.9  # of a run's time; the rest are evaluations, checkpoints and the start
_EVALUATIONS = 60  # of a run, at most
_SAMPLE = 3000  # training molecules that are measured on


class Run(NamedTuple):
    """A recipe at full size.

    Attributes:
        recipe: of ipu-chem.
        minutes: of its training.
        options: of `ipu-chem train` beside the recipe's.
        published: metric's beginning -> error, in meV and meV/Å.
        source: of the published errors.
    """

    recipe: str
    minutes: float
    options: Dict[str, str]
    published: Dict[str, float]
    source: str


_SCHNET, _PAINN = "SchNet, J. Chem. Phys. 148, 241722 (2018)", "PaiNN, ICML 2021"
RUNS = {
    "qm9-schnet": Run("qm9_u0_schnet", 150, {}, {"energy": 14}, _SCHNET),
    "qm9-painn": Run("qm9_u0_painn", 150, {}, {"energy": 5.85}, _PAINN),
    "ethanol-painn": Run(
        "rmd17_ethanol_painn", 60, {"data.molecule": "ethanol"}, {"energy": 2.7, "forces": 10.0}, f"{_PAINN}, MD17"
    ),
    "ethanol-schnet": Run(
        "rmd17_ethanol_schnet", 60, {"data.molecule": "ethanol"}, {"energy": 3.5, "forces": 16.9}, f"{_SCHNET}, MD17"
    ),
    "aspirin-painn": Run(
        "rmd17_ethanol_painn", 60, {"data.molecule": "aspirin"}, {"energy": 6.9, "forces": 16.1}, f"{_PAINN}, MD17"
    ),
    "aspirin-schnet": Run(
        "rmd17_ethanol_schnet", 60, {"data.molecule": "aspirin"}, {"energy": 16, "forces": 58.5}, f"{_SCHNET}, MD17"
    ),
}


class Schedule(NamedTuple):
    """Length of a run: epochs, and training molecules where not all of them fit into the time."""

    epochs: int
    molecules: int
    rate: float  # training molecules per second
    is_trial: bool


def data_options(name: str, shared: Path) -> Dict[str, str]:
    """Options that name the data; the copy of QM9 with all geometries has its electronic energies alone for all."""
    if not name.startswith("qm9"):
        return {"data.path": str(shared / "data" / "md17" / "raw")}
    folder = shared / "data" / "qm9"
    found = {"data.path": str(folder)}
    return {**found, "data.target": "e_el"} if (folder / "qm9_geometries.npz").is_file() else found


def step_rate(recipe: str, options: Mapping[str, Any]) -> Callable[[], Dict[str, float]]:
    """In a process of its own: molecules per second of training steps, and training molecules of the run."""
    import torch

    from ipu_chem.backends.pytorch.backend import TorchBackend
    from ipu_chem.commands.recipes import path_of
    from ipu_chem.config import from_dict
    from ipu_chem.tasks.registry import load_task
    from ipu_chem.yaml_file import read_yaml

    torch.set_num_threads(1)
    values = read_yaml(path_of("config", recipe))
    values["accelerator"] = "cpu"
    for key, value in options.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    count = int(values["data"].get("train", 0))
    if count > _SAMPLE:
        values["data"].update(train=_SAMPLE, validation=50, test=50)
    config = from_dict(values)
    task = load_task(config)
    count = count or len(task.items["train"])
    loader = task.loader("train")
    backend = TorchBackend("cpu", config.torch)
    backend.compile(task.model(), task.loss(), config.optimizer, config.batching, loader.example(training=True))

    def measure() -> Dict[str, float]:
        done, started, steps = 0, time.perf_counter(), 0
        for epoch in range(1000):
            for batch, molecules in islice(loader.epoch(0, epoch), 1000):
                backend.train_step(batch, 1e-6)
                steps += 1
                if steps == _WARMUP:
                    done, started = 0, time.perf_counter()
                elif steps > _WARMUP:
                    done += molecules
                seconds = time.perf_counter() - started
                if steps >= _WARMUP + _STEPS and seconds >= _LEAST_SECONDS:
                    return {"rate": done / seconds, "molecules": float(count)}
        raise AssertionError("an epoch has steps")

    return measure


def schedule_of(rate: float, molecules: int, minutes: float, processes: int) -> Schedule:
    """Epochs that fit.

    Args:
        rate: training molecules per second of one process.
        molecules: of an epoch.
        minutes: of the run.
        processes: that share its replicas.
    """
    whole = rate * processes
    epochs = _OF_STEPS * 60 * minutes * whole / molecules
    if epochs >= 1:
        return Schedule(int(epochs), molecules, whole, False)
    return Schedule(1, max(int(epochs * molecules), 100), whole, True)


def command_of(run: Run, folder: Path, options: Dict[str, str], schedule: Schedule, processes: int) -> List[str]:
    """The command that starts a run, or continues it where there is a checkpoint."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    start += ["ipu_chem", "train"]
    if (folder / "checkpoints" / "last.safetensors").is_file():
        return [*start, "--resume", str(folder)]
    words = [*start, "--config", run.recipe, "--out", str(folder), "--accelerator", "cpu"]
    given = dict(options)
    given["training.epochs"] = str(schedule.epochs)
    given["training.evaluate_every"] = str(max(schedule.epochs // _EVALUATIONS, 1))
    given["training.checkpoint_every"] = "200"
    if schedule.is_trial:
        given.update({"data.train": str(schedule.molecules), "data.validation": "500", "data.test": "500"})
    for key, value in given.items():
        words += [f"--{key}", value]
    return words


def results_of(folder: Path) -> Optional[Dict[str, float]]:
    """Test metrics of a finished run; None before its end."""
    try:
        return json.loads((folder / "run.json").read_text())["results"].get("test")
    except (OSError, ValueError, KeyError):
        return None


def row(name: str, folder: Path, note: str) -> List[str]:
    """Test errors of a run beside the published ones."""
    run, found = RUNS[name], results_of(folder)
    if found is None:
        return [name, "-", "-", "-", "-", f"not finished; {note}"]
    shown = {}
    for metric, value in found.items():
        if metric.startswith("mae_") and metric.endswith(("_meV", "_meV_per_A")):
            shown["forces" if "forces" in metric else "energy"] = f"{value:.3g}"
    published = [f"{run.published[kind]:g}" if kind in run.published else "-" for kind in ("energy", "forces")]
    return [name, shown.get("energy", "-"), published[0], shown.get("forces", "-"), published[1], note]


def perform(name: str, folder: Path, minutes: Optional[float], processes: int, shared: Path) -> str:
    """Train a run, or what is left of it; returns a note for the table."""
    run = RUNS[name]
    if results_of(folder) is not None:
        return "trained before"
    options = {**run.options, **data_options(name, shared)}
    shares = processes if name.startswith("qm9") else 1  # force fields take few frames a step
    if (folder / "checkpoints" / "last.safetensors").is_file():
        schedule, note = Schedule(0, 0, 0.0, False), "went on from its checkpoint"
    else:
        measured = in_child("benchmarks.full_size:step_rate", recipe=run.recipe, options=options)["result"]
        schedule = schedule_of(measured["rate"], int(measured["molecules"]), minutes or run.minutes, shares)
        trial = f", a trial on {schedule.molecules:,} molecules" if schedule.is_trial else ""
        note = f"{schedule.epochs:,} epochs, {schedule.rate:,.0f} molecules/s in {shares} processes{trial}"
        print(f"{name}: {note}", flush=True)
    command = command_of(run, folder, options, schedule, shares)
    print("$ " + " ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.perf_counter()
    code = subprocess.run(command, env=environment).returncode
    note += f", {(time.perf_counter() - started) / 60:.0f} minutes"
    return note if code == 0 else f"{note}, stopped with {code}: give the same command to go on"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Train what is not trained, print the table; 1 where a run did not end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, one in each of its folders")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=None, help="of each run (default: 150 and 60)")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 2), help="of QM9 (default: 2)")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    options = parser.parse_args(argv)
    print(machine_line("float32, 1 thread a process", "torch", "numpy"), flush=True)
    rows = []
    for name in options.only:
        folder = options.out / name
        note = perform(name, folder, options.minutes, options.processes, options.shared)
        rows.append(row(name, folder, note))
    header = ["run", "energy, meV", "published", "forces, meV/Å", "published", "note"]
    print_table("Mean absolute errors of the test split", header, rows)
    for source in dict.fromkeys(RUNS[name].source for name in options.only):
        print(f"published: {source}")
    return int(any("not finished" in cells[-1] for cells in rows))


if __name__ == "__main__":
    sys.exit(main())
