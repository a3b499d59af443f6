"""Checks of the fields of items before collation: what does not belong together would silently mix molecules."""

import weakref
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from packing.types import Ragged

_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
_FEW = 32  # items
_MOST_EQUAL = 1000
_equal: Dict[Tuple[int, int], Tuple[Any, Any]] = {}  # offsets that were found equal, by identity
_OURS = ("graph_ends", "edge_index", "num_edges")  # names of what collation adds


def check_fields(
    items: np.ndarray,
    nodes: Mapping[str, Ragged],
    edge_index: Optional[Ragged],
    per_graph: Mapping[str, np.ndarray],
    edge_fields: Mapping[str, Ragged],
) -> np.ndarray:
    """Hold the fields of some items to the rules of `collate_graphs`.

    Returns:
        offsets of the nodes, [I + 1].

    Raises:
        ValueError: names the field or the item.
    """
    if not nodes or not isinstance(nodes, (dict, Mapping)):
        raise ValueError("nodes are {name: Ragged}, with one field or more, such as {'z': Ragged(values, offsets)}.")
    if edge_fields and edge_index is None:
        raise ValueError(f"edge fields {', '.join(edge_fields)} were given without an edge_index.")
    first = next(iter(nodes))
    _check_kind(first, nodes[first])
    offsets = nodes[first].offsets
    count = len(offsets) - 1
    check_items(items, count)
    for name, field in nodes.items():
        if not _same(name, field, offsets):
            raise ValueError(f"node field {name} does not have the nodes of {first}, graph by graph.")
    if edge_index is not None:
        _check_kind("edge_index", edge_index)
        values = edge_index.values
        if values.ndim != 2 or values.shape[1] != 2 or values.dtype.kind not in "iu" or len(edge_index) != count:
            raise ValueError(
                f"edge_index has pairs of integers [total, 2] for each of the {count:,} items of {first}, not "
                f"{values.dtype} of shape {values.shape} for {len(edge_index):,}."
            )
        for name, field in edge_fields.items():
            if not _same(name, field, edge_index.offsets):
                raise ValueError(f"edge field {name} does not have the edges of edge_index, graph by graph.")
    for name, values in per_graph.items():
        if values.ndim == 0 or len(values) != count:
            raise ValueError(f"per-graph field {name} of shape {values.shape} has no row for each of {count:,} items.")
    names = [*nodes, *edge_fields, *per_graph, *_OURS]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two arrays of a batch would be named {twice!r}; rename the field.")
    return offsets


def check_items(items: np.ndarray, count: int) -> None:
    """Refuse items that are none of ``count``: numpy would take negative ones from the end.

    Raises:
        ValueError: names the item.
    """
    if not len(items):
        return
    # Of few items Python finds the extremes sooner.
    numbers = items.tolist() if len(items) < _FEW else (int(items.min()), int(items.max()))
    if not 0 <= min(numbers) <= max(numbers) < count:
        wrong = next(number for number in items.tolist() if not 0 <= number < count)
        raise ValueError(f"item {wrong} of a pack is none of the {count:,} items that fields were given for.")


def check_ends(pairs: np.ndarray, begins: Sequence[int], nodes: Sequence[int], items: Sequence[int]) -> None:
    """Refuse edges that join a node their graph does not have: they would reach into the next one.

    Args:
        pairs: [..., 2] integer, edges of graph after graph.
        begins: [G] twice the place of the first edge of each graph, which has one; between two graphs are zeros.
        nodes: [G] of each graph.
        items: [G] their names.

    Raises:
        ValueError: names the item and the node.
    """
    # Without signs negative numbers are large; the largest of a run is found with no number for every edge.
    flat = pairs.reshape(-1)
    most = np.maximum.reduceat(flat.view(_UNSIGNED[flat.itemsize]), begins)
    if len(items) < _FEW:
        wrong = [node >= count for node, count in zip(most.tolist(), nodes)]
    else:
        wrong = (most >= nodes).tolist()
    if True in wrong:
        place = wrong.index(True)
        raise ValueError(
            f"an edge of item {items[place]} joins node {most[place : place + 1].view(flat.dtype)[0]} and the item has "
            f"{nodes[place]}; edges count nodes from 0 in every graph."
        )


def _check_kind(name: str, field: Ragged) -> None:
    if not isinstance(field, Ragged):
        raise ValueError(f"field {name} is a {type(field).__name__}; give Ragged(values, offsets).")


def _same(name: str, field: Ragged, offsets: np.ndarray) -> bool:
    """True if a field has as many rows for each item as the offsets say; equal arrays are compared once."""
    _check_kind(name, field)
    own = field.offsets
    if own is offsets:
        return True
    known = _equal.get((id(own), id(offsets)))
    if known is not None and known[0]() is own and known[1]() is offsets:
        return True
    if not np.array_equal(own, offsets):
        return False
    if len(_equal) >= _MOST_EQUAL:
        _equal.clear()
    _equal[id(own), id(offsets)] = weakref.ref(own), weakref.ref(offsets)
    return True
