"""Odd and bad inputs of `packing`, in tables: each is right, or refused in one sentence; nothing is lost silently."""

import numpy as np
import pytest

from packing import Budget, Cost, Ragged, make_plan
from packing.collate import collate_graphs, collate_tokens, expand_masks
from packing.make_plan import estimate_packs
from packing.streaming import StreamPacker
from packing.types import offsets_of

BUDGET = Budget(nodes=10)
SIZES = np.random.default_rng(0).integers(1, 10, 60)
PLAN = make_plan(SIZES, BUDGET)


class MapStyle:
    """A data set: numpy would read all of its items to make an array."""

    def __len__(self):
        return 3

    def __getitem__(self, item):
        raise AssertionError("the data set was read")


class ArrayLike:
    """Of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def refused(call, words):
    """The call raises one sentence with these words."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert words in text and "\n" not in text and text.endswith("."), text


RIGHT_SIZES = {
    "list": [3, 4, 5],
    "tuple": (3, 4, 5),
    "range": range(3, 6),
    "list of numpy integers": [np.int64(3), np.int8(4), np.uint16(5)],
    "int8": np.array([3, 4, 5], np.int8),
    "uint64": np.array([3, 4, 5], np.uint64),
    "other byte order": np.array([3, 4, 5], ">i4"),
    "strided": np.array([3, 0, 4, 0, 5, 0])[::2],
    "read only": np.broadcast_to(np.int64(4), 3),
    "another library's": ArrayLike([3, 4, 5]),
    "mask without masked": np.ma.array([3, 4, 5], mask=False),
    "further dimensions": {"nodes": [3, 4, 5], "edges": [1, 1, 1]},
}


@pytest.mark.parametrize("name", list(RIGHT_SIZES))
def test_sizes_are_taken_in_every_form(name):
    plan = make_plan(RIGHT_SIZES[name], BUDGET)
    assert sorted(plan.items.tolist()) == [0, 1, 2] and plan.sizes.sum() == 12
    assert plan.check(RIGHT_SIZES[name]) is None


@pytest.mark.parametrize("sizes", [[], (), np.array([]), np.zeros(0, int), {"nodes": []}])
def test_no_items_are_no_packs(sizes):
    plan = make_plan(sizes, BUDGET)
    assert plan.num_packs == len(plan.epoch(0, 0, 4)) == plan.lower_bound == 0
    assert len(plan.epoch(0, 0, 4, balance=Cost(1.0))) == 0 and estimate_packs(sizes, BUDGET) == 0


BAD_SIZES = {
    "nan": (np.array([1, np.nan]), "not float64 of shape (2,)"),
    "infinite": (np.array([np.inf]), "not float64"),
    "float": ([1.0, 2.0], "not a list of float"),
    "mixed": ([1, 2.5], "not float64"),
    "bool": ([True, False], "not bool"),
    "text": (["3", "4"], "not a list of str"),
    "one text": ("abc", "not a str of str"),
    "bytes": (b"abc", "not |S3"),
    "nothing": (None, "not a NoneType"),
    "objects": (np.array([1, None], object), "not object"),
    "too long for int64": ([1, 2**70], "not object"),
    "complex": (np.array([1 + 0j]), "not complex128"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), "not datetime64[D]"),
    "a number": (3, "not a int"),
    "a numpy number": (np.int64(3), "not int64 of shape ()"),
    "a table": (np.ones((2, 2), int), "not int64 of shape (2, 2)"),
    "a set": ({1, 2}, "not a set"),
    "a generator": ((size for size in [1]), "not a generator"),
    "a data set": (MapStyle(), "not a MapStyle"),
    "its items": ([np.zeros(3), np.zeros(4)], "not a list of ndarray"),
    "its items of one length": ([np.zeros(3), np.zeros(3)], "not a list of ndarray"),
    "lists": ([[1], [1, 2]], "not a list of list"),
    "masked": (np.ma.array([1, 2], mask=[0, 1]), "with masked values"),
    "zero": ([3, 0], "item 1 has 0 nodes and needs 1 or more"),
    "negative": ([3, -2], "item 1 has -2 nodes and needs 1 or more"),
    "huge": ([3, 2**40], "item 1 has 1099511627776 nodes; sizes stay below 2**31"),
    "huge without a sign": (np.array([3, 2**63], np.uint64), "item 1 has 9223372036854775808 nodes"),
    "of another name": ({"atoms": [1]}, "no sizes were given for nodes"),
    "above the budget": ([3, 11, 2, 12], "item 1 (11 nodes) is larger than the budget (nodes=10), in all 2 of 4 items"),
}


