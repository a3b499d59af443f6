"""Packs that are drawn full: valid patterns, and the bound in one linear program where the total size decides."""

import math
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import instances

from benchmarks.histograms import HYDRONET, QM9, sizes_of
from packing import Budget, column_generation, make_plan
from packing.best_fit import fit_decreasing
from packing.classes import size_classes
from packing.full_packs import _MOST_NUMBERS, full_packs, improve_by_draws
from packing.histogram import longest_pack_first
from packing.make_plan import continuous_bound

module = sys.modules["packing.make_plan"]  # the package has a function of the same name


def lengths(count, seed=0):
    """Tokens of drug-like molecules."""
    return np.clip(np.round(np.random.default_rng(seed).normal(41, 9.4, count)), 12, 80).astype(np.int64)


@given(case=instances(), seed=st.integers(0, 3))
@settings(max_examples=200)
def test_drawn_packs_are_within_every_limit_and_one_of_them_is_full(case, seed):
    sizes, budget = case
    table = np.stack([sizes[name] for name in budget.measured], 1)
    if not len(table):
        return
    classes = size_classes(table, budget)
    packs = full_packs(classes, budget.capacities(), seed)
    used = packs @ classes.sizes
    assert packs.dtype == np.int32 and packs.shape[1] == len(classes.counts) and (packs >= 0).all()
    assert (used <= budget.capacities()).all() and (used == budget.capacities()).any(1).all()
    assert np.array_equal(packs, full_packs(classes, budget.capacities(), seed))


def test_items_are_drawn_as_often_as_they_occur():
    classes = size_classes(sizes_of(QM9)[:, None], Budget(nodes=128))
    drawn = sum(full_packs(classes, np.array([128]), seed).sum(0) for seed in range(20))
    expected = classes.counts * (drawn.sum() / classes.counts.sum())
    often = expected > 200
    assert often.sum() > 10 and np.abs(drawn[often] / expected[often] - 1).max() < 0.25


def test_sizes_of_zero_wide_budgets_and_many_classes_keep_tables_small():
    nothing = size_classes(np.array([[4, 0], [3, 0], [3, 1]]), Budget(nodes=9, edges=1))
    assert (full_packs(nothing, np.array([9, 1])) @ nothing.sizes <= [9, 1]).all()
    wide = size_classes(np.array([[1], [2**31 - 1]]), Budget(nodes=2**31 - 1))
    assert full_packs(wide, np.array([2**31 - 1])).shape[1] == 2
    many = size_classes(np.arange(1, 5001)[:, None], Budget(nodes=20_000))
    packs = full_packs(many, np.array([20_000]))
    assert 0 < packs.size <= _MOST_NUMBERS


@pytest.mark.parametrize("count, packs", [(2_000, 319), (10_000, 1_605)])
def test_one_linear_program_reaches_the_bound_of_many_small_items(monkeypatch, count, packs):
    pytest.importorskip("scipy")
    solve, solved = column_generation.solve_master, []
    monkeypatch.setattr(column_generation, "solve_master", lambda *a: solved.append(1) or solve(*a))
    plan = make_plan(lengths(count), Budget(tokens=256)).validate()
    assert plan.num_packs == plan.lower_bound == packs
    assert len(solved) == 1, "and no knapsack is solved for it"
    assert make_plan(lengths(count), Budget(tokens=256), "best_fit").num_packs > 1.01 * packs


def test_where_the_bound_is_out_of_reach_the_start_is_returned():
    pytest.importorskip("scipy")
    budget = Budget(nodes=154, graphs=5)
    classes = size_classes(sizes_of(HYDRONET)[::100, None], budget)
    start, bound = fit_decreasing(classes, budget.capacities()), continuous_bound(classes, budget)
    found, patterns = improve_by_draws(start, classes, budget, bound, time.monotonic() + 60)
    assert found is start and (patterns @ classes.sizes <= budget.capacities()).all()
    assert patterns.any(0).all(), "they hold every class, as a start must"


@given(case=instances(max_items=60))
@settings(max_examples=150)
def test_auto_is_never_worse_than_what_costs_nothing(case):
    sizes, budget = case
    plan = make_plan(sizes, budget)
    classes = size_classes(plan.sizes, budget)
    for best in (True, False):
        assert plan.num_packs <= fit_decreasing(classes, budget.capacities(), best).num_packs
    if len(budget.measured) == 1:
        assert plan.num_packs <= make_plan(sizes, budget, "lpfhp").num_packs


@pytest.mark.parametrize("scipy", [True, False])
def test_auto_takes_the_fewest_packs_of_many_classes(monkeypatch, scipy):
    """1,100 lengths up to 8,192 in packs of 32,768: too large for a knapsack's table."""
    monkeypatch.setattr(column_generation, "available", lambda: scipy)
    sizes = np.clip(np.random.default_rng(0).lognormal(6.0, 1.2, 2_000).round(), 8, 8192).astype(np.int64)
    budget = Budget(tokens=32_768)
    assert len(np.unique(sizes)) > 1_000
    fewest = min(make_plan(sizes, budget, name).num_packs for name in ("best_fit", "first_fit", "lpfhp"))
    assert make_plan(sizes, budget).num_packs <= fewest


def test_a_first_import_of_scipy_does_not_count_against_the_limit(monkeypatch):
    """It takes seconds on a busy machine, and best fit then found its time used up."""
    clock, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed[0])

    def imported():
        passed[0] += 100.0
        return True

    monkeypatch.setattr(column_generation, "available", imported)
    seen = []
    original = longest_pack_first
    monkeypatch.setattr(module, "longest_pack_first", lambda *a: seen.append(a[-1]) or original(*a))
    sizes = np.random.default_rng(0).permutation(6_000)[:2_000] + 1
    make_plan(sizes, Budget(nodes=40_000)).validate()
    assert seen and all(deadline > time.monotonic() for deadline in seen if deadline < math.inf)
