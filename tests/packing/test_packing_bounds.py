"""Sizes up to 2**31 - 1 in up to five dimensions, sizes that are all different, and clocks that have run out."""

import sys
import time

import numpy as np
import pytest
from packing_cases import check_packs, rows_of

from packing import ALGORITHMS, Budget, make_plan
from packing.best_fit import fit_decreasing, next_fit
from packing.classes import PackTypes, round_sizes, size_classes
from packing.column_generation import _any_amounts, relax
from packing.histogram import longest_pack_first
from packing.plan import PackingPlan
from packing.streaming import StreamPacker
from packing.tune import efficiency_curve, fit_budget

LARGEST = 2**31 - 1
NAMES = ("nodes", "edges", "angles", "torsions", "pairs")
module = sys.modules["packing.make_plan"]  # the package has a function of the same name


def wide(count, seed=0, dimensions=5):
    """Sizes of every magnitude."""
    random = np.random.default_rng(seed)
    shifts = random.integers(0, 31, (dimensions, count))
    return {name: random.integers(1, LARGEST + 1, count) >> by | 1 for name, by in zip(NAMES, shifts)}


def check(plan, sizes):
    order = plan.in_order()
    check_packs([order[p] for p in range(plan.num_packs)], rows_of(sizes, plan.budget), plan.budget)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_sizes_in_five_dimensions(algorithm, seed):
    dimensions = 1 if algorithm == "lpfhp" else 5
    sizes = wide(40, seed, dimensions)
    budget = Budget(**{name: LARGEST for name in sizes}, graphs=7)
    check(make_plan(sizes, budget, algorithm, time_limit=1.0), sizes)


def test_keys_of_classes_do_not_wrap():
    """Four dimensions of 31 bits do not fit one integer of 64: their products wrapped, and classes merged."""
    table = np.array([[LARGEST, LARGEST, LARGEST, 1], [1, 1, 1, 1], [LARGEST, 1, LARGEST, 1], [1, LARGEST, 1, LARGEST]])
    many = np.stack(list(wide(200, 3, 4).values()), 1)
    table = np.concatenate([table, table, many])
    budget = Budget(**{name: LARGEST for name in NAMES[:4]})
    classes = size_classes(table, budget)
    assert np.array_equal(classes.sizes[classes.of_item], table)
    assert [tuple(row) for row in classes.sizes.tolist()] == sorted(set(map(tuple, table.tolist())), reverse=True)
    assert classes.counts.sum() == len(many) + 8
    rounded = round_sizes(classes, budget, 2**30)
    held = rounded.sizes[rounded.of_item]
    assert (held >= table).all() and (held <= LARGEST).all() and np.array_equal(held[:, 0], table[:, 0])


def test_a_clock_that_has_run_out_leaves_a_plan_of_every_item():
    sizes = {"nodes": np.random.default_rng(1).integers(1, 10**6, 3000), "edges": np.arange(3000)}
    budget = Budget(nodes=10**6, edges=5000, graphs=9)
    classes = size_classes(np.stack(list(sizes.values()), 1), budget)
    for best in (True, False):
        types = fit_decreasing(classes, budget.capacities(), best, deadline=0.0)
        assert np.array_equal(types.items, classes.counts)
        used = types.multiplicity @ classes.sizes
        assert (used <= budget.capacities()).all() and types.num_packs < 3000


def test_next_fit_cuts_wherever_one_dimension_is_full():
    budget = Budget(nodes=10, edges=6, graphs=3)
    classes = size_classes(np.array([[4, 1]] * 3 + [[3, 5], [3, 5], [1, 0], [1, 0], [1, 0], [1, 0]]), budget)
    packs = next_fit(classes, 0, budget.capacities())
    assert packs == [(1, ((0, 2),)), (1, ((0, 1), (1, 1))), (1, ((1, 1), (2, 2))), (1, ((2, 2),))]
    assert next_fit(classes, 3, budget.capacities()) == []


def test_longest_pack_first_ends_by_its_deadline():
    classes = size_classes(np.arange(1, 3001)[:, None], Budget(nodes=5000))
    types = longest_pack_first(classes, 5000, 4, deadline=0.0)
    assert np.array_equal(types.items, classes.counts) and types.multiplicity.sum(1).max() == 4
    assert (types.multiplicity @ classes.sizes[:, 0] <= 5000).all() and types.num_packs < 1500


def test_as_many_classes_as_items_take_no_table_of_both():
    """50,000 different sizes: a dense table of pack types and classes would take gigabytes."""
    sizes = np.random.default_rng(0).permutation(10**6)[:50_000] + 1
    types = PackTypes.from_held([(1, ((index, 1),)) for index in range(50_000)], 50_000)
    assert types.classes.nbytes + types.copies.nbytes < 1 << 20 and types.num_packs == 50_000
    plan = make_plan(sizes, Budget(nodes=10**6), "lpfhp")
    assert plan.num_items == 50_000 and plan.gap < 0.01 * plan.num_packs


