"""Packs of moving molecules: energies and forces of each as if it were alone, whoever enters, leaves or is refused."""

import copy

import numpy as np
import pytest
from ase import Atoms

from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.models.spookynet import SpookyNet
from ipu_chem.simulation.batch import load_force_fields
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.checks import check_structure
from ipu_chem.simulation.moving import MovingPack

MODELS = ("painn", "schnet", "spookynet")


def molecules(ethanol):
    """Five molecules of three sizes, far from the origin and not at rest."""
    rng = np.random.default_rng(0)
    water, lone = Atoms("OHH", [[0.3, 0.1, 0], [1.25, 0.15, 0.1], [0.0, 1.0, 0.05]]), Atoms("O", [[3.0, 0.0, 0.0]])
    made = [ethanol.copy(), water.copy(), ethanol.copy(), lone, water.copy()]
    for atoms in made:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape) + rng.normal(0, 30.0, 3)
        atoms.info.update(charge=0, spin=0)
    made[1].info.update(charge=-1, spin=1)
    return made


def assert_alone(found, pack, inside, runs, tolerance=1e-10):
    """Compare with the calculator.

    Args:
        found: what the pack says.
        pack: of it.
        inside: slot -> ase.Atoms as they entered.
        runs: folders.
        tolerance: relative.
    """
    calculator = Calculator.from_run(runs, dtype="float64")
    others = np.ones(len(pack.system), bool)
    for slot, atoms in inside.items():
        alone = atoms.copy()
        alone.positions = pack.positions[pack.places(slot)]
        calculator.calculate(alone)
        expected = calculator.results
        assert found.energy[slot] == pytest.approx(expected["energy"], rel=tolerance)
        size = max(np.abs(expected["forces"]).max(), 1e-6)
        np.testing.assert_allclose(found.force[pack.places(slot)], expected["forces"], atol=tolerance * size)
        if len(found.energies) > 1:
            energy, force = found.spread
            assert energy[slot] == pytest.approx(expected["energy_std"], rel=1e-8)
            np.testing.assert_allclose(force[pack.places(slot)], expected["forces_std"], atol=1e-8 * size)
        others[pack.places(slot)] = False
    assert not found.forces[:, others].any()
    assert not np.delete(found.energies, list(inside), axis=1).any()


@pytest.fixture
def pack_of(make_run, ethanol):
    """A function: options of a run -> pack of all `molecules`, slot -> Atoms, and the folder."""

    def make(model="painn", seeds=(0,), dtype="float64", atoms=100, **more):
        runs = [make_run(f"{model}{seed}", seed, model={"name": model, "num_heads": 2}) for seed in seeds]
        waiting = molecules(ethanol)
        pack = MovingPack(load_force_fields(runs), waiting, atoms, dtype=dtype, **more)
        return pack, {pack.enter(one): one for one in waiting if pack.fits(len(one))}, runs

    return make


@pytest.mark.parametrize("model", MODELS)
def test_each_is_as_if_alone(pack_of, model):
    pack, inside, runs = pack_of(model)
    assert len(inside) == 5 and len(pack.system) == 25
    assert_alone(pack(), pack, inside, runs)


def test_several_runs_give_their_mean_and_spread(pack_of):
    pack, inside, runs = pack_of(seeds=(0, 1, 2))
    found = pack()
    assert found.energies.shape == (3, 5) and found.forces.shape == (3, 25, 3)
    assert_alone(found, pack, inside, runs)
    assert found.spread[0].min() > 0.001


def test_float32_is_as_good_as_alone(pack_of):
    pack, inside, runs = pack_of(dtype="float32")
    assert_alone(pack(), pack, inside, runs, tolerance=1e-4)


@pytest.mark.parametrize("model", ("painn", "spookynet"))
def test_a_copy_moves_on_its_own(pack_of, model):
    pack, inside, runs = pack_of(model)
    pack()
    other = copy.deepcopy(pack)
    for one, size in ((other, 0.3), (pack, 0.0), (other, 0.1)):
        one.positions += np.random.default_rng(1).uniform(-size, size, one.positions.shape)
        assert_alone(one(), one, inside, runs)
    for one in (other, pack):
        one.leave(0)
        left = {slot: atoms for slot, atoms in inside.items() if slot}
        assert_alone(one(), one, left, runs)
        one.enter(inside[0])
        assert_alone(one(), one, inside, runs)


@pytest.mark.parametrize("model", ("painn", "spookynet"))
def test_moving_atoms_get_new_pairs_where_they_moved_alone(pack_of, model):
    pack, inside, runs = pack_of(model)
    rng, before = np.random.default_rng(1), {}
    for size, moving in ((0.01, [0, 1, 2, 3, 4]), (0.3, [2]), (0.01, [0]), (0.6, [0, 2])):
        for slot in moving:
            pack.positions[pack.places(slot)] += rng.uniform(-size, size, (pack.size[slot], 3))
        found = pack()
        assert_alone(found, pack, inside, runs)
        if before:
            anew = {slot for slot in inside if pack.lists.pairs[slot] is not before[slot]}
            assert anew == (set() if size < 0.1 else set(moving))
        before = dict(pack.lists.pairs)


