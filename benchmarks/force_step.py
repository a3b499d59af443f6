"""A training step on energies and forces: native kernels and autograd against SchNetPack and SpookyNet's authors.

    python benchmarks/force_step.py [--spookynet CHECKOUT] [--quick] [--shared PATH] [--no-goals]

Contestants take turns on the same ten frames a step, one thread; a figure is frames per CPU second of batches, forward,
loss, gradients and AdamW. Edges are made beforehand on both sides, SchNetPack's batches by its own collate function in
a DataLoader. Memory is what six steps add at most to a process that has made model, frames and loader. Exits with 1
when a goal is missed. SchNetPack 2 has to be installed by itself. With --spookynet only SpookyNet runs, against the
reference of its authors in a checkout of https://github.com/OUnke/SpookyNet.

Without AVX-512: IPU_CHEM_CFLAGS=-mno-avx512f for the kernels, ATEN_CPU_CAPABILITY=avx2, MKL_ENABLE_INSTRUCTIONS=AVX2
and ONEDNN_MAX_CPU_ISA=AVX2 for torch.
"""

import argparse
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
from benchmarks.schnetpack_peer import inputs_of, model_of
from benchmarks.spooky_peer import NUM_RADIAL, reference
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import build_model
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan
from packing.store import Store

FRAMES, STEP, CUTOFF, FORCE_WEIGHT = 200, 10, 5.0, 0.95
NATIVE, AUTOGRAD, PEER, AUTHORS = "native kernels", "autograd", "SchNetPack", "authors' SpookyNet"


class Setting(NamedTuple):
    """A model on a molecule.

    Attributes:
        model: painn, schnet or spookynet.
        features: of it.
        molecule: of rMD17.
        goal: least ratio to the peer.
    """

    model: str
    features: int
    molecule: str
    goal: float


SETTINGS = [
    Setting("painn", 128, "ethanol", 4.0),
    Setting("painn", 128, "aspirin", 4.0),
    Setting("painn", 64, "ethanol", 4.0),
    Setting("schnet", 128, "ethanol", 3.5),
    Setting("schnet", 128, "aspirin", 3.5),
]
SPOOKYNET = [
    Setting("spookynet", 128, "ethanol", 2.0),
    Setting("spookynet", 128, "aspirin", 2.0),
    Setting("spookynet", 64, "ethanol", 2.0),
]
# Atoms of the molecules, for frames that are made up where the real ones are not there.
_FORMULAS = {"ethanol": [6, 6, 8] + [1] * 6, "aspirin": [6] * 9 + [8] * 4 + [1] * 8}


class Frames(NamedTuple):
    """Frames of one molecule: z [n], positions and forces [K, n, 3], energies [K], standardized."""

    z: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    origin: str


def frames(molecule: str, shared: Path) -> Frames:
    """Frames of revised MD17, or made up."""
    file = shared / "data" / "md17" / "raw" / "rmd17" / "npz_data" / f"rmd17_{molecule}.npz"
    if file.is_file():
        with np.load(file) as data:
            chosen = np.arange(FRAMES)
            z, positions = data["nuclear_charges"], data["coords"][chosen]
            energies, forces = data["energies"][chosen], data["forces"][chosen]
        scale = forces.std()
        return Frames(z, positions, (energies - energies.mean()) / scale, forces / scale, "rMD17")
    random = np.random.default_rng(0)
    z = np.array(_FORMULAS[molecule])
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[: len(z)] * 1.4
    positions = grid + random.normal(0.0, 0.1, (FRAMES, len(z), 3))
    return Frames(z, positions, random.normal(size=FRAMES), random.normal(size=positions.shape), "SYNTHETIC frames")


def ours(setting: Setting, data: Frames, kernels: bool) -> Callable[[], Any]:
    """Our model, packs and backend; a call trains on the next batch."""
    count, atoms = data.positions.shape[:2]
    offsets = np.arange(count + 1) * atoms
    positions = data.positions.reshape(-1, 3).astype(np.float32)
    pairs = radius_pairs(positions, offsets, CUTOFF)
    fields = {"z": np.tile(data.z, count).astype(np.uint8), "pos": positions, "edge_index": pairs.values}
    axes = {"nodes": offsets, "edges": pairs.offsets}
    of_axis = {"z": "nodes", "pos": "nodes", "edge_index": "edges"}
    spooky = setting.model == "spookynet"
    if spooky:
        fields.update({name: np.zeros(count, np.int8) for name in ("charge", "spin")})
    store = Store(axes, fields, of_axis, {})
    largest = int(np.diff(pairs.offsets).max())
    budget = Budget(nodes=atoms * STEP, edges=largest * STEP, graphs=STEP)
    plan = make_plan(store.sizes(), budget, "best_fit")
    labels = (data.energies[:, None].astype(np.float32), data.forces.reshape(-1, 3).astype(np.float32))
    loader = PackLoader(store, np.arange(count), plan, labels[0], budget, Batching(1), charges=spooky, forces=labels[1])
    torch.manual_seed(0)
    options: Dict[str, Any] = {"num_radial": NUM_RADIAL, "use_dispersion": False} if spooky else {}
    model = build_model(
        setting.model, 1, True, undirected=True, hidden_features=setting.features, cutoff=CUTOFF, **options
    )
    live(model)
    backend = TorchBackend(options=TorchOptions(kernels=kernels, threads=1))
    compact = CompactInputs(EnergyForces(model))
    loss = with_forces(mse, FORCE_WEIGHT)
    backend.compile(compact, loss, OptimizerConfig(name="adamw"), Batching(1), loader.example(training=True))

    def batches() -> Iterator[Any]:
        epoch = 0
        while True:
            for batch, _ in loader.epoch(0, epoch):
                yield batch
            epoch += 1

    source = batches()
    return lambda: float(backend.train_step(next(source), 1e-4))


