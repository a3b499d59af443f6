"""The shape of a pack of graphs: what the config says, and what molecules (usually) need where it says 0."""

from typing import Dict, List, Tuple

import numpy as np

from ipu_chem.config import PackConfig
from ipu_chem.tasks.splits import molecule_name
from packing import Budget
from packing.store import Store
from packing.tune import fit_budget

# What molecules of QM9's size need: packs of about seven, and 15 atoms within 5 Å of each, which is 8 pairs.
NODES = 128
NEIGHBORS = 16
PAIRS_PER_NODE = 8
NODES_PER_GRAPH = 8


def assumed_shape(pack: PackConfig) -> Tuple[Budget, int, List[str]]:
    """The shape of a pack before molecules are read.

    Returns:
        (nodes, edges and graphs of a pack; neighbors of an atom that the device looks for, 0 where edges come from the
        host; a sentence for every size that was assumed).
    """
    assumed: List[str] = []
    nodes = pack.nodes or NODES
    if not pack.nodes:
        assumed.append(f"pack.nodes: {nodes} assumed, a run chooses them from its molecules")
    neighbors = NEIGHBORS if pack.device_neighbors < 0 else pack.device_neighbors
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
    return Budget(nodes=nodes, edges=edges, graphs=graphs), neighbors, assumed


def choose_budget(store: Store, items: np.ndarray, pack: PackConfig) -> Budget:
    """The shape of a pack: what the config says, and what the molecules need where it says 0.

    Raises:
        ValueError: a molecule is larger than a capacity; names it and the capacity that would do.
    """
    sizes = pack_sizes(store, items, pack.device_neighbors)
    for name, capacity in (("nodes", pack.nodes), ("edges", pack.edges)):
        if capacity and name in sizes and capacity < sizes[name].max():
            item = int(items[int(np.argmax(sizes[name]))])
            raise ValueError(
                f"molecule {molecule_name(store, item)} has {sizes[name].max()} {name}, more than pack.{name}="
                f"{capacity}; set pack.{name} to {sizes[name].max()} or more, or to 0 to have it chosen."
            )
    fixed = {"nodes": pack.nodes, "edges": pack.edges, "graphs": pack.graphs}
    return fit_budget(sizes, {name: fixed[name] for name in (*sizes, "graphs")})


def pack_sizes(store: Store, items: np.ndarray, neighbors: int) -> Dict[str, np.ndarray]:
    """Sizes that fill a pack: edges too, unless the device looks for them in slots of its own."""
    return {axis: store.sizes()[axis][items] for axis in (("nodes",) if neighbors else ("nodes", "edges"))}


def device_neighbors(store: Store, pack: PackConfig) -> int:
    """Neighbors of an atom that the device looks for; 0 for edges from the host.

    Raises:
        ValueError: some atom has more, whose edges would be lost without a word.
    """
    if pack.device_neighbors == 0:
        return 0
    if pack.device_neighbors < -1 or pack.edges:
        raise ValueError(
            f"pack.device_neighbors={pack.device_neighbors}: give 0, -1 or a number of neighbors, and pack.edges=0 "
            "with it, because the host makes no edges then."
        )
    edges = store.ragged("edge_index")
    first_atom = np.repeat(store.ragged("z").offsets[:-1], edges.lengths)
    degrees = np.bincount(np.concatenate([first_atom + edges.values[:, 0], first_atom + edges.values[:, 1]]))
    most = int(degrees.max()) if len(degrees) else 1
    if 0 < pack.device_neighbors < most:
        raise ValueError(
            f"pack.device_neighbors={pack.device_neighbors}: some atoms have {most} neighbors within the cutoff; set "
            f"{most} or more, or -1 to have it chosen."
        )
    return most if pack.device_neighbors == -1 else pack.device_neighbors
