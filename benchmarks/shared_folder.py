"""Searches that processes share by a folder, some of them killed at random, against one process on a folder of its own.

    python -m benchmarks.shared_folder                                # 20 processes, 10 of them killed
    python -m benchmarks.shared_folder --workers 6 --kills 3
    python -m benchmarks.shared_folder --engine dask --workers 2 --kills 2   # one process and an engine's workers
    python -m benchmarks.shared_folder --pod 4 --replicas 16          # commands for a pod of four partitions
    python -m benchmarks.shared_folder --prepare 100000               # encode so many SMILES by processes and by dask

Every process is `ipu-chem search` of the same options, started by itself (setsid) on one folder. A kill is SIGKILL at a
random moment: to such a process, which takes its worker with it, or with an engine to a worker that trains. All that is
counted is to be 0: processes that failed, candidates without an end or with a step trained twice, figures of the report
that differ from those of one process. Training on two machines of different processors is not the same to the last
digit, nor with different numbers of threads: `--torch.threads 1` is given here.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import poprun
from benchmarks.common import ROOT, machine_line
from ipu_chem.claims import holder_of
from ipu_chem.heartbeats import read

RATES = [0.001, 0.002, 0.004, 0.008, 0.016, 1e30]  # the last one diverges
_SAME = ("metric", "rows", "evaluations", "kept", "steps", "chosen", "calibration", "curves")
_SECONDS = 3600.0  # within which all is done


def main() -> int:
    """Print the counts; the exit status is 1 where one is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=20, help="processes, or workers of an engine")
    parser.add_argument("--kills", type=int, default=10, help="of them, at random moments")
    parser.add_argument("--seeds", type=int, default=2, help="of each of the 6 candidates")
    parser.add_argument("--epochs", type=int, default=10, help="of every run")
    parser.add_argument("--engine", choices=("processes", "submitit", "dask"), default="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--prepare", type=int, default=0, help="encode so many SMILES instead")
    parser.add_argument("--pod", type=int, default=0, help="print commands for so many partitions of a pod instead")
    parser.add_argument("--replicas", type=int, default=16, help="of a partition")
    args = parser.parse_args()
    if args.pod:
        print("\n".join(pod_commands(args.pod, args.replicas)))
        return 0
    if args.kills >= args.workers and args.engine == "processes":
        parser.error(f"--kills {args.kills} of --workers {args.workers}: one must be left.")
    print(machine_line("float32", "torch", "submitit", "distributed"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        failures = prepare(Path(folder), args.prepare) if args.prepare else campaign(Path(folder), args)
    print("failures:", "; ".join(failures) or "none")
    return 1 if failures else 0


def campaign(folder: Path, args: argparse.Namespace) -> List[str]:
    """Search alone, search together, kill, compare.

    Args:
        folder: empty.
        args: of the command line.

    Returns:
        Failures, one sentence each.
    """
    words = _command(folder, args)
    began = time.monotonic()
    subprocess.run([*words, "--out", str(folder / "alone")], check=True, env=_environment(), stdout=subprocess.DEVNULL)
    alone = time.monotonic() - began
    out, began = folder / "shared", time.monotonic()
    shared = [*words, "--out", str(out)]
    if args.engine != "processes":
        word = "submitit:local" if args.engine == "submitit" else args.engine
        shared += ["--executor", word, "--jobs", str(args.workers)]
    count = args.workers if args.engine == "processes" else 1
    logs = [open(folder / f"log{place}.txt", "w+", encoding="utf-8") for place in range(count)]
    processes = [
        subprocess.Popen(shared, env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        for log in logs
    ]
    try:
        killed = _kill(processes, out, args)
        for process in processes:
            process.wait(max(1.0, _SECONDS - (time.monotonic() - began)))
    finally:
        for process in processes:
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    failures = []
    for process, log in zip(processes, logs):
        log.seek(0)
        said = log.read().strip().splitlines()[-1:]
        log.close()
        if process.returncode and process.pid not in killed:
            failures.append(f"process {process.pid} ended with {process.returncode}: {' '.join(said)}")
    failures += _differences(folder / "alone", out)
    print(
        f"engine {args.engine}, {args.workers} workers, {len(killed)} killed, {6 * args.seeds} runs: "
        f"{time.monotonic() - began:.0f} s together, {alone:.0f} s alone"
    )
    return failures


def pod_commands(groups: int, replicas: int) -> List[str]:
    """Commands of a search on a pod, one candidate at a time on each partition, checked as poprun would.

    Args:
        groups: partitions.
        replicas: of each, and IPUs.
    """
    found = []
    for group in range(1, groups + 1):
        launch = ["poprun", "--num-instances", "1", "--num-replicas", str(replicas), "--ipus-per-replica", "1"]
        search = ["ipu-chem", "search", "--config", "chemgpt_1.2b_pod16", "--grid", "chemgpt_rates"]
        search += ["--accelerator", "ipu", "--batching.replication_factor", str(replicas), "--out", "/shared/search"]
        words = [*launch, f"--vipu-partition=group{group}", *search]
        poprun.parse(words, replicas)
        found.append(" ".join(words) + " &")
    return [*found, "wait"]


def prepare(folder: Path, molecules: int) -> List[str]:
    """Encode SMILES by processes and by dask, and compare the stores to the bit.

    Args:
        folder: empty.
        molecules: SMILES to make.
    """
    from ipu_chem.data.corpora import load_corpus

    path = folder / "molecules.smi"
    path.write_text("\n".join(_smiles(molecules)) + "\n", encoding="utf-8")
    prints = {}
    for executor in ("processes", "dask"):
        began = time.monotonic()
        store = load_corpus("file", path, folder / executor, executor=executor, progress=False)
        prints[executor] = store.fingerprint()
        print(f"{executor}: {len(store):,} molecules, {time.monotonic() - began:.1f} s, {prints[executor]}")
    return [] if len(set(prints.values())) == 1 else ["the stores differ"]


def _smiles(count: int) -> List[str]:
    """Different small molecules: chains of atoms with side groups, in an order that is drawn once."""
    draw, parts = random.Random(0), ("C", "CC", "C(C)", "C(O)", "C(N)", "O", "N", "C(=O)", "C(F)", "c1ccccc1", "C1CC1")
    return ["".join(draw.choice(parts) for _ in range(draw.randint(3, 9))) for _ in range(count)]


def _command(folder: Path, args: argparse.Namespace) -> List[str]:
    """The search, on molecules that are made for it."""
    (folder / "molecules.smi").write_text("\n".join(sorted(set(_smiles(200)))) + "\n", encoding="utf-8")
    grid = {"optimizer.learning_rate": RATES, "training.seed": list(range(args.seeds))}
    (folder / "grid.yaml").write_text(json.dumps(grid), encoding="utf-8")
    options: Dict[str, Any] = {
        "data.name": "file",
        "data.path": folder / "molecules.smi",
        "data.cache": folder / "cache",
        "data.validation": 20,
        "data.test": 20,
        "data.workers": 1,
        "model.name": "chemgpt",
        "model.hidden_features": 32,
        "model.num_layers": 1,
        "batching.micro_batch_size": 1,
        "training.epochs": args.epochs,
        "training.checkpoint_every": 5,
        "torch.threads": 1,
        "accelerator": "cpu",
        "budget": 0.4,
        "keep": 2,
        "grid": folder / "grid.yaml",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "ipu_chem", "search", *flags]


def _environment() -> Dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def _kill(processes: List["subprocess.Popen[Any]"], out: Path, args: argparse.Namespace) -> List[int]:
    """Kill at random moments while candidates train; gives the numbers of the killed."""
    draw, killed = random.Random(args.seed), []
    while len(killed) < args.kills:
        time.sleep(draw.uniform(0.2, 4.0))
        living = [one for one in processes if one.poll() is None]
        if not living:
            break
        training = [read(path) for path in map(holder_of, out.glob("*")) if path is not None]
        if not training:
            continue
        if args.engine == "processes":
            victim = draw.choice(living)
            with suppress(OSError):
                os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)
        else:
            number = int(draw.choice(training).get("pid", 0))
            if number and number not in killed:
                with suppress(OSError):
                    os.kill(number, signal.SIGKILL)
                killed.append(number)
    return killed


def _differences(alone: Path, shared: Path) -> List[str]:
    """Sentences about what differs between a search of one process and that of many."""
    if not (shared / "search.json").is_file():
        return ["there is no report"]
    reports = [json.loads((folder / "search.json").read_text(encoding="utf-8")) for folder in (alone, shared)]
    failures = [f"{name} of the report differs" for name in _SAME if reports[0][name] != reports[1][name]]
    for folder in sorted(alone.glob("*/")):
        steps = [_steps(one / folder.name) for one in (alone, shared)]
        if steps[0] != steps[1]:
            failures.append(f"{folder.name}: {len(steps[1])} rows of steps instead of {len(steps[0])}")
    failures += [f"{path} is still claimed" for path in shared.glob("*/.claim.*") if path.suffix != ".free"]
    return failures


def _steps(folder: Path) -> List[int]:
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [row["step"] for row in rows if row["kind"] == "train"]


if __name__ == "__main__":
    sys.exit(main())
