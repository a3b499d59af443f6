"""Random molecules, packs and comparisons that several tests share."""

from typing import List, Optional, Tuple

import numpy as np
import torch

from ipu_chem.batch import GraphPack
from ipu_chem.losses import Loss
from packing import Budget, Ragged, index_dtype, make_plan
from packing.collate import collate_graphs
from packing.store import Store


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


def pack_store(store: Store, budget: Budget, seed: int = 0) -> Tuple[GraphPack, np.ndarray]:
    """Every molecule of a store in packs with weight 1 each, and the molecules in the order of the packs."""
    order = make_plan(store.sizes(), budget.replace()).epoch(seed, 0)
    return collate(store, order.slice(0, len(order)), budget), order.items


def one_by_one(store: Store) -> List[GraphPack]:
    """Every molecule alone in a pack of exactly its size: no padding anywhere."""
    packs = []
    for item in range(len(store)):
        sizes = {axis: int(store.sizes()[axis][item]) for axis in ("nodes", "edges")}
        budget = Budget(nodes=sizes["nodes"], edges=max(sizes["edges"], 1), graphs=1)
        packs.append(collate(store, (np.array([item]), np.array([0, 1])), budget))
    return packs


def collate(store: Store, packs: Tuple[np.ndarray, np.ndarray], budget: Budget) -> GraphPack:
    """Arrays of packs as a GraphPack with weight 1 for every molecule."""
    labels = {"y": store.fields["y"], "weight": np.ones_like(store.fields["y"])}
    nodes = {"z": store.ragged("z"), "pos": store.ragged("pos")}
    arrays = collate_graphs(packs, budget, nodes, store.ragged("edge_index"), labels)
    return GraphPack(**{name: torch.from_numpy(arrays[name]) for name in GraphPack._fields})


def as_dtype(pack: GraphPack, dtype: torch.dtype) -> GraphPack:
    """The pack with floating-point fields in another precision."""
    return GraphPack(*[field.to(dtype) if field.is_floating_point() else field for field in pack])


def with_garbage(pack: GraphPack, rng: np.random.Generator) -> GraphPack:
    """The pack with nonsense, NaN included, wherever a mask or a weight says that nothing stands."""

    def fill(field: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask = mask.reshape(mask.shape + (1,) * (field.dim() - mask.dim()))
        if field.is_floating_point():
            noise = torch.from_numpy(rng.uniform(-50, 50, tuple(field.shape))).to(field.dtype)
            noise[torch.from_numpy(rng.random(tuple(field.shape)) < 0.3)] = float("nan")
        else:  # also atomic numbers and indices that nothing has
            limits = torch.iinfo(field.dtype)
            noise = torch.from_numpy(rng.integers(limits.min, limits.max, tuple(field.shape))).to(field.dtype)
        return torch.where(mask, field, noise)

    edge_index = torch.stack([fill(pack.edge_index[:, end], pack.edge_mask) for end in (0, 1)], 1)
    return pack._replace(
        z=fill(pack.z, pack.node_mask),
        pos=fill(pack.pos, pack.node_mask),
        graph_index=fill(pack.graph_index, pack.node_mask),
        edge_index=edge_index,
        y=fill(pack.y, pack.graph_mask),
    )


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
