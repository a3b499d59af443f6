"""Planned batches for jraph: its padding, its batches' contents, fewer of them."""

import numpy as np
import pytest

from packing.adapters.jraph import dynamically_batch

jraph = pytest.importorskip("jraph", reason="jraph is not installed: its adapter was NOT tested")


def graph(nodes, number, edges=None):
    random = np.random.default_rng(number)
    edges = 2 * nodes if edges is None else edges
    return jraph.GraphsTuple(
        nodes=random.normal(size=(nodes, 3)).astype(np.float32),
        edges=random.normal(size=(edges, 2)).astype(np.float32),
        senders=random.integers(0, nodes, edges).astype(np.int32),
        receivers=random.integers(0, nodes, edges).astype(np.int32),
        n_node=np.array([nodes]),
        n_edge=np.array([edges]),
        globals=np.array([[float(number)]]),
    )


GRAPHS = [graph(int(nodes), number) for number, nodes in enumerate(np.random.default_rng(0).integers(3, 15, 80))]


def test_batches_are_those_of_jraph_and_fewer():
    batches = dynamically_batch(GRAPHS, n_node=32, n_edge=62, n_graph=8, seed=2)
    theirs = list(jraph.dynamically_batch(iter(GRAPHS), 32, 62, 8))
    seen, shapes = [], set()
    for batch in batches:
        shapes.add((batch.nodes.shape, batch.edges.shape, batch.n_node.shape, batch.globals.shape))
        real = jraph.get_graph_padding_mask(batch)
        numbers = np.asarray(batch.globals)[np.asarray(real), 0].astype(int).tolist()
        same = jraph.pad_with_graphs(jraph.batch_np([GRAPHS[number] for number in numbers]), 32, 62, 8)
        for name in ("nodes", "edges", "senders", "receivers", "n_node", "n_edge"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(same, name))
        seen += numbers
    first = theirs[0]
    assert shapes == {(first.nodes.shape, first.edges.shape, first.n_node.shape, first.globals.shape)}
    assert sorted(seen) == list(range(80)) and len(batches) <= len(theirs)
    assert len(batches) == batches.sampler.plan.num_packs


def test_limits_of_jraph_hold_to_the_last_one():
    exact = [graph(9, 0, edges=20)] * 2
    assert len(dynamically_batch(exact, n_node=10, n_edge=20, n_graph=2)) == 2
    assert len(dynamically_batch(exact, n_node=19, n_edge=40, n_graph=3)) == 1
    bare = [graph(3, 0, edges=0)] * 4
    assert next(iter(dynamically_batch(bare, n_node=13, n_edge=0, n_graph=5))).edges.shape == (0, 2)
    with pytest.raises(ValueError, match=r"graphs have 9 nodes .* n_node=10, n_edge=20, n_graph=2 hold every graph"):
        dynamically_batch(exact, n_node=9, n_edge=20, n_graph=2)
    with pytest.raises(ValueError, match="n_graph=1: padding takes a node and a graph"):
        dynamically_batch(exact, n_node=10, n_edge=20, n_graph=1)
    with pytest.raises(ValueError, match=r"n_edge=0, and graph 0 has edges"):
        dynamically_batch(exact, n_node=10, n_edge=0, n_graph=2)
    with pytest.raises(ValueError, match=r"is read once, and a plan needs all sizes; give list\(graphs\)"):
        dynamically_batch(iter(exact), n_node=10, n_edge=20, n_graph=2)


def test_items_that_are_batches_count_as_all_their_graphs():
    pairs = [jraph.batch_np([GRAPHS[i], GRAPHS[i + 1]]) for i in range(0, 20, 2)]
    batches = list(dynamically_batch(pairs, n_node=100, n_edge=200, n_graph=6))
    assert all(int(np.asarray(jraph.get_graph_padding_mask(batch)).sum()) <= 5 for batch in batches)
    assert sum(int(np.asarray(jraph.get_graph_padding_mask(batch)).sum()) for batch in batches) == 20
