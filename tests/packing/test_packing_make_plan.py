"""make_plan with every algorithm: valid packs, clear refusals, and never worse than best fit."""

import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import check_packs, fewest_packs, instances, rows_of

from packing import ALGORITHMS, Budget, make_plan
from packing.best_fit import fit_decreasing
from packing.classes import round_sizes, size_classes

module = sys.modules["packing.make_plan"]  # the package has a function of the same name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(case=instances(), seed=st.integers(0, 3))
@settings(max_examples=50)
def test_every_item_once_no_capacity_exceeded_and_always_the_same(algorithm, case, seed):
    sizes, budget = case
    if algorithm == "lpfhp" and len(budget.measured) > 1:
        with pytest.raises(ValueError, match="lpfhp.*one measured dimension.*best_fit"):
            make_plan(sizes, budget, algorithm)
        return
    plan = make_plan(sizes, budget, algorithm, seed)
    order = plan.in_order()
    check_packs([order[p] for p in range(plan.num_packs)], rows_of(sizes, budget), budget)
    assert all(len(order[p]) for p in range(plan.num_packs)), "a plan has no empty packs"
    assert 0 <= plan.gap == plan.num_packs - plan.lower_bound
    assert plan.num_items == len(sizes["nodes"]) and len(plan.skipped) == 0
    again = make_plan(sizes, budget, algorithm, seed)
    assert again.fingerprint == plan.fingerprint and again.algorithm == plan.algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(case=instances(max_items=7, max_nodes=16))
@settings(max_examples=40)
def test_bound_is_never_above_the_optimum(algorithm, case):
    sizes, budget = case
    if algorithm == "lpfhp" and len(budget.measured) > 1:
        return
    plan = make_plan(sizes, budget, algorithm)
    assert plan.lower_bound <= fewest_packs(rows_of(sizes, budget), budget.capacities().tolist()) <= plan.num_packs


@given(case=instances(max_items=7, max_nodes=16), step=st.sampled_from([4, 16]))
@settings(max_examples=200)
def test_bound_is_never_above_the_optimum_when_sizes_are_rounded_up(case, step):
    sizes, budget = case
    table = np.stack([sizes[name] for name in budget.measured], 1)
    exact, coarse = size_classes(table, budget), round_sizes(size_classes(table, budget), budget, step)
    types, used, bound = module._generate(coarse, exact, exact, budget, time.monotonic() + 10)
    optimum = fewest_packs(rows_of(sizes, budget), budget.capacities().tolist())
    assert bound <= optimum <= types.num_packs and np.array_equal(types.items, used.counts)


def test_the_bound_of_rounded_sizes_is_not_the_bound_of_the_real_ones():
    budget = Budget(nodes=24, edges=12)
    table = np.array([[1, 7]] * 6 + [[1, 5]])  # 7 + 5 fill a pack; rounded up to 8 + 8 they need two
    exact, coarse = size_classes(table, budget), round_sizes(size_classes(table, budget), budget, 4)
    types, _, bound = module._generate(coarse, exact, exact, budget, time.monotonic() + 10)
    assert types.num_packs == 6 and bound <= 6


@given(case=instances(max_items=40), step=st.sampled_from([4, 16]))
@settings(max_examples=200)
def test_rounded_sizes_are_used_only_where_they_do_not_need_more_packs(case, step):
    sizes, budget = case
    table = np.stack([sizes[name] for name in budget.measured], 1)
    exact, coarse = size_classes(table, budget), round_sizes(size_classes(table, budget), budget, step)
    types, _, _ = module._generate(coarse, exact, exact, budget, time.monotonic() + 10)
    assert types.num_packs <= fit_decreasing(exact, budget.capacities()).num_packs


@given(case=instances(max_items=30), data=st.data())
def test_skipped_items_are_listed_and_the_rest_is_packed(case, data):
    sizes, budget = case
    count = len(sizes["nodes"])
    large = sorted(set(data.draw(st.lists(st.integers(0, count - 1), max_size=5)))) if count else []
    name = data.draw(st.sampled_from(list(sizes)))
    sizes[name][large] += budget[name]
    large = [item for item in large if sizes[name][item] > budget[name]]
    plan = make_plan(sizes, budget, oversize="skip").validate()
    assert plan.skipped.tolist() == large and sorted(plan.items.tolist()) == sorted(set(range(count)) - set(large))
    epoch = plan.epoch(0, 0)
    assert sorted(epoch.items.tolist()) == sorted(plan.items.tolist())
    rows = np.array(rows_of(sizes, budget)).reshape(count, len(budget.names))
    assert all((rows[epoch[p]].sum(0) <= budget.capacities()).all() for p in range(len(epoch)))


