"""Streaming: every item leaves once, in good company, whatever the pushes look like."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import HYDRONET_500K, QM9, check_packs, instances, rows_of, sizes_of

from packing import Budget, make_plan, streaming
from packing.streaming import StreamPacker


def pieces(sizes, cuts):
    """(ids, sizes) in chunks that end at the given places."""
    count = len(next(iter(sizes.values())))
    for start, stop in zip([0, *cuts], [*cuts, count]):
        yield np.arange(start, stop), {name: values[start:stop] for name, values in sizes.items()}


def packs_of(epoch):
    return [tuple(epoch[p].tolist()) for p in range(len(epoch))]


def stream(packer, chunks):
    packs = []
    for ids, sizes in chunks:
        packs += packs_of(packer.push(ids, sizes))
        assert packer.waiting < packer.buffer_size
    return packs + packs_of(packer.flush())


@st.composite
def streams(draw):
    sizes, budget = draw(instances(max_items=60))
    count = len(sizes["nodes"])
    cuts = sorted(draw(st.lists(st.integers(0, count), max_size=6)))
    return sizes, budget, draw(st.integers(1, 25)), draw(st.sampled_from(["auto", "best_fit"])), cuts


@given(streams())
def test_every_item_leaves_once_within_the_budget(case):
    sizes, budget, buffer_size, algorithm, cuts = case
    packer = StreamPacker(budget, buffer_size, algorithm)
    packs = stream(packer, pieces(sizes, cuts))
    check_packs(packs, rows_of(sizes, budget), budget)
    assert all(packs) and packer.waiting == 0 and len(packer.flush()) == 0


@given(streams())
def test_packs_do_not_depend_on_how_pushes_are_cut(case):
    sizes, budget, buffer_size, algorithm, cuts = case
    whole = stream(StreamPacker(budget, buffer_size, algorithm, seed=2), pieces(sizes, []))
    assert stream(StreamPacker(budget, buffer_size, algorithm, seed=2), pieces(sizes, cuts)) == whole


@given(streams(), st.data(), st.sampled_from([250, 3]))
def test_a_resumed_stream_gives_the_same_packs(case, data, classes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_MAX_CLASSES", classes)  # more are rounded up
        resume(*case, data)


def resume(sizes, budget, buffer_size, algorithm, cuts, data):
    chunks = list(pieces(sizes, cuts))
    middle = data.draw(st.integers(0, len(chunks)))
    packer = StreamPacker(budget, buffer_size, algorithm, seed=1)
    for ids, part in chunks[:middle]:
        packer.push(ids, part)
    state = packer.state_dict()
    before = copy.deepcopy(state)
    resumed = StreamPacker(budget, buffer_size, algorithm, seed=99)
    resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert resumed.waiting == packer.waiting
    np.testing.assert_equal(resumed.state_dict(), before)
    assert stream(packer, chunks[middle:]) == stream(resumed, chunks[middle:])
    np.testing.assert_equal(state, before, "using the packer must not change a state that was taken")


def test_a_resumed_stream_remembers_how_sizes_are_rounded(monkeypatch):
    monkeypatch.setattr(streaming, "_MAX_CLASSES", 3)
    packer = StreamPacker(Budget(nodes=24, edges=40), 10)
    packer.push(np.arange(10), {"nodes": np.full(10, 2), "edges": np.arange(10) * 3 + 1})
    resumed = StreamPacker(Budget(nodes=24, edges=40), 10)
    resumed.load_state_dict(packer.state_dict())
    later = [(np.arange(10, 40), {"nodes": np.full(30, 2), "edges": np.full(30, 9)})]
    assert packer.state_dict()["round_to"] > 1
    assert stream(packer, later) == stream(resumed, later)


def test_state_of_another_stream_is_refused():
    state = StreamPacker(Budget(nodes=36), 10).state_dict()
    for other in (StreamPacker(Budget(nodes=37), 10), StreamPacker(Budget(nodes=36), 11)):
        with pytest.raises(ValueError, match="the saved stream has budget"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    "histogram, budget",
    [
        (QM9, Budget(nodes=36)),
        (QM9, Budget(nodes=128)),
        (HYDRONET_500K, Budget(nodes=192, graphs=5)),
    ],
    ids=["qm9-36", "qm9-128", "hydronet-192"],
)
def test_a_buffer_of_ten_thousand_reaches_995_of_1000_of_the_optimum(histogram, budget):
    sizes = np.random.default_rng(0).permutation(sizes_of(histogram))[:50_000]
    packs = stream(StreamPacker(budget), pieces({"nodes": sizes}, range(1000, 50_000, 1000)))
    assert make_plan(sizes, budget).lower_bound >= 0.995 * len(packs)


@pytest.mark.parametrize("limits", [{}, {"graphs": 8}], ids=["nodes-edges", "nodes-edges-graphs"])
def test_several_dimensions_reach_99_of_100_of_the_optimum(limits):
    nodes = np.random.default_rng(0).permutation(sizes_of(QM9))[:30_000]
    sizes, budget = {"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=128, edges=2304, **limits)
    packs = stream(StreamPacker(budget), pieces(sizes, range(5000, 30_000, 5000)))
    assert make_plan(sizes, budget, time_limit=1.0).lower_bound >= 0.99 * len(packs)


def test_hundreds_of_edge_counts():
    random = np.random.default_rng(0)
    nodes = random.integers(3, 30, 12_000)
    sizes = {"nodes": nodes, "edges": random.integers(0, nodes * (nodes - 1))}
    budget = Budget(nodes=128, edges=1500, graphs=12)
    packs = stream(StreamPacker(budget, 3000), pieces(sizes, range(1000, 12_000, 1000)))
    check_packs(packs, rows_of(sizes, budget), budget)
    assert nodes.sum() / (128 * len(packs)) > 0.93


def test_a_budget_too_large_for_a_table_of_exact_sizes():
    nodes = np.random.default_rng(0).permutation(sizes_of(QM9))[:20_000]
    sizes, budget = {"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=400, edges=8000)
    packer = StreamPacker(budget, 5000)
    packs = stream(packer, pieces(sizes, []))
    check_packs(packs, rows_of(sizes, budget), budget)
    assert packer.state_dict()["round_to"] > 1
    assert nodes.sum() / (400 * len(packs)) > 0.95


def test_packs_of_a_hundred_items_are_filled_by_best_fit():
    nodes = np.random.default_rng(0).permutation(sizes_of(QM9))[:20_000]
    sizes, budget = {"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=2000, edges=40_000)
    packs = stream(StreamPacker(budget, 5000), pieces(sizes, []))
    check_packs(packs, rows_of(sizes, budget), budget)
    assert nodes.sum() / (2000 * len(packs)) > 0.98


def test_sizes_are_not_rounded_up_when_that_costs_more_than_it_gains():
    """Hundreds of node counts leave room for two or three edge counts: every molecule would fill a pack."""
    random = np.random.default_rng(1)
    nodes = random.integers(5, 200, 4000)
    sizes = {"nodes": nodes, "edges": random.integers(nodes, nodes * 50)}
    packs = stream(StreamPacker(Budget(nodes=512, edges=12_000), 1500), pieces(sizes, []))
    assert nodes.sum() / (512 * len(packs)) > 0.8


def test_packs_do_not_leave_in_order_of_size():
    sizes = np.random.default_rng(0).permutation(sizes_of(QM9))[:20_000]
    packer = StreamPacker(Budget(nodes=128))
    epoch = packer.push(np.arange(len(sizes)), sizes)
    lengths = np.diff(epoch.offsets)[:1000]
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.15
    other = StreamPacker(Budget(nodes=128), seed=1).push(np.arange(len(sizes)), sizes)
    assert sorted(packs_of(other))[:50] == sorted(packs_of(epoch))[:50] and packs_of(other)[:50] != packs_of(epoch)[:50]


def test_ids_may_be_any_integers():
    ids = np.array([10**12, 7, -3, 8])
    packer = StreamPacker(Budget(nodes=9), buffer_size=2)
    packs = packs_of(packer.push(ids, np.array([5, 4, 9, 1]))) + packs_of(packer.flush())
    assert sorted(item for pack in packs for item in pack) == sorted(ids.tolist())


def test_refusals():
    packer = StreamPacker(Budget(nodes=9, edges=5))
    with pytest.raises(
        ValueError, match=r"item 42 \(4 nodes, 6 edges\) is larger than the budget \(nodes=9, edges=5\)"
    ):
        packer.push(np.array([41, 42]), {"nodes": np.array([9, 4]), "edges": np.array([5, 6])})
    assert packer.waiting == 0, "a refused push leaves nothing behind"
    with pytest.raises(ValueError, match="2 ids were pushed with 1 sizes"):
        packer.push(np.array([1, 2]), {"nodes": np.array([9]), "edges": np.array([5])})
    with pytest.raises(ValueError, match="unknown streaming algorithm 'lpfhp'"):
        StreamPacker(Budget(nodes=9), algorithm="lpfhp")
    with pytest.raises(ValueError, match="buffer_size=0"):
        StreamPacker(Budget(nodes=9), 0)


@settings(max_examples=10)
@given(st.integers(0, 5))
def test_nothing_pushed_gives_nothing(seed):
    packer = StreamPacker(Budget(nodes=9), seed=seed)
    assert len(packer.push(np.zeros(0, int), np.zeros(0, int))) == 0 and len(packer.flush()) == 0


@given(streams(), st.integers(1, 30))
@settings(max_examples=40)
def test_no_item_waits_for_more_than_so_many_others(case, max_wait):
    sizes, budget, buffer_size, algorithm, cuts = case
    packer = StreamPacker(budget, buffer_size, algorithm, max_wait=max_wait)
    packs, pushed = [], 0
    for ids, chunk in pieces(sizes, cuts):
        packs += packs_of(packer.push(ids, chunk))
        pushed += len(ids)
        left = set(range(pushed)) - {item for pack in packs for item in pack}
        assert all(pushed - item - 1 < max_wait for item in left), "an item is older than it may be"
    packs += packs_of(packer.flush())
    check_packs(packs, rows_of(sizes, budget), budget)
    whole = StreamPacker(budget, buffer_size, algorithm, max_wait=max_wait)
    assert stream(whole, pieces(sizes, [])) == packs, "packs do not depend on how pushes are cut"


def test_bounded_waiting_costs_little():
    """A size that nothing fits beside waits for ever without it."""
    random = np.random.default_rng(0)
    sizes = np.where(random.random(20_000) < 0.001, 40, random.choice([16, 32], 20_000))

    def longest(packer):
        waited, count = 0, 0
        for start in range(0, len(sizes), 100):
            packs = packer.push(np.arange(start, start + 100), sizes[start : start + 100])
            count += len(packs)
            waited = max([waited, *(start + 99 - packs.items)])
        last = packer.flush()
        return max(waited, 19_999 - last.items.min()), count + len(last)

    free, bound = (
        longest(StreamPacker(Budget(nodes=64), 1000, "best_fit")),
        longest(StreamPacker(Budget(nodes=64), 1000, "best_fit", max_wait=2000)),
    )
    assert free[0] > 4000 and bound[0] <= 2000 + 100, (free, bound)
    assert bound[1] < 1.01 * free[1]


def test_corpora_are_mixed_by_their_weights():
    random = np.random.default_rng(0)
    packer = StreamPacker(Budget(tokens=64), 200, weights={"long": 3, "short": 1})
    sizes = {"long": random.integers(20, 60, 900), "short": random.integers(2, 9, 3000)}
    read, taken, first = dict.fromkeys(sizes, 0), [], []
    while packer.wanted is not None:
        name, start = packer.wanted, read[packer.wanted]
        chunk = sizes[name][start : start + 10]
        if not len(chunk):
            packer.end(name)
            continue
        first.append(name)
        read[name] += len(chunk)
        taken += packs_of(packer.push(np.arange(start, start + len(chunk)) + 10_000 * (name == "short"), chunk, name))
        if read["long"] < 900 and len(first) % 50 == 0:
            tokens = {one: sizes[one][: read[one]].sum() for one in sizes}
            assert tokens["long"] / tokens["short"] == pytest.approx(3, rel=0.1)
    taken += packs_of(packer.flush())
    assert sorted(item for pack in taken for item in pack) == [*range(900), *range(10_000, 13_000)]
    mixed = [pack for pack in taken if 0 < sum(item >= 10_000 for item in pack) < len(pack)]
    assert len(mixed) > 0.3 * len(taken), "corpora share packs"


def test_a_mixture_resumes_to_the_same_packs():
    sizes = np.random.default_rng(0).integers(3, 30, 3000)

    def go_on(packer, step, until):
        packs, names = [], []
        for start in range(step, until, 100):
            names.append(packer.wanted)
            packs += packs_of(packer.push(np.arange(start, start + 100), sizes[start : start + 100], packer.wanted))
        return packs, names

    def fresh():
        return StreamPacker(Budget(nodes=64), 300, weights={"a": 1.0, "b": 2.5}, max_wait=500)

    whole = go_on(fresh(), 0, 3000)
    first = fresh()
    before = go_on(first, 0, 1300)
    resumed = fresh()
    resumed.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    after = go_on(resumed, 1300, 3000)
    assert before[0] + after[0] == whole[0] and before[1] + after[1] == whole[1]


def test_states_of_before_are_read():
    """Without what bounded waiting and weights have added."""
    sizes = np.random.default_rng(0).integers(3, 30, 900)
    packer = StreamPacker(Budget(nodes=64), 200)
    packer.push(np.arange(500), sizes[:500])
    state = packer.state_dict()
    earlier = {name: state[name] for name in state if name not in ("max_wait", "weights", "taken", "ended", "pushed")}
    del earlier["arrived"]
    again = StreamPacker(Budget(nodes=64), 200)
    again.load_state_dict(earlier)
    rest = np.arange(500, 900), sizes[500:]
    assert packs_of(again.push(*rest)) == packs_of(packer.push(*rest))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: StreamPacker(Budget(nodes=8), max_wait=0), "max_wait=0: give a whole number of 1 or more"),
        (lambda: StreamPacker(Budget(nodes=8), weights={}), "give every corpus a weight above 0"),
        (lambda: StreamPacker(Budget(nodes=8), weights={"a": 0}), "give every corpus a weight above 0"),
        (lambda: StreamPacker(Budget(nodes=8)).push([1], np.array([2]), "a"), "corpus 'a' were pushed; none was given"),
        (
            lambda: StreamPacker(Budget(nodes=8), weights={"a": 1}).push([1], np.array([2]), "b"),
            "corpus 'b' were pushed; there are a",
        ),
        (
            lambda: StreamPacker(Budget(nodes=8), weights={"a": 1}).push([1], np.array([2])),
            "corpus None were pushed; there are a",
        ),
        (lambda: StreamPacker(Budget(nodes=8), weights={"a": 1}).end("c"), "corpus 'c' has no weight; there are a"),
        (lambda: StreamPacker(Budget(nodes=8)).load_state_dict({}), "no state of a StreamPacker: it has no budget"),
        (
            lambda: StreamPacker(Budget(nodes=8)).load_state_dict(
                StreamPacker(Budget(nodes=8), max_wait=3).state_dict()
            ),
            "the saved stream has max_wait=3, this one None",
        ),
    ],
)
def test_what_no_mixture_is_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Case:
    """A stream of several corpora in chunks, drawn from a seed, with a bound on waiting and weights or without."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        count, capacity = int(random.integers(20, 150)), int(random.integers(12, 65))
        nodes = random.integers(1, random.integers(2, capacity + 1), count)
        self.sizes, limits = {"nodes": nodes}, {"nodes": capacity}
        if random.random() < 0.5:
            self.sizes["edges"] = random.integers(0, 4 * nodes + 1)
            limits["edges"] = max(int(self.sizes["edges"].max()), 2 * capacity)
        if random.random() < 0.4:
            limits["graphs"] = int(random.integers(1, 9))
        self.budget, self.count = Budget(**limits), count
        self.max_wait = int(random.integers(1, 90)) if random.random() < 0.6 else None
        self.weights = dict(zip("abc", random.uniform(0.05, 1, 3))) if random.random() < 0.6 else None
        self.how = int(random.integers(1, 60)), str(random.choice(["auto", "best_fit"]))
        self.bounds = np.unique(np.append(random.integers(0, count, 12), [0, count]))
        self.cut, self.ending = random.integers(0, len(self.bounds), 2).tolist()

    def packer(self, seed):
        return StreamPacker(self.budget, *self.how, seed=seed, weights=self.weights, max_wait=self.max_wait)

    def go_on(self, packer, first, last, left=()):
        """Chunks first .. last; returns packs, corpora asked for and items that still wait."""
        packs, names, left = [], [], set(left)
        for index in range(first, last):
            if self.weights and index == self.ending:
                packer.end("c")
            chunk = range(*self.bounds[index : index + 2].tolist())
            names.append(packer.wanted)
            sizes = {name: values[chunk.start : chunk.stop] for name, values in self.sizes.items()}
            fresh = packs_of(packer.push(np.array(chunk, int), sizes, packer.wanted))
            packs += fresh
            left = (left | set(chunk)) - {item for pack in fresh for item in pack}
            assert self.max_wait is None or not left or chunk.stop - min(left) - 1 < self.max_wait
        return packs, names, left


