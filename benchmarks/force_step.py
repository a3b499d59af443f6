"""A training step on energies and forces: native kernels and autograd against SchNetPack.

    python benchmarks/force_step.py [--quick] [--shared PATH] [--no-goals]

Contestants take turns on the same ten frames a step, one thread; a figure is frames per CPU second of batches, forward,
loss, gradients and AdamW. Edges are made beforehand on both sides, SchNetPack's batches by its own collate function in
a DataLoader. A second column has the same with memory kept by the C library's allocator, as our backend asks of it: it
helps SchNetPack, too. Exits with 1 when a goal is missed. SchNetPack 2 has to be installed by itself.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

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
NATIVE, AUTOGRAD, PEER = "native kernels", "autograd", "SchNetPack"


class Setting(NamedTuple):
    """A model on a molecule.

    Attributes:
        model: painn or schnet.
        features: of it.
        molecule: of rMD17.
        goal: least ratio to SchNetPack.
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
    store = Store(axes, fields, {"z": "nodes", "pos": "nodes", "edge_index": "edges"}, {})
    largest = int(np.diff(pairs.offsets).max())
    budget = Budget(nodes=atoms * STEP, edges=largest * STEP, graphs=STEP)
    plan = make_plan(store.sizes(), budget, "best_fit")
    labels = (data.energies[:, None].astype(np.float32), data.forces.reshape(-1, 3).astype(np.float32))
    loader = PackLoader(store, np.arange(count), plan, labels[0], budget, Batching(1), forces=labels[1])
    torch.manual_seed(0)
    model = build_model(setting.model, 1, True, undirected=True, hidden_features=setting.features, cutoff=CUTOFF)
    _live_head(model)
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


def _live_head(model: nn.Module) -> None:
    """Heads begin at zero, where nothing flows back: half the work of a step would be on zeros."""
    for name, part in model.named_parameters():
        if name.startswith("head.") and not part.any() and part.dim() > 1:
            nn.init.xavier_uniform_(part)


def peer(setting: Setting, data: Frames) -> Callable[[], Any]:
    """SchNetPack's model, loss and AdamW on batches of its collate function."""
    collate, representation, atomistic, spk = schnetpack_modules()
    atoms = len(data.z)
    inputs: List[Dict[str, torch.Tensor]] = []
    for place, energy, force in zip(data.positions, data.energies, data.forces):
        distance = np.linalg.norm(place[:, None] - place, axis=-1)
        i, j = np.nonzero((distance < CUTOFF) & ~np.eye(atoms, dtype=bool))
        inputs.append(
            {
                "_n_atoms": torch.tensor([atoms]),
                "_atomic_numbers": torch.from_numpy(data.z.astype(np.int64)),
                "_positions": torch.from_numpy(place).float(),
                "_cell": torch.zeros(1, 3, 3),
                "_pbc": torch.zeros(3, dtype=torch.bool),
                "_idx_i": torch.from_numpy(i),
                "_idx_j": torch.from_numpy(j),
                "_offsets": torch.zeros(len(i), 3),
                "energy": torch.tensor([energy], dtype=torch.float32),
                "forces": torch.from_numpy(force).float(),
            }
        )
    loader = torch.utils.data.DataLoader(inputs, STEP, shuffle=True, collate_fn=collate, drop_last=True)
    torch.manual_seed(0)
    cutoff = spk.nn.CosineCutoff(CUTOFF)
    if setting.model == "painn":
        basis = spk.nn.BesselRBF(20, CUTOFF)
        body = representation.PaiNN(setting.features, 3, radial_basis=basis, cutoff_fn=cutoff)
    else:
        basis = spk.nn.GaussianRBF(50, CUTOFF)
        body = representation.SchNet(setting.features, 3, radial_basis=basis, cutoff_fn=cutoff)
    model = spk.model.NeuralNetworkPotential(
        body,
        input_modules=[atomistic.PairwiseDistances()],
        output_modules=[atomistic.Atomwise(setting.features, output_key="energy"), atomistic.Forces()],
    )
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


def schnetpack_modules() -> Tuple[Any, Any, Any, Any]:
    """SchNetPack's collate function and modules; its imports want a name that torch 2.13 no longer has."""
    from typing import TypeVar

    import torch.utils.data.dataloader as torch_loader

    for name in ("T_co", "T"):
        if not hasattr(torch_loader, name):
            setattr(torch_loader, name, TypeVar(name))  # type: ignore[misc]
    import schnetpack
    from schnetpack import atomistic, representation
    from schnetpack.data.loader import _atoms_collate_fn

    return _atoms_collate_fn, representation, atomistic, schnetpack


def race(setting: List[Any], shared: str, quick: bool) -> Callable[[], Dict[str, Any]]:
    """In a process of its own: one setting."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = Setting(*setting)
    data = frames(chosen.molecule, Path(shared))
    contestants: Dict[str, Callable[[], Any]] = {
        NATIVE: ours(chosen, data, True), AUTOGRAD: ours(chosen, data, False)
    }  # fmt: skip
    try:
        contestants[PEER] = peer(chosen, data)
    except ImportError as error:
        print(f"NOT RUN: SchNetPack ({error})", file=sys.stderr)

    def work() -> Dict[str, Any]:
        timings = interleaved(contestants, 3 if quick else 15, 2, 0.1 if quick else 0.5)
        ratios = {name: median_ratio(timing, timings[NATIVE]) for name, timing in timings.items()}
        rates = {name: STEP / statistics.median(timing.seconds) for name, timing in timings.items()}
        return {"ratios": ratios, "rates": rates, "origin": data.origin}

    return work


def main() -> int:
    """Print the table; the exit status is 1 when a goal is missed."""
    args = arguments(__doc__)
    print(machine_line("float32", "torch", "schnetpack"))
    goals, rows, best = Goals(), [], 0.0
    for setting in SETTINGS[:1] if args.quick else SETTINGS:
        how = dict(setting=list(setting), shared=str(args.shared), quick=args.quick)
        result = in_child("benchmarks.force_step:race", **how)["result"]
        title = f"{setting.model} {setting.features}, {setting.molecule} ({result['origin']})"
        rates, ratios = result["rates"], result["ratios"]
        row = [
            title,
            *(f"{rates[name]:,.0f}" if name in rates else "not installed" for name in (NATIVE, AUTOGRAD, PEER)),
        ]
        rows.append([*row, f"{ratios[AUTOGRAD]:.2f}", f"{ratios[PEER]:.2f}" if PEER in ratios else "-"])
        if PEER in ratios:
            goals.at_least(f"{title}: against SchNetPack", ratios[PEER], setting.goal)
        best = max(best, rates[NATIVE])
    print_table(
        "Frames per CPU second, ten frames a step",
        ["model and molecule", NATIVE, AUTOGRAD, PEER, "x autograd", "x SchNetPack"],
        rows,
    )
    print(throughput_line(best, 1.0))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
