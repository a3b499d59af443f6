"""Edges of many molecules at once: all pairs within a cutoff, or the k nearest neighbors of every atom.

An edge is (source, target), counted from 0 inside its molecule; both directions are there, self loops are
not, and the order is by target, then source. Distances are float64 whatever the dtype of the coordinates.
A pair at exactly the cutoff is an edge (distance <= cutoff); the kernels behind torch_geometric's
radius_graph test ``<`` there, and a model's cutoff function is 0 at that distance anyway. Unlike
radius_graph, nothing is cut at a greatest number of neighbors.
"""

from typing import Callable, Iterator, List, Optional, Tuple

import numpy as np

from packing.types import Ragged, gather_index, index_dtype, offsets_of

# Pairs of atoms whose distances are held at once: 4 MB of float64 stays in the cache of a core.
_CHUNK_PAIRS = 1 << 19
# Molecules with more atoms go through a KD-tree, whose work grows with the edges instead of the pairs.
_DENSE_ATOMS = 512
# The KD-tree rounds differently from us, so it is asked for a little more and we decide.
_MARGIN = 1 + 1e-9

# [m, n, n] squared distances (row target, column source) -> [m, n, n] bool; the diagonal is cleared after.
_Select = Callable[[np.ndarray], np.ndarray]
# [n, 3] positions of one large molecule -> target * n + source of every edge, int64, sorted.
_Search = Callable[[np.ndarray], np.ndarray]


def radius_edges(pos: np.ndarray, offsets: np.ndarray, cutoff: float) -> Ragged:
    """Every ordered pair of different atoms of a molecule not farther apart than ``cutoff``.

    Args:
        pos: [total, 3] floating, Å, molecule after molecule.
        offsets: [I + 1] integer; molecule i owns rows offsets[i] .. offsets[i + 1].
        cutoff: Å; ``inf`` connects everything.

    Returns:
        values [edges, 2] (source, target) of `index_dtype` of the largest molecule, offsets [I + 1].

    Raises:
        ValueError: the cutoff is not positive, a coordinate is not finite, or the offsets do not fit.
    """
    return _radius(pos, offsets, cutoff, False)


def radius_pairs(pos: np.ndarray, offsets: np.ndarray, cutoff: float) -> Ragged:
    """Every pair of atoms of a molecule not farther apart than ``cutoff``, once: source < target.

    Args and errors as of `radius_edges`, whose edges these are without the other direction.
    """
    return _radius(pos, offsets, cutoff, True)


def _radius(pos: np.ndarray, offsets: np.ndarray, cutoff: float, once: bool) -> Ragged:
    pos, offsets = _checked(pos, offsets)
    limit = _squared(cutoff)

    def select(d2: np.ndarray) -> np.ndarray:
        near = d2 <= limit
        return near & np.tri(d2.shape[1], k=-1, dtype=bool) if once else near

    def search(x: np.ndarray) -> np.ndarray:
        from scipy.spatial import KDTree

        pairs = KDTree(x).query_pairs(cutoff * _MARGIN, output_type="ndarray").astype(np.int64)  # first < second
        source, target = (pairs if once else np.concatenate([pairs, pairs[:, ::-1]])).T
        near = _pair_squared(x, source, target) <= limit
        return np.sort(target[near] * len(x) + source[near])

    return _edges(pos, offsets, select, search)


def knn_edges(pos: np.ndarray, offsets: np.ndarray, k: int, cutoff: Optional[float] = None) -> Ragged:
    """The ``k`` nearest sources of every target atom; all others where the molecule has fewer.

    Among sources at the same distance the one with the lower index is taken first.

    Args:
        pos: [total, 3] floating, Å, molecule after molecule.
        offsets: [I + 1] integer.
        k: greatest number of sources per target.
        cutoff: Å; leave out neighbors farther away. None keeps them.

    Returns:
        As `radius_edges`.

    Raises:
        ValueError: k or the cutoff is not positive, a coordinate is not finite, or the offsets do not fit.
    """
    if k < 1:
        raise ValueError(f"k={k}: an atom has 1 or more nearest neighbors.")
    pos, offsets = _checked(pos, offsets)
    limit = np.inf if cutoff is None else _squared(cutoff)

    def select(d2: np.ndarray) -> np.ndarray:
        n = d2.shape[1]
        if k >= n - 1:
            return d2 <= limit
        diagonal = np.arange(n)
        d2[:, diagonal, diagonal] = np.inf
        kth = np.partition(d2, k - 1, axis=2)[:, :, k - 1 : k]
        chosen = d2 < kth
        tie = d2 == kth
        tie &= np.cumsum(tie, axis=2) <= k - chosen.sum(axis=2, keepdims=True)
        return (chosen | tie) & (d2 <= limit)

    def search(x: np.ndarray) -> np.ndarray:
        return _tree_nearest(x, k, limit)

    return _edges(pos, offsets, select, search)


