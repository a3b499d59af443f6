"""First fit and best fit on the histogram against the same algorithms item by item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import HYDRONET, classes_of, fit_one_by_one, instances, rows_of, table_classes

from packing import Budget, make_plan
from packing.best_fit import OpenPacks, fit_decreasing


def contents(types, classes):
    """Every pack as its sorted sizes."""
    packs = []
    for row, count in zip(types.multiplicity, types.counts.tolist()):
        sizes = np.repeat(classes.sizes, row, axis=0)
        packs += [tuple(sorted(map(tuple, sizes.tolist())))] * count
    return sorted(packs)


@pytest.mark.parametrize("best", [True, False], ids=["best", "first"])
@given(case=instances(max_items=60))
@settings(max_examples=150)
def test_same_packs_as_item_by_item(case, best):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    order = np.argsort(classes.of_item, kind="stable")
    rows = [rows_of(sizes, budget)[i] for i in order]
    types = fit_decreasing(classes, budget.capacities(), best)
    assert contents(types, classes) == fit_one_by_one(rows, budget.capacities().tolist(), best)


@given(case=instances(max_items=60), seed=st.integers(0, 3))
@settings(max_examples=30)
def test_closing_full_packs_early_or_late_changes_nothing(case, seed):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    late = fit_decreasing(classes, budget.capacities())
    original = OpenPacks.close_full

    def early(self, smallest):
        self.close_at = 0
        return original(self, smallest)

    OpenPacks.close_full = early
    try:
        assert contents(fit_decreasing(classes, budget.capacities()), classes) == contents(late, classes)
    finally:
        OpenPacks.close_full = original


def test_work_depends_on_the_classes_not_on_the_items():
    types = fit_decreasing(classes_of(HYDRONET), np.array([154]))
    assert types.num_packs == 2089809 and len(types.counts) < 100


def test_thousands_of_classes():
    random = np.random.default_rng(0)
    nodes = random.integers(5, 200, 4000)
    sizes = {"nodes": nodes, "edges": random.integers(nodes, nodes * 50)}
    plan = make_plan(sizes, Budget(nodes=512, edges=12000), "best_fit").validate()
    assert len(np.unique(plan.classes)) > 3900 and plan.num_packs < 1.12 * plan.lower_bound
