"""The model of a run and random packs in its shape, before any data set is prepared.

On data's way: RunConfig -> `example_model`, `example_packs` -> compact packs -> checks and estimates. The molecules
are no chemistry: atoms on a jittered grid within the cutoff of each other, random labels.
"""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import nn

from ipu_chem.batches.types import compact_kind
from ipu_chem.config import RunConfig
from ipu_chem.data.fixed_point import step_for, to_fixed_point
from ipu_chem.doctor.example_text import example_targets, text_budget, text_loss, text_model, text_packs
from ipu_chem.losses import loss_by_name, with_forces
from ipu_chem.models.registry import needs_charge, reads_text
from ipu_chem.tasks.kinds import learns_classes
from packing import Budget, Ragged
from packing.collate import collate_graphs

# What molecules of QM9's size need: packs of about seven, and 15 atoms within 5 Å of each, which is 8 pairs.
NODES = 128
NEIGHBORS = 16
PAIRS_PER_NODE = 8
NODES_PER_GRAPH = 8
_ELEMENTS = np.array([1, 6, 7, 8, 9, 16, 17], np.uint8)
_SPACING = 1.4  # Å, of the grid


def example_budget(config: RunConfig) -> Tuple[Budget, List[str]]:
    """The shape of a pack: what the config says, and usual sizes where the run would ask its data.

    Returns:
        (nodes, edges and graphs of a pack; a sentence for every size that was assumed).
    """
    if reads_text(config.model.name):
        return text_budget(config)
    pack = config.pack
    assumed: List[str] = []
    nodes = pack.nodes or NODES
    if not pack.nodes:
        assumed.append(f"pack.nodes: {nodes} assumed, a run chooses them from its molecules")
    neighbors = assumed_neighbors(config)
    if neighbors:
        edges = nodes * min(neighbors, nodes)  # made on the device: as many as the search finds room for
        if pack.device_neighbors < 0:
            assumed.append(f"pack.device_neighbors: {neighbors} assumed, a run takes the most that any atom has")
    else:
        edges = pack.edges or nodes * PAIRS_PER_NODE
        if not pack.edges:
            assumed.append(f"pack.edges: {edges} assumed, {PAIRS_PER_NODE} for every node")
    graphs = pack.graphs or max(nodes // NODES_PER_GRAPH, 1)
    if not pack.graphs:
        assumed.append(f"pack.graphs: {graphs} assumed, one for {NODES_PER_GRAPH} nodes")
    return Budget(nodes=nodes, edges=edges, graphs=graphs), assumed


def assumed_neighbors(config: RunConfig) -> int:
    """Neighbours that the device looks for around every atom; 0 where edges come from the host."""
    neighbors = config.pack.device_neighbors
    return NEIGHBORS if neighbors < 0 else neighbors


def assumed_step(config: RunConfig) -> Optional[float]:
    """Å, of positions in 16 bits; None where they cross as they are."""
    return step_for(config.model.cutoff) if config.short_positions else None


def example_model(config: RunConfig, device: str = "cpu") -> nn.Module:
    """The model of a run as training builds it; on torch's meta device it has shapes but no values.

    Raises:
        ValueError: unknown model, or a size that it refuses.
    """
    from ipu_chem.tasks.graphs import make_model

    if reads_text(config.model.name):
        return text_model(config, device)
    targets = example_targets(config)
    with torch.device(device):
        return make_model(
            config, targets, assumed_neighbors(config), assumed_step(config), forces=bool(config.force_share)
        )


def example_loss(config: RunConfig) -> Any:
    """The loss of a run.

    Raises:
        ValueError: unknown name.
    """
    if reads_text(config.model.name):
        return text_loss(config)
    loss = loss_by_name(config.loss, learns_classes(config))
    return with_forces(loss, config.force_share) if config.force_share else loss


def example_packs(config: RunConfig, packs: int, seed: int = 0) -> Any:
    """Random packs as a run's loader would make them: several molecules each, padding at the end.

    Args:
        config: of the run; shape of a pack by `example_budget`.
        packs: B; of several optimizer steps if it is a multiple of ``config.batching.packs_per_step``.
        seed: other seeds give the same shapes with other contents, fillings included.

    Returns:
        What `compact_kind` says, a TokenPack or a TextPropertyPack; weights sum to 1 over every step, or over all packs
        where they are no whole number of steps.

    Raises:
        ValueError: no pack is asked for.
    """
    if packs < 1:
        raise ValueError(f"packs={packs}: an example holds 1 pack or more.")
    if reads_text(config.model.name):
        return text_packs(config, packs, seed)
    budget, _ = example_budget(config)
    rng = np.random.default_rng(seed)
    sizes, offsets = _fill(rng, packs, budget["nodes"], budget["graphs"])
    first = np.concatenate([[0], np.cumsum(sizes)])
    targets = (len(sizes), len(example_targets(config)))
    known = rng.random(targets) < 0.9  # some labels are missing
    known[0] = True
    labels = {"y": np.where(known, rng.normal(size=targets), 0.0).astype(np.float32), "weight": known}
    elements, pos = rng.choice(_ELEMENTS, first[-1]), _positions(rng, sizes, first, config.model.cutoff)
    step = assumed_step(config)
    pos = pos if step is None else to_fixed_point(pos, first, step)
    nodes = {"z": Ragged(elements, first), "pos": Ragged(pos, first)}
    if config.force_share:
        nodes["forces"] = Ragged(rng.normal(size=(first[-1], 3)).astype(np.float32), first)
        nodes["force_weight"] = Ragged(np.ones((first[-1], 1), np.float32), first)
    if needs_charge(config.model.name):
        labels["charge"] = rng.integers(-1, 2, len(sizes)).astype(np.int8)
        labels["spin"] = rng.integers(0, 3, len(sizes)).astype(np.uint8)
    edges = _ring_edges(sizes, offsets, budget["nodes"], budget["edges"])
    arrays = collate_graphs((np.arange(len(sizes)), offsets), budget, nodes, edges, labels)
    arrays["weight"] = _per_step(arrays["weight"], config.batching.packs_per_step)
    if config.force_share:
        arrays["force_weight"] = _per_step(arrays["force_weight"], config.batching.packs_per_step) / 3
    kind = compact_kind(not assumed_neighbors(config), needs_charge(config.model.name), bool(config.force_share))
    tensors: Dict[str, torch.Tensor] = {name: torch.from_numpy(arrays[name]) for name in kind._fields}
    return kind(**tensors)


def _fill(rng: np.random.Generator, packs: int, nodes: int, graphs: int) -> Tuple[np.ndarray, np.ndarray]:
    """Sizes of molecules [I] and where the molecules of each pack begin [packs + 1]: slots stay free where possible."""
    most = max(min(graphs - 1, (nodes - 1) // 2), 1)
    counts = rng.integers(max(most - most // 3, 1), most + 1, packs)
    room = max(nodes - 1, 1)
    filled = np.maximum(rng.integers(max(room - room // 3, 1), room + 1, packs), counts)
    # Cuts at random places share out what is left when every molecule has one atom.
    shares = np.where(np.arange(most) < counts[:, None], rng.uniform(0.5, 1.5, (packs, most)), 0.0)
    ends = np.cumsum(shares, 1) / shares.sum(1, keepdims=True)
    ends = np.floor(ends * (filled - counts)[:, None] + 1e-9).astype(np.int64)
    sizes = np.diff(ends, axis=1, prepend=0) + 1
    return sizes[np.arange(most) < counts[:, None]], np.concatenate([[0], np.cumsum(counts)])


def _positions(rng: np.random.Generator, sizes: np.ndarray, first: np.ndarray, cutoff: float) -> np.ndarray:
    """[total, 3] float32, Å: a molecule's atoms on a cube's grid, whose diagonal is no longer than the cutoff."""
    side = np.ceil(np.cbrt(sizes) - 1e-9).astype(np.int64)
    spacing = np.minimum(_SPACING, 0.8 * cutoff / (np.sqrt(3) * np.maximum(side - 1, 1)))
    side, spacing = np.repeat(side, sizes), np.repeat(spacing, sizes)
    place = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
    grid = np.stack([place % side, place // side % side, place // side**2], 1)
    return ((grid + rng.uniform(-0.1, 0.1, grid.shape)) * spacing[:, None]).astype(np.float32)


def _ring_edges(sizes: np.ndarray, offsets: np.ndarray, nodes: int, edges: int) -> Ragged:
    """(source, target) pairs inside molecules, sorted by target: every atom with the next ones around a ring."""
    degree = np.minimum(sizes - 1, max(edges // nodes, 1))
    # A budget below one edge for every node leaves the last molecules of a pack without.
    ends = np.cumsum(sizes * degree)
    before = np.repeat(np.concatenate([[0], ends])[offsets[:-1]], np.diff(offsets))
    degree = np.where(ends - before <= edges, degree, 0)
    pairs = sizes * degree
    of = np.repeat(np.arange(len(sizes)), pairs)
    bounds = np.concatenate([[0], np.cumsum(pairs)])
    place = np.arange(bounds[-1]) - bounds[of]
    target, step = place // degree[of], place % degree[of] + 1
    values = np.stack([(target + step) % sizes[of], target], 1)
    return Ragged(values.astype(np.int32), bounds)


def _per_step(known: np.ndarray, packs_per_step: int) -> np.ndarray:
    """Weights [B, G, T] float32 that sum to 1 over the packs of every step."""
    steps = len(known) // packs_per_step if len(known) % packs_per_step == 0 else 1
    weight = known.reshape(steps, -1).astype(np.float64)
    weight = weight / np.maximum(weight.sum(1, keepdims=True), 1.0)
    return weight.reshape(known.shape).astype(np.float32)
