"""Column generation: published figures, and a bound that no packer beats."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from packing_cases import (
    HYDRONET,
    HYDRONET_2_7M,
    HYDRONET_500K,
    QM9,
    classes_of,
    fewest_packs,
    instances,
    rows_of,
    sizes_of,
    table_classes,
)

from packing import Budget, column_generation, make_plan, rounding
from packing.best_fit import fit_decreasing
from packing.streaming import StreamPacker


@pytest.mark.parametrize(
    "histogram, budget, packs",
    [
        (QM9, Budget(nodes=36), 66433),
        (QM9, Budget(nodes=128), 18432),
        (HYDRONET, Budget(nodes=154, graphs=5), 2066923),
        (HYDRONET, Budget(nodes=154, graphs=3), 2066923),
        (HYDRONET_2_7M, Budget(nodes=192, graphs=4), 894809),
        (HYDRONET_500K, Budget(nodes=192, graphs=5), 164032),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_one_dimension_reaches_the_bound(histogram, budget, packs):
    classes = classes_of(histogram, budget)
    start = fit_decreasing(classes, budget.capacities()).multiplicity
    relaxation = column_generation.relax(classes, budget, start, 10.0)
    types = rounding.round_up(relaxation, classes, budget, float("inf"), packs)
    assert int(np.ceil(relaxation.bound - 1e-6)) == packs == types.num_packs
    assert np.array_equal(types.items, classes.counts)


@pytest.mark.parametrize("capacity", [46, 58, 72, 84, 100, 160, 252])
def test_other_capacities_stay_within_one_pack_of_the_bound(capacity):
    plan = make_plan(sizes_of(QM9), Budget(nodes=capacity))
    assert plan.num_packs <= plan.lower_bound + 1


def test_nodes_and_edges_at_once():
    nodes = sizes_of(QM9)
    plan = make_plan({"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=128, edges=2304)).validate()
    assert plan.num_packs == plan.lower_bound == 18432
    assert plan.efficiency["nodes"] > 0.9999 and plan.efficiency["edges"] == pytest.approx(0.9729, abs=1e-4)


def test_nodes_edges_and_graphs_at_once():
    nodes = sizes_of(QM9)[::10]
    plan = make_plan({"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=128, edges=2304, graphs=8))
    assert plan.validate().num_packs <= plan.lower_bound + 1


@given(instances(max_items=7, max_nodes=16))
@settings(max_examples=300)
def test_bound_is_below_and_packs_above_the_true_optimum(case):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    optimum = fewest_packs(rows_of(sizes, budget), budget.capacities().tolist())
    plan = make_plan(sizes, budget, "column_generation")
    assert plan.lower_bound <= optimum <= plan.num_packs
    if len(classes.counts):
        # The plan's bound is cut off at its packs; here it is not.
        start = fit_decreasing(classes, budget.capacities()).multiplicity
        bound = column_generation.relax(classes, budget, start, 10.0).bound
        assert np.ceil(bound - 1e-6) <= optimum
        assert np.ceil(column_generation.relax(classes, budget, start, 0.0).bound - 1e-6) <= optimum


@given(instances(max_items=7, max_nodes=16))
@settings(max_examples=40)
def test_bound_from_the_primary_dimension_holds_for_all_of_them(case):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    if len(classes.counts) == 0:
        return
    optimum = fewest_packs(rows_of(sizes, budget), budget.capacities().tolist())
    module = sys.modules["packing.make_plan"]  # the package has a function of the same name
    assert module._primary_bound(classes, budget, float("inf")) <= optimum
    assert module.continuous_bound(classes, budget) <= optimum


@given(instances(max_items=30))
@settings(max_examples=25)
def test_stopping_early_still_gives_a_plan_and_a_bound(case):
    sizes, budget = case
    hurried = make_plan(sizes, budget, time_limit=0.0).validate()
    patient = make_plan(sizes, budget)
    assert hurried.lower_bound <= patient.num_packs
    assert hurried.num_packs <= make_plan(sizes, budget, "best_fit").num_packs


def test_time_limit_zero_on_real_sizes():
    nodes = sizes_of(QM9)
    sizes, budget = {"nodes": nodes, "edges": nodes * (nodes - 1)}, Budget(nodes=128, edges=2304, graphs=8)
    plan = make_plan(sizes, budget, time_limit=0.0).validate()
    assert 18000 < plan.lower_bound <= 18432 <= plan.num_packs


def test_a_limit_of_rounds_and_no_proof_keep_the_bound_valid():
    classes, budget = classes_of(QM9), Budget(nodes=128)
    start = fit_decreasing(classes, budget.capacities()).multiplicity
    bounds = [column_generation.relax(classes, budget, start, 10.0, rounds).bound for rounds in range(6)]
    assert bounds == sorted(bounds) and bounds[-1] <= 18432
    budget = Budget(nodes=128, edges=2304, graphs=8)
    classes = table_classes({"nodes": np.arange(3, 30), "edges": np.arange(3, 30) ** 2}, budget)
    start = fit_decreasing(classes, budget.capacities()).multiplicity
    assert column_generation.relax(classes, budget, start, 10.0, 3, prove=False).bound == 0.0


def test_without_scipy_best_fit_takes_over_and_an_explicit_wish_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert not column_generation.available()
    plan = make_plan(sizes_of(QM9), Budget(nodes=36)).validate()
    assert plan.algorithm == "best_fit" and plan.num_packs == 66433
    with pytest.raises(ValueError, match="column_generation.*scipy.*pip install"):
        make_plan(sizes_of(QM9), Budget(nodes=36), "column_generation")
    with pytest.raises(ValueError, match="scipy"):
        StreamPacker(Budget(nodes=36), algorithm="column_generation")
    packer = StreamPacker(Budget(nodes=36), buffer_size=100)
    sizes = sizes_of(QM9)[::1000]
    assert len(packer.push(np.arange(len(sizes)), sizes)) > 0
