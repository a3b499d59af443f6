"""Epochs: fresh company for every molecule, the same on every rank and every machine."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import QM9, instances, rows_of, sizes_of

from packing import Budget, make_plan
from packing.epoch import Epoch, reorder, spread


def packs_of(epoch: Epoch):
    return [tuple(epoch[p].tolist()) for p in range(len(epoch))]


def qm9_plan(step=100, algorithm="auto", **capacities):
    return make_plan(sizes_of(QM9)[::step], Budget(**(capacities or {"nodes": 128})), algorithm)


@given(case=instances(), seed=st.integers(0, 2**40), number=st.integers(0, 100), multiple=st.integers(1, 9))
def test_an_epoch_is_a_permutation_into_the_same_pack_types(case, seed, number, multiple):
    sizes, budget = case
    plan = make_plan(sizes, budget)
    epoch = plan.epoch(seed, number, multiple)
    rows = rows_of(sizes, budget)
    assert sorted(epoch.items.tolist()) == list(range(len(rows)))
    assert len(epoch) % multiple == 0 and 0 <= len(epoch) - plan.num_packs < multiple
    capacities = budget.capacities()
    filled = [np.sum([rows[i] for i in pack], axis=0) for pack in packs_of(epoch) if pack]
    assert all((fill <= capacities).all() for fill in filled)

    def types(packs):
        return Counter(tuple(sorted(plan.classes[list(pack)])) for pack in packs if pack)

    assert types(packs_of(epoch)) == types(packs_of(plan.in_order()))
    again = make_plan(sizes, budget).epoch(seed, number, multiple)
    assert packs_of(again) == packs_of(epoch), "an epoch is a function of its arguments alone"


def test_rounded_classes_stay_within_the_budget_whoever_shares_a_pack():
    random = np.random.default_rng(0)
    nodes = random.integers(3, 30, 2000)
    sizes = {"nodes": nodes, "edges": random.integers(0, nodes * (nodes - 1))}
    plan = make_plan(sizes, Budget(nodes=128, edges=1500, graphs=12), time_limit=6.0)
    exact = len(np.unique(nodes * 1000 + sizes["edges"]))
    assert len(np.unique(plan.classes)) < exact / 4, "the case must round"
    for number in range(5):
        epoch = plan.epoch(1, number)
        for name, column in (("nodes", nodes), ("edges", sizes["edges"])):
            fills = np.add.reduceat(column[epoch.items], epoch.offsets[:-1])
            assert fills.max() <= plan.budget[name]
        assert np.diff(epoch.offsets).max() <= 12


def test_fills_are_the_same_every_epoch_and_company_is_not():
    plan = qm9_plan()
    fills = sorted(plan.fills["nodes"].tolist())
    seen = set()
    together = []
    for seed, number in ((0, 0), (0, 1), (1, 0), (7, 3)):
        epoch = plan.epoch(seed, number)
        sizes = plan.sizes[:, 0][epoch.items]
        assert sorted(np.add.reduceat(sizes, epoch.offsets[:-1]).tolist()) == fills
        seen.add(tuple(epoch.items.tolist()))
        together.append({frozenset(pack) for pack in packs_of(epoch)})
    assert len(seen) == 4
    for first in range(4):
        for second in range(first):
            assert len(together[first] & together[second]) < 0.02 * plan.num_packs
    # Pack order is shuffled as well: sizes do not fall from the first pack to the last.
    lengths = np.diff(plan.epoch(0, 0).offsets)
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.2


def test_all_items_of_a_class_are_equally_likely_to_share_a_pack():
    plan = make_plan(np.full(6, 3), Budget(nodes=6))
    partners = Counter()
    for number in range(600):
        for pack in packs_of(plan.epoch(5, number)):
            partners[frozenset(pack)] += 1
    assert len(partners) == 15 and sum(partners.values()) == 1800
    assert all(70 < times < 175 for times in partners.values()), partners  # 120 expected, 10.6 standard deviation


def test_order_is_the_same_on_every_machine_and_version():
    """A checksum, so that no change of code or numpy silently changes what a resumed run sees."""
    plan = qm9_plan(algorithm="best_fit", nodes=128, graphs=8)
    assert plan.fingerprint == "1029620fd9ec5430"
    digest = hashlib.blake2b(digest_size=8)
    for epoch in (plan.epoch(17, 4, multiple=20), plan.in_order(multiple=20)):
        digest.update(epoch.items.astype(np.int64).tobytes() + epoch.offsets.astype(np.int64).tobytes())
    assert digest.hexdigest() == "41b84f341fd3f2f3"


@given(st.integers(0, 60), st.integers(1, 70))
def test_empty_packs_are_spread_evenly(count, multiple):
    order = np.arange(count)[::-1]
    slots = spread(order, multiple)
    total = -(-count // multiple) * multiple
    assert len(slots) == total and slots[slots >= 0].tolist() == order.tolist()
    if count and total > count:
        real = np.flatnonzero(slots >= 0)
        assert np.diff(real).max(initial=1) - np.diff(real).min(initial=total) <= 1, "gaps differ by one at most"
        step = max(multiple, 1)
        per_block = (slots >= 0).reshape(-1, step).sum(1)
        assert per_block.max() - per_block.min() <= 1, "no optimizer step sees far fewer packs than another"


def test_planned_order_keeps_the_packs_and_pads_at_the_end():
    plan = qm9_plan()
    epoch = plan.in_order(multiple=64)
    assert len(epoch) % 64 == 0 and np.array_equal(epoch.items, plan.items)
    assert all(len(epoch[p]) == 0 for p in range(plan.num_packs, len(epoch)))
    assert [len(epoch[p]) for p in range(plan.num_packs)] == np.diff(plan.offsets).tolist()


@given(st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=20)
def test_shards_partition_the_epoch_step_by_step(world, batch):
    epoch = qm9_plan(step=400).epoch(3, 1, multiple=world * batch)
    whole = packs_of(epoch)
    shards = [packs_of(epoch.shard(rank, world)) for rank in range(world)]
    assert {len(shard) for shard in shards} == {len(whole) // world}
    assert [pack for step in zip(*shards) for pack in step] == whole
    for start in range(0, len(shards[0]), batch):
        together = [pack for shard in shards for pack in shard[start : start + batch]]
        assert Counter(together) == Counter(whole[start * world : (start + batch) * world])


def test_shard_refuses_what_does_not_divide():
    epoch = Epoch(np.arange(3), np.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="3 packs do not divide over 2 ranks.*multiple=2"):
        epoch.shard(0, 2)
    for rank in (-1, 3):
        with pytest.raises(ValueError, match=f"^rank={rank}(: give a whole number of 0 or more| is not one of 0 .. 2)"):
            epoch.shard(rank, 3)


def test_slices_count_from_zero():
    epoch = qm9_plan(step=1000).epoch(0, 0)
    for start, stop in ((0, 3), (2, 2), (5, len(epoch))):
        items, offsets = epoch.slice(start, stop)
        assert offsets[0] == 0 and offsets[-1] == len(items) and len(offsets) == stop - start + 1
        parts = [tuple(items[a:b].tolist()) for a, b in zip(offsets[:-1], offsets[1:])]
        assert parts == packs_of(epoch)[start:stop]


def test_reorder_makes_empty_packs_of_minus_one():
    epoch = reorder(np.array([7, 8, 9]), np.array([0, 2, 3]), np.array([-1, 1, -1, 0]))
    assert packs_of(epoch) == [(), (9,), (), (7, 8)]


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_negative_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="give a whole number of [01] or more"):
        qm9_plan(step=5000).epoch(*arguments)


def test_packs_are_counted_as_in_a_list():
    epoch = qm9_plan(step=5000).epoch(0, 0, 3)
    assert epoch[-1].tolist() == epoch[len(epoch) - 1].tolist() and epoch[-len(epoch)].tolist() == epoch[0].tolist()
    assert len(epoch.slice(len(epoch) - 1, len(epoch) + 5)[1]) == 2 and len(list(epoch)) == len(epoch)
    for wrong in (lambda: epoch[len(epoch)], lambda: epoch[-len(epoch) - 1], lambda: epoch.slice(-1, 2)):
        with pytest.raises(IndexError, match=f"of an epoch of {len(epoch)}"):
            wrong()


def test_moving_packs_in_blocks_changes_nothing(monkeypatch):
    plan = make_plan(np.random.default_rng(0).integers(3, 30, 500), Budget(nodes=64))
    whole = plan.epoch(3, 1, multiple=7)
    monkeypatch.setattr("packing.epoch._BLOCK", 4)
    blocks = plan.epoch(3, 1, multiple=7)
    assert np.array_equal(whole.items, blocks.items) and np.array_equal(whole.offsets, blocks.offsets)
    assert len(whole) % 4 and len(whole) > 8