@pytest.mark.parametrize("name", list(BAD_SIZES))
@pytest.mark.parametrize(
    "use", [make_plan, estimate_packs, lambda sizes, budget: StreamPacker(budget).push(np.arange(4), sizes)]
)
def test_bad_sizes_are_one_sentence(name, use):
    sizes, words = BAD_SIZES[name]
    if name == "above the budget" and use not in (make_plan, estimate_packs):
        words = "item 1 (11 nodes) is larger than the budget (nodes=10)"
    refused(lambda: use(sizes, BUDGET), words)


TWO = Budget(nodes=10, edges=10)
BAD_CALLS = {
    "budget of a number": (lambda: make_plan([1], 10), "10 is no budget; give packing.Budget(nodes=128)"),
    "budget of a dict": (lambda: make_plan([1], {"nodes": 10}), "is no budget"),
    "stream of a number": (lambda: StreamPacker(10), "10 is no budget"),
    "capacity of half": (lambda: Budget(nodes=1.5), "a capacity is an integer"),
    "capacity of text": (lambda: Budget(nodes="10"), "a capacity is an integer"),
    "capacity true": (lambda: Budget(nodes=True), "a capacity is an integer"),
    "two dimensions, one array": (lambda: make_plan([1], TWO), "needs sizes as {name: array} for nodes, edges"),
    "lengths differ": (lambda: make_plan({"nodes": [1, 2], "edges": [1]}, TWO), "there are 1 sizes of edges and 2 of"),
    "negative edges": (
        lambda: make_plan({"nodes": [1], "edges": [-1]}, TWO),
        "item 0 has -1 edges and needs 0 or more",
    ),
    "plan seed": (lambda: make_plan([1], BUDGET, seed=-1), "seed=-1: give a whole number of 0 or more"),
    "plan seed of chance": (lambda: make_plan([1], BUDGET, seed=None), "seed=None"),
    "no time": (lambda: make_plan([1], BUDGET, time_limit=None), "time_limit=None: give seconds"),
    "nan seconds": (lambda: make_plan([1], BUDGET, time_limit=float("nan")), "time_limit=nan: give seconds"),
    "negative seconds": (lambda: make_plan([1], BUDGET, time_limit=-1), "time_limit=-1: give seconds, 0 or more"),
    "cost of text": (lambda: Cost("a"), "weights of a cost are 0 or more"),
    "cost nan": (lambda: Cost(float("nan")), "weights of a cost are 0 or more"),
    "cost of nothing": (lambda: Cost(1.0).of_items({}), "there are none"),
    "cost above all numbers": (lambda: PLAN.epoch(0, 0, 4, Cost(quadratic=1e308)), "costs inf; costs are finite"),
    "balance of a number": (lambda: PLAN.epoch(0, 0, 4, 1.0), "one number for each of the 60 items"),
    "balance of a dict": (lambda: PLAN.epoch(0, 0, 4, {"quadratic": 1}), "a cost is packing.Cost(...)"),
    "epoch seed": (lambda: PLAN.epoch(0.5, 0), "seed=0.5"),
    "epoch number": (lambda: PLAN.epoch(0, None), "epoch=None"),
    "epoch multiple": (lambda: PLAN.epoch(0, 0, 1.5), "multiple=1.5: give a whole number of 1 or more"),
    "multiple of none": (lambda: PLAN.in_order(0), "multiple=0: give a whole number of 1 or more"),
    "multiple below none": (lambda: PLAN.in_order(-1), "multiple=-1"),
    "rank of half": (lambda: PLAN.epoch(0, 0, 4).shard(0.5, 4), "rank=0.5"),
    "rank beyond": (lambda: PLAN.epoch(0, 0, 4).shard(4, 4), "rank=4 is not one of 0 .. 3"),
    "no ranks": (lambda: PLAN.epoch(0, 0, 4).shard(0, 0), "world=0"),
}


