"""Training steps on one GPU: SchNet and PaiNN, energies and forces, and ChemGPT, beside their peers, in 8 minutes.

    python benchmarks/gpu.py [--minutes 8] [--json gpu.json] [--groups NAME ...] [--shared PATH]
    python benchmarks/gpu.py --device cpu --quick          # the dry run: small sizes, nothing is compiled

Figures are graphs, or real tokens, per second of wall time: batches are made beforehand on both sides, a step holds
their transfer, forward, backward and AdamW. Ours runs eager, compiled, as CUDA graphs and with bf16 products. Every
group has a process and a part of the time: a contestant that is not built in its time, does not fit or is not
installed says so and costs the others nothing. Contestants take turns; medians of the rounds. The file of results is
written again after every group. Peers: PyTorch Geometric, SchNetPack, Hugging Face's transformers where installed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import gpu_contestants, gpu_text
from benchmarks.common import ROOT, machine_line, print_table, throughput_line
from benchmarks.gpu_contestants import NotHere, Scale, Step
from packing.files import atomic_file

GROUPS = {
    "schnet": "graphs",
    "painn": "graphs",
    "schnet forces": "graphs",
    "painn forces": "graphs",
    "chemgpt": "tokens",
}
ROUNDS = 7
NOT_HERE = "not applicable here"
_OF_BUILDING = 0.7  # of a group's time
_END = 10.0  # seconds of a child for its last words


class Clock:
    """Seconds until a deadline."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, below 0 behind the deadline."""
        return self.end - time.monotonic()


class TimeUp(Exception):
    """A contestant was not built in its time."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt what runs inside after some seconds; where there is no such signal, do not."""

    def stop(*_: Any) -> None:
        raise TimeUp

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def built(makers: Dict[str, Callable[[], Step]], seconds: float, quick: bool, notes: Dict[str, str]) -> Dict[str, Step]:
    """Contestants that made their first step, each within half of the time that is left; the others leave a note."""
    steps: Dict[str, Step] = {}
    clock = Clock(seconds)
    for name, make in makers.items():
        if quick and ("compiled" in name or "CUDA graphs" in name):
            notes[name] = NOT_HERE if "CUDA" in name and not torch.cuda.is_available() else "left out by --quick"
            continue
        if clock.left < 1:
            notes[name] = "no time left"
            continue
        try:
            with at_most(clock.left if quick else clock.left / 2):  # compilers may hang, imports may not be cut
                step = make()
                step()
                step()
            steps[name] = step
        except TimeUp:
            notes[name] = f"not built in {clock.left:.0f} s"
        except (NotHere, ValueError) as error:
            notes[name] = f"{NOT_HERE}: {_line(error)}"
        except Exception as error:  # out of memory, or a compiler that fails: the others go on
            notes[name] = f"failed: {type(error).__name__}: {_line(error)}"
    return steps


def race(steps: Dict[str, Step], rounds: int, seconds: float, longest: float = 2.0) -> Iterator[Dict[str, List[float]]]:
    """Rates of all rounds so far, after every round, until the time is up; a turn takes ``longest`` seconds or less."""
    rates: Dict[str, List[float]] = {name: [] for name in steps}
    clock = Clock(seconds)
    each = min(max(seconds / (rounds * max(len(steps), 1)), 0.05), longest)
    for _ in range(rounds):
        if clock.left <= 0 or not steps:
            return
        for name, step in steps.items():
            started, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - started < each:
                count += step()
            rates[name].append(count / (time.perf_counter() - started))
        yield rates


def load_libraries(group: str) -> None:
    """Import what contestants import, so that no interruption leaves a library half loaded."""
    peer = "transformers.models.gpt_neo.modeling_gpt_neo" if group == "chemgpt" else "torch_geometric.nn"
    for name in ("torch._dynamo", peer):
        with suppress(ImportError):
            import_module(name)


def contestants(group: str, scale: Scale) -> Dict[str, Callable[[], Step]]:
    """Name -> function that builds the step, of a group."""
    return gpu_text.contestants(scale) if group == "chemgpt" else gpu_contestants.contestants(group, scale)


def run_group(group: str, scale: Scale, seconds: float, quick: bool) -> Iterator[List[Dict[str, Any]]]:
    """Results of a group after every round: contestant, rate, rounds and note."""
    whole = Clock(seconds)
    notes: Dict[str, str] = {}
    load_libraries(group)
    makers = contestants(group, scale)
    steps = built(makers, _OF_BUILDING * whole.left, quick, notes)
    rates: Dict[str, List[float]] = {name: [] for name in steps}
    yield _entries(group, list(makers), rates, notes)
    rounds, longest = (3, 0.2) if quick else (ROUNDS, 2.0)
    for rates in race(steps, rounds, whole.left, longest):
        yield _entries(group, list(makers), rates, notes)


