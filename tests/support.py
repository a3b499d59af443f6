"""Random molecules, packs and comparisons that several tests share."""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import nn

from ipu_chem.batches.types import CompactPack, GraphPack
from ipu_chem.config import RunConfig
from ipu_chem.data.fixed_point import FIELD
from ipu_chem.losses import Loss
from ipu_chem.tasks.registry import task_of
from ipu_chem.training.callbacks import Callback
from packing import Budget, Ragged, index_dtype, make_plan
from packing.collate import collate_graphs, expand_masks
from packing.store import Store

# 72 small molecules.
CHAINS = [f"{end}{'C' * length}{group}" for length in range(1, 7) for end in ("C", "FC", "ClC") for group in "ONSI"]


def random_store(
    rng: np.random.Generator, count: int, largest: int = 9, targets: int = 1, cutoff: float = 4.0
) -> Store:
    """Molecules of 1 to ``largest`` atoms no closer than about 0.8 Å, with radius edges and random labels."""
    z: List[np.ndarray] = []
    pos: List[np.ndarray] = []
    edges: List[np.ndarray] = []
    for _ in range(count):
        atoms = int(rng.integers(1, largest + 1))
        grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3) * 1.4
        place = grid[rng.choice(len(grid), atoms, replace=False)] + rng.uniform(-0.25, 0.25, (atoms, 3))
        distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
        target, source = np.nonzero((distance <= cutoff) & ~np.eye(atoms, dtype=bool))
        z.append(rng.choice([1, 6, 7, 8, 9], atoms).astype(np.uint8))
        pos.append(place.astype(np.float32))
        edges.append(np.stack([source, target], 1).astype(index_dtype(largest)))
    nodes, pairs = Ragged.from_list(z), Ragged.from_list(edges)
    return Store(
        {"nodes": nodes.offsets, "edges": pairs.offsets},
        {
            "z": nodes.values,
            "pos": Ragged.from_list(pos).values,
            "edge_index": pairs.values,
            "y": rng.normal(size=(count, targets)),
        },
        {"z": "nodes", "pos": "nodes", "edge_index": "edges"},
    )


def pairs_once(store: Store) -> Store:
    """The same molecules with one edge for each two of opposite directions, its lower atom first."""
    edges = store.ragged("edge_index")
    once = edges.values[:, 0] < edges.values[:, 1]
    owner = np.repeat(np.arange(len(edges)), edges.lengths)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[once], minlength=len(edges)))])
    fields = {**store.fields, "edge_index": edges.values[once]}
    return Store({**store.axes, "edges": offsets}, fields, store.axis_of, store.info)


def with_random_forces(store: Store, missing: float = 0.2) -> Store:
    """The same molecules with charges, spins and forces, which a fraction of them lacks."""
    rng = np.random.default_rng(5)
    forces = rng.normal(size=(len(store.fields["z"]), 3)).astype(np.float32)
    owner = np.repeat(np.arange(len(store)), store.ragged("z").lengths)
    forces[rng.random(len(store))[owner] < missing] = np.nan
    states = {"charge": rng.integers(-1, 2, len(store)).astype(np.int8), "spin": rng.integers(0, 3, len(store))}
    return Store(store.axes, {**store.fields, **states, "forces": forces}, {**store.axis_of, "forces": "nodes"})


def pack_store(store: Store, budget: Budget, seed: int = 0, kind: Any = GraphPack) -> Tuple[Any, np.ndarray]:
    """Every molecule of a store in packs with weight 1 each, and the molecules in the order of the packs."""
    order = make_plan(store.sizes(), budget.replace()).epoch(seed, 0)
    return collate(store, order.slice(0, len(order)), budget, kind), order.items


def one_by_one(store: Store) -> List[GraphPack]:
    """Every molecule alone in a pack of exactly its size: no padding anywhere."""
    packs = []
    for item in range(len(store)):
        sizes = {axis: int(store.sizes()[axis][item]) for axis in ("nodes", "edges")}
        budget = Budget(nodes=sizes["nodes"], edges=max(sizes["edges"], 1), graphs=1)
        packs.append(collate(store, (np.array([item]), np.array([0, 1])), budget))
    return packs


def collate(store: Store, packs: Tuple[np.ndarray, np.ndarray], budget: Budget, kind: Any = GraphPack) -> Any:
    """Arrays of packs as a GraphPack, or another kind, with weight 1 for every molecule."""
    labels = {"y": store.fields["y"], "weight": np.ones_like(store.fields["y"])}
    is_fixed = kind is not GraphPack and FIELD in store
    nodes = {"z": store.ragged("z"), "pos": store.ragged(FIELD if is_fixed else "pos")}
    arrays = collate_graphs(packs, budget, nodes, store.ragged("edge_index"), labels)
    arrays.update(expand_masks(arrays, budget))
    return kind(**{name: torch.from_numpy(arrays[name]) for name in kind._fields})