@pytest.mark.parametrize("name", list(BAD_CALLS))
def test_bad_calls_are_one_sentence(name):
    refused(*BAD_CALLS[name])


def stream(**options):
    return StreamPacker(BUDGET, buffer_size=20, **options)


BAD_STREAMS = {
    "buffer": (lambda: StreamPacker(BUDGET, 1.5), "buffer_size=1.5"),
    "wait": (lambda: stream(max_wait=2.5), "max_wait=2.5"),
    "endless wait": (lambda: stream(max_wait=float("inf")), "max_wait=inf"),
    "seed": (lambda: stream(seed=None), "seed=None"),
    "weights of a list": (lambda: stream(weights=["a"]), "give every corpus a weight above 0"),
    "weights of text": (lambda: stream(weights={"a": "x"}), "give every corpus a weight above 0"),
    "weight nan": (lambda: stream(weights={"a": float("nan")}), "give every corpus a weight above 0"),
    "ids of text": (lambda: stream().push(["a"], [1]), "ids are one integer per item, not <U1"),
    "ids that are cut": (lambda: stream().push([0.5], [1]), "ids are one integer per item, not float64"),
    "ids that wrap": (lambda: stream().push(np.array([2**63], np.uint64), [1]), "not uint64"),
    "ids of a table": (lambda: stream().push([[1]], [1]), "of shape (1, 1)"),
    "corpus": (lambda: stream(weights={"a": 1}).push([1], [1], ["a"]), "there are a"),
}


@pytest.mark.parametrize("name", list(BAD_STREAMS))
def test_bad_streams_are_one_sentence(name):
    refused(*BAD_STREAMS[name])


def saved():
    packer = stream(weights={"a": 1})
    packer.push(np.arange(50), SIZES[:50], "a")
    return packer.state_dict()


BAD_STATES = {
    "none": (lambda state: None, "no state of a StreamPacker"),
    "other": (lambda state: {"epoch": 0}, "it has no budget, buffer_size"),
    "fewer ids": (lambda state: {**state, "ids": state["ids"][:-1]}, "damaged"),
    "more than the buffer": (
        lambda state: {**state, "ids": np.arange(50), "sizes": SIZES[:50, None], "arrived": np.arange(50)},
        "damaged",
    ),
    "half ids": (lambda state: {**state, "ids": state["ids"] + 0.5}, "damaged"),
    "above the budget": (lambda state: {**state, "sizes": state["sizes"] + 50}, "damaged"),
    "patterns of others": (lambda state: {**state, "patterns": np.zeros((2, 99), int)}, "damaged"),
    "no chance": (lambda state: {**state, "random": {}}, "damaged"),
    "another algorithm": (lambda state: {**state, "linear": not state["linear"]}, "with the same algorithm"),
    "other weights": (lambda state: {**state, "weights": None}, "the saved stream has weights=None"),
}


@pytest.mark.parametrize("name", list(BAD_STATES))
def test_bad_states_of_streams_leave_the_stream_as_it_was(name):
    change, words = BAD_STATES[name]
    packer = stream(weights={"a": 1})
    refused(lambda: packer.load_state_dict(change(saved())), words)
    packs = [*packer.push(np.arange(60), SIZES, "a"), *packer.flush()]
    assert sorted(np.concatenate(packs).tolist()) == list(range(60))


def test_a_state_survives_json():
    import json

    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in saved().items()}
    packers = [stream(weights={"a": 1}) for _ in range(2)]
    for packer, state in zip(packers, (saved(), json.loads(json.dumps(plain)))):
        packer.load_state_dict(state)
    one, other = (
        [pack.tolist() for pack in (*p.push(np.arange(50, 60), SIZES[50:], "a"), *p.flush())] for p in packers
    )
    assert one == other and len(one) > 2


