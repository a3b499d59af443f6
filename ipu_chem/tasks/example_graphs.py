"""Random molecules in the shape of a pack of graphs, for checks and estimates before any molecule is read.

They are no chemistry: atoms on a jittered grid within the cutoff of each other.
"""

import math
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ipu_chem.backends.options import Batching
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.fixed_point import FIELD, to_fixed_point
from packing import Budget, make_plan
from packing.store import Store
from packing.types import offsets_of

MEAN_ATOMS = 18.0  # of a molecule where nobody says: QM9's
_SPREAD = 1 / 6  # of sizes, relative; QM9's, too
_ELEMENTS = np.array([1, 6, 7, 8, 9, 16, 17], np.uint8)
_SPACING = 1.4  # Å, of the grid


def random_loader(
    packs: int,
    budget: Budget,
    num_targets: int,
    cutoff: float,
    batching: Batching,
    seed: int = 0,
    atoms: Optional[float] = None,
    position_step: Optional[float] = None,
    charges: bool = False,
    forces: bool = False,
) -> PackLoader:
    """Batches of random molecules that fill so many packs, or some more.

    Args:
        packs: filled at least.
        budget: nodes and graphs of a pack, and edges if molecules shall have them.
        num_targets: T, of random labels.
        cutoff: Å, that no two atoms of a molecule exceed.
        batching: of the loader.
        seed: other seeds give other molecules.
        atoms: of a molecule on average; None takes QM9's, or a third of a pack if that is less.
        position_step: Å, a 1 of 16-bit positions, which are then transferred; None for positions in Å.
        charges: molecules have charge and spin.
        forces: atoms have forces.

    Raises:
        ValueError: no molecule of that size fits a pack.
    """
    store = _random_store(packs, budget, cutoff, seed, atoms, position_step, charges)
    plan = make_plan({name: store.sizes()[name] for name in budget.measured}, budget, "best_fit")
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(len(store), num_targets))
    on_atoms = rng.normal(size=(len(store.fields["z"]), 3)) if forces else None
    return PackLoader(store, np.arange(len(store)), plan, labels, budget, batching, charges=charges, forces=on_atoms)


def _random_store(
    packs: int,
    budget: Budget,
    cutoff: float,
    seed: int,
    atoms: Optional[float],
    position_step: Optional[float],
    charges: bool,
) -> Store:
    nodes = budget["nodes"]
    mean = min(MEAN_ATOMS, max(nodes / 3, 1.0)) if atoms is None else atoms
    if not 1 <= mean <= nodes:
        raise ValueError(f"atoms={mean:g}: give the atoms of a molecule on average, from 1 to the {nodes} of a pack.")
    rng = np.random.default_rng(seed)
    sizes = _sizes(rng, packs, nodes, budget["graphs"], mean)
    offsets = offsets_of(sizes)
    pos = _positions(rng, sizes, offsets, cutoff)
    axes, axis_of = {"nodes": offsets}, {"z": "nodes", "pos": "nodes", FIELD: "nodes", "edge_index": "edges"}
    fields: Dict[str, Any] = {"z": rng.choice(_ELEMENTS, offsets[-1]), "pos": pos}
    if position_step is not None:
        fields[FIELD] = to_fixed_point(pos, offsets, position_step)
    if "edges" in budget:
        axes["edges"], fields["edge_index"] = _ring_edges(sizes, nodes, budget["edges"])
    if charges:
        fields["charge"] = rng.integers(-1, 2, len(sizes)).astype(np.int8)
        fields["spin"] = rng.integers(0, 3, len(sizes)).astype(np.uint8)
    return Store(axes, fields, {name: axis for name, axis in axis_of.items() if name in fields})


def _sizes(rng: np.random.Generator, packs: int, nodes: int, graphs: int, mean: float) -> np.ndarray:
    """Atoms of molecules [I] that together need so many packs, by their atoms or by their number."""
    count = 2 * math.ceil(packs * min(nodes / mean, graphs)) + 1
    sizes = np.clip(np.rint(rng.normal(mean, _SPREAD * mean, count)), 1, nodes).astype(np.int64)
    needed = (np.cumsum(sizes) > (packs - 1) * nodes) | (np.arange(count) >= (packs - 1) * graphs)
    return sizes[: int(np.argmax(needed)) + 1 + math.ceil(min(nodes / mean, graphs))]


def _positions(rng: np.random.Generator, sizes: np.ndarray, first: np.ndarray, cutoff: float) -> np.ndarray:
    """[total, 3] float32, Å: a molecule's atoms on a cube's grid, whose diagonal is no longer than the cutoff."""
    side = np.ceil(np.cbrt(sizes) - 1e-9).astype(np.int64)
    spacing = np.minimum(_SPACING, 0.8 * cutoff / (np.sqrt(3) * np.maximum(side - 1, 1)))
    side, spacing = np.repeat(side, sizes), np.repeat(spacing, sizes)
    place = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
    grid = np.stack([place % side, place // side % side, place // side**2], 1)
    return ((grid + rng.uniform(-0.1, 0.1, grid.shape)) * spacing[:, None]).astype(np.float32)


def _ring_edges(sizes: np.ndarray, nodes: int, edges: int) -> Tuple[np.ndarray, np.ndarray]:
    """Offsets [I + 1] and (source, target) pairs inside molecules, sorted by target: atoms with the next in a ring."""
    degree = np.minimum(sizes - 1, max(edges // nodes, 1))
    degree = np.where(sizes * degree <= edges, degree, 0)
    pairs = sizes * degree
    bounds = offsets_of(pairs)
    of = np.repeat(np.arange(len(sizes)), pairs)
    place = np.arange(bounds[-1]) - bounds[of]
    target, step = place // degree[of], place % degree[of] + 1
    return bounds, np.stack([(target + step) % sizes[of], target], 1).astype(np.uint16)
