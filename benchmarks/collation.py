"""Collation raced: PyTorch Geometric's Batch padded to a fixed size against `collate_graphs`, same molecules.

Two ways of padding are raced on PyG's side, both from Data objects that are ready in memory: its own Pad
transform with masks, whose output is what ours is, and a filler molecule appended to the list (as the
reference implementation for IPUs does), which is faster and leaves masks to the user.

Used by `benchmarks.packing`; torch_geometric is imported when the race starts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from benchmarks.common import Timing, interleaved
from benchmarks.histograms import QM9, sizes_of
from packing import Budget, Epoch, Ragged, make_plan
from packing.collate import collate_graphs, expand_masks

# 8 graphs are what 128 nodes of QM9 need at most without losing packs.
ALL_PAIRS = Budget(nodes=128, edges=2304, graphs=8)
NO_EDGES = Budget(nodes=128, graphs=8)  # a model that finds neighbors on the device takes nodes alone


@dataclass(frozen=True)
class Molecules:
    """Molecules as flat arrays and in packs.

    Attributes:
        z: [atoms] uint8.
        pos: [atoms, 3] float32.
        edge_index: [edges, 2] int32, by target.
        y: [I, 1] float32.
        budget: of a pack.
        epoch: the packs.
        origin: for the title.
    """

    z: Ragged
    pos: Ragged
    edge_index: Ragged
    y: np.ndarray
    budget: Budget
    epoch: Epoch
    origin: str


def load_molecules(shared: Path, count: int, budget: Budget) -> Molecules:
    """Real QM9 geometries if they are there, else random ones of QM9's sizes; edges are all pairs or none."""
    random = np.random.default_rng(0)
    file = shared / "data" / "qm9" / "qm9_geometries.npz"
    if file.is_file():
        with np.load(file) as data:
            atoms, z = data["N"].astype(np.int64), data["Z"]
            pos = ((data["R_hi"].astype(np.int32) << 16) | data["R_lo"]) / 1e4
            y = data["E_el"][:, None].astype(np.float32)
        origin = f"{count:,} molecules of QM9"
    else:
        atoms = random.permutation(sizes_of(QM9))[:count]
        z = random.choice(np.array([1, 6, 7, 8], np.uint8), atoms.sum())
        # Atoms on a line, a bond length apart, shaken a little.
        line = np.concatenate([np.arange(n) for n in atoms])[:, None] * np.array([1.4, 0.0, 0.0])
        pos, y = line + random.uniform(-0.05, 0.05, line.shape), random.normal(size=(len(atoms), 1)).astype(np.float32)
        origin = f"{count:,} SYNTHETIC molecules of QM9's sizes"
    offsets = np.concatenate([[0], np.cumsum(atoms)])
    chosen = random.permutation(len(atoms))[:count]
    nodes, places = Ragged(z, offsets).take(chosen), Ragged(pos.astype(np.float32), offsets).take(chosen)
    edges = Ragged.from_list([_all_pairs(length) for length in nodes.lengths.tolist()])
    sizes = {"nodes": nodes.lengths, "edges": edges.lengths}
    plan = make_plan({name: sizes[name] for name in budget.measured}, budget)
    return Molecules(nodes, places, edges, y[chosen], budget, plan.epoch(0, 0), origin)


def _all_pairs(count: int) -> np.ndarray:
    """(source, target) of all pairs, [edges, 2] uint8, by target."""
    return np.ascontiguousarray(np.argwhere(~np.eye(count, dtype=bool))[:, ::-1], np.uint8)


