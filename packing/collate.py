"""Packs into arrays of fixed shape: one vectorized gather per field, no Python per atom or token.

molecule     a a a b b . . .      the pack's nodes, dots are padding
graph_ends   3 5 5 5              where each molecule ends, which is all that has to be said of it

node_mask    1 1 1 1 1 0 0 0      what follows from it (`expand_masks`, or on the device
graph_index  0 0 0 1 1 3 3 3      `ipu_chem.models.compact`); nothing is guessed from a value
graph_mask   1 1 0 0
"""

import sys
from itertools import accumulate
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np

from packing.fields import check_ends, check_fields, check_items
from packing.slots import ItemSlots, Rows, before, check_fill
from packing.types import Budget, Ragged
from packing.types import index_dtype as smallest_dtype

_NO_NODES = "a graph of the batch has no nodes, so nothing could tell it from padding; leave it out."
_OTHER_BUDGET = "arrays of {} graphs and up to {} nodes are not of the budget ({}); give the one of their collation."
_ID = 2**31  # token ids are below
IGNORE_LABEL = -100  # what cross entropy leaves out (Hugging Face's and torch's convention)
# Edges of items with more than this on average are copied in runs, which beats an index for every edge.
_LONG_ITEM = 64
Packs = Tuple[np.ndarray, np.ndarray]  # items [S] and offsets [B + 1], as `Epoch.slice` gives them


def collate_graphs(
    packs: Packs,
    budget: Budget,
    nodes: Mapping[str, Ragged],
    edge_index: Optional[Ragged] = None,
    per_graph: Optional[Mapping[str, np.ndarray]] = None,
    edge_fields: Mapping[str, Ragged] = {},
    index_dtype: str = "int64",
) -> Dict[str, np.ndarray]:
    """Lay out B packs of graphs.

    Args:
        packs: (items [S], offsets [B + 1]), as `Epoch.slice` gives them.
        budget: has nodes and graphs, and edges when ``edge_index`` is given.
        nodes: fields with one row per node, e.g. {"z": values [total], "pos": values [total, 3]}.
        edge_index: values [total, 2] integer, (source, target) counted from 0 inside each graph.
        per_graph: fields with one row per graph, [I, ...].
        edge_fields: fields with one row per edge, in the order of ``edge_index``, [total, ...].
        index_dtype: "int64" as torch indexes by, or "device": the smallest that hold what the budget allows, uint8,
            int16 or int32 (torch takes an index of uint8 for a mask: convert before).

    Returns:
        Every field of ``nodes`` as [B, N, ...], of ``per_graph`` as [B, G, ...] and of ``edge_fields`` as [B, E, ...],
        zero in padding; graph_ends [B, G], nodes up to the end of each graph, in padding those of the whole pack; with
        edges also edge_index [B, 2, E] in 0..N-1 and num_edges [B, 1]. In padding, edges join the last slot, so that
        edges sorted by target stay sorted. `expand_masks` makes masks.

    Raises:
        ValueError: a pack exceeds the budget, the budget lacks a dimension, a graph has no nodes, fields do not belong
            together or have one name, an edge joins a node that its graph does not have, or ``index_dtype`` is neither
            of the two.
    """
    if index_dtype not in ("int64", "device"):
        raise ValueError(f"index_dtype={index_dtype!r}: choose 'int64' or 'device'.")
    packs = _packs_of(packs)
    per_graph = {name: np.asarray(values) for name, values in (per_graph or {}).items()}
    offsets = check_fields(packs[0], nodes, edge_index, per_graph, edge_fields)
    wide = index_dtype == "int64"
    num_graphs, num_nodes = _capacity(budget, "graphs"), _capacity(budget, "nodes")
    if len(packs[1]) == 2 and packs[1][1] - packs[1][0] == len(packs[0]):
        return _one_pack(packs[0], budget, nodes, edge_index, per_graph, edge_fields, wide)
    slots = ItemSlots(packs, num_graphs, "graphs")
    result = {name: slots.place(values) for name, values in per_graph.items()}
    atoms = Rows(slots, offsets, num_nodes, "nodes")
    if np.count_nonzero(atoms.lengths) < len(packs[0]):
        raise ValueError(_NO_NODES)
    for name, field in nodes.items():
        result[name] = atoms.place(field.values)
    result["graph_ends"] = atoms.ends.astype(np.int64 if wide else smallest_dtype(num_nodes + 1))
    if edge_index is not None:
        edges = Rows(slots, edge_index.offsets, _capacity(budget, "edges"), "edges")
        # A graph's local node 0 stands where the nodes of the graphs before it in the pack end.
        result["edge_index"] = _shifted_pairs(edges, edge_index.values, atoms, num_nodes, wide)
        result["num_edges"] = edges.ends[:, -1:].astype(np.int64 if wide else smallest_dtype(edges.capacity + 1))
        result.update({name: edges.place(field.values) for name, field in edge_fields.items()})
    return result


