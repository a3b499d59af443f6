"""First fit in random order: every item once, within all limits, near the bound where decreasing orders are not."""

import numpy as np
import pytest

from packing import Budget, make_plan
from packing.classes import size_classes
from packing.shuffled_fit import fit_shuffled


def molecules(count, seed=0):
    """Nodes and edges of molecules like those of OGB: about two directed bonds an atom, few molecules have many."""
    random = np.random.default_rng(seed)
    nodes = np.clip(random.gamma(4.0, 5.6, count), 2, 120).astype(int)
    return np.stack([nodes, 2 * (nodes + random.integers(-1, 5, count))], 1)


@pytest.mark.parametrize("limits", [{"nodes": 720, "edges": 1660}, {"nodes": 130, "edges": 270, "graphs": 5}])
def test_every_item_once_and_no_limit_exceeded(limits):
    table, budget = molecules(700), Budget(**limits)
    classes = size_classes(table, budget)
    types = fit_shuffled(classes, budget.capacities())
    assert types.items.tolist() == classes.counts.tolist()
    assert (types.multiplicity @ classes.sizes <= budget.capacities()).all()
    again = fit_shuffled(classes, budget.capacities())
    assert (again.multiplicity == types.multiplicity).all()


def test_plans_with_two_binding_limits_and_many_items_a_pack_are_at_the_bound():
    table = molecules(3_000)
    tight = table.sum(0) * 32 // len(table)
    budget = Budget(nodes=int(tight[0]), edges=int(tight[1]), graphs=48)
    sizes = {"nodes": table[:, 0], "edges": table[:, 1]}
    greedy = make_plan(sizes, budget, "best_fit")
    plan = make_plan(sizes, budget)
    assert plan.gap <= 1 < greedy.gap
    assert make_plan(sizes, budget, seed=3).num_packs == plan.num_packs


def test_nothing_to_pack():
    budget = Budget(nodes=9)
    assert fit_shuffled(size_classes(np.zeros((0, 1), int), budget), budget.capacities()).num_packs == 0
