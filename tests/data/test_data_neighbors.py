import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipu_chem.data import neighbors
from ipu_chem.data.neighbors import knn_edges, radius_edges, radius_pairs


def brute_radius(pos, cutoff):
    """[e, 2] (source, target), by target, then source."""
    edges = []
    for target in range(len(pos)):
        for source in range(len(pos)):
            d = pos[target] - pos[source]
            if source != target and d[0] * d[0] + d[1] * d[1] + d[2] * d[2] <= cutoff * cutoff:
                edges.append((source, target))
    return np.array(edges, np.int64).reshape(-1, 2)


def brute_knn(pos, k, cutoff):
    edges = []
    for target in range(len(pos)):
        near = []
        for source in range(len(pos)):
            d = pos[target] - pos[source]
            d2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
            if source != target:
                near.append((d2, source))
        chosen = [source for d2, source in sorted(near)[:k] if cutoff is None or d2 <= cutoff * cutoff]
        edges += [(source, target) for source in sorted(chosen)]
    return np.array(edges, np.int64).reshape(-1, 2)


@st.composite
def many_molecules(draw):
    """Molecules of 0 to 9 atoms, on a lattice (ties, pairs at the cutoff) or anywhere."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        pos = random.integers(-2, 3, (sum(sizes), 3)) * 0.5
    else:
        pos = random.normal(0, 2, (sum(sizes), 3))
    return pos, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@pytest.fixture(params=["dense", "dense in chunks", "tree"])
def path(request, monkeypatch):
    """All ways through the code must give the same edges."""
    if request.param == "dense in chunks":
        monkeypatch.setattr(neighbors, "_CHUNK_PAIRS", 100)
    if request.param == "tree":
        monkeypatch.setattr(neighbors, "_DENSE_ATOMS", 1)
    return request.param


# The fixture's setting is meant to last for all examples.
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(many_molecules(), st.sampled_from([0.5, 1.0, 2.5, 100.0]))
def test_pairs_are_the_edges_whose_source_comes_first(path, molecules, cutoff):
    edges, pairs = radius_edges(*molecules, cutoff), radius_pairs(*molecules, cutoff)
    for item in range(len(edges)):
        once = edges[item][edges[item][:, 0] < edges[item][:, 1]]
        assert np.array_equal(pairs[item], once)
    assert 2 * len(pairs.values) == len(edges.values)


@EXAMPLES
@given(molecules=many_molecules(), cutoff=st.sampled_from([0.5, 1.0, np.sqrt(0.75), 1.5, 3.0, np.inf]))
def test_radius_is_brute_force(path, molecules, cutoff):
    pos, offsets = molecules
    edges = radius_edges(pos, offsets, cutoff)
    assert len(edges) == len(offsets) - 1 and edges.values.dtype == np.uint8
    for molecule, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:])):
        np.testing.assert_array_equal(edges[molecule], brute_radius(pos[start:stop], cutoff))


@EXAMPLES
@given(molecules=many_molecules(), k=st.integers(1, 9), cutoff=st.sampled_from([None, 0.5, 1.0, 3.0]))
def test_knn_is_brute_force(path, molecules, k, cutoff):
    pos, offsets = molecules
    edges = knn_edges(pos, offsets, k, cutoff)
    for molecule, (start, stop) in enumerate(zip(offsets[:-1], offsets[1:])):
        np.testing.assert_array_equal(edges[molecule], brute_knn(pos[start:stop], k, cutoff))


def test_radius_is_torchs_double_loop(nci3d_small):
    import torch

    pos, offsets = nci3d_small.fields["pos"], nci3d_small.axes["nodes"]
    edges = radius_edges(pos, offsets, 5.0)
    for molecule in range(len(nci3d_small)):
        x = torch.from_numpy(pos[offsets[molecule] : offsets[molecule + 1]].copy()).double()
        near = (x[:, None] - x[None]).square().sum(-1).sqrt() <= 5.0
        near.fill_diagonal_(False)
        target, source = near.nonzero().T
        np.testing.assert_array_equal(edges[molecule], torch.stack([source, target], 1).numpy())


def test_exactly_at_the_cutoff_is_an_edge():
    pos = np.array([[0.0, 0, 0], [3.0, 4.0, 0]])
    assert radius_edges(pos, [0, 2], 5.0)[0].tolist() == [[1, 0], [0, 1]]
    assert len(radius_edges(pos, [0, 2], np.nextafter(5.0, 0)).values) == 0
    assert len(knn_edges(pos, [0, 2], 1, 5.0).values) == 2
    assert len(knn_edges(pos, [0, 2], 1, np.nextafter(5.0, 0)).values) == 0


def test_large_molecule_goes_through_the_tree(monkeypatch):
    random = np.random.default_rng(0)
    sizes = [700, 3, 0, 600, 20]
    pos = random.random((sum(sizes), 3)) * 15
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    by_tree = radius_edges(pos, offsets, 4.0), knn_edges(pos, offsets, 8)
    assert by_tree[0].values.dtype == np.int16
    monkeypatch.setattr(neighbors, "_DENSE_ATOMS", 10_000)
    for tree, dense in zip(by_tree, (radius_edges(pos, offsets, 4.0), knn_edges(pos, offsets, 8))):
        np.testing.assert_array_equal(tree.values, dense.values)
        np.testing.assert_array_equal(tree.offsets, dense.offsets)


def test_nothing_to_connect():
    assert len(radius_edges(np.zeros((0, 3)), [0], 5.0)) == 0
    edges = radius_edges(np.zeros((1, 3)), [0, 1, 1], 5.0)
    assert edges.values.shape == (0, 2) and edges.offsets.tolist() == [0, 0, 0]


def test_refusals():
    pos = np.zeros((2, 3))
    with pytest.raises(ValueError, match="cutoff=0: "):
        radius_edges(pos, [0, 2], 0)
    with pytest.raises(ValueError, match="cutoff=nan: "):
        knn_edges(pos, [0, 2], 1, float("nan"))
    with pytest.raises(ValueError, match="k=0: "):
        knn_edges(pos, [0, 2], 0)
    with pytest.raises(ValueError, match="do not belong together"):
        radius_edges(pos, [0, 3], 5.0)
    with pytest.raises(ValueError, match=r"\[2\]; coordinates are \[atoms, 3\]"):
        radius_edges(np.zeros(2), [0, 2], 5.0)
    pos = np.array([[0, 0, 0], [0, 0, 1], [0, np.nan, 0]])
    with pytest.raises(ValueError, match="molecule 1: atom 0 has a coordinate"):
        radius_edges(pos, [0, 2, 3], 5.0)


def test_qm9_is_quick(shared_data):
    with np.load(shared_data / "qm9" / "qm9_geometries.npz") as arrays:
        offsets = np.concatenate([[0], np.cumsum(arrays["N"], dtype=np.int64)])
        pos = ((arrays["R_hi"].astype(np.int32) << 16) | arrays["R_lo"]) / 1e4
    start = time.perf_counter()
    edges = radius_edges(pos, offsets, 5.0)
    assert time.perf_counter() - start < 10, "118,744 molecules at 5 Å took more than ten seconds"
    assert len(edges) == 118_744 and edges.values.dtype == np.uint8
    for molecule in (0, 500, 118_743):
        np.testing.assert_array_equal(
            edges[molecule], brute_radius(pos[offsets[molecule] : offsets[molecule + 1]], 5.0)
        )
