"""Budgets chosen from the data hold every item and waste little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import QM9, sizes_of, table_classes

from packing import Budget, column_generation, make_plan, tune
from packing.make_plan import MAX_CLASSES, rounded_classes
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


def test_the_capacity_is_the_one_that_trying_all_of_them_finds():
    """Those that cannot be filled as well are left out."""
    random = np.random.default_rng(0)
    for nodes in (sizes_of(QM9)[::100], np.full(200, 9), random.integers(3, 40, 40), 3 * random.integers(2, 12, 300)):
        smallest = -(-max(int(nodes.max()), int(6 * nodes.mean())) // 16) * 16
        curve = efficiency_curve(nodes, range(smallest, 257, 16))
        enough = [capacity for capacity, share, _ in curve if share >= 0.98]
        best = max(share for _, share, _ in curve)
        chosen = fit_budget({"nodes": nodes}, {}, target=0.98, largest=256)["nodes"]
        if enough:
            assert chosen == enough[0]
        else:  # the linear program counts fractions, and may be a pack ahead of the plan
            assert dict((c, p) for c, _, p in curve)[chosen] * chosen <= nodes.sum() / best + chosen


def test_coarser_sizes_choose_what_exact_ones_do(monkeypatch):
    random = np.random.default_rng(0)
    nodes = random.permutation(sizes_of(QM9))[:3000]
    sizes = {"nodes": nodes, "edges": nodes * 8 + random.integers(-20, 20, 3000).clip(-nodes, nodes)}
    chosen = fit_budget(sizes, {})
    about = tune._about(sizes, chosen, np.inf)
    assert len(table_classes(about, chosen).counts) < 0.7 * len(table_classes(sizes, chosen).counts)
    monkeypatch.setattr(tune, "_about", lambda sizes, budget, deadline: sizes)
    assert chosen == fit_budget(sizes, {})


@pytest.mark.parametrize("smallest", [1, 2, 9])
@pytest.mark.parametrize("factor", [1, 20])
def test_coarser_sizes_have_the_same_sums_and_fit(smallest, factor):
    nodes = np.random.default_rng(factor).integers(smallest, 300, 4000)
    nodes[::3] = smallest
    sizes = {"nodes": nodes, "edges": nodes * factor + np.arange(len(nodes)) % 7}
    budget = Budget(nodes=640, edges=512 * (2 + int(sizes["edges"].max()) // 512))
    about = tune._about(sizes, budget, np.inf)
    up = rounded_classes(table_classes(sizes, budget), budget, MAX_CLASSES, np.inf, column_generation.affordable)
    assert len(table_classes(about, budget).counts) <= len(up.counts)
    for name, exact in zip(budget, (up.counts[:, None] * up.sizes).sum(0)):
        assert about[name].min() >= (name == "nodes") and about[name].max() <= budget[name]
        assert abs(int(about[name].sum()) - int(exact)) < 0.002 * exact
    assert about["nodes"].sum() == pytest.approx(nodes.sum(), rel=0.002)


def test_nothing_is_priced_when_all_is_given(monkeypatch):
    monkeypatch.setattr(tune, "make_plan", pytest.fail)
    monkeypatch.setattr(tune, "_fewest_packs", pytest.fail)
    sizes = {"nodes": np.array([5, 9]), "edges": np.array([3, 4])}
    assert fit_budget(sizes, {"nodes": 32, "edges": 16}) == Budget(nodes=32, edges=16)


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
