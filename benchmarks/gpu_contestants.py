"""Contestants of gpu.py: a training step of our graph models and of their peers, on batches made beforehand.

A step moves its batch to the device, takes loss, gradients and AdamW, and returns how many graphs it
trained on. What a device or an installation does not have raises `NotHere` when it is built.
"""

import itertools
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import nn

from benchmarks import molecules
from benchmarks.schnetpack_peer import model_of
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.neighbors import radius_edges, radius_pairs
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import build_model
from ipu_chem.optim import OptimizerConfig
from packing import Ragged, make_plan
from packing.store import Store
from packing.tune import fit_budget

CUTOFF, FORCE_WEIGHT, RATE = 5.0, 0.95, 1e-4
BATCHES = 4  # of each contestant, over and over
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=RATE)
FORMS: Dict[str, Dict[str, Any]] = {
    "eager": {},
    "bf16": dict(autocast="bfloat16"),
    "compiled": dict(compile=True),
    "compiled, bf16": dict(compile=True, autocast="bfloat16"),
    "CUDA graphs": dict(compile=True, cuda_graphs=True),
    "CUDA graphs, bf16": dict(compile=True, cuda_graphs=True, autocast="bfloat16"),
}
Step = Callable[[], int]


class NotHere(Exception):
    """This device, or this installation, does not have it."""


class Scale(NamedTuple):
    """Sizes of a run.

    Attributes:
        device: cpu or cuda.
        graphs: molecules of a step.
        features: of graph models; their blocks are 3.
        symbols: token slots of a step.
        shared: folder of real data.
    """

    device: str
    graphs: int
    features: int
    symbols: int
    shared: Path


def contestants(group: str, scale: Scale) -> Dict[str, Callable[[], Step]]:
    """Name -> function that builds the step.

    Args:
        group: "schnet", "painn", or one of them with " forces".
        scale: sizes.
    """
    name, _, forces = group.partition(" ")
    data = qm9(scale)
    made: Dict[str, Callable[[], Step]] = {
        f"ours, {form}": lambda options=options: ours(name, data, scale, bool(forces), options)
        for form, options in FORMS.items()
    }
    if name == "schnet":
        made["PyTorch Geometric"] = lambda: geometric(data, scale, bool(forces), "")
        made["PyTorch Geometric, bf16"] = lambda: geometric(data, scale, bool(forces), "bfloat16")
    made["SchNetPack"] = lambda: schnetpack(name, data, scale, bool(forces))
    return made


def options_of(device: str, **chosen: Any) -> TorchOptions:
    """Options of our backend.

    Raises:
        NotHere: CUDA graphs of a CPU.
    """
    if chosen.get("cuda_graphs") and device != "cuda":
        raise NotHere("CUDA graphs are for CUDA devices")
    return TorchOptions(threads=1 if device == "cpu" else 0, **chosen)


def qm9(scale: Scale) -> Store:
    """Molecules with random labels and forces; edges are made by each side."""
    store, origin = molecules.qm9(scale.shared, BATCHES * scale.graphs)
    store.info["origin"] = origin
    return store


