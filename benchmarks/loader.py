"""Host pipeline: whole shuffled epochs out of memory-mapped stores through PackLoader, numpy only, per core.

    python benchmarks/loader.py [--quick]

Molecules have the sizes of QM9 and HydroNet (500 k); what they are made of does not matter to a copy. Every epoch is
checked: each graph came exactly once. Rates are of the best epoch, with the median beside. Two processes, each with
half of the replicas, run at the same time; their rates are added up. PyTorch Geometric's DataLoader takes turns with
ours over the same molecules and batch size.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

if __package__ in (None, ""):  # run as a file: its folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    Goals,
    Timing,
    arguments,
    in_child,
    interleaved,
    machine_line,
    median_ratio,
    print_table,
    throughput_line,
)
from benchmarks.histograms import HYDRONET_500K, QM9, sizes_of
from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.fixed_point import with_fixed_point
from packing import Budget, PackingPlan, make_plan
from packing.store import Store

# Graphs per second of the IPU study (arXiv:2211.13853) on 64 Bow IPUs: with its loader, with data made on the device.
_STUDY = {"qm9": (113_161, 1_135_519), "qm9_pairs": (None, None), "hydronet_500k": (90_143, 612_979)}
_PYG_BATCH = 128  # graphs


class Case(NamedTuple):
    """A data set and its packs.

    Attributes:
        sizes: histogram of atoms.
        budget: of a pack.
        goal: graphs per second and core.
    """

    sizes: Dict[int, int]
    budget: Budget
    goal: float


CASES = {
    "qm9": Case(QM9, Budget(nodes=128), 1_135_519 / 2),
    "qm9_pairs": Case(QM9, Budget(nodes=128, edges=1_150), 400_000),
    "hydronet_500k": Case(HYDRONET_500K, Budget(nodes=192), 612_979 / 2),
}
# 64 replicas of a few packs: about the 8,192 graph slots that a step of the study had.
BATCHING = Batching(micro_batch_size=16, replication_factor=64)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run everything; the exit status is 1 when a goal is missed."""
    options = arguments(__doc__, argv)
    print(machine_line("uint8 elements, int16 positions", "numpy", "torch", "torch_geometric"))
    goals = Goals()
    repeats = 2 if options.quick else 7
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            _write(Path(folder) / name, name)
        alone = _alone(folder, repeats)
        together = _together(folder, repeats)
        rows = []
        for name, case in CASES.items():
            loaded, synthetic = _STUDY[name]
            rate, both = 1 / min(alone[name].seconds), sum(together[name])
            shown = [f"{figure:,}" if figure else "" for figure in (loaded, synthetic)]
            median = f"{1 / alone[name].median:,.0f}"
            rows.append([name, str(case.budget), f"{rate:,.0f}", median, f"{both:,.0f}", *shown])
            goals.at_least(f"{name}, graphs/s of one core", rate, case.goal)
            if synthetic:
                goals.at_least(f"{name}, graphs/s of two processes", both, synthetic)
        header = ["data", "pack", "one core", "median", "two processes", "study's loader", "without it"]
        print_table("Graphs per CPU second, shuffled epochs", header, rows)
        _peer(folder, options.quick, goals)
        _crossing(folder, alone)
    status = goals.finish(not options.no_goals)
    print(throughput_line(sum(together["qm9"]), 1.0))
    return status


def open_loader(folder: str, name: str, world: World = ALONE, batching: Batching = BATCHING) -> PackLoader:
    """A case's molecules from disk and their plan; the label of a molecule is its number."""
    store = with_fixed_point(Store.open(Path(folder) / name), Path(folder) / "cache")
    plan = PackingPlan.load(Path(folder) / f"{name}.npz")
    budget = CASES[name].budget.replace(graphs=plan.max_items_per_pack)
    number = np.arange(len(store), dtype=np.float64)
    return PackLoader(store, np.arange(len(store)), plan, number[:, None], budget, batching, world)