def test_rounding_that_cannot_help_is_not_tried(monkeypatch):
    """More primary sizes than classes allowed: rounding all others up would leave one item to a pack."""
    monkeypatch.setattr(module, "MAX_GREEDY_CLASSES", 50)
    sizes = {"nodes": np.arange(1, 201), "edges": np.arange(200) % 7}
    plan = make_plan(sizes, Budget(nodes=400, edges=30), "best_fit")
    assert plan.num_packs < 1.1 * plan.lower_bound and len(np.unique(plan.classes)) == 200


def test_a_linear_program_without_an_answer_in_time_leaves_amounts_that_hold_all(monkeypatch):
    monkeypatch.setattr("packing.column_generation.solve_master", lambda *_: None)
    budget = Budget(nodes=30)
    classes = size_classes(np.random.default_rng(0).integers(3, 20, 400)[:, None], budget)
    start = fit_decreasing(classes, budget.capacities()).multiplicity
    solved = relax(classes, budget, start, 1.0)
    assert (solved.amounts @ solved.patterns >= classes.counts - 1e-9).all() and solved.bound == 0.0
    assert _any_amounts(np.array([[2, 0], [0, 3]]), np.array([5, 4])).tolist() == [2.5, 4 / 3]
    sizes = {"nodes": np.random.default_rng(0).integers(3, 20, 400)}
    check(make_plan(sizes, budget, "column_generation"), sizes)


@pytest.mark.parametrize("damage", ["twice", "over"])
def test_a_broken_plan_is_never_returned(monkeypatch, damage):
    original = module.deal

    def broken(types, of_item, random):
        items, offsets = original(types, of_item, random)
        if damage == "twice":
            items[0] = items[1]
        else:
            offsets = offsets[[0, *range(2, len(offsets))]]
        return items, offsets

    monkeypatch.setattr(module, "deal", broken)
    with pytest.raises(ValueError, match="plan is broken: (item|pack)"):
        make_plan(np.full(20, 6), Budget(nodes=12))


def test_a_step_longer_than_any_epoch_is_refused():
    plan = make_plan(np.full(20, 6), Budget(nodes=12))
    for deal in (lambda: plan.epoch(0, 0, 10**12), lambda: plan.in_order(10**12)):
        with pytest.raises(ValueError, match="10 packs cannot be rounded up to a multiple of 1,000,000,000,000"):
            deal()
    assert len(plan.epoch(0, 0, 1000)) == len(plan.in_order(1000)) == 1000


def test_streams_take_the_largest_sizes():
    sizes = wide(300)
    budget = Budget(**{name: LARGEST for name in sizes})
    packer = StreamPacker(budget, buffer_size=100)
    packs = [pack.tolist() for epoch in (packer.push(np.arange(300), sizes), packer.flush()) for pack in epoch]
    check_packs(packs, rows_of(sizes, budget), budget)


def test_capacities_are_chosen_within_what_a_budget_may_be():
    sizes = wide(50, 1, 2)
    sizes["nodes"][0] = LARGEST
    budget = fit_budget(sizes, {"nodes": 0, "edges": 0}, time_limit=1.0)
    assert budget["nodes"] == LARGEST and budget["edges"] >= sizes["edges"].max()
    tried = efficiency_curve(np.array([3, 4]), range(4, 2000), deadline=time.monotonic() - 1)
    assert [capacity for capacity, _, _ in tried] == [4]
    with pytest.raises(ValueError, match="item 1 has -4 nodes"):
        fit_budget({"nodes": np.array([3, -4])}, {})


def test_a_plan_that_is_validated_names_the_pack():
    plan = make_plan(np.full(4, LARGEST), Budget(nodes=LARGEST))
    wrong = PackingPlan(
        plan.budget, plan.sizes, plan.items, np.array([0, 4], np.int32), plan.classes, plan.algorithm, 1
    )
    with pytest.raises(ValueError, match=f"pack 0 holds {4 * LARGEST} nodes of {LARGEST}"):
        wrong.validate()


def test_longest_pack_first_packs_the_measured_dimension_wherever_it_stands():
    """Budgets that name the limit on items first were packed by ones, that is, by that limit alone."""
    sizes = {"nodes": np.array([9, 7, 5, 3, 2, 2])}
    check(make_plan(sizes, Budget(graphs=3, nodes=10), "lpfhp"), sizes)
    assert make_plan(sizes, Budget(graphs=3, nodes=10), "lpfhp").num_packs == 3
