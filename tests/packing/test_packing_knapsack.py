"""The pricing table against trying every multiset."""

import itertools
import time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import knapsack
from packing.knapsack import Knapsack


@st.composite
def problems(draw):
    dimensions = draw(st.integers(1, 3))
    capacities = draw(st.lists(st.integers(1, 9), min_size=dimensions, max_size=dimensions))
    item = st.tuples(st.integers(1, capacities[0]), *[st.integers(0, c) for c in capacities[1:]])
    sizes = draw(st.lists(item, min_size=1, max_size=4, unique=True))
    sizes = [row[:-1] + (1,) for row in sizes] if dimensions > 1 and draw(st.booleans()) else sizes  # counts items
    sizes = list(dict.fromkeys(sizes))
    prices = draw(st.lists(st.integers(-2, 8), min_size=len(sizes), max_size=len(sizes)))
    return np.array(sizes), np.array(capacities), np.array(prices) / 8.0


def best_of_all(sizes, capacities, prices, must_hold=None):
    most = [int(min(c // s for s, c in zip(row, capacities) if s)) for row in sizes]
    worth = []
    for row in itertools.product(*[range(m + 1) for m in most]):
        if (np.array(row) @ sizes <= capacities).all() and (must_hold is None or row[must_hold]):
            worth.append(float(np.array(row) @ prices))
    return max(worth)


@given(problems(), st.sampled_from([0, 10**9]))
@settings(max_examples=200)
def test_best_pack_of_all_and_the_best_with_each_class(problem, small_table):
    """Whether a dimension that counts items is filled layer by layer, as in large tables, or like any other."""
    sizes, capacities, prices = problem
    with patch.object(knapsack, "_SMALL_TABLE", small_table):
        table = Knapsack(sizes, capacities)
    assert not table.layered or small_table == 0
    value, packs = table.solve(prices)
    assert value == pytest.approx(best_of_all(*problem))
    assert all((row @ sizes <= capacities).all() and row.sum() > 0 for row in packs)
    assert len({row.tobytes() for row in packs}) == len(packs)
    for cls in np.flatnonzero(prices > 0):
        best = max(float(row @ prices) for row in packs if row[cls])
        assert best == pytest.approx(best_of_all(*problem, must_hold=cls))
    worth = [float(row @ prices) for row in packs]
    assert worth == sorted(worth, reverse=True)


def test_large_tables_that_count_items_are_filled_layer_by_layer():
    sizes = np.array([[3, 7, 1], [4, 5, 1]])
    assert Knapsack(sizes, np.array([128, 999, 8])).layered
    assert not Knapsack(sizes, np.array([16, 20, 8])).layered
    assert not Knapsack(sizes[:, :2], np.array([128, 999])).layered


def test_common_divisors_shrink_the_table():
    sizes = np.array([[9, 100], [12, 300], [90, 500]])
    assert Knapsack(sizes, np.array([154, 1700])).shape == (52, 18)
    assert Knapsack.cost(sizes, np.array([154, 1700])) == 52 * 18 * 3


def test_capacity_that_the_item_limit_leaves_unused_costs_nothing():
    sizes = np.array([[3, 1], [4, 1]])  # the second column counts items: at most two in a pack
    assert Knapsack(sizes, np.array([1000, 2])).shape == (3, 9)


def test_cost_of_a_huge_table_does_not_overflow():
    sizes = np.array([[3, 5, 7], [4, 6, 9]])
    assert Knapsack.cost(sizes, np.array([2**30] * 3)) == 2 * (2**30 + 1) ** 3


@pytest.mark.parametrize("small_table", [0, 10**9])
def test_a_table_that_comes_too_late_claims_nothing(small_table):
    sizes = np.array([[3, 1], [4, 1]])
    with patch.object(knapsack, "_SMALL_TABLE", small_table):
        table = Knapsack(sizes, np.array([1000, 2]))
    assert table.solve(np.array([0.4, 0.6]), time.monotonic() - 1) == (np.inf, [])
    assert table.solve(np.array([0.4, 0.6]), time.monotonic() + 60)[0] == pytest.approx(1.2)
