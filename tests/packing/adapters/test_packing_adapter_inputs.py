"""Odd and bad inputs of the adapters, in tables: each is right, or refused in one sentence."""

import pickle

import numpy as np
import pytest

from packing import Budget, make_plan


def refused(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert words in text and "\n" not in text and text.endswith("."), text


def pyg_graph(n, edges=None, **more):
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed: NOT tested")
    index = torch.arange(n if edges is None else edges).repeat(2, 1) % n
    return data.Data(x=torch.full((n, 2), float(n)), edge_index=index, y=torch.tensor([float(n)]), **more)


def pyg_batches(graphs, budget=None, **options):
    from packing.adapters.pyg import PackBatchSampler, fixed_size_collate

    sampler = PackBatchSampler(graphs, Budget(nodes=40, edges=60) if budget is None else budget, shuffle=False)
    collate = fixed_size_collate(sampler.budget, **options)
    return [collate([graphs[item] for item in pack]) for pack in sampler]


def numbers(n):
    import torch

    return torch.ones(n)


PYG_RIGHT = {
    "truth": lambda n: numbers(n) > 0,
    "float64": lambda n: numbers(n).double(),
    "bfloat16": lambda n: numbers(n).bfloat16(),
    "int8": lambda n: numbers(n).char(),
    "complex": lambda n: numbers(n) * 1j,
    "text": lambda n: f"molecule {n}",
    "integer": lambda n: n,
    "half": lambda n: n / 2,
    "yes or no": lambda n: n % 2 == 0,
    "tensor without axes": lambda n: numbers(n)[0],
    "row of a graph": lambda n: numbers(3)[None],
    "nothing": lambda n: None,
}


@pytest.mark.parametrize("name", list(PYG_RIGHT))
def test_pyg_attributes_of_every_kind(name):
    graphs = [pyg_graph(n, more=PYG_RIGHT[name](n)) for n in range(3, 25)]
    shapes, seen = set(), []
    for batch in pyg_batches(graphs):
        shapes.add(
            tuple(
                (key, tuple(value.shape)) for key, value in sorted(batch.to_dict().items()) if hasattr(value, "shape")
            )
        )
        seen += batch.y[batch.graphs_mask].tolist()
        if name != "nothing" and hasattr(graphs[0].more, "dtype"):
            assert batch.more.dtype == graphs[0].more.dtype
    assert len(shapes) == 1 and sorted(seen) == list(range(3, 25))


@pytest.mark.parametrize("edges", [(0, 0), (0, 5), (5, 0)])
def test_pyg_graphs_without_edges_and_with_loops(edges):
    (batch,) = pyg_batches([pyg_graph(3, edges[0]), pyg_graph(4, edges[1])])
    real = batch.edge_index[:, batch.edges_mask]
    assert real.shape == (2, sum(edges)) and (real[0] == real[1]).all()
    assert not batch.nodes_mask[batch.edge_index[:, ~batch.edges_mask]].any()


def several(**more):
    return [pyg_graph(n, **{name: make(n) for name, make in more.items()}) for n in (3, 4, 5)]


PYG_BAD = {
    "a number for a budget": (lambda: pyg_batches(several(), 40), "40 is no budget"),
    "tokens": (lambda: pyg_batches(several(), Budget(tokens=40)), "the budget measures tokens"),
    "no edges in the budget": (lambda: pyg_batches(several(), Budget(nodes=40)), "a constant shape needs edges"),
    "beyond the budget": (lambda: pyg_batches(several(), Budget(nodes=4, edges=9)), "in all 1 of 3 items"),
    "lists": (lambda: pyg_batches(several(a=lambda n: [1] * n)), "attribute 'a' is a list, which has no padding"),
    "arrays": (lambda: pyg_batches(several(a=np.ones)), "pad_graph_defaults={'a': ...}"),
    "in some graphs": (
        lambda: pyg_batches([*several(), pyg_graph(6, a=numbers(6))]),
        "some graphs of a pack have the attribute 'a' and others not",
    ),
    "square": (lambda: pyg_batches(several(a=lambda n: numbers(n * n).reshape(n, n))), "which cannot be joined"),
    "other sizes": (lambda: pyg_batches(several(a=lambda n: numbers(n % 2 + 7))), "say what it belongs to"),
    "a name of ours": (lambda: pyg_batches(several(nodes_mask=numbers)), "a mask 'nodes_mask' of its own"),
    "nodes from edges": (
        lambda: pyg_batches([type(graph)(edge_index=graph.edge_index) for graph in several()]),
        "set data.num_nodes",
    ),
    "a wrong level": (lambda: pyg_batches(several(), levels={"x": "graph"}), "is none of a graph"),
    "level of nothing": (lambda: pyg_batches(several(), levels={"q": "node"}), "no graph has the attribute 'q'"),
    "padding of nothing": (lambda: pyg_batches(several(), node_pad_value={"q": 1}), "no graph has the attribute 'q'"),
    "text of keys": (lambda: pyg_batches(several(), exclude_keys="edge_attr"), "are lists of attributes"),
}


@pytest.mark.parametrize("name", list(PYG_BAD))
@pytest.mark.filterwarnings("ignore:Unable to accurately infer")
def test_pyg_bad_input(name):
    pyg_graph(1)
    refused(*PYG_BAD[name])


def test_pyg_plans_and_data_sets_that_change():
    from packing.adapters.pyg import PackBatchSampler

    graphs, budget = [pyg_graph(n) for n in range(3, 9)], Budget(nodes=40, edges=60)
    sizes = {name: np.arange(3, 9) for name in ("nodes", "edges")}
    sampler = PackBatchSampler(graphs, budget, plan=make_plan(sizes, budget))
    assert sorted(sum(sampler, [])) == list(range(6)) == sorted(sum(pickle.loads(pickle.dumps(sampler)), []))
    refused(lambda: PackBatchSampler(graphs, Budget(nodes=9), plan=sampler.plan), "give budget=None, or no plan")
    graphs.append(pyg_graph(3))
    refused(lambda: list(sampler), "the data set has 7 graphs and had 6")


def jraph_graph(n, edges=1, **more):
    jraph = pytest.importorskip("jraph", reason="jraph is not installed: its adapter was NOT tested")
    ends = np.zeros(edges, np.int32)
    parts = {"nodes": np.ones((n, 2)), "edges": None, "globals": None, **more}
    return jraph.GraphsTuple(senders=ends, receivers=ends, n_node=np.array([n]), n_edge=np.array([edges]), **parts)


JRAPH_BAD = {
    "beyond the batch": (([(8, 1)], (8, 9, 4)), "n_node=9, n_edge=9, n_graph=4 hold every graph"),
    "numbers of half": (([(8, 1)], (9.5, 9, 4)), "n_node=9.5: give a whole number"),
    "text": (([(8, 1)], (9, "9", 4)), "n_edge='9'"),
    "no nodes": (([(0, 0)], (9, 9, 4)), "item 0 has 0 nodes"),
}


@pytest.mark.parametrize("name", list(JRAPH_BAD))
def test_jraph_bad_input(name):
    from packing.adapters.jraph import dynamically_batch

    (graphs, shape), words = JRAPH_BAD[name]
    refused(lambda: dynamically_batch([jraph_graph(*graph) for graph in graphs], *shape), words)


def test_jraph_graphs_that_differ():
    from packing.adapters.jraph import dynamically_batch

    mixed = [jraph_graph(3), jraph_graph(4, globals=np.ones((1, 2)))]
    refused(lambda: dynamically_batch(mixed, 20, 20, 4), "graph 1 and graph 0 differ in having globals")
    refused(lambda: dynamically_batch([1, 2], 20, 20, 4), "graph 0 is a int; give jraph.GraphsTuple")


ELEMENTS = [{"tokens": np.ones(n % 19 + 1, np.int32)} for n in range(40)]
GRAIN_BAD = {
    "a generator": (lambda pack: pack(iter(ELEMENTS)), "has no end or no random access"),
    "no features": (lambda pack: pack(ELEMENTS, {}), "length_struct names no feature"),
    "another feature": (lambda pack: pack(ELEMENTS, {"ids": 64}), "element 0 has tokens, and packs are made of ids"),
    "beyond the pack": (lambda pack: pack(ELEMENTS, {"tokens": 5}), "is larger than the budget (tokens=5)"),
    "an empty element": (lambda pack: pack([{"tokens": np.zeros(0, int)}]), "item 0 has 0 tokens"),
    "a number": (lambda pack: pack([{"tokens": 3}]), "'tokens' of element 0 is a int, not an array"),
    "text": (lambda pack: pack([{"tokens": "abc"}]), "'tokens' of element 0 is a str, not an array"),
    "arrays": (lambda pack: pack([np.ones(3)]), "element 0 is a ndarray"),
    "nothing": (lambda pack: pack([None]), "element 0 is a NoneType"),
    "half a length": (lambda pack: pack(ELEMENTS, {"tokens": 64.5}), "a capacity is an integer"),
    "two of one name": (
        lambda pack: pack([{"a": np.ones(3), "a_positions": np.ones(3)}], {"a": 8, "a_positions": 8}),
        "would be named 'a_positions'",
    ),
    "padding of nothing": (lambda pack: pack(ELEMENTS, padding_struct={"toks": 1}), "padding_struct names 'toks'"),
    "padding that is cut": (lambda pack: pack(ELEMENTS, padding_struct={"tokens": 0.5})[0], "does not hold 0.5"),
    "seed": (lambda pack: pack(ELEMENTS, seed=-1), "seed=-1"),
    "lengths of fewer": (lambda pack: pack(ELEMENTS, lengths={"tokens": [3] * 30}), "for all of 40 elements"),
    "lengths of another": (lambda pack: pack(ELEMENTS, lengths={"ids": [3] * 40}), "for all of 40 elements"),
}


@pytest.mark.parametrize("name", list(GRAIN_BAD))
def test_grain_bad_input(name):
    pytest.importorskip("grain", reason="grain is not installed: its adapter was NOT tested")
    from packing.adapters.grain import planned_packs

    def pack(elements, struct=None, **options):
        return planned_packs(elements, length_struct={"tokens": 64} if struct is None else struct, **options)

    call, words = GRAIN_BAD[name]
    refused(lambda: call(pack), words)


def test_grain_features_named_like_counts_and_copies():
    pytest.importorskip("grain", reason="grain is not installed: its adapter was NOT tested")
    from packing.adapters.grain import planned_packs

    elements = [{"segments": np.ones(n % 5 + 1), "graphs": np.ones(2)} for n in range(20)]
    packs = planned_packs(elements, length_struct={"segments": 9, "graphs": 6})
    assert sum(packs[index]["graphs"].sum() for index in range(len(packs))) == 40
    copied = pickle.loads(pickle.dumps(packs))
    assert all((copied[index]["segments"] == packs[index]["segments"]).all() for index in range(len(packs)))
    with pytest.raises(IndexError, match="a data set without elements"):
        planned_packs([], length_struct={"tokens": 8})[0]


def rows(lengths=(3, 5, 2), **columns):
    # By a module of its own: a folder of tests is called datasets, too.
    module = pytest.importorskip(
        "datasets.arrow_dataset", reason="datasets is not installed: pack_dataset was NOT tested"
    )
    tokens = [list(range(1, n + 1)) for n in lengths]
    return module.Dataset.from_dict({"input_ids": tokens, **{name: make(lengths) for name, make in columns.items()}})


HF_BAD = {
    "rows that are padded": (
        lambda pack: pack(rows(attention_mask=lambda lengths: [[1] * (n - 1) + [0] for n in lengths]), 8),
        "tokenize with padding=False",
    ),
    "positions that do not count": (
        lambda pack: pack(rows(position_ids=lambda lengths: [list(range(5, 5 + n)) for n in lengths]), 8),
        "do not count from 0; remove the column",
    ),
    "labels of other lengths": (
        lambda pack: pack(rows(labels=lambda lengths: [[1] * (n - 1) for n in lengths]), 8),
        "row 0 has 2 values of 'labels' and 3 of 'input_ids'",
    ),
    "a row of nothing": (
        lambda pack: pack(rows(labels=lambda lengths: [[1] * 3, None, [1] * 2]), 8),
        "no value in 'labels'",
    ),
    "a token of nothing": (
        lambda pack: pack(rows(labels=lambda n: [[1, 2, None], [1] * 5, [1] * 2]), 8),
        "no value in",
    ),
    "text beside": (lambda pack: pack(rows(text=lambda lengths: ["a"] * 3), 8), "column 'text' holds string"),
    "packed before": (lambda pack: pack(pack(rows(), 8), 8), "column 'seq_lengths'"),
    "a transform": (
        lambda pack: pack(rows().with_transform(lambda batch: batch), 8),
        "apply it once, with dataset.map()",
    ),
    "options of ours": (lambda pack: pack(rows(), 8, map_kwargs={"batched": False}), "map_kwargs has 'batched'"),
    "longer": (lambda pack: pack(rows((3, 9)), 8), "row 1 has 9 tokens, where 1 to 8 can be packed, as 1 of 2 rows"),
    "half a budget": (lambda pack: pack(rows(), 8.5), "a capacity is an integer"),
    "a stream": (lambda pack: pack(rows().to_iterable_dataset(), 8), "packing.streaming.StreamPacker"),
    "seed": (lambda pack: pack(rows(), 8, seed=-1), "seed=-1"),
}


@pytest.mark.parametrize("name", list(HF_BAD))
def test_hugging_face_bad_data_sets(name):
    rows()
    from packing.adapters.huggingface import pack_dataset

    call, words = HF_BAD[name]
    refused(lambda: call(pack_dataset), words)


def test_hugging_face_data_sets_without_rows_keep_their_columns():
    empty = rows(labels=lambda lengths: [[1] * n for n in lengths]).select([])
    from packing.adapters.huggingface import pack_dataset

    packed = pack_dataset(empty, 8)
    assert len(packed) == 0 and packed.column_names == ["input_ids", "labels", "position_ids", "seq_lengths"]
    assert len(pack_dataset(rows((9, 9)), 8, oversize="skip")) == 0


GOOD = {"input_ids": [1, 2, 3], "seq_lengths": [3]}
FEATURES_BAD = {
    "fewer labels": ({"labels": [1]}, {}, "labels of row 0 are int64 of shape (1,); give 3 integers"),
    "one label": ({"labels": 1}, {}, "give 3 integers"),
    "no labels": ({"labels": None}, {}, "give 3 integers"),
    "half tokens": ({"input_ids": [1.5, 2, 3]}, {}, "input_ids of row 0 are float64"),
    "text": ({"input_ids": "abc"}, {}, "input_ids of row 0 are <U3"),
    "empty sequences": ({"seq_lengths": [3, 0]}, {}, "pack to the same number"),
    "negative sequences": ({"seq_lengths": [4, -1]}, {}, "pack to the same number"),
    "sequences of half": ({"seq_lengths": [1.5, 1.5]}, {}, "seq_lengths of row 0 are float64"),
    "no length": ({}, {"max_length": None}, "max_length=None: give a whole number"),
    "no tokens": ({}, {"max_length": 0}, "max_length=0"),
    "no padding": ({}, {"pad_token_id": None}, "pad_token_id=None: give any integer"),
    "another dtype": ({}, {"dtype": "int64"}, "dtype='int64': choose float32"),
    "no segments": ({}, {"segments": 0}, "segments=0: give a whole number of 1"),
}


@pytest.mark.parametrize("name", list(FEATURES_BAD))
def test_hugging_face_rows_that_cannot_be_collated(name):
    pytest.importorskip("torch")
    from packing.adapters.huggingface import DataCollatorForPacks

    changed, options, words = FEATURES_BAD[name]
    refused(lambda: DataCollatorForPacks(**{"max_length": 8, **options})([{**GOOD, **changed}]), words)


def test_hugging_face_sequences_of_a_pack_agree():
    pytest.importorskip("torch")
    from packing.adapters.huggingface import DataCollatorForPacks

    collate = DataCollatorForPacks(8, from_batch_sampler=True)
    one, other = {"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3, 4, 5]}
    for pack in ([one, other], [other, one]):
        refused(lambda pack=pack: collate(pack), "has no labels, which others have")
    refused(lambda: collate([{**one, "labels": [1]}, {**other, "labels": [2, 3, 4, 5]}]), "labels of row 0")
    refused(lambda: collate([]), "a batch has no rows")
    refused(lambda: collate([{"labels": [1]}]), "has no input_ids")
