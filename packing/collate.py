"""Packs into fixed-shape arrays and masks: one vectorised gather per field, no Python per molecule.

    molecule   a a a b b . . .        the pack's nodes, dots are padding
    graph      0 0 0 1 1 G-1 ...      which molecule of the pack a node belongs to
    node_mask  1 1 1 1 1 0 0 0        said outright, never guessed from a value

On data's way: Ragged fields + a slice of an Epoch + Budget -> arrays -> GraphPack / TokenPack.
"""

import sys
from typing import Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from packing.types import Budget, Ragged, gather_index, index_dtype, take_rows

IGNORE_LABEL = -100  # what cross entropy leaves out (Hugging Face's and torch's convention)


def collate_graphs(
    packs: Tuple[np.ndarray, np.ndarray],
    budget: Budget,
    nodes: Mapping[str, Ragged],
    edge_index: Optional[Ragged] = None,
    per_graph: Optional[Mapping[str, np.ndarray]] = None,
) -> Dict[str, np.ndarray]:
    """Lay out B packs of graphs.

    Args:
        packs: (items [S], offsets [B + 1]), as `Epoch.slice` gives them.
        budget: has nodes and graphs, and edges when ``edge_index`` is given.
        nodes: fields with one row per node, e.g. {"z": values [total], "pos": values [total, 3]}.
        edge_index: values [total, 2] integer, (source, target) counted from 0 inside each graph.
        per_graph: fields with one row per graph, [I, ...].

    Returns:
        Every field of ``nodes`` as [B, N, ...] and of ``per_graph`` as [B, G, ...], zero in padding;
        node_mask [B, N], graph_mask [B, G] bool; graph_index [B, N] in 0..G-1; with edges also
        edge_index [B, 2, E] in 0..N-1 and edge_mask [B, E]. Index dtypes follow from the budget. In
        padding, indices point to the last slot, so that indices sorted by target stay sorted.

    Raises:
        ValueError: a pack exceeds the budget, or the budget lacks a dimension.
    """
    items, offsets = packs
    num_graphs, num_nodes = _capacity(budget, "graphs"), _capacity(budget, "nodes")
    pack_sizes = offsets[1:] - offsets[:-1]
    result: Dict[str, np.ndarray] = {}

    graph_slots = _Slots(np.arange(len(items) + 1), offsets, num_graphs, "graphs")
    for name, values in (per_graph or {}).items():
        result[name] = graph_slots.place(take_rows(values, items))
    result["graph_mask"] = graph_slots.mask

    any_field = next(iter(nodes.values()))
    positions, node_offsets = gather_index(any_field.offsets, items)
    node_slots = _Slots(node_offsets, offsets, num_nodes, "nodes")
    for name, field in nodes.items():
        result[name] = node_slots.place(take_rows(field.values, positions))
    result["node_mask"] = node_slots.mask
    slot_in_pack = np.arange(len(items)) - np.repeat(offsets[:-1], pack_sizes)
    owner = np.repeat(slot_in_pack.astype(index_dtype(num_graphs)), node_offsets[1:] - node_offsets[:-1])
    result["graph_index"] = node_slots.place(owner, padding=num_graphs - 1)

    if edge_index is not None:
        # A graph's local node 0 stands where the nodes of the graphs before it in the pack end.
        first_node = node_offsets[:-1] - np.repeat(node_offsets[offsets[:-1]], pack_sizes)
        edges = edge_index.take(items)
        edge_slots = _Slots(edges.offsets, offsets, _capacity(budget, "edges"), "edges")
        result["edge_index"] = _shifted_pairs(edges, first_node, edge_slots, num_nodes)
        result["edge_mask"] = edge_slots.mask
    return result