def run_epoch(loader: PackLoader, epoch: int) -> Tuple[float, np.ndarray]:
    """CPU seconds of an epoch, and how often every graph came, [I]."""
    seen: List[Tuple[Any, Any]] = []
    started = time.process_time()
    for batch, _ in loader.epoch(0, epoch):
        seen.append((batch.y, batch.weight))
    seconds = time.process_time() - started
    numbers = np.concatenate([y.numpy()[weight.numpy() > 0] for y, weight in seen]).astype(np.int64)
    return seconds, np.bincount(numbers, minlength=len(loader.items))


def half(folder: str, name: str, rank: int, epochs: int) -> Callable[[], Dict[str, Any]]:
    """One of two processes: its graphs per CPU second, and which graphs came (`benchmarks.common.in_child`)."""
    loader = open_loader(folder, name, World(rank, 2))
    run_epoch(loader, 0)

    def work() -> Dict[str, Any]:
        rates, counts = [], np.zeros(len(loader.items), np.int64)
        for epoch in range(epochs):
            seconds, counts = run_epoch(loader, epoch)
            rates.append(counts.sum() / seconds)
        return {"rate": max(rates), "seen": np.packbits(counts == 1).tobytes().hex()}

    return work


def _alone(folder: str, repeats: int) -> Dict[str, Timing]:
    """CPU seconds per graph, cases in turns."""
    loaders = {name: open_loader(folder, name) for name in CASES}
    timings = {name: Timing() for name in CASES}
    for epoch in range(repeats + 1):
        for name, loader in loaders.items():
            seconds, counts = run_epoch(loader, epoch)
            assert (counts == 1).all(), f"{name}: a graph came {counts.min()} or {counts.max()} times in epoch {epoch}"
            if epoch:  # the first brings the files into memory
                timings[name].seconds.append(seconds / len(counts))
    return timings


def _together(folder: str, repeats: int) -> Dict[str, List[float]]:
    """Graphs per CPU second of each of two processes that run at the same time."""
    rates = {}
    for name in CASES:
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(in_child, "benchmarks.loader:half", folder=folder, name=name, rank=rank, epochs=repeats)
                for rank in (0, 1)
            ]
            results = [job.result()["result"] for job in jobs]
        seen = [np.unpackbits(np.frombuffer(bytes.fromhex(result["seen"]), np.uint8)) for result in results]
        graphs = len(PackingPlan.load(Path(folder) / f"{name}.npz").sizes)
        assert ((seen[0] + seen[1])[:graphs] == 1).all(), f"{name}: the processes do not share the graphs out"
        rates[name] = [result["rate"] for result in results]
    return rates


def _peer(folder: str, quick: bool, goals: Goals) -> None:
    """PyG's DataLoader over an InMemoryDataset, in turns with ours; a batch holds as many graphs."""
    try:
        import torch
        from torch_geometric.data import Data, InMemoryDataset
        from torch_geometric.loader import DataLoader
    except ImportError:
        print("torch_geometric is missing: no comparison")
        return
    torch.set_num_threads(1)
    rows, batches = [], 8 if quick else 32
    for name in ("qm9", "qm9_pairs"):
        store = Store.open(Path(folder) / name)
        chosen = np.random.default_rng(0).permutation(len(store))[: max(_PYG_BATCH * batches, 20_000)]

        def data_of(item: int, store: Store = store) -> Any:
            made = Data(z=torch.from_numpy(store["z"][item].astype(np.int64)), pos=torch.tensor(store["pos"][item]))
            made.y = torch.tensor([[float(item)]])
            if "edge_index" in store:
                made.edge_index = torch.from_numpy(store["edge_index"][item].T.astype(np.int64)).contiguous()
            return made

        dataset = InMemoryDataset()
        dataset.data, dataset.slices = InMemoryDataset.collate([data_of(item) for item in chosen.tolist()])
        theirs = DataLoader(dataset, batch_size=_PYG_BATCH, shuffle=True)
        plan = PackingPlan.load(Path(folder) / f"{name}.npz")
        ours = open_loader(folder, name, ALONE, Batching(round(_PYG_BATCH * plan.num_packs / len(store))))

        def run_theirs(theirs: Any = theirs) -> int:
            return sum(batch.num_graphs for _, batch in zip(range(batches), theirs))

        def run_ours(ours: PackLoader = ours) -> int:
            return sum(graphs for _, graphs in ours.epoch(0, 0))

        timings = interleaved({"theirs": run_theirs, "ours": run_ours}, 3 if quick else 5)
        for timing in timings.values():
            timing.seconds = [seconds / timing.result for seconds in timing.seconds]
        ratio = median_ratio(timings["theirs"], timings["ours"])
        speeds = [f"{1 / timings[side].median:,.0f}" for side in ("theirs", "ours")]
        rows.append([name, *speeds, f"{ratio:.0f}"])
        goals.at_least(f"{name}, times PyG's DataLoader", ratio, 50)
    title = f"Graphs per CPU second in batches of {_PYG_BATCH} graphs, one core"
    print_table(title, ["data", "PyG DataLoader", "ours", "ratio"], rows)