def _edges(pos: np.ndarray, offsets: np.ndarray, select: _Select, search: _Search) -> Ragged:
    """Find, count, allocate once, fill: adjacency waits as bits, an eighth of a byte per pair of atoms."""
    lengths = np.diff(offsets)
    counts = np.zeros(len(lengths), np.int64)
    dense: List[Tuple[np.ndarray, int, np.ndarray]] = []
    for molecules, n in _chunks(lengths):
        near = select(_squared_distances(pos[offsets[molecules][:, None] + np.arange(n)]))
        near[:, np.arange(n), np.arange(n)] = False
        counts[molecules] = np.count_nonzero(near.reshape(len(molecules), -1), axis=1)
        dense.append((molecules, n, np.packbits(near)))
    large: List[Tuple[int, np.ndarray]] = []
    for molecule in np.flatnonzero(lengths > _DENSE_ATOMS).tolist():
        large.append((molecule, search(pos[offsets[molecule] : offsets[molecule + 1]])))
        counts[molecule] = len(large[-1][1])

    edge_offsets = offsets_of(counts)
    values = np.empty((edge_offsets[-1], 2), index_dtype(int(lengths.max(initial=1))))
    for molecules, n, bits in dense:
        near = np.unpackbits(bits, count=len(molecules) * n * n).reshape(-1, n)
        row, source = np.nonzero(near)
        positions, _ = gather_index(edge_offsets, molecules)
        values[positions, 0] = source
        values[positions, 1] = row % n
    for molecule, keys in large:
        target, source = np.divmod(keys, lengths[molecule])
        values[edge_offsets[molecule] : edge_offsets[molecule + 1]] = np.stack([source, target], axis=1)
    return Ragged(values, edge_offsets)


def _chunks(lengths: np.ndarray) -> Iterator[Tuple[np.ndarray, int]]:
    """Molecules of one size together, as many as keep their pairs within `_CHUNK_PAIRS`."""
    order = np.argsort(lengths, kind="stable")
    sizes, starts = np.unique(lengths[order], return_index=True)
    for n, start, stop in zip(sizes.tolist(), starts, np.append(starts[1:], len(order))):
        if not 2 <= n <= _DENSE_ATOMS:
            continue
        step = max(1, _CHUNK_PAIRS // (n * n))
        for first in range(start, stop, step):
            yield order[first : min(first + step, stop)], n


def _squared_distances(x: np.ndarray) -> np.ndarray:
    """[m, n, 3] -> [m, n, n]; differences first, because x.x + y.y - 2 x.y loses digits."""
    total = np.zeros((x.shape[0], x.shape[1], x.shape[1]))
    for axis in range(3):
        difference = x[:, :, None, axis] - x[:, None, :, axis]
        difference *= difference
        total += difference
    return total


def _pair_squared(x: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared distances of listed pairs, [P], to the last bit those of `_squared_distances`."""
    difference = x[target] - x[source]
    difference *= difference
    return difference[:, 0] + difference[:, 1] + difference[:, 2]


def _tree_nearest(x: np.ndarray, k: int, limit: float) -> np.ndarray:
    """k nearest sources of every atom of one large molecule, ties by index, as sorted keys."""
    from scipy.spatial import KDTree

    n = len(x)
    k = min(k, n - 1)
    tree = KDTree(x)
    # The atom itself is among the k + 1 nearest; everything as near as the last of them is a candidate.
    reach = tree.query(x, k + 1)[0][:, -1] * _MARGIN
    candidates = tree.query_ball_point(x, reach)
    target = np.repeat(np.arange(n), [len(sources) for sources in candidates])
    source = np.concatenate([np.asarray(sources, np.int64) for sources in candidates])
    other = source != target
    target, source = target[other], source[other]
    d2 = _pair_squared(x, source, target)
    order = np.lexsort((source, d2, target))
    target, source, d2 = target[order], source[order], d2[order]
    rank = np.arange(len(target)) - np.searchsorted(target, np.arange(n))[target]
    keep = (rank < k) & (d2 <= limit)
    return np.sort(target[keep] * n + source[keep])


def _squared(cutoff: float) -> float:
    if not cutoff > 0:
        raise ValueError(f"cutoff={cutoff}: the cutoff is a positive distance in Å.")
    return float(cutoff) * float(cutoff)


def _checked(pos: np.ndarray, offsets: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    pos = np.asarray(pos, np.float64)
    offsets = np.asarray(offsets).astype(np.int64)
    if pos.ndim != 2 or pos.shape[1] != 3:
        raise ValueError(f"pos has shape {list(pos.shape)}; coordinates are [atoms, 3].")
    Ragged(pos, offsets)  # checks that the two belong together
    finite = np.isfinite(pos).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        molecule = int(np.searchsorted(offsets, atom, side="right")) - 1
        raise ValueError(
            f"molecule {molecule}: atom {atom - offsets[molecule]} has a coordinate that is not finite; "
            "correct or leave out the molecule."
        )
    return pos, offsets