def test_oversize_error_names_item_size_budget_and_a_budget_that_holds_everything():
    sizes = {"nodes": np.array([5, 9, 3, 12]), "edges": np.array([20, 10, 99, 11])}
    with pytest.raises(ValueError) as error:
        make_plan(sizes, Budget(nodes=8, edges=50, graphs=3))
    text = str(error.value)
    for part in ("item 1 (9 nodes, 10 edges)", "nodes=8, edges=50, graphs=3", "in all 3 of 4 items", "oversize='skip'"):
        assert part in text, text
    assert "nodes=12, edges=99, graphs=3" in text
    make_plan(sizes, Budget(nodes=12, edges=99, graphs=3)).validate()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(algorithm="magic"), "unknown packing algorithm 'magic'.*auto.*lpfhp"),
        (dict(oversize="trim"), "oversize='trim'.*'error' or 'skip'"),
        (dict(sizes=np.array([3, 0])), "item 1 has 0 nodes and needs 1 or more"),
        (dict(sizes=np.array([3, -2])), "item 1 has -2 nodes"),
        (dict(sizes=np.array([2**32 + 5, 3])), "item 0 has 4294967301 nodes"),
        (dict(sizes=np.array([1.5, 2.0])), "one integer per item.*float64"),
        (dict(sizes=np.array(3)), "one integer per item"),
        (dict(sizes=np.ones((2, 2), int)), "one integer per item"),
        (dict(sizes={"edges": np.array([3])}), "no sizes were given for nodes"),
        (dict(budget=Budget(nodes=9, edges=9)), "needs sizes as.*nodes, edges"),
        (
            dict(budget=Budget(nodes=9, edges=9), sizes={"nodes": np.array([3, 4]), "edges": np.array([3])}),
            "there are 1 sizes of edges and 2 of nodes",
        ),
    ],
)
def test_refusals_say_what_is_wrong(arguments, message):
    arguments = {"sizes": np.array([3, 4]), "budget": Budget(nodes=9), **arguments}
    with pytest.raises(ValueError, match=message):
        make_plan(**arguments)


def test_an_item_that_fills_the_pack_exactly_is_accepted():
    plan = make_plan({"nodes": np.array([9, 9]), "edges": np.array([7, 0])}, Budget(nodes=9, edges=7, graphs=1))
    assert plan.validate().num_packs == 2 and plan.closed_by["none"] == 0.0


def test_no_items_make_no_packs():
    for algorithm in ALGORITHMS:
        plan = make_plan(np.zeros(0, np.int64), Budget(nodes=9), algorithm).validate()
        assert plan.num_packs == plan.lower_bound == 0 and len(plan.epoch(0, 0)) == 0


def test_edges_may_be_none_at_all():
    plan = make_plan({"nodes": np.array([4, 4, 4]), "edges": np.array([0, 0, 0])}, Budget(nodes=8, edges=5))
    assert plan.validate().num_packs == 2


def random_edges(count, seed=0):
    random = np.random.default_rng(seed)
    nodes = random.integers(3, 30, count)
    return {"nodes": nodes, "edges": random.integers(0, nodes * (nodes - 1))}


def test_thousands_of_edge_counts_are_rounded_up_into_classes_that_still_fit():
    sizes = random_edges(4000)
    budget = Budget(nodes=128, edges=1500, graphs=12)
    plan = make_plan(sizes, budget, time_limit=300.0).validate()  # it ends by itself long before, on any machine
    assert len(np.unique(sizes["nodes"] * 1000 + sizes["edges"])) > 2000
    assert len(np.unique(plan.classes)) <= module.MAX_CLASSES
    assert plan.lower_bound <= plan.num_packs <= 1.01 * plan.lower_bound
    assert plan.num_packs < make_plan(sizes, budget, "best_fit").num_packs


@pytest.mark.parametrize("scale", [4, 16, 160])
def test_rounding_never_costs_more_than_best_fit_loses(scale):
    """Tables of large budgets are too big for exact sizes; rounding them up can cost more than it gains."""
    nodes = random_edges(5000)["nodes"]
    sizes, budget = {"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=128 * scale, edges=2304 * scale)
    plan = make_plan(sizes, budget, time_limit=3.0).validate()
    assert plan.num_packs <= make_plan(sizes, budget, "best_fit").num_packs


def test_wide_sizes_fall_back_to_best_fit():
    random = np.random.default_rng(1)
    nodes = random.integers(5, 200, 3000)
    sizes = {"nodes": nodes, "edges": random.integers(nodes, nodes * 50)}
    plan = make_plan(sizes, Budget(nodes=512, edges=12000)).validate()
    assert plan.num_packs <= 1.15 * plan.lower_bound


def test_more_classes_than_best_fit_can_hold_are_rounded_up(monkeypatch):
    monkeypatch.setattr(module, "MAX_GREEDY_CLASSES", 300)
    for algorithm in ("best_fit", "first_fit", "auto"):
        plan = make_plan(random_edges(1000), Budget(nodes=128, edges=1500), algorithm, time_limit=2.0).validate()
        assert len(np.unique(plan.classes)) <= 400


def test_budget_of_a_table_that_no_machine_holds():
    random = np.random.default_rng(2)
    nodes = random.integers(5, 200, 2000)
    sizes = {"nodes": nodes, "edges": nodes * 50, "triplets": nodes * random.integers(50, 900, 2000)}
    plan = make_plan(sizes, Budget(nodes=10**5, edges=10**7, triplets=10**8), time_limit=2.0).validate()
    assert plan.num_packs <= plan.lower_bound + 2


def test_skipped_items_do_not_decide_the_packs_of_the_others():
    random = np.random.default_rng(3)
    sizes = random.integers(3, 30, 500)
    plan = make_plan(sizes, Budget(nodes=64))
    with_large = make_plan(np.append(sizes, [65, 900]), Budget(nodes=64), oversize="skip")
    assert np.array_equal(plan.items, with_large.items) and with_large.skipped.tolist() == [500, 501]
