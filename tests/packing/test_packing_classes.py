"""Size classes, pack types and dealing items into them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from packing_cases import instances, rows_of, table_classes

from packing import Budget
from packing import classes as classes_module
from packing.classes import PackTypes, deal, round_sizes, size_classes


@given(instances())
def test_classes_are_the_distinct_sizes_largest_first(case):
    sizes, budget = case
    classes = table_classes(sizes, budget)
    rows = rows_of(sizes, budget)
    primary_first = [tuple(row[budget.names.index(n)] for n in budget.measured) for row in rows]
    assert [tuple(row) for row in classes.sizes.tolist()] == [
        rows[primary_first.index(key)] for key in sorted(set(primary_first), reverse=True)
    ]
    assert [tuple(classes.sizes[c]) for c in classes.of_item] == rows
    assert classes.counts.tolist() == np.bincount(classes.of_item, minlength=len(classes.counts)).tolist()


@given(instances())
def test_sorting_and_table_lookup_find_the_same_classes(case):
    by_table = table_classes(*case)
    limit, classes_module._LOOKUP_LIMIT = classes_module._LOOKUP_LIMIT, 0
    try:
        by_sort = table_classes(*case)
    finally:
        classes_module._LOOKUP_LIMIT = limit
    for name in ("sizes", "counts", "of_item"):
        assert np.array_equal(getattr(by_table, name), getattr(by_sort, name)), name


def test_many_classes_need_more_than_two_bytes():
    count = 2**16 + 10
    sizes = np.stack([np.arange(1, count + 1), np.zeros(count, int)], 1)
    classes = size_classes(sizes, Budget(nodes=count, edges=1))
    assert classes.of_item.dtype == np.int32 and np.array_equal(classes.sizes[classes.of_item, 0], sizes[:, 0])


@given(instances(), st.sampled_from([2, 4, 16, 64]))
def test_rounded_sizes_hold_the_real_ones_within_the_capacity(case, step):
    sizes, budget = case
    table = np.stack([sizes[name] for name in budget.measured], 1)
    rounded = round_sizes(size_classes(table, budget), budget, step)
    columns = [budget.names.index(name) for name in budget.measured]
    held = rounded.sizes[:, columns][rounded.of_item]
    assert (held >= table).all() and (held - table < step).all()
    assert (held <= budget.capacities()[columns]).all()
    assert np.array_equal(held[:, 0], table[:, 0]), "the primary dimension is never rounded"


def test_pack_types_merge_equal_rows_and_drop_empty_ones():
    row, other = np.array([0, 2, 0]), np.array([1, 0, 0])
    dense = [(3, row), (0, other), (5, np.zeros(3, int)), (2, other), (4, row)]
    held = [(3, ((1, 2),)), (0, ((0, 1),)), (5, ()), (2, ((0, 1),)), (4, ((1, 2),))]
    for types in (PackTypes.from_rows(dense, 3), PackTypes.from_held(held, 3)):
        assert types.multiplicity.tolist() == [[1, 0, 0], [0, 2, 0]] and types.counts.tolist() == [2, 7]
        assert types.num_packs == 9 and types.items.tolist() == [2, 14, 0]
    assert PackTypes.from_rows([], 3).multiplicity.shape == PackTypes.from_held([], 3).multiplicity.shape == (0, 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=4, max_size=4)), max_size=12))
def test_held_and_dense_rows_give_the_same_types_in_the_same_order(rows):
    dense = PackTypes.from_rows([(count, np.array(row)) for count, row in rows], 4)
    held = PackTypes.from_held([(n, tuple((c, k) for c, k in enumerate(row) if k)) for n, row in rows], 4)
    assert np.array_equal(dense.multiplicity, held.multiplicity) and np.array_equal(dense.counts, held.counts)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 3))
def test_deal_fills_every_type_with_items_of_its_classes(of_item, seed):
    of_item = np.array(of_item, np.uint16)
    have = np.bincount(of_item, minlength=3)
    both = min(have[0], have[1])
    rows = [(both, [1, 1, 0]), (have[0] - both, [1, 0, 0]), (have[2] // 2, [0, 0, 2]), (have[2] % 2, [0, 0, 1])]
    types = PackTypes.from_rows([(count, np.array(row)) for count, row in rows], 3)
    for random in (None, np.random.default_rng(seed)):
        items, offsets = deal(types, of_item, random)
        assert len(set(items.tolist())) == len(items) == both + have[0] + have[2]
        held = [np.bincount(of_item[items[a:b]], minlength=3).tolist() for a, b in zip(offsets[:-1], offsets[1:])]
        assert held == [row.tolist() for row, n in zip(types.multiplicity, types.counts) for _ in range(n)]


def test_deal_without_chance_takes_the_first_items_first():
    types = PackTypes.from_rows([(2, np.array([1, 2]))], 2)
    items, _ = deal(types, np.array([1, 0, 1, 1, 0, 1, 1]), None)
    assert items.tolist() == [1, 0, 2, 4, 3, 5]