def _entries(
    group: str, names: Sequence[str], rates: Dict[str, List[float]], notes: Dict[str, str]
) -> List[Dict[str, Any]]:
    entries = []
    for name in names:
        found = rates.get(name, [])
        rate: Optional[float] = statistics.median(found) if found else None
        note = notes.get(name, "" if found else "not measured in time")
        entry = dict(group=group, contestant=name, unit=f"{GROUPS[group]}/s", rate=rate, rounds=len(found), note=note)
        entries.append(entry)
    return entries


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def write(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_file(path, "w") as file:
        json.dump(values, file, indent=1)


def child(group: str, scale: List[Any], seconds: float, quick: bool, path: str) -> None:
    """Measure a group in this process; results so far are in the file whenever it ends."""
    device, graphs, features, symbols, shared = scale
    chosen = Scale(device, graphs, features, symbols, Path(shared))
    if chosen.device == "cpu":
        torch.set_num_threads(1)
    for entries in run_group(group, chosen, seconds, quick):
        write(Path(path), entries)


def measured(group: str, scale: Scale, seconds: float, quick: bool) -> List[Dict[str, Any]]:
    """Results of a group from a process of its own, which is killed when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "group.json"
        given = [group, [*scale[:-1], str(scale.shared)], seconds, quick, str(path)]
        code = f"import json; from benchmarks.gpu import child; child(*json.loads({json.dumps(given)!r}))"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        try:
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env=environment, timeout=seconds + _END, stderr=subprocess.PIPE, text=True)
            end = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            end = ["its time is over"]
        if path.is_file():
            return json.loads(path.read_text())
    note = f"failed: {end[0] if end else 'without a word'}"
    return [dict(group=group, contestant="all", unit=f"{GROUPS[group]}/s", rate=None, rounds=0, note=note)]


def show(group: str, entries: List[Dict[str, Any]]) -> None:
    """Print the table of a group."""
    first = next((entry["rate"] for entry in entries if entry["rate"]), None)
    rows = []
    for entry in entries:
        rate = entry["rate"]
        shown = [f"{rate:,.0f}", f"{rate / first:.2f}"] if rate and first else ["-", "-"]
        rows.append([entry["contestant"], *shown, entry["note"]])
    print_table(f"{group}: {GROUPS[group]} a second", ["contestant", f"{GROUPS[group]}/s", "x first", "note"], rows)


def scale_of(device: str, quick: bool, shared: Path) -> Scale:
    """Sizes of a run: what fills a card, a CPU for some seconds, or a dry run."""
    if quick:
        return Scale(device, 8, 16, 512, shared)
    return Scale(device, 1024, 128, 65536, shared) if device == "cuda" else Scale(device, 64, 128, 2048, shared)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing compiled, a minute or two")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all groups together (default: 8)")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="NAME")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file of results (default: %(default)s)")
    default = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=default, help="folder of real data (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; --device cpu --quick is the dry run.")
    minutes = options.minutes
    whole = Clock(60 * minutes)
    machine = machine_line("float32, bf16 where named", "torch", "torch_geometric", "schnetpack", "transformers")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, 1 thread"
    print(f"{machine} | {device}", flush=True)
    scale = scale_of(options.device, options.quick, options.shared)
    print(f"{scale.graphs} molecules of QM9 a step, {scale.features} features, {scale.symbols} symbols a step of text")
    results: List[Dict[str, Any]] = []
    for place, group in enumerate(options.groups):
        seconds = whole.left / (len(options.groups) - place) - _END
        entries = measured(group, scale, max(seconds, 1.0), options.quick)
        show(group, entries)
        results += entries
        sizes = {**scale._asdict(), "shared": str(scale.shared)}
        write(options.json, {"machine": machine, "device": device, "scale": sizes, "results": results})
    best = max((entry["rate"] for entry in results if entry["rate"] and entry["unit"] == "graphs/s"), default=0.0)
    print(f"\n{options.json}: {len(results)} entries, {minutes - whole.left / 60:.1f} of {minutes:g} minutes")
    print(throughput_line(best, 1.0))
    return 0 if any(entry["rate"] for entry in results) else 1


if __name__ == "__main__":
    sys.exit(main())
