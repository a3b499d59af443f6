"""A training step of SchNet: exact and tabulated filters, compiled, in native kernels, against PyTorch Geometric.

    python benchmarks/schnet_step.py [--quick] [--shared PATH] [--no-goals]

Contestants take turns on the same molecules, one thread; a figure is molecules per CPU second of forward, backward,
Adam and the making of batches. "As shipped" is torch_geometric.nn.SchNet with edges made beforehand and a DataLoader,
"denormals off" the same with denormal numbers taken as 0. Exits with 1 when a goal is missed.
"""

import ctypes
import gc
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks import molecules, schnet_peers
from benchmarks.common import Goals, arguments, in_child, machine_line, print_table, throughput_line
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels.native import NativeError, library
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.fixed_point import STEP, fixed_point_in_memory
from ipu_chem.data.neighbors import radius_edges, radius_pairs
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Ragged, make_plan
from packing.store import Store
from packing.tune import fit_budget

PAPER: Dict[str, Any] = dict(hidden_features=100, num_filters=100, num_interactions=4, num_gaussians=25, cutoff=6.0)
LARGE: Dict[str, Any] = dict(hidden_features=128, num_filters=128, num_interactions=6, num_gaussians=50, cutoff=6.0)
SHIPPED, FIXED = "PyG, DataLoader, as shipped", "PyG, DataLoader, denormals off"
# name -> (filter, torch.compile, native kernels)
OURS: Dict[str, Tuple[str, bool, bool]] = {
    "exact": ("exact", False, False),
    "exact, compiled": ("exact", True, False),
    "exact, native kernels": ("exact", False, True),
    "exact, native kernels, compiled": ("exact", True, True),
    "table": ("table", False, False),
    "table, compiled": ("table", True, False),
    "Chebyshev, compiled": ("chebyshev", True, False),
    "table, native kernels": ("table", False, True),
    "table, native kernels, compiled": ("table", True, True),
}


class Setting(NamedTuple):
    """A model and its molecules.

    Attributes:
        title: of the table.
        sizes: of the model.
        dataset: qm9 or hydronet.
        step: molecules of a step.
        nodes: atom slots of a pack; 0 chooses.
        study: nodes of a pack in the study.
        goals: contestant -> (least ratio to FIXED, least ratio to SHIPPED; 0 for none).
    """

    title: str
    sizes: Dict[str, Any]
    dataset: str
    step: int
    nodes: int
    study: int
    goals: Dict[str, Tuple[float, float]]


BEST = "table, native kernels (faster of both)"
SETTINGS = {
    "paper": Setting(
        "QM9, the paper's SchNet: 100 features, 4 blocks, 25 Gaussians, 6 Å, 128 molecules a step",
        PAPER, "qm9", 128, 0, 36,
        {"exact": (1.4, 0), "exact, compiled": (2, 0), "table, compiled": (4, 12), BEST: (6, 18)},
    ),
    "large": Setting(
        "QM9, 128 features, 6 blocks, 50 Gaussians, 6 Å, 128 molecules a step",
        LARGE, "qm9", 128, 0, 36,
        {"table, compiled": (5.5, 25), BEST: (7, 35)},
    ),
    "hydronet": Setting(
        "HydroNet, packs of 192 atoms, the paper's SchNet, full radius graph, 32 clusters a step",
        PAPER, "hydronet", 32, 192, 192,
        {"table, compiled": (5, 0), BEST: (10, 0)},
    ),
}  # fmt: skip


class Data(NamedTuple):
    """The same molecules with edges in both directions and with pairs."""

    both: Store
    once: Store
    origin: str


def load(setting: Setting, shared: Path, steps: int) -> Data:
    """Molecules for a number of steps."""
    count = steps * setting.step
    store, origin = molecules.qm9(shared, count) if setting.dataset == "qm9" else molecules.water_clusters(count)
    cutoff = setting.sizes["cutoff"]
    both = radius_edges(store.fields["pos"], store.axes["nodes"], cutoff)
    once = radius_pairs(store.fields["pos"], store.axes["nodes"], cutoff)
    return Data(_with(store, both), fixed_point_in_memory(_with(store, once)), origin)