def _crossing(folder: str, alone: Dict[str, Timing]) -> None:
    """Bytes that cross for a graph in each form, and what the host spends on it."""
    rows, cost = [], {}
    for name, form in (("qm9", "positions, edges found on the device"), ("qm9_pairs", "positions and pairs")):
        loader = open_loader(folder, name)
        batch, graphs = next(loader.epoch(0, 0))
        sizes = {field: getattr(batch, field).numpy().nbytes / graphs for field in batch._fields}
        masks = batch.z.numel() * 2 + batch.graph_ends.numel()  # graph_index, node_mask, graph_mask
        if name == "qm9_pairs":
            masks += batch.edge_index[:, 0].numel()
        explicit = sum(sizes.values()) + (masks + batch.pos.numel() * 2) / graphs - sizes["graph_ends"]
        cost[form] = (sum(sizes.values()), alone[name].median * 1e6)
        parts = ", ".join(f"{field} {size:.1f}" for field, size in sizes.items())
        rows.append([form, f"{sum(sizes.values()):.0f}", f"{explicit:.0f}", f"{cost[form][1]:.2f}", parts])
    header = ["form", "bytes a graph", "float32 and masks", "host, µs a graph", "of the bytes"]
    print_table("Transferred to the device, QM9", header, rows)
    cheaper = min(cost, key=lambda form: cost[form])
    print(f"cheaper for the host and the link: {cheaper}; the search itself is the device's work")


def _write(path: Path, name: str) -> None:
    """Random molecules of the case's sizes on disk, and their plan."""
    random, case = np.random.default_rng(0), CASES[name]
    sizes = random.permutation(sizes_of(case.sizes))
    offsets = np.append(0, np.cumsum(sizes))
    axes, axis_of = {"nodes": offsets}, {"z": "nodes", "pos": "nodes"}
    fields = {
        "z": random.integers(1, 10, offsets[-1]).astype(np.uint8),
        "pos": random.normal(0.0, 2.0, (offsets[-1], 3)).astype(np.float32),
    }
    if "edges" in case.budget:
        pairs = np.rint(0.9 * sizes * (sizes - 1) / 2).astype(np.int64)  # within 6 Å: 90 % of all
        axes["edges"], axis_of["edge_index"] = np.append(0, np.cumsum(pairs)), "edges"
        fields["edge_index"] = (random.random((pairs.sum(), 2)) * np.repeat(sizes, pairs)[:, None]).astype(np.uint8)
    store = Store(axes, fields, axis_of)
    store.save(path)
    measured = {axis: store.sizes()[axis] for axis in case.budget.measured}
    make_plan(measured, case.budget).save(path.with_suffix(".npz"))


if __name__ == "__main__":
    sys.exit(main())
