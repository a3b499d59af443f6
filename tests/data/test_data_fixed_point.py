"""Positions in 16 bits are off by half a step at most, and a step is the smallest power of two that will do."""

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import random_store

from ipu_chem.data import fixed_point
from ipu_chem.data.fixed_point import FIELD, STEP, fixed_point_in_memory, step_for, to_fixed_point, with_fixed_point
from packing import Ragged
from packing.store import Store


def store_of(molecules: List[Any]) -> Store:
    pos = Ragged.from_list([np.asarray(molecule, np.float32).reshape(-1, 3) for molecule in molecules])
    return Store({"nodes": pos.offsets}, {"pos": pos.values}, {"pos": "nodes"})


@st.composite
def molecules(draw: Any) -> List[np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    width, away = 10 ** draw(st.floats(-2, 1.7)), 10 ** draw(st.floats(-2, 3))
    sizes = rng.integers(1, 6, draw(st.integers(1, 8)))
    return [rng.uniform(-away, away, 3) + rng.uniform(0, width, (size, 3)) for size in sizes]


@given(molecules())
@settings(max_examples=200, deadline=None)
def test_the_error_is_half_a_step_and_the_step_the_smallest(case: List[np.ndarray]) -> None:
    store = store_of(case)
    fixed = fixed_point_in_memory(store)
    step, offsets = fixed.info[STEP], store.axes["nodes"]
    assert fixed.fields[FIELD].dtype == np.int16 and np.log2(step) == int(np.log2(step))
    halves = []
    for first, last in zip(offsets[:-1], offsets[1:]):
        pos = store.fields["pos"][first:last].astype(np.float64)
        middle = (pos.min(0) + pos.max(0)) / 2
        halves.append((pos.max(0) - pos.min(0)).max() / 2)
        back = fixed.fields[FIELD][first:last] * step
        assert np.abs(back - (pos - middle)).max() <= step / 2 * (1 + 1e-9)
    largest = max(*halves, 1.0)
    assert step / 2 * 32767 < largest <= step * 32767
    assert np.array_equal(fixed.fields["pos"], store.fields["pos"])  # what is asked for in Å stays there


def test_steps_are_powers_of_two_at_the_border() -> None:
    for power in (-14, -12, -9):
        assert step_for(32767 * 2.0**power) == 2.0**power
        assert step_for(32767 * 2.0**power * (1 + 1e-12)) == 2.0 ** (power + 1)


def test_parts_of_a_large_set_are_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_store(np.random.default_rng(0), 30)
    whole = fixed_point_in_memory(store)
    monkeypatch.setattr(fixed_point, "_ITEMS_AT_ONCE", 7)
    parts = fixed_point_in_memory(store)
    assert np.array_equal(parts.fields[FIELD], whole.fields[FIELD]) and parts.info == whole.info
    store.fields["pos"][store.axes["nodes"][22]] = np.nan
    with pytest.raises(ValueError, match="molecule 22 has a position that is no number"):
        fixed_point_in_memory(store)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_position_is_named(value: float) -> None:
    with pytest.raises(ValueError, match="molecule 1 has a position that is no number; correct it or leave it out"):
        fixed_point_in_memory(store_of([[0, 0, 0], [[1, 2, 3], [4, value, 6]], [7, 8, 9]]))


def test_a_molecule_without_atoms_is_named() -> None:
    with pytest.raises(ValueError, match="molecule 1 has no atoms"):
        fixed_point_in_memory(store_of([[0, 0, 0], [], [7, 8, 9]]))


def test_a_molecule_that_would_blur_all_others_is_refused() -> None:
    far = [[0, 0, 0], [[0, 0, 0], [0, 200, 0]]]
    with pytest.raises(ValueError, match=r"molecule 1 is 200 Å wide: .* up to 0.002 Å. Use pack.positions=float32"):
        fixed_point_in_memory(store_of(far))
    store = store_of([[0, 0, 0], [[0, 0, 0], [0, 20, 0]]])
    with pytest.raises(ValueError, match="molecule 1 is 20 Å wide; 16 bits in steps of 0.0002441 Å reach 16 Å"):
        to_fixed_point(store.fields["pos"], store.axes["nodes"], 2.0**-12)


def test_they_are_kept_beside_the_data_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_store(np.random.default_rng(0), 20)
    made = with_fixed_point(store, tmp_path)
    (folder,) = tmp_path.glob("fixed-point-*")
    assert (folder / f"{FIELD}.npy").stat().st_size < 6 * store.axes["nodes"][-1] + 200
    monkeypatch.setattr(fixed_point, "_fixed_point", None)  # not made again
    found = with_fixed_point(store, tmp_path)
    assert np.array_equal(found.fields[FIELD], made.fields[FIELD]) and found.info == made.info
    assert not found.fields[FIELD].flags.owndata and not found.fields[FIELD].flags.writeable  # mapped
    store.fields["pos"][0] += 0.25
    with pytest.raises(TypeError):  # other positions, another file
        with_fixed_point(store, tmp_path)
