"""Packs as items for loaders of constant shapes (PopTorch's), and groups of samples for Megatron-Energon's encoders."""

import numpy as np
import pytest

from packing import Budget, Ragged, make_plan
from packing.adapters.energon import SampleSelector
from packing.adapters.poptorch import PackedDataset
from packing.collate import collate_graphs

SIZES = np.random.default_rng(1).integers(3, 12, 100)
Z = Ragged(np.repeat(np.arange(1, 101), SIZES), np.append(0, np.cumsum(SIZES)))


def dataset(**options):
    plan = make_plan(SIZES, Budget(nodes=40))
    budget = plan.budget.replace(graphs=plan.max_items_per_pack)
    return PackedDataset(plan, lambda packs: collate_graphs(packs, budget, {"z": Z}), **options), budget


def test_items_end_where_the_packs_end():
    packs, _ = dataset(shuffle=False)
    assert len(packs) == packs.plan.num_packs == sum(1 for _ in packs)
    with pytest.raises(IndexError):
        packs[len(packs)]


def test_samples_of_a_buffer_are_grouped_each_once():
    random = np.random.default_rng(0)
    select = SampleSelector(Budget(tokens=64), len)
    for count in (500, 1, 0, 700):
        samples = ["x" * int(size) for size in random.integers(1, 65, count)]
        groups = select(samples)
        assert sorted(map(len, sum(groups, []))) == sorted(map(len, samples))
        assert all(sum(map(len, group)) <= 64 for group in groups)
        least = -(-sum(map(len, samples)) // 64)
        assert len(groups) <= max(1.25 * least, least + 1)
    with pytest.raises(ValueError, match=r"item 1 \(65 tokens\) is larger than the budget"):
        select(["x", "x" * 65])


def test_samples_of_several_sizes_and_small_buffers():
    select = SampleSelector(
        Budget(tokens=20, images=2), lambda one: {"tokens": one[0], "images": one[1]}, buffer_size=7
    )
    samples = [(int(a), int(b)) for a, b in np.random.default_rng(2).integers((1, 0), (12, 3), (40, 2))]
    groups = select(samples)
    assert sorted(sum(groups, [])) == sorted(samples)
    assert all(sum(a for a, _ in group) <= 20 and sum(b for _, b in group) <= 2 for group in groups)
