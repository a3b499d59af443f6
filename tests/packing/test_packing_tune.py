"""Budgets chosen from the data hold every item and waste little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import QM9, sizes_of

from packing import Budget, make_plan
from packing.tune import efficiency_curve, fit_budget


def test_chosen_capacities_fill_the_nodes_and_do_not_run_out_of_edges():
    nodes = sizes_of(QM9)[::10]
    sizes = {"nodes": nodes, "edges": nodes * (nodes - 1)}
    budget = fit_budget(sizes, {"graphs": 8})
    assert budget.names == ("nodes", "edges", "graphs") and budget["graphs"] == 8
    assert budget["nodes"] % 16 == 0 and budget["edges"] % 16 == 0
    plan = make_plan(sizes, budget)
    assert plan.efficiency["nodes"] > 0.99 and plan.efficiency["edges"] > 0.9


def test_given_capacities_stay_and_zero_means_choose():
    nodes = sizes_of(QM9)[::100]
    sizes = {"nodes": nodes, "edges": nodes * 3}
    assert fit_budget(sizes, {"nodes": 100, "edges": 400, "graphs": 9}) == Budget(nodes=100, edges=400, graphs=9)
    chosen = fit_budget(sizes, {"nodes": 0, "edges": 0}, largest=144)
    assert chosen == fit_budget(sizes, {}, largest=144) and chosen["nodes"] in (112, 128, 144)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 3), st.sampled_from([1, 8, 16]))
@settings(max_examples=25)
def test_every_item_fits_what_is_chosen(values, factor, align):
    nodes = np.array(values)
    sizes = {"nodes": nodes, "edges": nodes * factor}
    budget = fit_budget(sizes, {}, align=align, largest=128)
    make_plan(sizes, budget).validate()
    assert all(budget[name] % align == 0 for name in budget)


def test_refusals():
    sizes = {"nodes": np.array([5, 9]), "edges": np.array([3, 4])}
    with pytest.raises(ValueError, match="item 1 has 9 nodes, more than the budget's 8; give nodes=9"):
        fit_budget(sizes, {"nodes": 8})
    with pytest.raises(ValueError, match="no items"):
        fit_budget({"nodes": np.zeros(0, int)}, {})


def test_curve_gives_the_figures_of_the_plans():
    nodes = sizes_of(QM9)[::10]
    curve = efficiency_curve(nodes, [20, 36, 58, 128])
    assert [capacity for capacity, _, _ in curve] == [36, 58, 128]
    for capacity, share, packs in curve:
        plan = make_plan(nodes, Budget(nodes=capacity))
        assert packs == plan.num_packs and share == pytest.approx(plan.efficiency["nodes"])
