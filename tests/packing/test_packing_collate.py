"""Collation against a slow reference that fills one slot at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import Budget, Ragged, collate, make_plan
from packing.collate import IGNORE_LABEL, collate_graphs, collate_tokens, expand_masks

EXACT_INDEX = [(128, np.uint8), (256, np.uint8), (257, np.int16), (2**15, np.int16), (40_000, np.int32)]


def collated(packs, budget, nodes, edges=None, labels=None, index_dtype="device", **edge_fields):
    """What `collate_graphs` makes and what follows from it."""
    arrays = collate_graphs(packs, budget, nodes, edges, labels, edge_fields, index_dtype)
    return {**arrays, **expand_masks(arrays, budget)}


def slow_graphs(packs, budget, z, pos, edges, y):
    """What `collate_graphs` and `expand_masks` promise, slot by slot and in wide dtypes."""
    count, nodes, edge_slots, graphs = len(packs), budget["nodes"], budget["edges"], budget["graphs"]
    out = {
        "z": np.zeros((count, nodes), int),
        "pos": np.zeros((count, nodes, 3)),
        "node_mask": np.zeros((count, nodes), bool),
        "graph_index": np.full((count, nodes), graphs - 1),
        "y": np.zeros((count, graphs, 2)),
        "graph_mask": np.zeros((count, graphs), bool),
        "graph_ends": np.zeros((count, graphs), int),
        "num_edges": np.zeros((count, 1), int),
        "edge_index": np.full((count, 2, edge_slots), nodes - 1),
        "edge_mask": np.zeros((count, edge_slots), bool),
    }
    for p, items in enumerate(packs):
        node = edge = 0
        for graph, item in enumerate(items):
            first = node
            out["y"][p, graph], out["graph_mask"][p, graph] = y[item], True
            for atom, place in zip(z[item], pos[item]):
                out["z"][p, node], out["pos"][p, node], out["node_mask"][p, node] = atom, place, True
                out["graph_index"][p, node] = graph
                node += 1
            out["graph_ends"][p, graph:] = node
            for source, target in edges[item]:
                out["edge_index"][p, :, edge] = first + source, first + target
                out["edge_mask"][p, edge] = True
                edge += 1
        out["num_edges"][p] = edge
    return out


def molecules(seed, count, budget):
    """Random molecules that fit the budget; edges sorted by target."""
    random = np.random.default_rng(seed)
    z, pos, edges = [], [], []
    for _ in range(count):
        n = int(random.integers(1, budget["nodes"] + 1))
        pairs = random.integers(0, n, (int(random.integers(0, budget["edges"] + 1)), 2))
        z.append(random.integers(1, 10, n).astype(np.uint8))
        pos.append(random.normal(size=(n, 3)).astype(np.float32))
        edges.append(pairs[np.argsort(pairs[:, 1], kind="stable")].astype(np.int32))
    return Ragged.from_list(z), Ragged.from_list(pos), Ragged.from_list(edges), random.normal(size=(count, 2))


@st.composite
def graph_cases(draw):
    budget = Budget(nodes=draw(st.integers(1, 12)), edges=draw(st.integers(1, 20)), graphs=draw(st.integers(1, 5)))
    fields = molecules(draw(st.integers(0, 10**6)), draw(st.integers(1, 12)), budget)
    plan = make_plan({"nodes": fields[0].lengths, "edges": fields[2].lengths}, budget, "best_fit")
    epoch = plan.epoch(0, 0, draw(st.integers(1, 6)))
    start = draw(st.integers(0, len(epoch)))
    return budget, fields, epoch, start, draw(st.integers(start, len(epoch)))


@given(graph_cases(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_graphs_equal_the_slow_reference(case, in_runs):
    budget, (z, pos, edges, y), epoch, start, stop = case
    collate._LONG_ITEM = 0 if in_runs else 10**9  # whole runs of edges, or an index for each
    found = collated(epoch.slice(start, stop), budget, {"z": z, "pos": pos}, edges, {"y": y})
    expected = slow_graphs([epoch[p] for p in range(start, stop)], budget, z, pos, edges, y)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape and np.array_equal(found[name], array), name
    assert found["z"].dtype == np.uint8 and found["pos"].dtype == np.float32 and found["y"].dtype == np.float64
    assert all(found[name].dtype == bool for name in found if name.endswith("mask"))
    assert (np.diff(found["edge_index"][:, 1].astype(int), axis=1) >= 0).all(), "edges sorted by target stay sorted"
    assert (np.diff(found["graph_index"].astype(int), axis=1) >= 0).all()
    assert all(array.flags.c_contiguous for array in found.values())


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(collate, "_LONG_ITEM", collate._LONG_ITEM)


@pytest.mark.parametrize("slots, dtype", [(255, np.uint8), (256, np.int16), (2**15 - 1, np.int16), (2**15, np.int32)])
def test_counts_are_wide_enough_for_a_full_pack(slots, dtype):
    z = Ragged.from_list([np.ones(slots, np.uint8)])
    edges = Ragged.from_list([np.zeros((slots, 2), np.uint8)])
    budget = Budget(nodes=slots, edges=slots, graphs=2)
    found = collated((np.array([0]), np.array([0, 1])), budget, {"z": z}, edges)
    assert found["graph_ends"].dtype == found["num_edges"].dtype == dtype
    assert found["graph_ends"].tolist() == [[slots, slots]] and found["num_edges"].tolist() == [[slots]]


@given(graph_cases(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_indices_of_int64_are_those_of_the_device(case, in_runs):
    budget, (z, pos, edges, y), epoch, start, stop = case
    collate._LONG_ITEM = 0 if in_runs else 10**9
    arguments = epoch.slice(start, stop), budget, {"z": z, "pos": pos}, edges, {"y": y}
    wide, narrow = collated(*arguments, index_dtype="int64"), collated(*arguments)
    for name, array in narrow.items():
        assert np.array_equal(wide[name], array), name
        kept = name in ("z", "pos", "y") or array.dtype == bool
        assert wide[name].dtype == (array.dtype if kept else np.int64), name
    default = collate_graphs(epoch.slice(start, stop), budget, {"z": z}, edges)
    assert default["edge_index"].dtype == np.int64


@given(graph_cases())
@settings(max_examples=50, deadline=None)
def test_fields_of_edges_lie_where_their_edges_do(case):
    budget, (z, _, edges, _), epoch, start, stop = case
    number = Ragged(np.arange(1, len(edges.values) + 1), edges.offsets)
    both = Ragged(np.stack([number.values, -number.values], 1).astype(np.float32), edges.offsets.copy())
    found = collated(epoch.slice(start, stop), budget, {"z": z}, edges, number=number, both=both)
    assert found["number"].shape == found["edge_mask"].shape and found["both"].shape == found["number"].shape + (2,)
    for pack, items in enumerate(epoch[p] for p in range(start, stop)):
        expected = np.concatenate([number[item] for item in items] or [[]])
        assert found["number"][pack].tolist() == expected.tolist() + [0] * (budget["edges"] - len(expected))
    assert np.array_equal(found["both"][..., 0], found["number"]) and np.array_equal(
        found["both"][..., 1], -found["number"]
    )


@given(graph_cases())
@settings(max_examples=50, deadline=None)
def test_one_pack_is_laid_out_as_among_others(case):
    budget, (z, pos, edges, y), epoch, _, _ = case
    wide = Ragged(edges.values.astype(np.int64), edges.offsets)
    for pack in range(len(epoch)):
        items, offsets = epoch.slice(pack, pack + 1)
        two = items, np.append(offsets, offsets[-1])  # and an empty one
        for pairs in (edges, wide):
            arguments = budget, {"z": z, "pos": pos}, pairs, {"y": y}
            one, both = collated((items, offsets), *arguments, x=pairs), collated(two, *arguments, x=pairs)
            assert one.keys() == both.keys() and list(one) == list(both)
            for name, array in both.items():
                assert one[name].dtype == array.dtype and one[name].tobytes() == array[:1].tobytes(), name


def test_what_cannot_be_laid_out_is_refused():
    with pytest.raises(ValueError, match="offsets \\[0\\] to \\[2\\] do not cut 1 items into packs"):
        collate_graphs((np.array([0]), np.array([0, 2])), Budget(nodes=4, graphs=3), {"z": Ragged.from_list([[1]])})
    z, edges = Ragged.from_list([np.ones(2, np.uint8)]), Ragged.from_list([np.array([[0, 1]])])
    pack, budget = (np.array([0]), np.array([0, 1])), Budget(nodes=4, edges=3, graphs=2)
    with pytest.raises(ValueError, match="index_dtype='int32': choose 'int64' or 'device'"):
        collate_graphs(pack, budget, {"z": z}, edges, index_dtype="int32")
    with pytest.raises(ValueError, match="edge fields bond were given without an edge_index"):
        collate_graphs(pack, budget, {"z": z}, edge_fields={"bond": edges})
    with pytest.raises(ValueError, match="edge field bond does not have the edges of edge_index, graph by graph"):
        collate_graphs(pack, budget, {"z": z}, edges, edge_fields={"bond": z})


def test_a_graph_without_nodes_is_refused():
    z = Ragged(np.ones(3, np.uint8), np.array([0, 2, 2, 3]))
    with pytest.raises(ValueError, match="a graph of the batch has no nodes"):
        collate_graphs((np.array([0, 1]), np.array([0, 2])), Budget(nodes=4, graphs=3), {"z": z})


def test_empty_packs_are_all_padding():
    budget = Budget(nodes=4, edges=3, graphs=2)
    z, pos, edges, y = molecules(0, 3, budget)
    nothing = (np.zeros(0, np.int32), np.zeros(3, np.int64))
    packs = collated(nothing, budget, {"z": z, "pos": pos}, edges, {"y": y})
    assert packs["pos"].shape == (2, 4, 3) and packs["y"].shape == (2, 2, 2) and packs["edge_index"].shape == (2, 2, 3)
    assert not any(packs[name].any() for name in ("z", "pos", "y", "node_mask", "edge_mask", "graph_mask"))
    assert (packs["edge_index"] == 3).all() and (packs["graph_index"] == 1).all()
    tokens = collate_tokens(nothing, Budget(tokens=5), Ragged.from_list([np.array([7])]), pad_id=9)
    assert (tokens["input_ids"] == 9).all() and (tokens["labels"] == IGNORE_LABEL).all()
    assert not tokens["token_mask"].any() and not tokens["segment_ids"].any()


@pytest.mark.parametrize("nodes, dtype", EXACT_INDEX)
def test_edge_index_is_wide_enough_for_the_last_node(nodes, dtype):
    """A byte holds 255: an offset kept in one wraps, and edges silently join the wrong molecules."""
    sizes = np.array([nodes - 5, 5])
    z = Ragged.from_list([np.ones(n, np.uint8) for n in sizes])
    last = np.array([[n - 1, n - 1] for n in sizes], np.int64)
    edges = Ragged.from_list([np.array([[0, 0], row]) for row in last])
    budget = Budget(nodes=nodes, edges=6, graphs=2)
    found = collated((np.array([0, 1]), np.array([0, 2])), budget, {"z": z}, edges)
    assert found["edge_index"].dtype == dtype and found["graph_index"].dtype == np.uint8
    expected = [0, nodes - 6, nodes - 5, nodes - 1, nodes - 1, nodes - 1]
    assert found["edge_index"].tolist() == [[expected, expected]]
    assert np.bincount(found["graph_index"][0]).tolist() == sizes.tolist()


@pytest.mark.parametrize("nodes, dtype", EXACT_INDEX[1:])
def test_narrow_local_indices_do_not_narrow_the_result(nodes, dtype):
    sizes = np.full(nodes // 4, 4)
    z = Ragged.from_list([np.ones(4, np.uint8)] * len(sizes))
    edges = Ragged(np.full((len(sizes), 2), 3, np.uint8), np.arange(len(sizes) + 1))
    budget = Budget(nodes=nodes, edges=len(sizes), graphs=len(sizes))
    found = collated((np.arange(len(sizes)), np.array([0, len(sizes)])), budget, {"z": z}, edges)
    assert found["edge_index"][0, 0].tolist() == list(range(3, 4 * len(sizes), 4))
    assert found["graph_index"][0, : 4 * len(sizes)].tolist() == np.repeat(np.arange(len(sizes)), 4).tolist()


@pytest.mark.parametrize("graphs, dtype", [(256, np.uint8), (257, np.int16)])
def test_graph_index_is_wide_enough_for_the_last_graph(graphs, dtype):
    z = Ragged.from_list([np.ones(1, np.uint8)] * graphs)
    packs = (np.arange(graphs), np.array([0, graphs]))
    found = collated(packs, Budget(nodes=graphs, graphs=graphs), {"z": z})
    assert found["graph_index"].dtype == dtype and found["graph_index"][0].tolist() == list(range(graphs))
    assert not {"edge_index", "edge_mask", "num_edges"} & set(found)


def test_a_pack_above_the_budget_is_refused():
    budget = Budget(nodes=6, edges=4, graphs=2)
    z = Ragged.from_list([np.ones(n, np.uint8) for n in (3, 3, 1, 4)])
    edges = Ragged.from_list([np.zeros((e, 2), np.int32) for e in (2, 3, 0, 0)])
    for items, message in (([0, 3], "holds 7 nodes, the budget 6"), ([2, 2, 2], "holds 3 graphs, the budget 2")):
        with pytest.raises(ValueError, match=f"pack 1 of the batch {message}"):
            collated((np.array([2, *items]), np.array([0, 1, 1 + len(items)])), budget, {"z": z}, edges)
    with pytest.raises(ValueError, match="pack 0 of the batch holds 5 edges, the budget 4"):
        collated((np.array([0, 1]), np.array([0, 2])), budget, {"z": z}, edges)
    with pytest.raises(ValueError, match="how many edges"):
        collated((np.array([0]), np.array([0, 1])), Budget(nodes=6, graphs=2), {"z": z}, edges)
    with pytest.raises(ValueError, match="how many graphs"):
        collated((np.array([0]), np.array([0, 1])), Budget(nodes=6), {"z": z})


def slow_tokens(packs, length, ids, pad_id):
    shape = (len(packs), length)
    out = {
        "input_ids": np.full(shape, pad_id),
        "position_ids": np.zeros(shape, int),
        "segment_ids": np.zeros(shape, int),
        "token_mask": np.zeros(shape, bool),
        "labels": np.full(shape, IGNORE_LABEL),
    }
    for p, items in enumerate(packs):
        slot = 0
        for segment, item in enumerate(items):
            for position, token in enumerate(ids[item]):
                out["input_ids"][p, slot], out["position_ids"][p, slot] = token, position
                out["segment_ids"][p, slot], out["token_mask"][p, slot] = segment + 1, True
                out["labels"][p, slot] = token if position else IGNORE_LABEL
                slot += 1
    return out


@given(
    st.lists(st.lists(st.integers(0, 50_000), min_size=1, max_size=9), min_size=1, max_size=12),
    st.integers(9, 14),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_tokens_equal_the_slow_reference(sequences, length, segments, pad_id):
    ids = Ragged.from_list([np.array(sequence, np.uint16) for sequence in sequences])
    budget = Budget(tokens=length, segments=segments)
    epoch = make_plan(ids.lengths, budget, "best_fit").epoch(0, 0, multiple=3)
    found = collate_tokens(epoch.slice(0, len(epoch)), budget, ids, pad_id)
    expected = slow_tokens([epoch[p] for p in range(len(epoch))], length, ids, pad_id)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name
    # A model shifts labels by one: where a label remains, the token before it is of the same sequence.
    asked = found["labels"][:, 1:] != IGNORE_LABEL
    assert (found["segment_ids"][:, 1:] == found["segment_ids"][:, :-1])[asked].all()
    assert (found["labels"][:, 0] == IGNORE_LABEL).all()
    assert asked.sum() == sum(len(sequence) - 1 for sequence in sequences)
    assert (found["position_ids"][:, 1:] == found["position_ids"][:, :-1] + 1)[asked].all()
    assert found["input_ids"].dtype == found["labels"].dtype == np.int32


@pytest.mark.parametrize("length, position, segment", [(256, np.uint8, np.int16), (2**15, np.int16, np.int32)])
def test_positions_and_segments_do_not_wrap(length, position, segment):
    budget = Budget(tokens=length)
    ids = Ragged.from_list([np.arange(length, dtype=np.int32), *[np.array([5], np.int32)] * length])
    packs = (np.arange(length + 1), np.array([0, 1, length + 1]))
    found = collate_tokens(packs, budget, ids)
    assert found["position_ids"].dtype == position and found["position_ids"][0].tolist() == list(range(length))
    assert found["segment_ids"].dtype == segment and found["segment_ids"][1].tolist() == list(range(1, length + 1))


def test_too_many_tokens_or_segments_are_refused():
    ids = Ragged.from_list([np.arange(3), np.arange(4)])
    packs = (np.array([0, 1]), np.array([0, 2]))
    with pytest.raises(ValueError, match="holds 7 tokens, the budget 6"):
        collate_tokens(packs, Budget(tokens=6), ids)
    with pytest.raises(ValueError, match="holds 2 segments, the budget 1"):
        collate_tokens(packs, Budget(tokens=7, segments=1), ids)
    with pytest.raises(ValueError, match="how many tokens"):
        collate_tokens(packs, Budget(nodes=7), ids)
