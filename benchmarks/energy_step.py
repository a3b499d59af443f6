"""A training step on energies alone: native kernels and autograd against SchNetPack.

    python benchmarks/energy_step.py [--quick] [--shared PATH] [--no-goals]

Contestants take turns on the same molecules of QM9, one thread; a figure is molecules per CPU second of batches,
forward, loss, gradients and AdamW. Edges are made beforehand on both sides, SchNetPack's batches by its own collate
function in a DataLoader. Exits with 1 when a goal is missed. SchNetPack 2 has to be installed by itself.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.common import (
    Goals,
    arguments,
    in_child,
    interleaved,
    machine_line,
    median_ratio,
    print_table,
    throughput_line,
)
from benchmarks.force_step import AUTOGRAD, CUTOFF, NATIVE, PEER, live
from benchmarks.schnetpack_peer import inputs_of, model_of
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.registry import build_model
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan
from packing.store import Store

COUNT, STEP, FEATURES = 1000, 50, 128
GOALS = {"painn": 4.0, "schnet": 4.0}


class Molecules(NamedTuple):
    """Molecules one behind the other: z [N], positions [N, 3], offsets [K + 1]; targets [K] that are made up."""

    z: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    origin: str


def molecules(shared: Path) -> Molecules:
    """Molecules of QM9, or made up in their sizes."""
    random = np.random.default_rng(0)
    file = shared / "data" / "qm9" / "qm9_geometries.npz"
    if file.is_file():
        with np.load(file) as data:
            sizes, z = data["N"].astype(np.int64), data["Z"]
            places = ((data["R_hi"].astype(np.int32) << 16) | data["R_lo"]) / 1e4
        ends = np.cumsum(sizes)
        chosen = np.sort(random.choice(len(sizes), COUNT, replace=False))
        atoms = np.concatenate([np.arange(ends[item] - sizes[item], ends[item]) for item in chosen])
        z, places, sizes, origin = z[atoms], places[atoms], sizes[chosen], "QM9"
    else:
        sizes = random.integers(12, 25, COUNT)
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.3
        places = np.concatenate([grid[:size] + random.normal(0.0, 0.1, (size, 3)) for size in sizes])
        z, origin = random.choice([1, 6, 7, 8], len(places)), "SYNTHETIC molecules"
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Molecules(z, places.astype(np.float32), offsets, random.normal(size=COUNT).astype(np.float32), origin)


def ours(name: str, data: Molecules, kernels: bool) -> Callable[[], Any]:
    """Our model, packs and backend; a call trains on the next batch."""
    pairs = radius_pairs(data.positions, data.offsets, CUTOFF)
    fields = {"z": data.z.astype(np.uint8), "pos": data.positions, "edge_index": pairs.values}
    axes = {"nodes": data.offsets, "edges": pairs.offsets}
    store = Store(axes, fields, {"z": "nodes", "pos": "nodes", "edge_index": "edges"}, {})
    mean = {name: len(values) / COUNT * STEP for name, values in (("nodes", data.z), ("edges", pairs.values))}
    budget = Budget(nodes=int(mean["nodes"] * 1.02), edges=int(mean["edges"] * 1.05), graphs=STEP + 6)
    plan = make_plan(store.sizes(), budget)
    loader = PackLoader(store, np.arange(COUNT), plan, data.targets[:, None], budget, Batching(1))
    torch.manual_seed(0)
    model = build_model(name, 1, True, undirected=True, hidden_features=FEATURES, cutoff=CUTOFF, filter="auto")
    live(model)
    backend = TorchBackend(options=TorchOptions(kernels=kernels, threads=1))
    compact = CompactInputs(model)
    backend.compile(compact, mse, OptimizerConfig(name="adamw"), Batching(1), loader.example(training=True))

    def batches() -> Iterator[Any]:
        epoch = 0
        while True:
            for batch, _ in loader.epoch(0, epoch):
                yield batch
            epoch += 1

    source = batches()
    trained = COUNT / plan.num_packs  # molecules of a pack

    def step() -> float:
        backend.train_step(next(source), 1e-4)
        return trained

    return step


def peer(name: str, data: Molecules) -> Callable[[], Any]:
    """SchNetPack's model, loss and AdamW on batches of its collate function."""
    inputs: List[Dict[str, torch.Tensor]] = []
    for first, last, target in zip(data.offsets, data.offsets[1:], data.targets):
        item = inputs_of(data.z[first:last], data.positions[first:last], CUTOFF)
        inputs.append({**item, "energy": torch.tensor([target], dtype=torch.float32)})
    model, collate = model_of(name, FEATURES, CUTOFF, with_forces=False)
    loader = torch.utils.data.DataLoader(inputs, STEP, shuffle=True, collate_fn=collate, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    source = batches()

    def step() -> float:
        batch = next(source)
        energy = batch["energy"]
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch)["energy"], energy).backward()
        optimizer.step()
        return float(STEP)

    model.train()
    return step


def race(name: str, shared: str, quick: bool) -> Callable[[], Dict[str, Any]]:
    """In a process of its own: one model."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = molecules(Path(shared))
    contestants = {NATIVE: ours(name, data, True), AUTOGRAD: ours(name, data, False)}
    try:
        contestants[PEER] = peer(name, data)
    except ImportError as error:
        print(f"NOT RUN: SchNetPack ({error})", file=sys.stderr)
    trained = {kind: step() for kind, step in contestants.items()}

    def work() -> Dict[str, Any]:
        timings = interleaved(contestants, 3 if quick else 15, 2, 0.1 if quick else 0.5)
        rates = {kind: trained[kind] / statistics.median(timing.seconds) for kind, timing in timings.items()}
        ratios = {
            kind: median_ratio(timing, timings[NATIVE]) * trained[NATIVE] / trained[kind]
            for kind, timing in timings.items()
        }
        return {"ratios": ratios, "rates": rates, "origin": data.origin}

    return work


def main() -> int:
    """Print the table; the exit status is 1 when a goal is missed."""
    args = arguments(__doc__)
    print(machine_line("float32", "torch", "schnetpack"))
    goals, rows, best = Goals(), [], 0.0
    for name in ("painn",) if args.quick else GOALS:
        how = dict(name=name, shared=str(args.shared), quick=args.quick)
        result = in_child("benchmarks.energy_step:race", **how)["result"]
        title = f"{name} {FEATURES} ({result['origin']})"
        rates, ratios = result["rates"], result["ratios"]
        row = [f"{rates[kind]:,.0f}" if kind in rates else "not installed" for kind in (NATIVE, AUTOGRAD, PEER)]
        rows.append([title, *row, f"{ratios[AUTOGRAD]:.2f}", f"{ratios[PEER]:.2f}" if PEER in ratios else "-"])
        if PEER in ratios:
            goals.at_least(f"{title}: against SchNetPack", ratios[PEER], GOALS[name])
        best = max(best, rates[NATIVE])
    header = ["model", NATIVE, AUTOGRAD, PEER, "x autograd", "x SchNetPack"]
    print_table(f"Molecules per CPU second, {STEP} a step", header, rows)
    print(throughput_line(best, 1.0))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