def _with(store: Store, edges: Ragged) -> Store:
    fields = {**store.fields, "edge_index": edges.values}
    return Store({**store.axes, "edges": edges.offsets}, fields, {**store.axis_of, "edge_index": "edges"}, store.info)


class Contestant:
    """Trains for ever, one step a call; knows how many molecules each step had."""

    def __init__(
        self, step: Callable[[Any, int], float], batches: Iterator[Tuple[Any, int]], backend: Any = None
    ) -> None:
        self.step, self.batches, self.backend = step, batches, backend
        self.losses: List[float] = []

    def __call__(self) -> int:
        """Train on the next batch; returns its molecules."""
        batch, count = next(self.batches)
        self.losses.append(self.step(batch, count))
        return count


def ours(setting: Setting, data: Data, filter: str, compile: bool, kernels: bool) -> Contestant:
    """Our model, packs and backend."""
    budget = fit_budget(data.once.sizes(), {"nodes": setting.nodes, "edges": 0, "graphs": 0})
    plan = make_plan(data.once.sizes(), budget)
    budget = budget.replace(graphs=plan.max_items_per_pack)
    packs = max(round(plan.num_packs * setting.step / len(data.once)), 1)
    batching = Batching(packs)
    loader = PackLoader(data.once, np.arange(len(data.once)), plan, data.once.fields["y"], budget, batching)
    torch.manual_seed(0)
    model = CompactInputs(SchNet(**setting.sizes, filter=filter, undirected=True), data.once.info[STEP])
    backend = TorchBackend(options=TorchOptions(compile=compile, kernels=kernels, threads=1))
    backend.compile(model, mse, OptimizerConfig(), batching, loader.example(training=True))

    def batches() -> Iterator[Tuple[Any, int]]:
        epoch = 0
        while True:
            yield from loader.epoch(0, epoch)
            epoch += 1

    return Contestant(lambda batch, count: float(backend.train_step(batch, 1e-3)), batches(), backend)


def peers(setting: Setting, data: Data) -> Dict[str, Contestant]:
    """PyTorch Geometric on its batches, on padded ones, and with the study's search."""
    made = {name: schnet_peers.Pyg(setting.sizes, 0, flush=name != SHIPPED) for name in (SHIPPED, FIXED, "p", "s")}
    contestants = {
        name: Contestant(made[name].step, schnet_peers.dynamic(data.both, setting.step)) for name in (SHIPPED, FIXED)
    }
    contestants["PyG, padded to the largest"] = Contestant(made["p"].step, schnet_peers.padded(data.both, setting.step))
    search = schnet_peers.packed_with_search(data.both, setting.step, setting.study, setting.sizes["cutoff"], made["s"])
    contestants["PyG on the study's packs, 28 nearest found in the model"] = Contestant(made["s"].step, search)
    return contestants


def race(contestants: Dict[str, Contestant], rounds: int) -> Dict[str, List[float]]:
    """CPU seconds per molecule of every round, in turns."""
    seconds: Dict[str, List[float]] = {name: [] for name in contestants}
    for turn in range(-2, rounds):  # two to compile and warm up
        for name, contestant in contestants.items():
            start = time.process_time()
            count = contestant()
            if turn >= 0:
                seconds[name].append((time.process_time() - start) / count)
    return seconds


