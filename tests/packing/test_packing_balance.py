"""Balanced epochs: the same packs, in steps of like cost, with like sums for every rank."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import QM9, instances, sizes_of

from packing import Budget, Cost, make_plan
from packing.balance import rank_packs

SQUARE = Cost(quadratic=1.0)


def packs_of(epoch):
    return Counter(tuple(sorted(epoch[p].tolist())) for p in range(len(epoch)))


def costs_of_places(plan, epoch, costs, multiple):
    """[steps, multiple]"""
    sums = np.append(0, np.cumsum(costs[epoch.items]))[epoch.offsets]
    return np.diff(sums).reshape(-1, multiple)


@given(instances(), st.integers(0, 2**40), st.integers(0, 50), st.integers(1, 9), st.booleans())
@settings(deadline=None)
def test_balance_changes_the_order_of_packs_alone(case, seed, number, multiple, by_item):
    sizes, budget = case
    plan = make_plan(sizes, budget)
    costs = np.random.default_rng(seed).random(len(plan.sizes)) if by_item else SQUARE.of_items(plan)
    epoch = plan.epoch(seed, number, multiple, costs if by_item else SQUARE)
    plain = plan.epoch(seed, number, multiple)
    assert packs_of(epoch) == packs_of(plain), "not a pack more, none less, nobody in other company"
    again = make_plan(sizes, budget).epoch(seed, number, multiple, costs if by_item else SQUARE)
    assert np.array_equal(again.items, epoch.items) and np.array_equal(again.offsets, epoch.offsets)
    # Steps are ranges of the packs in the order of cost, and have as many real ones to within one.
    places, real = costs_of_places(plan, epoch, costs, multiple), np.diff(epoch.offsets).reshape(-1, multiple) > 0
    if multiple > 1 and len(places):
        assert real.sum(1).max() - real.sum(1).min() <= 1
        ranges = sorted((step[mask].min(), step[mask].max()) for step, mask in zip(places, real) if mask.any())
        assert all(before[1] <= after[0] * (1 + 1e-6) for before, after in zip(ranges, ranges[1:]))


def waits(places):
    """What ranks wait for the slowest of each step, by what they work."""
    return places.max(1).sum() / places.mean(1).sum() - 1


@pytest.mark.parametrize("ranks, most", [(2, 0.02), (16, 0.02), (64, 0.02), (1024, 0.034)])
def test_ranks_get_like_sums(ranks, most):
    """Of 1,024 ranks an epoch has 18 steps, each of packs of many costs."""
    plan = make_plan(sizes_of(QM9)[:: 1 if ranks == 1024 else 8], Budget(nodes=128))
    found = costs_of_places(plan, plan.epoch(3, 1, ranks, SQUARE), SQUARE.of_items(plan), ranks)
    assert waits(found) < most
    assert found.sum(0).max() / found.sum(0).mean() < 1.02


@pytest.mark.parametrize("ranks", [2, 16, 64])
def test_balance_takes_nine_tenths_of_the_waiting_away(ranks):
    plan = make_plan(sizes_of(QM9)[::8], Budget(nodes=128), "best_fit")  # its packs differ most in cost
    costs = SQUARE.of_items(plan)
    epochs = [costs_of_places(plan, plan.epoch(3, number, ranks, SQUARE), costs, ranks) for number in range(9)]
    assert waits(epochs[1]) < 0.1 * waits(costs_of_places(plan, plan.epoch(3, 1, ranks), costs, ranks))
    order = np.mean([np.corrcoef(np.arange(len(steps)), steps.mean(1))[0, 1] for steps in epochs])
    assert abs(order) < 0.2, "the order of the steps is random"


@pytest.mark.parametrize("world", [2, 4, 8, 16])
def test_several_packs_of_a_rank_in_a_step_are_alike_for_every_number_of_ranks(world):
    plan = make_plan(sizes_of(QM9)[::10], Budget(nodes=128))
    epoch, costs = plan.epoch(0, 0, 16, SQUARE), SQUARE.of_items(plan)
    assert len(epoch) > plan.num_packs, "the case must have empty packs"
    sums = [costs[epoch.shard(rank, world).items].sum() for rank in range(world)]
    assert max(sums) / np.mean(sums) < 1.02
    empty = np.diff(epoch.offsets).reshape(-1, world) == 0
    assert np.ptp(empty.sum(0)) <= 1, "nobody gets more of the empty packs"


def test_few_packs_for_many_ranks():
    plan = make_plan(np.full(700, 5), Budget(nodes=5))
    epoch = plan.epoch(0, 0, 4096, SQUARE)
    assert len(epoch) == 4096 and len(epoch.items) == 700
    assert len(make_plan(np.zeros(0, int), Budget(nodes=5)).epoch(0, 0, 8, SQUARE)) == 0


def test_equal_packs_take_turns():
    """Which of two types of equal cost comes first must not be settled for ever."""
    plan = make_plan(np.repeat([1, 2], 40), Budget(nodes=2))
    first = {tuple(sorted(len(plan.epoch(0, e, 4, Cost(linear=1.0))[p]) for p in range(4))) for e in range(20)}
    assert len(first) > 2


def test_balanced_order_is_the_same_on_every_machine_and_version():
    plan = make_plan(sizes_of(QM9)[::100], Budget(nodes=128, graphs=8), "best_fit")
    digest = hashlib.blake2b(digest_size=8)
    for multiple in (4, 20):
        epoch = plan.epoch(17, 4, multiple, SQUARE)
        digest.update(epoch.items.astype(np.int64).tobytes() + epoch.offsets.astype(np.int64).tobytes())
    assert digest.hexdigest() == "9f41e6066adb473a"


def test_ranking_is_by_cost():
    costs = np.random.default_rng(0).random(500) * 10.0 ** np.random.default_rng(1).integers(-9, 9, 500)
    costs[::7] = 3.0
    ranking = rank_packs(np.arange(500), np.arange(501), costs)
    assert np.array_equal(ranking.packs, np.argsort(costs.astype(np.float32), kind="stable"))
    assert np.array_equal(ranking.costs, costs.astype(np.float32)[ranking.packs])
    (run,) = ranking.runs
    assert (ranking.costs[run[0] : run[1]] == 3.0).all() and run[1] - run[0] == len(costs[::7])


def test_cost_of_items():
    sizes = {"nodes": np.array([3, 5]), "edges": np.array([6, 2])}
    assert Cost(1.0, 2.0, 10.0).of_items(sizes).tolist() == [3 + 18 + 60, 5 + 50 + 20]
    assert Cost(linear=2.0).of_items(np.array([3, 5])).tolist() == [6, 10]
    plan = make_plan(sizes, Budget(nodes=8, edges=9))
    assert Cost(edges=1.0).of_items(plan).tolist() == [6, 2]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda plan: Cost(), "weights of a cost are 0 or more, and one of them is more"),
        (lambda plan: Cost(linear=-1.0), "0 or more"),
        (lambda plan: Cost(quadratic=float("nan")), "0 or more"),
        (lambda plan: plan.epoch(0, 0, 2, Cost(edges=1.0)), "counts edges, and there are sizes of nodes alone"),
        (lambda plan: plan.epoch(0, 0, 2, np.ones(3)), "one number for each of the 2 items, not float64 of shape"),
        (lambda plan: plan.epoch(0, 0, 2, np.array([1.0, np.nan])), "item 1 costs nan; costs are finite and 0 or more"),
        (lambda plan: plan.epoch(0, 0, 2, np.array([1, -1])), "item 1 costs -1.0"),
        (lambda plan: plan.epoch(0, 0, 2, "heavy"), "a cost is packing.Cost"),
    ],
)
def test_what_is_no_cost_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(make_plan(np.array([3, 4]), Budget(nodes=4)))
