"""Training over several processes with torchrun: SchNet of the IPU study on molecules in QM9's sizes.

    python benchmarks/scaling.py [--quick] [--no-goals] [--accelerator cpu|cuda] [--processes 1 2 4]

Strong scaling shares the same optimizer steps out among more processes, weak scaling gives every process as
much as one has alone. Processes run one thread each on a CPU, one GPU each on CUDA; numbers of processes take
turns. Per CPU second is what a shared machine can be judged by: its cores may be busy with other work. The
last table is the time from the start of a process to its first step, with and without torch.compile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Sequence, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, Goals, machine_line, print_table, throughput_line

MICRO_BATCH = 32  # packs, about 64 molecules: smaller ones leave a core waiting for its own overhead
Figures = Dict[str, Any]


def launch(processes: int, replicas: int, calls: int, accelerator: str, compiled: bool = False, cache: str = "") -> Any:
    """Train in processes of their own.

    Args:
        processes: that torchrun starts; one needs no torchrun.
        replicas: of all processes together; each takes a micro-batch a step.
        calls: optimizer steps that are timed, after one that is not.
        accelerator: cpu or cuda.
        compiled: with torch.compile.
        cache: folder of compiled programs; empty is torch's.

    Returns:
        seconds: wall; cpu: seconds of all processes; samples, losses: of the timed calls; first: seconds from
        here to the first step.

    Raises:
        RuntimeError: a process failed; holds its error output.
    """
    options = {"replicas": replicas, "calls": calls, "accelerator": accelerator, "compiled": compiled}
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "benchmarks.scaling", "--worker", json.dumps({**options, "started": time.time()})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if cache:
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
    done = subprocess.run(command, cwd=str(ROOT), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training in {processes} processes failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def work(replicas: int, calls: int, accelerator: str, compiled: bool, started: float) -> Figures:
    """Work of every process; see `launch`."""
    import numpy as np

    from benchmarks.throughput import Settings, make_work
    from ipu_chem.backends import get_backend
    from ipu_chem.backends.options import Batching, TorchOptions

    options = TorchOptions(compile=compiled)
    batching = Batching(micro_batch_size=MICRO_BATCH, replication_factor=replicas)
    settings = Settings(accelerator=accelerator, batching=batching, torch=options)
    backend = get_backend(accelerator, options)
    made = make_work(settings, backend.world)
    batch, _ = next(made.epoch(0, 0))
    backend.compile(made.model, made.loss, settings.optimizer, batching, batch)
    backend.train_step(batch, settings.optimizer.learning_rate)
    first = time.time() - started
    # The generated molecules are those of one call: every epoch is one.
    batches = [next(made.epoch(0, epoch)) for epoch in range(1, calls + 1)]
    backend.agreed(0)  # all begin together
    wall, cpu = time.perf_counter(), time.process_time()
    losses = [float(backend.train_step(batch, settings.optimizer.learning_rate)[0]) for batch, _ in batches]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    cpu = float(backend.total(np.array([cpu]))[0])
    backend.close()
    samples = sum(count for _, count in batches)
    return {"seconds": wall, "cpu": cpu, "samples": samples, "losses": losses, "first": first}


def scaling(title: str, layouts: Sequence[Tuple[int, int]], options: argparse.Namespace) -> Dict[int, List[Figures]]:
    """Measure (processes, replicas) in turns and print a table; returns the rounds of every number of processes."""
    rounds: Dict[int, List[Figures]] = {processes: [] for processes, _ in layouts}
    for _ in range(2 if options.quick else 3):
        for processes, replicas in layouts:
            calls = (4 if options.quick else 12) * layouts[-1][1] // replicas
            rounds[processes].append(launch(processes, replicas, calls, options.accelerator))
    alone = rounds[layouts[0][0]]
    rows = []
    for processes, replicas in layouts:
        runs = rounds[processes]
        row = [processes, replicas * MICRO_BATCH]
        for figure in ("seconds", "cpu"):
            row.append(f"{median(run['samples'] / run[figure] for run in runs):,.1f}")
            row.append(f"{median(_ratio(run, one, figure) for run, one in zip(runs, alone)):.2f}x")
        rows.append([*row, f"{median(run['first'] for run in runs):.1f}"])
    header = ["processes", "packs a step", "molecules/s", "/ one", "molecules/CPU s", "/ one", "s to first step"]
    print_table(title, header, rows)
    return rounds


def _ratio(run: Figures, alone: Figures, figure: str) -> float:
    """Throughput as a multiple of that of one process, per second of either kind."""
    return (run["samples"] / run[figure]) / (alone["samples"] / alone[figure])


def starts(options: argparse.Namespace) -> None:
    """Seconds from the start of one process to its first step, and of a step after it."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        kinds = [("plain", False), ("compiled, nothing kept", True), ("compiled before", True)]
        for name, compiled in kinds:
            run = launch(1, 1, 4, options.accelerator, compiled, cache)
            rows.append([name, f"{run['first']:.1f}", f"{run['samples'] / run['cpu']:,.1f}"])
    print_table("Start of one process", ["torch.compile", "s to first step", "molecules/CPU s"], rows)


def main() -> int:
    """Print all tables, then judge the goals."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and steps, no torch.compile")
    parser.add_argument("--no-goals", action="store_true", help="exit with 0 even if a goal is missed")
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cuda" if there else "cpu")
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of them, rising (default: 1, 2, 4, ...)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        figures = work(**json.loads(options.worker))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(figures))
        return 0
    most = there if options.accelerator == "cuda" else os.cpu_count() or 1
    numbers = options.processes or [2**power for power in range(most.bit_length())]
    if any(numbers[-1] % number for number in numbers):
        parser.error("--processes: every number must divide the last, whose replicas are shared out.")
    print(machine_line(f"float32, {options.accelerator}", "numpy", "torch"))
    strong = scaling("Strong scaling", [(number, numbers[-1]) for number in numbers], options)
    weak = scaling("Weak scaling", [(number, number) for number in numbers], options)
    if not options.quick:
        starts(options)
    goals = Goals()
    for number in numbers[1:]:
        off = max(
            abs(a - b) / abs(b)
            for run, one in zip(strong[number], strong[numbers[0]])
            for a, b in zip(run["losses"], one["losses"])
        )
        goals.at_most(f"losses of {number} processes, off those of {numbers[0]} by, relative", off, 1e-5)
        for name, rounds in (("strong", strong), ("weak", weak)) if options.accelerator == "cpu" else ():
            share = median(_ratio(run, one, "cpu") for run, one in zip(rounds[number], rounds[numbers[0]]))
            goals.at_least(f"{name} scaling, {number} processes, per CPU second of one", share, 0.9)
    status = goals.finish(not options.no_goals)
    best = weak[numbers[-1]]
    print(throughput_line(median(run["samples"] / run["seconds"] for run in best), 1.0), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