def ours(name: str, data: Store, scale: Scale, forces: bool, chosen: Dict[str, Any]) -> Step:
    """Our model, packs and backend."""
    options = options_of(scale.device, **chosen)
    pairs = radius_pairs(data.fields["pos"], data.axes["nodes"], CUTOFF)
    fields = {**data.fields, "edge_index": pairs.values}
    store = Store({**data.axes, "edges": pairs.offsets}, fields, {**data.axis_of, "edge_index": "edges"}, {})
    budget = fit_budget(store.sizes(), {"nodes": 128, "edges": 0, "graphs": 0})
    plan = make_plan(store.sizes(), budget, "best_fit")
    budget = budget.replace(graphs=plan.max_items_per_pack)
    batching = Batching(max(plan.num_packs // BATCHES, 1))
    labels = random_forces(data) if forces else None
    loader = PackLoader(store, np.arange(len(store)), plan, data.fields["y"], budget, batching, forces=labels)
    model: Any = seeded(name, scale)
    backend = TorchBackend(scale.device, options)
    loss = with_forces(mse, FORCE_WEIGHT) if forces else mse
    wrapped = CompactInputs(EnergyForces(model) if forces else model)
    backend.compile(wrapped, loss, OPTIMIZER, batching, loader.example(training=True))
    made = list(itertools.islice(loader.epoch(0, 0), BATCHES))
    source = itertools.cycle(made)

    def step() -> int:
        batch, count = next(source)
        backend.train_step(batch, RATE)
        return int(count)

    return step


def seeded(name: str, scale: Scale) -> nn.Module:
    """Our model with a live head: behind zeros half the work would be on zeros."""
    torch.manual_seed(0)
    sizes: Dict[str, Any] = dict(hidden_features=scale.features, num_interactions=3, cutoff=CUTOFF)
    if name == "schnet":
        sizes.update(num_filters=scale.features, num_gaussians=50)
    model = build_model(name, 1, True, filter="auto", undirected=True, **sizes)
    nn.init.xavier_uniform_(model.head[2].weight)  # type: ignore[operator, index, union-attr, arg-type]
    return model


def random_forces(data: Store) -> np.ndarray:
    """[total, 3] float32 labels, for their speed alone."""
    return np.random.default_rng(0).normal(size=data.fields["pos"].shape).astype(np.float32)


def _peer_step(model: nn.Module, batches: List[Tuple[Any, int]], scale: Scale, forces: bool, format: str) -> Step:
    """Training steps of a model that takes (batch, whether it trains on forces) and returns energies and forces."""
    model.to(scale.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, fused=scale.device == "cuda")
    source = itertools.cycle(batches)

    def step() -> int:
        batch, count = next(source)
        batch = {key: value.to(scale.device, non_blocking=True) for key, value in batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device, torch.bfloat16, enabled=bool(format)):
            energy, force = model(batch)
        loss = (energy.reshape(-1) - batch["energy"]).square().mean()
        if forces:
            loss = (1 - FORCE_WEIGHT) * loss + FORCE_WEIGHT * (force - batch["forces"]).square().mean()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # as ours does: the loss of every step is read
        return count

    return step


def _parts(data: Store, scale: Scale) -> Iterator[Tuple[np.ndarray, Dict[str, torch.Tensor]]]:
    """Molecules of each batch, and their flat arrays with edges in both directions."""
    edges = radius_edges(data.fields["pos"], data.axes["nodes"], CUTOFF)
    z, pos = data.ragged("z"), data.ragged("pos")
    labels = Ragged(random_forces(data), data.axes["nodes"])
    for first in range(0, len(data) - scale.graphs + 1, scale.graphs):
        items = np.arange(first, first + scale.graphs)
        atoms = z.lengths[items]
        starts = np.cumsum(atoms) - atoms
        pairs = edges.take(items)
        shifted = pairs.values.astype(np.int64) + np.repeat(starts, pairs.lengths)[:, None]
        arrays = {
            "z": z.take(items).values.astype(np.int64),
            "pos": pos.take(items).values,
            "batch": np.repeat(np.arange(len(items)), atoms),
            "edge_index": np.ascontiguousarray(shifted.T),
            "energy": np.asarray(data.fields["y"])[items, 0].astype(np.float32),
            "forces": labels.take(items).values,
        }
        yield items, {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


class _Geometric(nn.Module):
    """torch_geometric.nn.SchNet on flat arrays, with forces by autograd if they are asked for."""

    def __init__(self, scale: Scale, forces: bool) -> None:
        from torch_geometric.nn import SchNet

        super().__init__()
        self.forces, self.edges = forces, torch.zeros(0)
        features = scale.features
        self.model = SchNet(features, features, 3, 50, CUTOFF, lambda pos, batch: self._graph(pos))

    def _graph(self, pos: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        source, target = self.edges
        return self.edges, (pos[source] - pos[target]).norm(dim=-1)

    def forward(self, batch: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, Any]:
        self.edges, pos = batch["edge_index"], batch["pos"].requires_grad_(self.forces)
        energy = self.model(batch["z"], pos, batch["batch"])
        if not self.forces:
            return energy, None
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=True)[0]


def geometric(data: Store, scale: Scale, forces: bool, format: str) -> Step:
    """PyTorch Geometric's SchNet."""
    try:
        torch.manual_seed(0)
        model = _Geometric(scale, forces)
    except ImportError as error:
        raise NotHere(f"PyTorch Geometric is not installed ({error})") from None
    nn.init.xavier_uniform_(model.model.lin2.weight)
    return _peer_step(model, [(batch, len(items)) for items, batch in _parts(data, scale)], scale, forces, format)


class _SchNetPack(nn.Module):
    """A model of SchNetPack on the names of its batches."""

    def __init__(self, model: nn.Module, forces: bool) -> None:
        super().__init__()
        self.model, self.forces = model, forces

    def forward(self, batch: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, Any]:
        found = self.model({key: value for key, value in batch.items() if key.startswith("_")})
        return found["energy"], found.get("forces")


def schnetpack(name: str, data: Store, scale: Scale, forces: bool) -> Step:
    """SchNetPack's SchNet or PaiNN."""
    try:
        model, _ = model_of(name, scale.features, CUTOFF, forces)
    except ImportError as error:
        raise NotHere(f"SchNetPack is not installed ({error})") from None
    batches = []
    for items, flat in _parts(data, scale):
        source, target = flat["edge_index"]
        named = {
            "_atomic_numbers": flat["z"],
            "_positions": flat["pos"],
            "_idx_m": flat["batch"],
            "_idx_i": target,
            "_idx_j": source,
            "_offsets": torch.zeros(len(source), 3),
            "_n_atoms": torch.bincount(flat["batch"]),
        }
        batches.append(({**named, "energy": flat["energy"], "forces": flat["forces"]}, len(items)))
    return _peer_step(_SchNetPack(model, forces), batches, scale, forces, "")