def race(molecules: Molecules, packs_per_call: int, repeats: int) -> Dict[str, Timing]:
    """Collate the epoch three ways, in turns; outputs are compared before any time is taken.

    A repetition goes through all packs of the epoch, so that nobody finds its molecules in the cache.

    Returns:
        seconds of one pack on average: "pad" and "filler" are PyG's, "ours" is `collate_graphs`.

    Raises:
        ImportError: torch_geometric is not installed.
        AssertionError: the outputs differ.
    """
    import torch
    from torch_geometric.data import Batch, Data
    from torch_geometric.transforms import Pad

    torch.set_num_threads(1)
    budget, with_edges = molecules.budget, "edges" in molecules.budget
    dataset = [_data(molecules, item, torch, Data) for item in range(len(molecules.z))]
    nodes, edges = {"z": molecules.z, "pos": molecules.pos}, molecules.edge_index if with_edges else None
    fields = ("z", "pos", "edge_index") if with_edges else ("z", "pos")
    to_size = Pad(budget["nodes"], budget["edges"] if with_edges else None, add_pad_mask=True)

    def stacked(batches: List[Any], names: Sequence[str]) -> Dict[str, Any]:
        return {name: torch.stack([batch[name] for batch in batches]) for name in names}

    def pad(packs: List[List[int]]) -> Dict[str, Any]:
        batches = [to_size(Batch.from_data_list([dataset[item] for item in pack])) for pack in packs]
        return stacked(batches, (*fields, "pad_node_mask"))

    def filler(packs: List[List[int]]) -> Dict[str, Any]:
        batches = []
        for pack in packs:
            chosen = [dataset[item] for item in pack]
            batches.append(Batch.from_data_list([*chosen, _filler(chosen, budget, torch, Data)]))
        return stacked(batches, (*fields, "batch"))

    def ours(packs: Tuple[np.ndarray, np.ndarray]) -> Dict[str, np.ndarray]:
        arrays = collate_graphs(packs, budget, nodes, edges, {"y": molecules.y})
        return {**arrays, **expand_masks(arrays, budget)}  # as PyG's output has them

    count = max(len(molecules.epoch) // packs_per_call, 1)
    slices = [molecules.epoch.slice(call * packs_per_call, (call + 1) * packs_per_call) for call in range(count)]
    lists = [[items[i:j].tolist() for i, j in zip(offsets[:-1], offsets[1:])] for items, offsets in slices]
    for packs, arrays in zip(lists, slices):
        _compare(pad(packs), filler(packs), ours(arrays), packs, molecules)

    def through(collate: Callable[[Any], Any], calls: List[Any]) -> None:
        for packs in calls:
            collate(packs)  # the arrays are let go, as a training step does

    contestants = {
        "pad": lambda: through(pad, lists),
        "filler": lambda: through(filler, lists),
        "ours": lambda: through(ours, slices),
    }
    timings = interleaved(contestants, repeats, least_seconds=0.1)
    packs_in_all = sum(len(packs) for packs in lists)
    for timing in timings.values():
        timing.seconds = [seconds / packs_in_all for seconds in timing.seconds]
    return timings


def _data(molecules: Molecules, item: int, torch: Any, data: Any) -> Any:
    """One molecule as PyG has it in memory."""
    one = data(
        z=torch.from_numpy(molecules.z[item].astype(np.int64)),
        pos=torch.from_numpy(molecules.pos[item].copy()),
        y=torch.from_numpy(molecules.y[item : item + 1].copy()),
    )
    if "edges" in molecules.budget:
        one.edge_index = torch.from_numpy(molecules.edge_index[item].T.astype(np.int64)).contiguous()
    one.num_nodes = len(one.z)
    return one


def _filler(chosen: List[Any], budget: Budget, torch: Any, data: Any) -> Any:
    """One molecule of padding that fills a pack to its fixed size; its edges join the last node."""
    nodes = budget["nodes"] - sum(one.z.shape[0] for one in chosen)
    filler = data(z=torch.zeros(nodes, dtype=torch.int64), pos=torch.zeros(nodes, 3), y=torch.zeros(1, 1))
    if "edges" in budget:
        edges = budget["edges"] - sum(one.edge_index.shape[1] for one in chosen)
        filler.edge_index = torch.full((2, edges), nodes - 1, dtype=torch.int64)
    filler.num_nodes = nodes
    return filler


def _compare(
    padded: Dict[str, Any],
    filled: Dict[str, Any],
    mine: Dict[str, np.ndarray],
    packs: List[List[int]],
    molecules: Molecules,
) -> None:
    """Same atoms, places, edges, masks and molecule of every atom, three times."""
    mask = mine["node_mask"]
    for name in ("z", "pos"):
        assert np.array_equal(padded[name].numpy(), mine[name]), f"{name} differs between PyG's Pad and collate_graphs"
        assert np.array_equal(filled[name].numpy(), mine[name]), f"{name} differs between PyG and collate_graphs"
    if "edge_index" in mine:
        assert np.array_equal(filled["edge_index"].numpy(), mine["edge_index"]), "edges differ"
        real = np.broadcast_to(mine["edge_mask"][:, None], mine["edge_index"].shape)
        assert np.array_equal(padded["edge_index"].numpy()[real], mine["edge_index"][real]), "edges differ"
    assert np.array_equal(padded["pad_node_mask"].numpy(), mask), "masks differ"
    assert np.array_equal(filled["batch"].numpy()[mask], mine["graph_index"][mask]), "molecules of atoms differ"
    # A few energies are not known: nan equals nan here.
    expected = [molecules.y[item] for pack in packs for item in pack]
    np.testing.assert_array_equal(mine["y"][mine["graph_mask"]], expected, "targets differ")
