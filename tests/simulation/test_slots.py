"""Slots: molecules keep their places, sums are those of each, gaps are used again."""

import numpy as np
import pytest
from ase import Atoms

from ipu_chem.simulation.slots import Slots


def chain(count):
    return Atoms(["H"] * count, np.arange(3.0 * count).reshape(-1, 3))


def test_sums_and_greatest_are_those_of_each_molecule():
    slots = Slots(12, 4)
    first, second, third = (slots.enter(chain(count)) for count in (3, 4, 2))
    slots.leave(second)
    values = np.arange(12.0)
    values[slots.system == 4] = 1e9  # places that nobody has
    assert slots.sum(values)[[first, second, third]].tolist() == [3.0, 0.0, 15.0]
    assert slots.greatest(values)[[first, second, third]].tolist() == [2.0, 0.0, 8.0]
    np.testing.assert_array_equal(slots.sum(np.stack([values] * 3, 1))[third], [15.0] * 3)
    spread = slots.spread(np.array([5.0, 6.0, 7.0, 8.0]))
    assert spread[slots.places(third)].tolist() == [7.0, 7.0] and not spread[slots.system == 4].any()
    assert not Slots(5, 2).greatest(np.ones(5)).any()


def test_the_smallest_gap_that_fits_is_taken():
    slots = Slots(13, 5)
    entered = [slots.enter(chain(count)) for count in (3, 1, 2, 1, 6)]
    assert not slots.fits(1)
    slots.leave(entered[0])
    slots.leave(entered[2])
    assert slots.fits(3) and not slots.fits(4)
    assert slots.places(slots.enter(chain(2))) == slice(4, 6)
    assert slots.places(slots.enter(chain(3))) == slice(0, 3)
    with pytest.raises(ValueError, match=r"H2 \(2 atoms\) finds no room among 13 atoms and 5 molecules"):
        slots.enter(chain(2))
    assert slots.occupied.tolist() == np.argsort(slots.start).tolist()


def test_chance_never_lets_two_share_a_place():
    rng = np.random.default_rng(0)
    slots, inside = Slots(40, 8), {}
    for _ in range(300):
        atoms = chain(int(rng.integers(1, 15)))
        if slots.fits(len(atoms)):
            inside[slots.enter(atoms)] = atoms
        elif inside:
            slot = int(rng.choice(list(inside)))
            slots.leave(slot)
            del inside[slot]
        for slot, atoms in inside.items():
            own = slots.places(slot)
            np.testing.assert_array_equal(slots.positions[own], atoms.positions)
            assert (slots.system[own] == slot).all() and (slots.numbers[own] == 1).all()
        assert (slots.system < 8).sum() == sum(map(len, inside.values()))
