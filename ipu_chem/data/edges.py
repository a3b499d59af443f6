"""Pairs of neighbouring atoms of a whole data set for one cutoff, found once and kept beside it.

Filters depend on the distance alone, so every pair stands there once, and models work along it both ways
(``undirected=True``): half the bytes and half the work of edges in both directions.
"""

import hashlib
from typing import Optional

from ipu_chem.cache import cache_folder
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
    folder = cache_folder(cache) / f"edges-{_key(store, cutoff)}"
    if (folder / "meta.json").is_file():
        edges = Store.open(folder)
    else:
        found = radius_pairs(store.fields["pos"], store.axes["nodes"], cutoff)
        edges = Store(
            {"edges": found.offsets}, {"edge_index": found.values}, {"edge_index": "edges"}, {"cutoff_angstrom": cutoff}
        )
        edges.save(folder)
    return store.join(edges)


def edges_in_memory(store: Store, cutoff: float) -> Store:
    """`with_edges` for molecules that are seen once, such as those of a prediction: nothing is written."""
    found = radius_pairs(store.fields["pos"], store.axes["nodes"], cutoff)
    return store.join(Store({"edges": found.offsets}, {"edge_index": found.values}, {"edge_index": "edges"}))


def _key(store: Store, cutoff: float) -> str:
    """Changes with any position, with the cutoff and with this module's format."""
    digest = hashlib.blake2b(f"{_FORMAT} {cutoff!r}".encode(), digest_size=8)
    digest.update(store.fields["pos"].tobytes())
    digest.update(store.axes["nodes"].tobytes())
    return digest.hexdigest()