@pytest.mark.parametrize("model", ("schnet", "spookynet"))
def test_molecules_enter_and_leave_while_others_stay(pack_of, ethanol, model):
    pack, inside, runs = pack_of(model, atoms=16)
    waiting = molecules(ethanol)
    assert [len(inside[slot]) for slot in range(4)] == [9, 3, 1, 3] and len(pack.system) == 16
    before, places = pack(), {slot: pack.places(slot) for slot in inside}
    assert_alone(before, pack, inside, runs)
    for leaving, entering in ((0, waiting[2]), (1, waiting[4]), (0, waiting[1])):
        pack.leave(leaving)
        del inside[leaving]
        assert_alone(pack(), pack, inside, runs)
        inside[pack.enter(entering)] = entering
        found = pack()
        assert_alone(found, pack, inside, runs)
        for stayed in (2, 3):
            assert pack.places(stayed) == places[stayed]
            assert found.energy[stayed] == pytest.approx(before.energy[stayed], rel=1e-13)
    with pytest.raises(ValueError, match=r"C2H6O \(9 atoms\) finds no room among 16 atoms"):
        pack.enter(waiting[2])
    pack.leave(1)
    assert pack.fits(9) and not pack.fits(10)  # two gaps became one


@pytest.mark.parametrize("model", ("painn", "spookynet"))
def test_a_molecule_in_a_bad_place_is_refused_alone(pack_of, model):
    pack, inside, runs = pack_of(model)
    before = pack()
    good = pack.positions.copy()
    first, second = pack.places(0), pack.places(1)
    pack.positions[first.start + 2] = np.nan
    pack.positions[second.start + 1] = pack.positions[second.start] + 0.01
    for _ in range(2):
        found = pack()
        assert set(found.refused) == {0, 1}
        assert found.refused[0].startswith("C2H6O: atom 2 has a coordinate that is not finite")
        assert "H2O: atoms 0 (O) and 1 (H) are 0.017 Å apart" in found.refused[1]
        assert not found.energies[:, :2].any() and not found.forces[:, first].any()
        np.testing.assert_allclose(found.energy[2:], before.energy[2:], rtol=1e-13)
    pack.positions[:] = good
    assert not pack().refused
    pack.positions[first.start] += 1e200  # its square is infinite
    found = pack()
    assert "C2H6O: an atom is 8.89e+199 Å from the middle" in found.refused[0]
    assert_alone(found, pack, {slot: atoms for slot, atoms in inside.items() if slot}, runs)
    pack.leave(0)
    assert not pack().refused


def test_what_the_runs_cannot_take_is_refused_at_the_door(pack_of, ethanol):
    pack, inside, runs = pack_of(atoms=12)
    pack.leave(0)
    strange, periodic = Atoms("NH", [[0, 0, 0], [0, 0, 1.0]]), ethanol.copy()
    periodic.set_cell([9, 9, 9])
    periodic.pbc = True
    for atoms, sentence in ((strange, "HN holds N, but"), (periodic, "periodic cell")):
        with pytest.raises(ValueError, match=sentence):
            pack.enter(atoms)
    del inside[0]
    assert_alone(pack(), pack, inside, runs)
    members = pack.members
    for options, sentence in ((dict(skin=-1.0), "skin=-1"), (dict(dtype="float16"), "float32, float64")):
        with pytest.raises(ValueError, match=sentence):
            MovingPack(members, [ethanol], 10, **options)
    with pytest.raises(ValueError, match="no molecules are waiting"):
        MovingPack(members, [], 10)


def test_pair_slots_grow_where_atoms_come_close(make_run, ethanol):
    run = make_run(model={"name": "spookynet", "num_heads": 2})
    wide = ethanol.copy()
    wide.positions *= 3.0
    wide.info.update(charge=0, spin=0)
    pack = MovingPack(load_force_fields(run), [wide], 9, dtype="float64")
    slot = pack.enter(wide)
    assert_alone(pack(), pack, {slot: wide}, [run])
    pack.positions[:] /= 3.0
    assert_alone(pack(), pack, {slot: wide}, [run])


@pytest.mark.parametrize("positions, sentence", [([], "has no atoms"), ([[np.inf, 0, 0], [0, 0, 0]], "not finite")])
def test_no_atoms_and_no_places_are_named(positions, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_structure(Atoms("H" * len(positions), positions or None), [])


def spookynets(models):
    return [part for model in models for part in model.modules() if isinstance(part, SpookyNet)]


def test_spookynets_kernels_say_what_autograd_says(pack_of):
    pack, inside, runs = pack_of("spookynet")
    calculator = Calculator.from_run(runs, dtype="float64")
    chosen = [*spookynets(pack._program._models), *spookynets(calculator._program._models)]
    assert len(chosen) == 2
    assert all((part.kernel is not None) == (find_compiler() is not None) for part in chosen)
    assert calculator._program._is_native == (find_compiler() is not None)  # what no recording would see
    native, atoms = pack(), inside[0]
    alone = calculator.get_potential_energy(atoms), calculator.get_forces(atoms)
    for part in chosen:
        part.kernel = None
    plain = pack()
    np.testing.assert_allclose(native.energies, plain.energies, rtol=1e-12)
    np.testing.assert_allclose(native.forces, plain.forces, atol=1e-10 * np.abs(plain.forces).max())
    calculator.calculate(atoms)
    assert alone[0] == pytest.approx(calculator.results["energy"], rel=1e-12)
    np.testing.assert_allclose(alone[1], calculator.results["forces"], atol=1e-10 * np.abs(alone[1]).max())