def collate_tokens(
    packs: Tuple[np.ndarray, np.ndarray], budget: Budget, ids: Ragged, pad_id: int = 0
) -> Dict[str, np.ndarray]:
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
        ValueError: a pack exceeds the budget.
    """
    items, offsets = packs
    num_tokens = _capacity(budget, "tokens")
    if len(items) and "segments" in budget and np.diff(offsets).max() > budget["segments"]:
        raise ValueError(f"a pack holds {np.diff(offsets).max()} segments of {budget['segments']}.")
    positions, token_offsets = gather_index(ids.offsets, items)
    slots = _Slots(token_offsets, offsets, num_tokens, "tokens")
    lengths = np.diff(token_offsets)
    place = (np.arange(token_offsets[-1]) - np.repeat(token_offsets[:-1], lengths)).astype(index_dtype(num_tokens))
    segment = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1
    values = ids.values[positions].astype(np.int32)
    return {
        "input_ids": slots.place(values, padding=pad_id),
        "position_ids": slots.place(place),
        "segment_ids": slots.place(np.repeat(segment.astype(index_dtype(num_tokens + 1)), lengths)),
        "token_mask": slots.mask,
        "labels": slots.place(np.where(place == 0, IGNORE_LABEL, values).astype(np.int32), padding=IGNORE_LABEL),
    }


def _shifted_pairs(edges: Ragged, first_node: np.ndarray, slots: "_Slots", num_nodes: int) -> np.ndarray:
    """Local (source, target) pairs as indices into the pack, [B, 2, E].

    Both ends of an edge are handled as one integer of twice the width: neither half can carry into the
    other, because a node's place in the pack fits half of it.
    """
    dtype = index_dtype(num_nodes)
    both = np.ascontiguousarray(edges.values, dtype).view(f"u{2 * dtype.itemsize}")[:, 0]
    twice = both.dtype.type(1 + (1 << 8 * dtype.itemsize))
    shift = np.repeat(first_node.astype(both.dtype) * twice, edges.lengths)
    placed = slots.place_long(both + shift, twice * both.dtype.type(num_nodes - 1))
    result = np.empty((len(placed), 2, placed.shape[1]), dtype)
    first, second = (0, 1) if sys.byteorder == "little" else (1, 0)
    np.copyto(result[:, first], placed, casting="unsafe")  # the low half
    np.copyto(result[:, second], placed >> (8 * dtype.itemsize), casting="unsafe")
    return result


class _Slots:
    """Where each of the gathered values goes: packs side by side, values from the front of their pack."""

    def __init__(self, value_offsets: np.ndarray, pack_offsets: np.ndarray, capacity: int, name: str) -> None:
        """Place values.

        Args:
            value_offsets: [S + 1], where each item's values begin among the gathered ones.
            pack_offsets: [B + 1], where each pack's items begin.
            capacity: slots of a pack.
            name: of the dimension, for the error.
        """
        starts = value_offsets[pack_offsets]
        filled = starts[1:] - starts[:-1]
        if len(filled) and filled.max() > capacity:
            pack = int(filled.argmax())
            raise ValueError(f"pack {pack} of the batch holds {filled[pack]} {name}, the budget {capacity}.")
        self.shape = (len(filled), capacity)
        self.starts = starts
        narrow = index_dtype(capacity + 1)
        self.mask = np.arange(capacity, dtype=narrow) < filled.astype(narrow)[:, None]

    def place(self, values: np.ndarray, padding: Union[int, np.integer] = 0) -> np.ndarray:
        """Gathered values [total, ...] as [B, capacity, ...]."""
        out = np.full(self.shape + values.shape[1:], padding, values.dtype)
        # The mask is true from the front of each pack, in the order of the values.
        if values.ndim > 1 and values.size:  # rows as single items of many bytes are placed three times faster
            row = np.dtype((np.void, values[0].nbytes))
            rows = np.ascontiguousarray(values).reshape(len(values), -1).view(row)
            out.reshape(self.shape + (-1,)).view(row)[..., 0][self.mask] = rows[:, 0]
        else:
            out[self.mask] = values
        return out

    def place_long(self, values: np.ndarray, padding: np.integer) -> np.ndarray:
        """`place` for one-dimensional values and packs of many: whole runs of bytes are joined."""
        data, rest = values.data.cast("B"), np.full(self.shape[1], padding).tobytes()
        ends = (self.starts * values.itemsize).tolist()
        pieces: List[Union[bytes, memoryview]] = []
        for start, end in zip(ends, ends[1:]):
            pieces += (data[start:end], rest[end - start :])
        return np.frombuffer(bytearray().join(pieces), values.dtype).reshape(self.shape)


def _capacity(budget: Budget, name: str) -> int:
    if name not in budget:
        raise ValueError(f"the budget ({budget}) must say how many {name} a pack has, e.g. {name}=8.")
    return budget[name]
