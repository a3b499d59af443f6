"""From fractions of packs to whole ones: every item once, nothing twice."""

import time

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import QM9, classes_of, instances, table_classes

from packing import Budget, column_generation, make_plan, rounding
from packing.best_fit import fit_decreasing


def relaxed(classes, budget):
    return column_generation.relax(classes, budget, fit_decreasing(classes, budget.capacities()).multiplicity, 10.0)


@given(instances(max_items=40), st.booleans())
def test_every_item_is_in_exactly_one_whole_pack(case, in_time):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    if len(classes.counts) == 0:
        return
    relaxation = relaxed(classes, budget)
    deadline = time.monotonic() + (10.0 if in_time else -1.0)
    types = rounding.round_up(relaxation, classes, budget, deadline, int(np.ceil(relaxation.bound - 1e-6)))
    assert np.array_equal(types.items, classes.counts) and (types.counts > 0).all()
    assert (types.multiplicity @ classes.sizes <= budget.capacities()).all()


@given(st.data())
def test_surplus_packs_are_taken_back_and_no_more_than_needed(data):
    patterns = np.array([[2, 0, 1], [1, 1, 0], [0, 3, 0], [0, 0, 4]])
    whole = np.array(data.draw(st.lists(st.integers(0, 5), min_size=4, max_size=4)))
    demand = np.array(data.draw(st.lists(st.integers(0, 12), min_size=3, max_size=3)))
    kept = rounding.without_surplus(patterns, whole, demand)
    assert (0 <= kept).all() and (kept <= whole).all() and (kept @ patterns <= demand).all()
    if (whole @ patterns <= demand).all():
        assert np.array_equal(kept, whole)


@given(st.lists(st.integers(0, 7), min_size=3, max_size=3).filter(any))
@settings(max_examples=25)
def test_the_integer_program_holds_no_item_twice(demand):
    patterns = np.array([[3, 0, 0], [0, 2, 1], [1, 1, 0], [0, 0, 4]], np.int32)
    types = rounding._integer_program(patterns, np.array(demand), 10.0, 1)
    assert types is not None and types.items.tolist() == demand
    assert all(any((row <= pattern).all() for pattern in patterns) for row in types.multiplicity)
    most = np.array([3, 2, 4])
    assert -(-np.array(demand) // most).max() <= types.num_packs <= sum(-(-np.array(demand) // most))


def test_dive_ends_when_no_wanted_pack_fits_what_is_left():
    """Two of a kind fill a pack, one of a kind is left: the program wants half a pack of each, for ever."""
    nodes, edges = np.meshgrid(np.arange(43, 65), np.arange(1, 5))
    sizes, budget = {"nodes": nodes.ravel(), "edges": edges.ravel()}, Budget(nodes=128, edges=8)
    classes = table_classes(sizes, budget)
    pairs = np.diag(np.full(len(classes.counts), 2)).astype(np.int32)
    start = time.monotonic()
    fixed, left, _ = rounding._dive(pairs, classes.counts, classes, budget, start + 60, target=0)
    assert time.monotonic() - start < 30
    assert np.array_equal(sum(fixed, np.zeros_like(left)) + left, classes.counts) and (left >= 0).all()


def test_the_integer_program_is_stopped_by_work_not_by_the_clock(monkeypatch):
    """Ranks that plan on busier machines must not arrive at other packs."""
    milp, options = scipy.optimize.milp, []
    monkeypatch.setattr(scipy.optimize, "milp", lambda *a, **k: (options.append({**k["options"]}), milp(*a, **k))[1])
    classes, budget = classes_of(QM9), Budget(nodes=252)
    relaxation = relaxed(classes, budget)
    answers = []
    for seconds in (4.0, 400.0):
        monkeypatch.setattr(rounding, "_TRY_SECONDS", seconds)
        answers.append(rounding.round_up(relaxation, classes, budget, float("inf"), 9362))
    assert options and all(0 < one["node_limit"] < 1000 for one in options)
    assert answers[0].num_packs <= 9363 and np.array_equal(answers[0].multiplicity, answers[1].multiplicity)
    assert np.array_equal(answers[0].counts, answers[1].counts)


@pytest.mark.parametrize("largest, low, high, edges, seed", [(40, 6, 24, 1920, 1), (30, 8, 20, 1792, 1)])
def test_a_few_packs_of_many_different_items_stay_within_one_of_the_bound(largest, low, high, edges, seed):
    """Every pack is different here: taking whole parts of the linear program's amounts would keep nothing."""
    rng = np.random.default_rng(seed)
    nodes = rng.integers(12, largest, 200)
    sizes = {"nodes": nodes, "edges": (nodes * rng.uniform(low, high, 200)).astype(int) // 2 * 2}
    plan = make_plan(sizes, Budget(nodes=128, edges=edges), "column_generation", time_limit=60.0)
    plan.validate()
    assert len(np.unique(plan.sizes, axis=0)) > 150
    assert plan.gap <= 1 < make_plan(sizes, plan.budget, "best_fit").gap


def test_the_dive_ends_where_best_fit_meets_the_target():
    classes, budget = classes_of(dict.fromkeys(range(5, 60), 3)), Budget(nodes=128)
    relaxation = relaxed(classes, budget)
    packs = fit_decreasing(classes, budget.capacities()).num_packs
    deadline = time.monotonic() + 60
    easy, left, _ = rounding._dive(relaxation.patterns, classes.counts, classes, budget, deadline, target=packs + 5)
    hard, _, _ = rounding._dive(relaxation.patterns, classes.counts, classes, budget, deadline, target=0)
    assert 0 < len(easy) < len(hard) and left.sum() > 0
