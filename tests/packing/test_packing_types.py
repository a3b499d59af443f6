"""Budget, index dtypes and ragged arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing import Budget, Ragged, gather_index, index_dtype
from packing.types import offsets_of


def test_budget_keeps_order_and_tells_measured_dimensions_from_counts():
    budget = Budget(nodes=128, edges=2304, graphs=8)
    assert budget.names == ("nodes", "edges", "graphs") and budget.measured == ("nodes", "edges")
    assert budget.capacities().tolist() == [128, 2304, 8] and budget["edges"] == 2304
    assert budget.max_items == 8 and Budget(nodes=1, graphs=5, segments=3).max_items == 3
    assert Budget(tokens=4).max_items == 2**31 - 1
    assert "graphs" in budget and "tokens" not in budget and list(budget) == ["nodes", "edges", "graphs"]


def test_budgets_are_equal_when_names_order_and_capacities_are():
    budget = Budget(nodes=128, graphs=8)
    assert budget == Budget(nodes=np.int64(128), graphs=8) and hash(budget) == hash(Budget(nodes=128, graphs=8))
    assert budget != Budget(graphs=8, nodes=128) and budget != Budget(nodes=128, graphs=9) and budget != "x"
    assert budget.replace(nodes=64, edges=9) == Budget(nodes=64, graphs=8, edges=9)
    assert budget == Budget(nodes=128, graphs=8), "replace must not change the original"
    budget.as_dict()["nodes"] = 1
    assert budget["nodes"] == 128


@pytest.mark.parametrize("bad", [0, -1, 2**31, 1.5, True, "8", None])
def test_budget_refuses_a_capacity_that_is_none(bad):
    with pytest.raises(ValueError, match="budget nodes="):
        Budget(nodes=bad)


def test_budget_needs_a_measured_dimension():
    for capacities in ({}, {"graphs": 3}, {"graphs": 3, "segments": 2}):
        with pytest.raises(ValueError, match="measured dimension"):
            Budget(**capacities)


def test_index_dtype_holds_the_last_index_and_is_the_smallest_that_does():
    for dtype, count in ((np.uint8, 256), (np.int16, 2**15), (np.int32, 2**31)):
        assert index_dtype(count) == dtype and np.array(count - 1).astype(dtype) == count - 1
    assert index_dtype(257) == np.int16 and index_dtype(2**15 + 1) == np.int32
    with pytest.raises(ValueError, match="int32"):
        index_dtype(2**31 + 1)


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_take_copies_items_in_any_order(lengths, data):
    values = np.arange(2 * sum(lengths)).reshape(-1, 2)
    ragged = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    chosen = st.lists(st.integers(0, len(lengths) - 1), max_size=10) if lengths else st.just([])
    items = np.array(data.draw(chosen), np.int64)
    taken = ragged.take(items)
    assert len(ragged) == len(lengths) and ragged.lengths.tolist() == lengths
    assert [taken[k].tolist() for k in range(len(taken))] == [ragged[int(i)].tolist() for i in items]
    positions, offsets = gather_index(ragged.offsets, items)
    assert offsets.tolist() == taken.offsets.tolist() and np.array_equal(values[positions], taken.values)


def test_take_of_columns_that_do_not_lie_together():
    for values in (np.arange(12).reshape(2, 6).T, np.arange(24).reshape(6, 4)[:, ::2]):
        taken = Ragged(values, np.array([0, 2, 3, 6])).take(np.array([2, 0]))
        assert np.array_equal(taken.values, values[[3, 4, 5, 0, 1]]) and taken.offsets.tolist() == [0, 3, 5]


def test_ragged_from_list_and_negative_items():
    ragged = Ragged.from_list([np.array([1, 2]), np.array([], int), np.array([3])])
    assert ragged[0].tolist() == [1, 2] and ragged[-1].tolist() == [3] and len(ragged[1]) == 0
    for outside in (3, -4):
        with pytest.raises(IndexError):
            ragged[outside]
    with pytest.raises(ValueError, match="at least one item"):
        Ragged.from_list([])


@pytest.mark.parametrize("offsets", [[0, 2, 4], [1, 3], [], [[0, 3]]])
def test_ragged_refuses_offsets_of_other_values(offsets):
    with pytest.raises(ValueError, match="offsets"):
        Ragged(np.zeros(3), np.array(offsets, np.int64))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint64, list])
def test_offsets_do_not_wrap(kind):
    most = 2**31 - 1 if kind in (np.int32, list) else int(min(np.iinfo(kind).max, 2**40))
    lengths = [most, 0, most] if kind is list else np.array([most, 0, most], kind)
    offsets = offsets_of(lengths)
    assert offsets.dtype == np.int64 and offsets.tolist() == [0, most, most, 2 * most]
    assert offsets_of([]).tolist() == [0]