def _one_pack(
    items: np.ndarray,
    budget: Budget,
    nodes: Mapping[str, Ragged],
    edge_index: Optional[Ragged],
    per_graph: Mapping[str, np.ndarray],
    edge_fields: Mapping[str, Ragged],
    wide: bool,
) -> Dict[str, np.ndarray]:
    """`collate_graphs` of a single pack: joins slices of its few graphs, with half the calls of numpy."""
    count, num_graphs, num_nodes = len(items), budget["graphs"], budget["nodes"]
    _check_one(count, num_graphs, "graphs")
    result = {}
    for name, values in per_graph.items():
        result[name] = np.zeros((1, num_graphs) + values.shape[1:], values.dtype)
        if count:
            values.take(items, axis=0, out=result[name][0, :count])
    atoms, ends = _runs(next(iter(nodes.values())).offsets, items, num_nodes, "nodes")
    if any(start == stop for start, stop in atoms):
        raise ValueError(_NO_NODES)
    for name, field in nodes.items():
        result[name] = _joined(field.values, atoms, ends[-1], num_nodes)[None]
    dtype = np.int64 if wide else smallest_dtype(num_nodes + 1)
    result["graph_ends"] = np.array([ends[1:] + ends[-1:] * (num_graphs - count)], dtype)
    if edge_index is None:
        return result
    capacity = _capacity(budget, "edges")
    runs, edge_ends = _runs(edge_index.offsets, items, capacity, "edges")
    total = edge_ends[-1]
    dtype = smallest_dtype(num_nodes)
    local = _joined(edge_index.values, runs, total, capacity)
    if total:
        places = [place for place, (start, stop) in enumerate(runs) if start < stop]
        begins, lengths = (
            [2 * edge_ends[place] for place in places],
            [atoms[place][1] - atoms[place][0] for place in places],
        )
        check_ends(local, begins, lengths, items.take(places))
    local = local.astype(dtype, copy=False)
    # Both ends of an edge as one integer, see `_shifted_pairs`.
    both = local.view(f"u{2 * dtype.itemsize}")[:, 0]
    shift = np.array(ends[:-1] + [num_nodes - 1], both.dtype) * both.dtype.type(1 + (1 << 8 * dtype.itemsize))
    both += np.repeat(shift, [stop - start for start, stop in runs] + [capacity - total])
    result["edge_index"] = np.empty((1, 2, capacity), np.int64 if wide else dtype)
    result["edge_index"][0] = local.T
    result["num_edges"] = np.array([[total]], np.int64 if wide else smallest_dtype(capacity + 1))
    for name, field in edge_fields.items():
        result[name] = _joined(field.values, runs, total, capacity)[None]
    return result


def _runs(offsets: np.ndarray, items: np.ndarray, capacity: int, name: str) -> Tuple[List[Tuple[int, int]], List[int]]:
    """Begin and end of every item in a flat array, and in the pack, [K + 1] from 0."""
    runs = list(zip(offsets.take(items).tolist(), offsets.take(items + 1).tolist())) if len(items) else []
    ends = [0, *accumulate([stop - start for start, stop in runs])]
    _check_one(ends[-1], capacity, name)
    return runs, ends


