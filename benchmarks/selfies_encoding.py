"""SMILES to a corpus store on disk: molecules a second, two processes against one, and a build killed in the middle.

    python benchmarks/selfies_encoding.py [--quick] [--shared FOLDER]

Molecules are those of MOSES' test split. Every build runs in a fresh process. Rates are of wall time, so they need
a machine that does nothing else; beside them stand CPU seconds of all processes together, which do not.
One and two processes take turns. The kill is SIGKILL for the whole process group, when half of the chunks are there.
"""

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import ROOT, Goals, arguments, in_child, machine_line, print_table, throughput_line
from ipu_chem.data.corpora import load_corpus
from ipu_chem.data.files.table import CHUNK

_FILE = Path("data") / "smiles" / "moses_test.csv.gz"
_WORKERS = 2


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run everything; the exit status is 1 when a goal is missed."""
    options = arguments(__doc__, argv)
    path = options.shared / _FILE
    if not path.is_file():
        print(f"there is no {path}; name the folder of real data with --shared")
        return 1
    whole, part, rounds = (6_000, 2_000, 1) if options.quick else (100_000, 10_000, 3)  # lines
    print(machine_line("symbols in bytes", "numpy", "rdkit"))
    goals = Goals()
    with tempfile.TemporaryDirectory() as folder:
        _scaling(path, Path(folder), part, rounds, goals)
        _killed(path, Path(folder), 2 * part, goals)
        figures = _build(path, Path(folder) / "whole", whole, _WORKERS)
    result = figures["result"]
    row = [f"{whole:,}", f"{figures['wall']:.1f}", f"{result['cpu']:.1f}", f"{figures['peak_mb']:.0f}"]
    header = ["lines", "seconds", "CPU seconds", "peak of the parent, MB"]
    print_table(f"MOSES, {_WORKERS} processes, selfies {result['versions']['selfies']}", header, [row])
    status = goals.finish(not options.no_goals)
    print(throughput_line(whole, figures["wall"]))
    return status


def building(path: str, cache: str, limit: int, workers: int) -> Callable[[], Dict[str, Any]]:
    """One build, to be measured (`benchmarks.common.in_child`)."""

    def work() -> Dict[str, Any]:
        store = load_corpus("file", path, cache, limit=limit, workers=workers, progress=False)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
        return {"fingerprint": store.fingerprint(), "cpu": cpu, "versions": store.info["versions"]}

    return work


def _build(path: Path, cache: Path, limit: int, workers: int) -> Dict[str, Any]:
    target = "benchmarks.selfies_encoding:building"
    return in_child(target, path=str(path), cache=str(cache), limit=limit, workers=workers)


def _scaling(path: Path, folder: Path, limit: int, rounds: int, goals: Goals) -> None:
    """One process and two in turns."""
    runs: Dict[int, List[Dict[str, Any]]] = {1: [], _WORKERS: []}
    for turn in range(rounds):
        for workers in runs:
            runs[workers].append(_build(path, folder / f"{workers}-{turn}", limit, workers))

    def ratio(figure: Callable[[Dict[str, Any]], float]) -> float:
        return statistics.median(figure(one) / figure(two) for one, two in zip(runs[1], runs[_WORKERS]))

    rows = []
    for workers, figures in runs.items():
        wall = statistics.median(one["wall"] for one in figures)
        cpu = statistics.median(one["result"]["cpu"] for one in figures)
        rows.append([workers, f"{limit / wall:,.0f}", f"{limit / cpu:,.0f}"])
    wall, cpu = ratio(lambda one: one["wall"]), ratio(lambda one: one["result"]["cpu"])
    rows.append(["ratio", f"{wall:.2f}", f"{cpu:.2f}"])
    print_table(f"{limit:,} lines, medians of {rounds}", ["processes", "molecules/s", "molecules per CPU second"], rows)
    stores = {one["result"]["fingerprint"] for figures in runs.values() for one in figures}
    goals.at_most("different stores of one and two processes", len(stores), 1)
    goals.at_least("molecules per CPU second, two processes against one", cpu, 0.75)


def _killed(path: Path, folder: Path, limit: int, goals: Goals) -> None:
    """Kill a build, go on, and compare with one that was left alone."""
    cache, chunks = folder / "killed", -(-limit // CHUNK)
    code = "import sys; from benchmarks.selfies_encoding import building\n"
    code += "building(*sys.argv[1:3], *map(int, sys.argv[3:]))()"
    command = [sys.executable, "-c", code, str(path), str(cache), str(limit), str(_WORKERS)]
    process = subprocess.Popen(command, cwd=str(ROOT), start_new_session=True)
    while process.poll() is None and len(_parts(cache)) < chunks // 2:
        time.sleep(0.01)
    if process.poll() is not None:
        raise RuntimeError("the build was over before it could be killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(_parts(cache))
    figures = _build(path, cache, limit, _WORKERS)
    alone = _build(path, folder / "alone", limit, _WORKERS)
    row = [chunks, kept, chunks - kept, f"at most {_WORKERS}", f"{figures['wall']:.1f}", f"{alone['wall']:.1f}"]
    header = ["chunks", "kept", "encoded after", "of them anew", "seconds after", "seconds without a kill"]
    print_table(f"Killed in the middle of {limit:,} lines", header, [row])
    same = figures["result"]["fingerprint"] == alone["result"]["fingerprint"]
    print(f"store of the resumed build: {'the same' if same else 'ANOTHER ONE'}")
    goals.at_most("stores that a kill has changed", int(not same), 0)
    goals.at_least("chunks kept", kept, chunks // 2)


def _parts(cache: Path) -> List[Path]:
    return list(cache.glob("*/[0-9]*.npz"))


if __name__ == "__main__":
    sys.exit(main())
