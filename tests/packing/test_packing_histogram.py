"""Longest-pack-first: published throughputs refer to its packs, so the counts must be theirs exactly."""

import json

import numpy as np
import pytest
from hypothesis import given
from packing_cases import HISTOGRAMS, HYDRONET, HYDRONET_2_7M, HYDRONET_500K, QM9, classes_of, instances, table_classes

from packing.histogram import longest_pack_first

UNLIMITED = 2**31 - 1


@pytest.mark.parametrize(
    "histogram, capacity, depth, packs",
    [
        (QM9, 36, UNLIMITED, 66433),
        (QM9, 128, UNLIMITED, 18907),
        (QM9, 252, UNLIMITED, 9398),
        (HYDRONET, 128, UNLIMITED, 3441972),
        (HYDRONET, 190, UNLIMITED, 1806382),
        (HYDRONET, 154, 5, 2089809),
        (HYDRONET_2_7M, 192, 4, 911401),
        (HYDRONET_500K, 192, 5, 167046),
    ],
)
def test_published_pack_counts(histogram, capacity, depth, packs):
    assert longest_pack_first(classes_of(histogram), capacity, depth).num_packs == packs


def test_all_golden_values(shared):
    golden = json.loads((shared / "golden" / "lpfhp_golden.json").read_text())
    histograms = json.loads((shared / "golden" / "histograms.json").read_text())
    compared = 0
    for name, expected in golden.items():
        histogram = {int(size): count for size, count in histograms[name].items()}
        assert histogram == HISTOGRAMS[name]
        assert sum(histogram.values()) == expected["total_graphs"]
        assert sum(size * count for size, count in histogram.items()) == expected["total_nodes"]
        classes = classes_of(histogram)
        found = {
            capacity: longest_pack_first(classes, int(capacity), UNLIMITED).num_packs
            for capacity in expected["lpfhp_packs_by_pack_size"]
        }
        assert found == expected["lpfhp_packs_by_pack_size"]
        compared += len(found)
    assert compared == 300


@given(instances(max_items=30))
def test_packs_hold_every_item_within_capacity_and_depth(case):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    for depth in (1, 2, UNLIMITED):
        types = longest_pack_first(classes, budget["nodes"], depth)
        assert np.array_equal(types.items, classes.counts)
        assert (types.multiplicity @ classes.sizes[:, 0] <= budget["nodes"]).all()
        assert types.multiplicity.sum(1).max(initial=0) <= depth
