"""Packing of a short run: the shape of a pack and the plans of three splits, in CPU seconds.

    python benchmarks/short_runs.py [--quick] [--shared PATH] [--no-goals]

A run may spend a second, or a fiftieth of its training, on packing. Times are of one process, scipy loaded before.
Exits with 1 when a goal is missed.
"""

import gzip
import io
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List

if __package__ in (None, ""):  # run as a file: its folder would hide the package of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks import molecules
from benchmarks.common import Goals, arguments, machine_line, print_table
from ipu_chem.config import PackConfig
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.tasks.splits import plans_of_splits
from packing import Budget, column_generation
from packing.tune import fit_budget

Sizes = Dict[str, np.ndarray]
_PASSES = 10.0  # over the training molecules
_REPEATS = 3


def sets(shared: Path, quick: bool) -> Dict[str, Sizes]:
    """Atoms and pairs of real molecules, and of made-up water clusters."""
    found: Dict[str, Sizes] = {}
    for count, cutoff in ((1000, 5.0), (1000, 6.0), (10_000, 5.0), *(() if quick else ((118_000, 5.0),))):
        store, origin = molecules.qm9(shared, count)
        pairs = radius_pairs(store.fields["pos"], store.axes["nodes"], cutoff)
        found[f"{origin}, {cutoff:g} Å"] = {"nodes": np.diff(store.axes["nodes"]), "edges": np.diff(pairs.offsets)}
    store, origin = molecules.water_clusters(1000 if quick else 3000)
    pairs = radius_pairs(store.fields["pos"], store.axes["nodes"], 6.0)
    found[f"{origin}, 6 Å"] = {"nodes": np.diff(store.axes["nodes"]), "edges": np.diff(pairs.offsets)}
    for name in ("molhiv", "molesol", "molbace"):
        files = [list((shared / "data" / "ogb" / f"ogbg_{name}").rglob(f"num-{what}-list.csv.gz")) for what in _LISTS]
        if not all(files):
            print(f"ogbg-{name}: left out, it is not in {shared}")
            continue
        nodes, edges = (np.loadtxt(gzip.open(file[0]), dtype=np.int64) for file in files)
        found[f"{len(nodes):,} molecules of ogbg-{name}, bonds"] = {"nodes": nodes, "edges": edges}
    return found


_LISTS = ("node", "edge")


def row_of(name: str, sizes: Sizes, goals: Goals) -> List[str]:
    """Seconds of shape and plans, and how full packs are."""
    order = np.random.default_rng(0).permutation(len(sizes["nodes"]))
    tenth = len(order) // 10
    items = {"train": order[2 * tenth :], "validation": order[:tenth], "test": order[tenth : 2 * tenth]}
    shape: List[float] = []

    def choose(chosen: np.ndarray) -> Budget:
        start = time.process_time()
        budget = fit_budget({axis: values[chosen] for axis, values in sizes.items()}, {})
        shape.append(time.process_time() - start)
        return budget

    seconds = []
    for _ in range(_REPEATS):
        start = time.process_time()
        with redirect_stdout(io.StringIO()):
            plans, budget = plans_of_splits(
                items, lambda chosen: {axis: values[chosen] for axis, values in sizes.items()}, choose, PackConfig(),
                0, None, _PASSES,
            )  # fmt: skip
        seconds.append(time.process_time() - start)
    goals.at_most(f"{name}: CPU seconds", float(np.median(seconds)), 1.0)
    train = plans["train"]
    filled = [f"{share:.2%}" for share in train.efficiency.values()]
    return [name, str(budget), f"{np.median(shape):.2f}", f"{np.median(seconds):.2f}", train.algorithm, *filled]


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    options = arguments(__doc__)
    goals = Goals()
    print(machine_line("sizes int64", "numpy", "scipy"))
    if not column_generation.available():
        print("scipy is MISSING: shapes are priced by best fit alone.")
    rows = [row_of(name, sizes, goals) for name, sizes in sets(options.shared, options.quick).items()]
    header = ["molecules", "chosen shape", "shape, s", "shape and plans, s", "training plan", "nodes", "edges"]
    print_table(f"Packing of a run of {_PASSES:g} epochs", header, rows)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
