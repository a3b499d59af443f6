"""PackingPlan: figures, fingerprint, file, validation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_cases import instances

from packing import Budget, PackingPlan, make_plan

ARRAYS = ("sizes", "items", "offsets", "classes", "skipped")


def small_plan() -> PackingPlan:
    sizes = {"nodes": np.array([5, 4, 3, 3, 9, 2]), "edges": np.array([9, 1, 8, 2, 30, 0])}
    return make_plan(sizes, Budget(nodes=9, edges=12, graphs=3), oversize="skip")


@given(case=instances(), algorithm=st.sampled_from(["auto", "best_fit", "first_fit"]))
@settings(max_examples=25)
def test_a_saved_plan_comes_back_equal(tmp_path_factory, case, algorithm):
    path = tmp_path_factory.mktemp("plan") / "deeper" / "plan.npz"
    plan = make_plan(*case, algorithm, seed=3)
    plan.save(path)
    loaded = PackingPlan.load(path)
    for name in ARRAYS:
        expected, found = getattr(plan, name), getattr(loaded, name)
        assert expected.dtype == found.dtype and np.array_equal(expected, found), name
    assert loaded.budget == plan.budget and loaded.algorithm == plan.algorithm
    assert loaded.lower_bound == plan.lower_bound and loaded.fingerprint == plan.fingerprint
    first, second = plan.epoch(1, 2, 4), loaded.epoch(1, 2, 4)
    assert np.array_equal(first.items, second.items) and np.array_equal(first.offsets, second.offsets)
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.npz"]


def test_fingerprint_changes_when_anything_changes():
    plan = small_plan()
    assert len(plan.skipped) == 1 and len(plan.fingerprint) == 16
    found = {plan.fingerprint}
    for name in ARRAYS:
        array = getattr(plan, name)
        for index in np.ndindex(array.shape):
            changed = array.copy()
            changed[index] += 1
            found.add(dataclasses.replace(plan, **{name: changed}).fingerprint)
    budgets = (Budget(nodes=10, edges=12, graphs=3), Budget(nodes=9, edges=12), Budget(edges=12, nodes=9, graphs=3))
    found.update(dataclasses.replace(plan, budget=budget).fingerprint for budget in budgets)
    assert len(found) == 1 + sum(getattr(plan, name).size for name in ARRAYS) + len(budgets)
    assert small_plan().fingerprint == plan.fingerprint
    assert make_plan(plan.sizes[:4, 0], Budget(nodes=9)).fingerprint != plan.fingerprint


def test_a_file_with_a_wrong_byte_is_refused_or_says_the_same(tmp_path):
    plan, path = small_plan(), tmp_path / "plan.npz"
    plan.save(path)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        broken = bytearray(content)
        broken[position] ^= 0x55
        path.write_bytes(broken)
        try:
            loaded = PackingPlan.load(path)
        except ValueError as error:  # the only error that may escape; it names the file
            assert str(path) in str(error)
            refused += 1
            continue
        assert loaded.fingerprint == plan.fingerprint and loaded.budget == plan.budget  # time stamps and the like
        assert all(np.array_equal(getattr(loaded, name), getattr(plan, name)) for name in ARRAYS)
        assert loaded.lower_bound == plan.lower_bound
    assert refused > len(content) // 3 * 0.6


def test_a_file_cut_short_or_of_another_kind_is_refused(tmp_path):
    plan, path = small_plan(), tmp_path / "plan.npz"
    plan.save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a packing plan.*make it again"):
            PackingPlan.load(path)
    np.save(path.with_suffix(".npy"), np.arange(3))
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    for other in (path.with_suffix(".npy"), tmp_path / "other.npz", tmp_path):
        with pytest.raises(ValueError, match="not a packing plan"):
            PackingPlan.load(other)
    with pytest.raises(FileNotFoundError):
        PackingPlan.load(tmp_path / "absent.npz")


def rewritten(path, **changes):
    with np.load(path) as data:
        np.savez(path, **{**{name: data[name] for name in data.files}, **changes})


def test_another_format_and_changed_content_are_refused(tmp_path):
    plan, path = small_plan(), tmp_path / "plan.npz"
    plan.save(path)
    rewritten(path, items=plan.items[::-1])
    with pytest.raises(ValueError, match="damaged.*fingerprint"):
        PackingPlan.load(path)
    plan.save(path)
    rewritten(path, format=99)
    with pytest.raises(ValueError, match="format 99.*reads 1"):
        PackingPlan.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(items=[0, 1, 2, 3, 3]), "item 3 is packed 2 times|item 4 is packed 0 times|item 5 is packed 0 times"),
        (dict(items=[0, 1, 2, 3, 9]), "packs item 9 of 6"),
        (dict(items=[0, 1, 2, 3, -1]), "packs item -1 of 6"),
        (dict(items=[0, 1, 2, 3]), "item 5 is packed 0 times"),
        (dict(skipped=[]), "item 4 is packed 0 times"),
        (dict(skipped=[4, 4]), "item 4 is packed 2 times"),
        (dict(offsets=[0, 5]), "pack 0 holds 17 nodes of 9"),
        (dict(offsets=[0, 1, 2, 3, 4]), "offsets do not cut"),
        (dict(offsets=[0, 1, 1, 3, 5]), "offsets do not cut"),
        (dict(budget=Budget(nodes=9, edges=12, graphs=1)), "holds . graphs of 1"),
        (dict(budget=Budget(nodes=9, edges=8, graphs=3)), "edges of 8"),
        (dict(lower_bound=7), "below the bound 7"),
    ],
)
def test_validate_finds_what_is_broken(change, message):
    plan = small_plan()
    plan = dataclasses.replace(plan, items=np.sort(plan.items), offsets=np.array([0, 1, 3, 5], np.int32)).validate()
    change = {k: np.array(v, np.int32) if isinstance(v, list) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plan, **change).validate()


def test_check_refuses_other_data():
    plan = small_plan()
    sizes = {"nodes": plan.sizes[:, 0].copy(), "edges": plan.sizes[:, 1].copy()}
    plan.check(sizes)
    sizes["edges"][2] += 1
    with pytest.raises(ValueError, match="made for other data"):
        plan.check(sizes)
    with pytest.raises(ValueError, match="made for other data"):
        plan.check({name: values[:-1] for name, values in sizes.items()})


def test_figures():
    sizes = np.array([4, 4, 4, 4, 2])
    plan = make_plan(sizes, Budget(nodes=9, graphs=2))
    assert plan.num_packs == 3 and plan.lower_bound == 3 and plan.gap == 0 and plan.max_items_per_pack == 2
    assert sorted(plan.fills["nodes"].tolist()) in ([2, 8, 8], [4, 6, 8]) and plan.fills["graphs"].sum() == 5
    assert plan.efficiency == {"nodes": pytest.approx(18 / 27), "graphs": pytest.approx(5 / 6)}
    closed = plan.closed_by
    assert closed["graphs"] == pytest.approx(2 / 3) and closed["none"] == pytest.approx(1 / 3)
    for part in ("5 items", "3 packs", "at least 3", "gap 0", "nodes 66.67%"):
        assert part in plan.summary()


def test_closed_by_counts_the_room_for_the_smallest_item():
    plan = make_plan(np.array([7, 7, 3]), Budget(nodes=9), "best_fit")
    assert plan.closed_by == {"nodes": pytest.approx(2 / 3), "none": pytest.approx(1 / 3)}