def live(model: nn.Module) -> None:
    """Last layers begin at zero, where nothing flows back: half the work of a step would be on zeros."""
    for name, part in model.named_parameters():
        if not part.any() and part.dim() > 1 and "embedding" not in name and "element" not in name:
            nn.init.xavier_uniform_(part)


def peer(setting: Setting, data: Frames) -> Callable[[], Any]:
    """SchNetPack's model, loss and AdamW on batches of its collate function."""
    model, collate = model_of(setting.model, setting.features, CUTOFF, with_forces=True)
    items = []
    for place, energy, force in zip(data.positions, data.energies, data.forces):
        labels = {"energy": torch.tensor([energy], dtype=torch.float32), "forces": torch.from_numpy(force).float()}
        items.append({**inputs_of(data.z, place, CUTOFF), **labels})
    loader = torch.utils.data.DataLoader(items, STEP, shuffle=True, collate_fn=collate, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    source = batches()

    def step() -> float:
        batch = next(source)
        energy, force = batch["energy"], batch["forces"]
        optimizer.zero_grad()
        found = model(batch)
        loss = (1.0 - FORCE_WEIGHT) * nn.functional.mse_loss(found["energy"], energy)
        loss = loss + FORCE_WEIGHT * nn.functional.mse_loss(found["forces"], force)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    model.train()
    return step


def contestant(name: str, setting: Setting, data: Frames, checkout: str) -> Callable[[], Any]:
    """A training step of one of them; raises ImportError where it is not installed."""
    if name == AUTHORS:
        return reference(Path(checkout), setting.features, CUTOFF, FORCE_WEIGHT, STEP, data, live)
    return peer(setting, data) if name == PEER else ours(setting, data, name == NATIVE)


def race(setting: List[Any], shared: str, quick: bool, checkout: str) -> Callable[[], Dict[str, Any]]:
    """In a process of its own: one setting."""
    _prepare()
    chosen = Setting(*setting)
    data = frames(chosen.molecule, Path(shared))
    contestants = {}
    for name in (NATIVE, AUTOGRAD, AUTHORS if checkout else PEER):
        try:
            contestants[name] = contestant(name, chosen, data, checkout)
        except ImportError as error:
            print(f"NOT RUN: {name} ({error})", file=sys.stderr)

    def work() -> Dict[str, Any]:
        timings = interleaved(contestants, 3 if quick else 15, 2, 0.1 if quick else 0.5)
        ratios = {name: median_ratio(timing, timings[NATIVE]) for name, timing in timings.items()}
        rates = {name: STEP / statistics.median(timing.seconds) for name, timing in timings.items()}
        return {"ratios": ratios, "rates": rates, "origin": data.origin}

    return work


def six_steps(name: str, setting: List[Any], shared: str, checkout: str) -> Callable[[], None]:
    """In a process of its own: one contestant, whose memory is measured."""
    _prepare()
    chosen = Setting(*setting)
    step = contestant(name, chosen, frames(chosen.molecule, Path(shared)), checkout)

    def work() -> None:
        for _ in range(6):
            step()

    return work


def _prepare() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def main() -> int:
    """Print the tables; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--spookynet", type=Path, help="a checkout of https://github.com/OUnke/SpookyNet")
    own, rest = parser.parse_known_args()
    args = arguments(__doc__, rest)
    checkout = str(own.spookynet.resolve()) if own.spookynet else ""
    other, settings = (AUTHORS, SPOOKYNET) if checkout else (PEER, SETTINGS)
    print(machine_line("float32", "torch", *([] if checkout else ["schnetpack"])))
    goals, speed, memory, best = Goals(), [], [], 0.0
    for setting in settings[:1] if args.quick else settings:
        how = dict(setting=list(setting), shared=str(args.shared), checkout=checkout)
        result = in_child("benchmarks.force_step:race", quick=args.quick, **how)["result"]
        title = f"{setting.model} {setting.features}, {setting.molecule} ({result['origin']})"
        rates, ratios = result["rates"], result["ratios"]
        each = {name: in_child("benchmarks.force_step:six_steps", name=name, **how) for name in rates}
        added = {name: one["peak_mb"] - one["loaded_mb"] for name, one in each.items()}
        names = (NATIVE, AUTOGRAD, other)
        row = [title, *(f"{rates[name]:,.0f}" if name in rates else "not installed" for name in names)]
        speed.append([*row, f"{ratios[AUTOGRAD]:.2f}", f"{ratios[other]:.2f}" if other in ratios else "-"])
        memory.append([title, *(f"{added[name]:.0f}" if name in added else "not installed" for name in names)])
        if other in ratios:
            goals.at_least(f"{title}: against {other}", ratios[other], setting.goal)
            goals.at_most(f"{title}: memory beside {other}'s", added[NATIVE] / added[other], 0.5)
        best = max(best, rates[NATIVE])
    columns = ["model and molecule", NATIVE, AUTOGRAD, other]
    print_table("Frames per CPU second, ten frames a step", [*columns, "x autograd", f"x {other}"], speed)
    print_table("Memory that six steps add, MB", columns, memory)
    print(throughput_line(best, 1.0))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