LENGTHS = (3, 4, 5, 1)
Z = Ragged(np.arange(13, dtype=np.float32), offsets_of(LENGTHS))
PAIRS = np.array([[0, 1], [1, 0], [0, 3], [3, 0], [1, 1], [2, 0]])  # two edges, four, none and none
EDGES = Ragged(PAIRS, np.array([0, 2, 6, 6, 6]))
GRAPHS = Budget(nodes=10, edges=12, graphs=3)
ONE, TWO_PACKS = (np.array([0, 1]), np.array([0, 2])), (np.array([0, 1, 2, 3]), np.array([0, 2, 4]))


def field(lengths, *shape):
    return Ragged(np.zeros((sum(lengths), *shape), np.float32), offsets_of(lengths))


def edges(values, offsets=EDGES.offsets):
    return {"edge_index": Ragged(values, offsets)}


BAD_FIELDS = {
    "no field": ({"nodes": {}}, "with one field or more"),
    "an array": ({"nodes": {"z": Z.values}}, "field z is a ndarray; give Ragged(values, offsets)"),
    "atoms of others": ({"nodes": {"z": Z, "pos": field((4, 3, 5, 1), 3)}}, "pos does not have the nodes of z"),
    "fewer molecules": ({"nodes": {"z": Z, "pos": field((3, 4), 3)}}, "pos does not have the nodes of z"),
    "edges of fewer": (edges(PAIRS, np.array([0, 2, 6])), "for each of the 4 items of z"),
    "edges in floats": (edges(PAIRS.astype(float)), "not float64"),
    "edges of three": (edges(np.zeros((6, 3), int)), "shape (6, 3)"),
    "edges turned": (edges(np.zeros(6, int)), "shape (6,)"),
    "edges counted over all": (edges(PAIRS + 5), "an edge of item 0 joins node 6 and the item has 3"),
    "edges that wrap": (edges(PAIRS + 256), "joins node 257"),
    "edges that wrap in int16": (edges(PAIRS + 2**16), "joins node 65537"),
    "negative edges": (edges(PAIRS - 1), "joins node -1"),
    "into the next molecule": (
        edges(np.where(PAIRS == 3, 4, PAIRS)),
        "an edge of item 1 joins node 4 and the item has 4",
    ),
    "lengths of other edges": (
        {**edges(PAIRS), "edge_fields": {"d": field((2, 3, 1, 0))}},
        "d does not have the edges",
    ),
    "an array for edges": ({**edges(PAIRS), "edge_fields": {"d": np.zeros(6)}}, "field d is a ndarray"),
    "edge fields alone": ({"edge_fields": {"d": field((2, 4, 0, 0))}}, "without an edge_index"),
    "one name": ({**edges(PAIRS), "edge_fields": {"z": field((2, 4, 0, 0))}}, "would be named 'z'"),
    "our name": ({"nodes": {"z": Z, "graph_ends": Z}}, "would be named 'graph_ends'"),
    "fewer labels": ({"per_graph": {"y": np.zeros(3)}}, "no row for each of 4 items"),
    "no labels": ({"per_graph": {"y": np.zeros(0)}}, "no row for each of 4 items"),
    "one label": ({"per_graph": {"y": 3.0}}, "no row for each of 4 items"),
}


@pytest.mark.parametrize("packs", [ONE, TWO_PACKS], ids=["one", "several"])
@pytest.mark.parametrize("name", list(BAD_FIELDS))
def test_fields_that_do_not_belong_together_are_refused(name, packs):
    arguments, words = BAD_FIELDS[name]
    refused(lambda: collate_graphs(packs, GRAPHS, **{"nodes": {"z": Z}, **arguments}), words)


