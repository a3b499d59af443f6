"""Random packs of graphs in a given shape, for checks and estimates before any molecule is read.

They are no chemistry: atoms on a jittered grid within the cutoff of each other, random labels.
"""

from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch

from ipu_chem.batches.types import compact_kind
from ipu_chem.data.fixed_point import to_fixed_point
from packing import Budget, Ragged
from packing.collate import collate_graphs

_ELEMENTS = np.array([1, 6, 7, 8, 9, 16, 17], np.uint8)
_SPACING = 1.4  # Å, of the grid


def random_packs(
    packs: int,
    budget: Budget,
    num_targets: int,
    cutoff: float,
    seed: int,
    position_step: Optional[float],
    on_device: bool,
    charges: bool,
    forces: bool,
    packs_per_step: int,
) -> Any:
    """Random packs as a loader would make them.

    Args:
        packs: B; of several optimizer steps if it is a multiple of ``packs_per_step``.
        budget: nodes, edges and graphs of a pack.
        num_targets: T.
        cutoff: Å, that no two atoms of a molecule exceed.
        seed: other seeds give the same shapes with other contents, fillings included.
        position_step: Å, a 1 of 16-bit positions; None for positions in Å.
        on_device: the device looks for neighbors, so packs have no edges.
        charges: packs have charge and spin of molecules.
        forces: packs have forces on atoms.
        packs_per_step: of an optimizer step, over which weights sum to 1; over all packs if these are no whole steps.

    Returns:
        A `compact_kind`.

    Raises:
        ValueError: no pack is asked for.
    """
    if packs < 1:
        raise ValueError(f"packs={packs}: an example holds 1 pack or more.")
    rng = np.random.default_rng(seed)
    sizes, offsets = _fill(rng, packs, budget["nodes"], budget["graphs"])
    first = np.concatenate([[0], np.cumsum(sizes)])
    targets = (len(sizes), num_targets)
    known = rng.random(targets) < 0.9  # some labels are missing
    known[0] = True
    labels = {"y": np.where(known, rng.normal(size=targets), 0.0).astype(np.float32), "weight": known}
    elements, pos = rng.choice(_ELEMENTS, first[-1]), _positions(rng, sizes, first, cutoff)
    pos = pos if position_step is None else to_fixed_point(pos, first, position_step)
    nodes = {"z": Ragged(elements, first), "pos": Ragged(pos, first)}
    if forces:
        nodes["forces"] = Ragged(rng.normal(size=(first[-1], 3)).astype(np.float32), first)
        nodes["force_weight"] = Ragged(np.ones((first[-1], 1), np.float32), first)
    if charges:
        labels["charge"] = rng.integers(-1, 2, len(sizes)).astype(np.int8)
        labels["spin"] = rng.integers(0, 3, len(sizes)).astype(np.uint8)
    edges = _ring_edges(sizes, offsets, budget["nodes"], budget["edges"])
    arrays = collate_graphs((np.arange(len(sizes)), offsets), budget, nodes, edges, labels)
    arrays["weight"] = _per_step(arrays["weight"], packs_per_step)
    if forces:
        arrays["force_weight"] = _per_step(arrays["force_weight"], packs_per_step) / 3
    kind = compact_kind(not on_device, charges, forces)
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
