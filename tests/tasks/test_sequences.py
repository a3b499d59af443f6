"""Rows: their length by width and lengths, and what becomes of molecules that are longer."""

import numpy as np
import pytest

from ipu_chem.tasks.sequences import choose_length, fit_sequences, usual_length
from packing import Budget, Ragged, make_plan


def ragged(*lengths: int) -> Ragged:
    return Ragged(np.arange(sum(lengths)), np.append(0, np.cumsum(lengths)))


def test_wide_models_take_longer_rows():
    assert (usual_length(128), usual_length(256), usual_length(257), usual_length(2048)) == (128, 128, 256, 256)
    lengths = np.random.default_rng(0).integers(20, 50, 2000)
    assert choose_length(lengths, 64) <= choose_length(lengths, 2048) <= 256


def test_the_row_costs_least_among_those_that_hold_the_longest():
    lengths = np.random.default_rng(1).integers(30, 62, 3000)
    costs = {}
    for row in (64, 96, 128):
        packs = make_plan(lengths, Budget(tokens=row), "lpfhp").num_packs
        costs[row] = packs * row * (1 + row / (6 * 128))
    assert choose_length(lengths, 128) == min(costs, key=costs.get)


def test_one_long_molecule_makes_the_row_longer():
    lengths = np.array([30] * 500 + [245])
    assert choose_length(lengths, 128) == 256


def test_policies():
    ids = ragged(3, 9, 4)
    kept = fit_sequences(ids, 9, "error")
    assert kept.ids is ids and kept.kept.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"molecule 1 has 9 tokens.*1 of 3.*pack\.tokens=8.*9 or more"):
        fit_sequences(ids, 8, "error")
    dropped = fit_sequences(ids, 8, "drop")
    assert dropped.kept.tolist() == [0, 2] and dropped.counts == {"dropped": 1, "truncated": 0}
    assert [item.tolist() for item in dropped.ids] == [ids[0].tolist(), ids[2].tolist()]
    cut = fit_sequences(ids, 8, "truncate")
    assert cut.ids.lengths.tolist() == [3, 8, 4] and cut.counts == {"dropped": 0, "truncated": 1}
    assert cut.ids[1].tolist() == ids[1][:8].tolist() and cut.ids[2].tolist() == ids[2].tolist()
    with pytest.raises(ValueError, match="no molecule fits pack.tokens=2; the longest needs 9"):
        fit_sequences(ids, 2, "drop")