BAD_PACKS = {
    "none": (None, "as Epoch.slice gives them"),
    "an array": (np.array([0, 1]), "as Epoch.slice gives them"),
    "floats": ((np.array([0.0, 1.0]), np.array([0, 1, 2])), "of integers"),
    "truth": ((np.array([True, False]), np.array([0, 2])), "of integers"),
    "no offsets": ((np.zeros(0, int), np.zeros(0, int)), "do not cut 0 items"),
    "too few offsets": ((np.array([0, 1]), np.array([0, 1])), "do not cut 2 items"),
    "falling": ((np.array([0, 1]), np.array([0, 2, 1, 2])), "offsets of pack 1 fall"),
    "beyond": ((np.array([9]), np.array([0, 1])), "item 9 of a pack is none of the 4 items"),
    "beyond in several": ((np.array([0, 9]), np.array([0, 1, 2])), "item 9 of a pack"),
    "negative": ((np.array([-1]), np.array([0, 1])), "item -1 of a pack"),
    "negative in several": ((np.array([0, -2]), np.array([0, 1, 2])), "item -2 of a pack"),
    "too many graphs": ((np.array([3, 3, 3, 3]), np.array([0, 4])), "pack 0 of the batch holds 4 graphs, the budget 3"),
    "too many nodes": ((np.array([2, 2, 1]), np.array([0, 3])), "pack 0 of the batch holds 14 nodes, the budget 10"),
}


@pytest.mark.parametrize("name", list(BAD_PACKS))
def test_packs_that_are_none_are_refused(name):
    packs, words = BAD_PACKS[name]
    refused(lambda: collate_graphs(packs, GRAPHS, {"z": Z}, EDGES), words)


@pytest.mark.parametrize(
    "packs", [([0, 1], [0, 2]), ([0, 1, 2, 3], [0, 2, 4]), ([], [0, 0]), ([], [0, 0, 0]), ([2, 3], [5, 6, 7])]
)
def test_packs_are_taken_as_lists(packs):
    arrays = collate_graphs(packs, GRAPHS, {"z": Z}, EDGES, {"y": [1.0, 2.0, 3.0, 4.0]})
    assert arrays["y"].sum() == sum(item + 1 for item in packs[0]) and arrays["edge_index"].max(initial=0) <= 9


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.float16, np.float64, complex, object])
@pytest.mark.parametrize("packs", [ONE, TWO_PACKS], ids=["one", "several"])
def test_fields_keep_every_dtype(dtype, packs):
    arrays = collate_graphs(packs, GRAPHS, {"z": Ragged(np.ones(13, dtype), Z.offsets)}, None, {"y": np.ones(4, dtype)})
    assert arrays["z"].dtype == arrays["y"].dtype == np.dtype(dtype)
    assert arrays["z"].astype(bool).sum(1).tolist() == [7, 6][: len(arrays["z"])] and not arrays["y"][:, 2:].any()


def test_masks_of_another_budget_are_refused():
    arrays = collate_graphs(ONE, GRAPHS, {"z": Z})
    for budget in (Budget(nodes=5, graphs=3), Budget(nodes=10, graphs=5)):
        refused(lambda budget=budget: expand_masks(arrays, budget), "give the one of their collation")
    refused(lambda: expand_masks(arrays, Budget(nodes=10)), "must say how many graphs")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0.5, 1.0, 2.0]), "not float64"),
        (np.array([1, 2**40, 3]), "to 1099511627776"),
        (np.array([1, -5, 3]), "from -5"),
        (np.ones((3, 2), int), "token ids are integers"),
    ],
)
def test_token_ids_are_not_cut(values, words):
    ids = Ragged(values, np.array([0, 3]))
    refused(lambda: collate_tokens((np.array([0]), np.array([0, 1])), Budget(tokens=8, segments=2), ids), words)


def test_ragged_arrays_are_checked():
    assert Ragged([1, 2, 3], [0, 1, 3]).lengths.tolist() == [1, 2] and len(Z.take([])) == 0
    for build, words in (
        (lambda: Ragged([1, 2], np.array([0.0, 2.0])), "offsets of a Ragged are integers"),
        (lambda: Ragged.from_list([np.zeros((2, 3)), np.zeros((2, 2))]), "item 1 has shape (2, 2) and item 0 (2, 3)"),
        (lambda: Ragged.from_list([1, 2]), "item 0 has shape ()"),
    ):
        refused(build, words)
    for items in ([-1], [4], [0, 9]):
        with pytest.raises(IndexError, match="of a Ragged with 4 items"):
            Z.take(items)
