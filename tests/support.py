"""Random molecules, packs and comparisons that several tests share."""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from contracts.graph_model import (
    GraphPack,
    as_dtype,
    assert_packed_equals_one_by_one,
    filled,
    gradients,
    one_by_one,
    pairs_once,
    random_store,
    with_garbage,
)
from contracts.graph_model import pack_store as _pack_store
from torch import nn

from ipu_chem.batches.types import CompactPack
from ipu_chem.config import RunConfig
from ipu_chem.data.fixed_point import FIELD
from ipu_chem.losses import Loss
from ipu_chem.tasks.registry import task_of
from ipu_chem.training.callbacks import Callback
from packing import Budget
from packing.collate import expand_masks
from packing.store import Store

__all__ = [
    "GraphPack",
    "as_dtype",
    "assert_packed_equals_one_by_one",
    "gradients",
    "one_by_one",
    "pack_store",
    "pairs_once",
    "random_store",
    "with_garbage",
]

# 72 small molecules.
CHAINS = [f"{end}{'C' * length}{group}" for length in range(1, 7) for end in ("C", "FC", "ClC") for group in "ONSI"]


def with_random_forces(store: Store, missing: float = 0.2) -> Store:
    """The same molecules with charges, spins and forces, which a fraction of them lacks."""
    rng = np.random.default_rng(5)
    forces = rng.normal(size=(len(store.fields["z"]), 3)).astype(np.float32)
    owner = np.repeat(np.arange(len(store)), store.ragged("z").lengths)
    forces[rng.random(len(store))[owner] < missing] = np.nan
    states = {"charge": rng.integers(-1, 2, len(store)).astype(np.int8), "spin": rng.integers(0, 3, len(store))}
    return Store(store.axes, {**store.fields, **states, "forces": forces}, {**store.axis_of, "forces": "nodes"})


def pack_store(store: Store, budget: Budget, seed: int = 0, kind: Any = GraphPack) -> Tuple[Any, np.ndarray]:
    """See the contract's; in 16 bits where the store has such positions and the kind takes them."""
    return _pack_store(store, budget, seed, kind, FIELD if kind is not GraphPack and FIELD in store else "pos")


def expanded(pack: CompactPack, position_step: Optional[float] = None) -> GraphPack:
    """What a compact pack stands for, made by numpy on the host."""
    nodes, graphs, edges = pack.z.shape[1], pack.graph_ends.shape[1], pack.edge_index.shape[2]
    counts = {"graph_ends": pack.graph_ends.numpy(), "num_edges": pack.num_edges.numpy()}
    masks = expand_masks(counts, Budget(nodes=nodes, graphs=graphs, edges=edges))
    made = {name: torch.from_numpy(array) for name, array in masks.items()}
    pos = pack.pos if position_step is None else pack.pos.float() * position_step
    return GraphPack(z=pack.z, pos=pos, edge_index=pack.edge_index, y=pack.y, weight=pack.weight, **made)


def with_compact_garbage(pack: Any, rng: np.random.Generator) -> Any:
    """`with_garbage` for packs whose counts say where nothing stands."""
    edges = pack.edge_index.shape[2] if isinstance(pack, CompactPack) else 1
    shape = Budget(nodes=pack.z.shape[1], graphs=pack.graph_ends.shape[1], edges=edges)
    counts = {name: getattr(pack, name).numpy() for name in ("graph_ends", "num_edges") if hasattr(pack, name)}
    masks = {name: torch.from_numpy(mask) for name, mask in expand_masks(counts, shape).items()}
    changed = {name: filled(getattr(pack, name), masks["node_mask"], rng) for name in ("z", "pos")}
    if "edge_mask" in masks:
        ends = [filled(pack.edge_index[:, end], masks["edge_mask"], rng) for end in (0, 1)]
        changed["edge_index"] = torch.stack(ends, 1)
    return pack._replace(y=filled(pack.y, masks["graph_mask"], rng), **changed)


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