def _joined(values: np.ndarray, runs: List[Tuple[int, int]], total: int, capacity: int) -> np.ndarray:
    """Runs of rows one after the other, [capacity, ...], zero behind them."""
    values = np.asarray(values)  # slices of a memory map are slow
    result = np.zeros((capacity,) + values.shape[1:], values.dtype)
    if runs:
        np.concatenate([values[start:stop] for start, stop in runs], out=result[:total])
    return result


def expand_masks(arrays: Mapping[str, np.ndarray], budget: Budget) -> Dict[str, np.ndarray]:
    """Masks and indices, slot by slot, from the counts of `collate_graphs`.

    Returns:
        node_mask [B, N], graph_mask [B, G] bool; graph_index [B, N] in 0..G-1, which graph a node belongs to,
        G-1 in padding; where there are edges edge_mask [B, E] bool.

    Raises:
        ValueError: the arrays are of another budget.
    """
    ends, num_nodes, num_graphs = arrays["graph_ends"], _capacity(budget, "nodes"), _capacity(budget, "graphs")
    if ends.shape[-1] != num_graphs:
        raise ValueError(_OTHER_BUDGET.format(ends.shape[-1], ends.max(initial=0), budget))
    lengths = np.empty((len(ends), num_graphs + 1), np.int64)  # of the graphs, then of the padding
    lengths[:, :-1], lengths[:, -1] = ends, num_nodes
    lengths[:, 1:] -= ends
    owner = np.empty(lengths.shape, np.int64 if ends.dtype == np.int64 else smallest_dtype(num_graphs))
    owner[:, :-1], owner[:, -1] = np.arange(num_graphs), num_graphs - 1
    try:
        graph_index = np.repeat(owner.ravel(), lengths.ravel()).reshape(-1, num_nodes)
    except ValueError:  # a length is negative
        raise ValueError(_OTHER_BUDGET.format(ends.shape[-1], ends.max(initial=0), budget)) from None
    result = {
        "node_mask": before(ends[:, -1:], num_nodes),
        "graph_index": graph_index,
        "graph_mask": lengths[:, :-1] > 0,
    }
    if "num_edges" in arrays:
        result["edge_mask"] = before(arrays["num_edges"], budget["edges"])
    return result


def collate_tokens(packs: Packs, budget: Budget, ids: Ragged, pad_id: int = 0) -> Dict[str, np.ndarray]:
    """Lay out B packs of token sequences, several sequences to a row.

    Args:
        packs: (items [S], offsets [B + 1]), as `Epoch.slice` gives them.
        budget: has tokens, and segments when their number is limited.
        ids: values [total] integer token ids.
        pad_id: stands in padding; no label or mask depends on it.

    Returns:
        input_ids [B, T] int32; position_ids [B, T], counted from 0 in every sequence; segment_ids
        [B, T], 1 for the first sequence of a row, 0 in padding; token_mask [B, T] bool; labels [B, T]
        int32 to be shifted by the model, IGNORE_LABEL in padding and at the first token of every
        sequence, so that no sequence is asked to predict the next one.

    Raises:
        ValueError: a pack exceeds the budget, or ids are no integers of 0 or more that int32 holds.
    """
    num_tokens = _capacity(budget, "tokens")
    packs = _packs_of(packs)
    check_items(packs[0], len(ids))
    counts = np.diff(packs[1])
    check_fill(counts, budget["segments"] if "segments" in budget else num_tokens, "segments")
    slots = ItemSlots(packs, int(counts.max(initial=1)), "segments")
    tokens = Rows(slots, ids.offsets, num_tokens, "tokens")
    mask = np.arange(num_tokens) < tokens.ends[:, -1:]
    place = np.where(mask, tokens.place_in_item(), 0)
    segment = np.where(mask, tokens.item_of_row() + 1, 0)
    placed = tokens.place(ids.values)
    if (
        placed.ndim != 2
        or placed.dtype.kind not in "iu"
        or (placed.size and not 0 <= placed.min() <= placed.max() < _ID)
    ):
        raise ValueError(
            f"token ids are integers of 0 to {_ID - 1:,}, [total], not {placed.dtype} "
            + (f"from {placed.min()} to {placed.max()}." if placed.size else "of other shape.")
        )
    values = placed.astype(np.int32)
    return {
        "input_ids": np.where(mask, values, np.int32(pad_id)),
        "position_ids": place.astype(smallest_dtype(num_tokens)),
        "segment_ids": segment.astype(smallest_dtype(num_tokens + 1)),
        "token_mask": mask,
        "labels": np.where(place == 0, np.int32(IGNORE_LABEL), values),
    }


