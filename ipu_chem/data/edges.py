"""Pairs of neighboring atoms of a whole data set for one cutoff, found once and kept beside it.

Filters depend on the distance alone, so every pair stands there once, and models work along it both ways
(``undirected=True``): half the bytes and half the work of edges in both directions.
"""

from typing import Any, Dict, Optional

from ipu_chem.cache import kept
from ipu_chem.data.neighbors import radius_pairs
from packing.files import PathLike
from packing.store import Store

_FORMAT = 2


def with_edges(store: Store, cutoff: float, cache: Optional[PathLike] = None) -> Store:
    """The same molecules with the field edge_index on the axis "edges": every pair once.

    Args:
        store: molecules with fields z and pos.
        cutoff: Å; all pairs of atoms of a molecule up to this distance, (source, target) with source < target.
        cache: folder in which edges of data sets are kept; None is the usual cache folder.

    Raises:
        ValueError: the cutoff is not positive, or the cache folder cannot be written.
    """
    identity = f"{_FORMAT} {cutoff!r}"
    return kept("edges", identity, store, cache, lambda: _edges(store, cutoff, {"cutoff_angstrom": cutoff}))


def edges_in_memory(store: Store, cutoff: float) -> Store:
    """`with_edges` for molecules that are seen once, such as those of a prediction: nothing is written."""
    return store.join(_edges(store, cutoff))


def _edges(store: Store, cutoff: float, info: Optional[Dict[str, Any]] = None) -> Store:
    """The new field alone."""
    found = radius_pairs(store.fields["pos"], store.axes["nodes"], cutoff)
    return Store({"edges": found.offsets}, {"edge_index": found.values}, {"edge_index": "edges"}, info)
