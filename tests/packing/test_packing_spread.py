"""The second objective: as few packs as without it, whose costs differ less."""

import numpy as np
import pytest
from hypothesis import given, settings
from packing_cases import QM9, instances, sizes_of

from packing import Budget, Cost, make_plan

SQUARE = Cost(quadratic=1.0)


def costs_of(plan, cost=SQUARE):
    return np.diff(np.append(0, np.cumsum(cost.of_items(plan)[plan.items]))[plan.offsets])


@given(instances())
@settings(max_examples=60, deadline=None)
def test_as_few_packs_of_less_different_costs(case):
    sizes, budget = case
    plain = make_plan(sizes, budget, time_limit=600.0)
    even = make_plan(sizes, budget, time_limit=600.0, spread_cost=SQUARE).validate()
    assert even.num_packs == plain.num_packs and even.lower_bound == plain.lower_bound
    assert len(np.unique(even.classes)) == len(np.unique(plain.classes))
    assert plain.num_packs == 0 or costs_of(even).var() <= costs_of(plain).var() * (1 + 1e-9)
    again = make_plan(sizes, budget, time_limit=600.0, spread_cost=SQUARE)
    assert again.fingerprint == even.fingerprint


@pytest.mark.parametrize("limits", [{"nodes": 128}, {"nodes": 128, "graphs": 8}, {"nodes": 128, "edges": 2304}])
def test_packs_of_qm9_become_alike(limits):
    nodes = sizes_of(QM9)[::20]
    sizes = {"nodes": nodes, "edges": nodes * (nodes - 1)}
    sizes = {name: sizes[name] for name in limits if name != "graphs"}
    plain = make_plan(sizes, Budget(**limits), "best_fit")
    even = make_plan(sizes, Budget(**limits), "best_fit", spread_cost=SQUARE).validate()
    assert even.num_packs == plain.num_packs
    assert costs_of(even).std() < 0.5 * costs_of(plain).std()


def test_costs_of_items_may_be_given():
    nodes = sizes_of(QM9)[::50]
    by_item = make_plan(nodes, Budget(nodes=128), "best_fit", spread_cost=nodes.astype(float) ** 2)
    assert by_item.fingerprint == make_plan(nodes, Budget(nodes=128), "best_fit", spread_cost=SQUARE).fingerprint
    with_large = np.append(nodes, 500)
    plan = make_plan(with_large, Budget(nodes=128), "best_fit", oversize="skip", spread_cost=with_large.astype(float))
    assert plan.validate().skipped.tolist() == [len(nodes)]
    with pytest.raises(ValueError, match="one number for each of the 3 items"):
        make_plan(np.array([1, 2, 3]), Budget(nodes=4), spread_cost=np.ones(2))