def _packs_of(packs: Packs) -> Packs:
    """Items and offsets as arrays."""
    try:
        items, offsets = packs
    except (TypeError, ValueError):
        raise ValueError("packs are (items, offsets), as Epoch.slice gives them.") from None
    items, offsets = np.asarray(items), np.asarray(offsets)
    items = items if items.size else items.astype(np.int64)
    if items.ndim != 1 or offsets.ndim != 1 or items.dtype.kind not in "iu" or offsets.dtype.kind not in "iu":
        raise ValueError("packs are (items [S], offsets [B + 1]) of integers, as Epoch.slice gives them.")
    if not len(offsets) or offsets[-1] - offsets[0] != len(items):
        raise ValueError(f"offsets {offsets[:1]} to {offsets[-1:]} do not cut {len(items)} items into packs.")
    return items, offsets


def _shifted_pairs(edges: Rows, values: np.ndarray, atoms: Rows, num_nodes: int, wide: bool) -> np.ndarray:
    """Local (source, target) pairs [total, 2] as indices into the pack, [B, 2, E].

    Both ends of an edge are handled as one integer of twice the width: neither half can carry into the
    other, because a node's place in the pack fits half of it.
    """
    is_long = edges.filled.sum() > _LONG_ITEM * edges.slots.real.sum()
    local = edges.place_runs(values) if is_long and values.flags.c_contiguous else edges.place(values)
    filled = np.flatnonzero(edges.lengths)
    if len(filled):
        begins = edges.ends - edges.lengths
        begins += np.arange(0, len(begins) * edges.capacity, edges.capacity)[:, None]
        check_ends(local, 2 * begins.take(filled), atoms.lengths.take(filled), edges.slots.items.take(filled))
    dtype, first_node = smallest_dtype(num_nodes), atoms.ends - atoms.lengths
    both = np.ascontiguousarray(local, dtype).view(f"u{2 * dtype.itemsize}")[..., 0]
    twice = 1 + (1 << 8 * dtype.itemsize)
    # Padding is 0 up to here and joins the last slot.
    shift = edges.repeat((first_node * twice).astype(both.dtype), (num_nodes - 1) * twice)
    shift += both
    pairs = np.empty((len(shift), 2, shift.shape[1]), np.int64 if wide else dtype)
    first, second = (0, 1) if sys.byteorder == "little" else (1, 0)
    bits = 8 * dtype.itemsize
    # `both` is not used again: what is small enough stays in the cache.
    low = np.bitwise_and(shift, both.dtype.type((1 << bits) - 1), out=both) if wide else shift
    np.copyto(pairs[:, first], low, casting="unsafe")
    shift >>= both.dtype.type(bits)
    np.copyto(pairs[:, second], shift, casting="unsafe")
    return pairs


def _check_one(filled: int, capacity: int, name: str) -> None:
    if filled > capacity:
        raise ValueError(f"pack 0 of the batch holds {filled} {name}, the budget {capacity}.")


def _capacity(budget: Budget, name: str) -> int:
    if name not in budget:
        raise ValueError(f"the budget ({budget}) must say how many {name} a pack has, e.g. {name}=8.")
    return budget[name]