def run(setting: Setting, shared: Path, quick: bool, goals: Goals) -> float:
    """One table; returns our best rate."""
    data = load(setting, shared, 2 if quick else 4)
    contestants = peers(setting, data)
    for name, (filter, compile, kernels) in OURS.items():
        if kernels and not _has_kernels():
            print(f"{name}: left out, there is no C compiler here")
        elif not (compile and quick):
            contestants[name] = ours(setting, data, filter, compile, kernels)
    seconds = race(contestants, 3 if quick else 9)
    native = [name for name in seconds if name.startswith("table, native kernels")]
    if native:
        seconds[BEST] = min((seconds[name] for name in native), key=statistics.median)
    rows = []
    for name, values in seconds.items():
        fixed, shipped = _ratio(seconds[FIXED], values), _ratio(seconds[SHIPPED], values)
        if name in setting.goals:
            least, least_shipped = setting.goals[name]
            goals.at_least(f"{setting.title.split(',')[0]}: {name} against {FIXED}", fixed, least)
            if least_shipped:
                goals.at_least(f"{setting.title.split(',')[0]}: {name} against {SHIPPED}", shipped, least_shipped)
        if name != BEST:
            rows.append([name, f"{1 / statistics.median(values):,.0f}", f"{fixed:.2f}", f"{shipped:.2f}"])
    packed = _ratio(seconds[FIXED], seconds["exact"])
    goals.at_least(f"{setting.title.split(',')[0]}: packed, exact, eager against dynamic batches", packed, 0.95)
    edges = len(data.both.fields["edge_index"]) / len(data.both)
    print_table(
        f"{setting.title}; {data.origin}, {edges:.0f} edges each",
        ["contestant", "molecules per CPU second", "x denormals off", "x as shipped"],
        rows,
    )
    return 1 / min(statistics.median(values) for values in seconds.values())


def _ratio(slow: List[float], fast: List[float]) -> float:
    return statistics.median(s / f for s, f in zip(slow, fast))


def _has_kernels() -> bool:
    try:
        library()
    except NativeError:
        return False
    return True


def memory_of(name: str, shared: str) -> Callable[[], float]:
    """A step whose memory is measured in a process of its own, after one that came before it."""
    torch.set_num_threads(1)
    setting = SETTINGS["paper"]
    data = load(setting, Path(shared), 1)
    contestant = peers(setting, data)[name] if name in (SHIPPED, FIXED) else ours(setting, data, *OURS[name])
    contestant()
    gc.collect()
    _return_free_memory()
    return lambda: float(contestant())


def _return_free_memory() -> None:
    """To the system, where the C library keeps it otherwise: a step would take it from there unseen."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass


def memory(shared: Path, quick: bool, goals: Goals) -> None:
    """Peak of a step over what is resident at rest."""
    rows, peaks = [], {}
    for name in (FIXED, "exact", "table", "table, compiled", "table, native kernels"):
        if ("compiled" in name and quick) or ("machine" in name and not _has_kernels()):
            continue
        figures = in_child("benchmarks.schnet_step:memory_of", name=name, shared=str(shared))
        peaks[name] = figures["peak_mb"] - figures["loaded_mb"]
        rows.append([name, f"{peaks[name]:.0f}", f"{peaks[name] / peaks[FIXED]:.2f}"])
    print_table("peak of a step over memory at rest, the paper's SchNet, QM9", ["contestant", "MB", "x PyG"], rows)
    for name in ("table, compiled", "table, native kernels"):
        if name in peaks:
            goals.at_most(f"peak memory: {name} against PyG", peaks[name] / peaks[FIXED], 0.25)


def main() -> int:
    """Run every setting; 1 when a goal is missed."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    print(machine_line("float32, 1 thread", "torch", "torch_geometric", "numpy"))
    goals, best = Goals(), 0.0
    for name in ("paper",) if options.quick else tuple(SETTINGS):
        rate = run(SETTINGS[name], options.shared, options.quick, goals)
        best = rate if name == "paper" else best
    memory(options.shared, options.quick, goals)
    print(
        "\nFor comparison, the study on one Bow IPU (arXiv:2211.13853): 25,727 QM9 molecules/s packed, 14,283 padded."
    )
    status = goals.finish(not options.no_goals and not options.quick)
    print(throughput_line(best, 1.0))
    return status


if __name__ == "__main__":
    sys.exit(main())