def expanded(pack: CompactPack, position_step: Optional[float] = None) -> GraphPack:
    """What a compact pack stands for, made by numpy on the host."""
    nodes, graphs, edges = pack.z.shape[1], pack.graph_ends.shape[1], pack.edge_index.shape[2]
    counts = {"graph_ends": pack.graph_ends.numpy(), "num_edges": pack.num_edges.numpy()}
    masks = expand_masks(counts, Budget(nodes=nodes, graphs=graphs, edges=edges))
    made = {name: torch.from_numpy(array) for name, array in masks.items()}
    pos = pack.pos if position_step is None else pack.pos.float() * position_step
    return GraphPack(z=pack.z, pos=pos, edge_index=pack.edge_index, y=pack.y, weight=pack.weight, **made)


def as_dtype(pack: Any, dtype: torch.dtype) -> Any:
    """The pack with floating-point fields in another precision."""
    return type(pack)(*[field.to(dtype) if field.is_floating_point() else field for field in pack])


def with_garbage(pack: GraphPack, rng: np.random.Generator) -> GraphPack:
    """The pack with nonsense, NaN included, wherever a mask or a weight says that nothing stands."""

    edge_index = torch.stack([_filled(pack.edge_index[:, end], pack.edge_mask, rng) for end in (0, 1)], 1)
    return pack._replace(
        z=_filled(pack.z, pack.node_mask, rng),
        pos=_filled(pack.pos, pack.node_mask, rng),
        graph_index=_filled(pack.graph_index, pack.node_mask, rng),
        edge_index=edge_index,
        y=_filled(pack.y, pack.graph_mask, rng),
    )


def with_compact_garbage(pack: Any, rng: np.random.Generator) -> Any:
    """`with_garbage` for packs whose counts say where nothing stands."""
    edges = pack.edge_index.shape[2] if isinstance(pack, CompactPack) else 1
    shape = Budget(nodes=pack.z.shape[1], graphs=pack.graph_ends.shape[1], edges=edges)
    counts = {name: getattr(pack, name).numpy() for name in ("graph_ends", "num_edges") if hasattr(pack, name)}
    masks = {name: torch.from_numpy(mask) for name, mask in expand_masks(counts, shape).items()}
    changed = {name: _filled(getattr(pack, name), masks["node_mask"], rng) for name in ("z", "pos")}
    if "edge_mask" in masks:
        ends = [_filled(pack.edge_index[:, end], masks["edge_mask"], rng) for end in (0, 1)]
        changed["edge_index"] = torch.stack(ends, 1)
    return pack._replace(y=_filled(pack.y, masks["graph_mask"], rng), **changed)


def _filled(field: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The field with nonsense where the mask is False."""
    mask = mask.reshape(mask.shape + (1,) * (field.dim() - mask.dim()))
    if field.is_floating_point():
        noise = torch.from_numpy(rng.uniform(-50, 50, tuple(field.shape))).to(field.dtype)
        noise[torch.from_numpy(rng.random(tuple(field.shape)) < 0.3)] = float("nan")
    else:  # also atomic numbers and indices that nothing has
        limits = torch.iinfo(field.dtype)
        noise = torch.from_numpy(rng.integers(limits.min, limits.max, tuple(field.shape))).to(field.dtype)
    return torch.where(mask, field, noise)


def assert_packed_equals_one_by_one(
    model: torch.nn.Module, store: Store, budget: Budget, loss: Loss, seed: int = 0, tolerance: float = 1e-10
) -> None:
    """Outputs, loss and parameter gradients of packs are those of their molecules alone, in float64."""
    pack, order = pack_store(store, budget, seed)
    pack = as_dtype(pack, torch.float64)
    model.zero_grad()
    prediction = model(*pack.inputs)
    value = loss(prediction, *pack.targets)
    value.backward()
    together = gradients(model)
    model.zero_grad()
    alone, total = [], torch.zeros((), dtype=torch.float64)
    for single in one_by_one(store):
        single = as_dtype(single, torch.float64)
        output = model(*single.inputs)
        part = loss(output, *single.targets)
        part.backward()
        alone.append(output.detach()[0, 0])
        total += part.detach()
    close = dict(rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(prediction[pack.graph_mask].detach(), torch.stack(alone)[order], **close)
    torch.testing.assert_close(value.detach(), total, **close)
    torch.testing.assert_close(together, gradients(model), **close)


def gradients(model: torch.nn.Module) -> Optional[torch.Tensor]:
    """All gradients of a model in one vector."""
    parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in model.parameters()]
    return torch.cat(parts)


def example_model(config: RunConfig, device: str = "cpu") -> nn.Module:
    """The model of a run before there are data; on torch's meta device it has shapes but no values."""
    with torch.device(device):
        return task_of(config).planned(config).model()


def example_loss(config: RunConfig) -> Loss:
    """The loss of a run."""
    return task_of(config).planned(config).loss()


def example_packs(config: RunConfig, packs: int, seed: int = 0) -> Any:
    """Random packs in the shape of a run's."""
    return task_of(config).planned(config).random_packs(packs, seed)


class StopAt(Callback):
    """Stops a run at an optimizer step."""

    def __init__(self, step: int) -> None:
        self.last = step

    def on_step(self, step: int, total: int, losses: List[float]) -> bool:
        return step >= self.last


def model_values(name: str, **sizes: Any) -> Dict[str, Any]:
    """Options of a model by name: those of ``sizes`` that it has."""
    from ipu_chem.config import ModelConfig

    known = ModelConfig.of(name).__dataclass_fields__
    return {"name": name, **{option: value for option, value in sizes.items() if option in known and option != "name"}}