@pytest.mark.parametrize("block", range(4))
def test_streams_resume_anywhere_and_keep_their_bounds(block):
    """50 cut points each."""
    for seed in range(50 * block, 50 * block + 50):
        case, chunks = Case(seed), len(Case(seed).bounds) - 1
        packer = case.packer(seed=1)
        packs, names, _ = case.go_on(packer, 0, chunks)
        packs += packs_of(packer.flush())
        check_packs(packs, rows_of(case.sizes, case.budget), case.budget)
        first = case.packer(seed=1)
        before, early, left = case.go_on(first, 0, min(case.cut, chunks))
        resumed = case.packer(seed=2)
        resumed.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        after, late, _ = case.go_on(resumed, min(case.cut, chunks), chunks, left)
        assert before + after + packs_of(resumed.flush()) == packs, f"seed {seed}"
        assert early + late == names


def test_corpora_are_never_further_apart_than_a_push():
    random = np.random.default_rng(0)
    for weights in ({"a": 1.0, "b": 1.0}, {"a": 0.9, "b": 0.05, "c": 0.05}, {"a": 7.0, "b": 2.5, "c": 1.0, "d": 1.0}):
        packer, taken = StreamPacker(Budget(tokens=64), 50, "best_fit", weights=weights), dict.fromkeys(weights, 0)
        most = 0
        for _ in range(300):
            sizes = random.integers(1, 60, random.integers(1, 9))
            taken[packer.wanted] += int(sizes.sum())
            most = max(most, int(sizes.sum()))
            packer.push(np.arange(len(sizes)), sizes, packer.wanted)
            done = [taken[name] / weight for name, weight in weights.items()]
            assert max(done) - min(done) <= most / min(weights.values())
        total = sum(taken.values())
        for name, weight in weights.items():
            assert taken[name] / total == pytest.approx(weight / sum(weights.values()), abs=most / total + 1e-9)


def test_a_stream_of_another_algorithm_is_refused():
    state = StreamPacker(Budget(nodes=36), 10, "best_fit").state_dict()
    with pytest.raises(ValueError, match="packs by best_fit, this one by column_generation; pass algorithm='best_fit'"):
        StreamPacker(Budget(nodes=36), 10).load_state_dict(state)
    StreamPacker(Budget(nodes=36), 10, "best_fit").load_state_dict(state)


def test_ids_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="ids are integers, not float64"):
        StreamPacker(Budget(nodes=9)).push(np.array([1.5]), np.array([3]))
