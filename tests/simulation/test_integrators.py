"""Integrators of many molecules: ASE's own on each of them, to the bit where the forces are."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin as AseLangevin
from ase.md.verlet import VelocityVerlet as AseVerlet

from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.integrators import Langevin, Moving, Noise, VelocityVerlet, random_of

STEPS = 50


@pytest.fixture
def molecules(ethanol):
    """Three molecules of different sizes with velocities."""
    random = np.random.RandomState(5)
    water = Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]])
    all_of_them = [ethanol, water, ethanol.copy()]
    for atoms in all_of_them:
        atoms.set_velocities(random.standard_normal((len(atoms), 3)) * 0.02)
    return all_of_them


@pytest.fixture
def calculator(make_run):
    return Calculator.from_run(make_run(scale=0.02), dtype="float64")


def with_forces(atoms):
    """The same atoms in a potential whose forces follow from positions alone, to the bit."""
    atoms.calc = LennardJones(sigma=0.8, epsilon=0.3, rc=3.0)
    return atoms


def moved_by_ase(molecules, calculator, make):
    """Positions and momenta [steps, N, 3] of ASE, one molecule after the other."""
    paths = []
    for number, atoms in enumerate(molecules):
        atoms = atoms.copy()
        atoms.calc = calculator
        dynamics, path = make(atoms, number), []
        for _ in range(STEPS):
            dynamics.step()
            path.append([atoms.positions.copy(), atoms.get_momenta()])
        paths.append(np.array(path))
    return np.concatenate(paths, axis=2)


def moved_by_us(molecules, calculator, make):
    offsets = np.cumsum([0] + [len(atoms) for atoms in molecules])

    def compute(positions):
        forces = []
        for atoms, first, last in zip(molecules, offsets, offsets[1:]):
            moved = Atoms(atoms.numbers, positions[first:last])
            forces.append(calculator.get_forces(moved))
        return np.concatenate(forces)

    positions, momenta = (
        np.concatenate([getattr(atoms, f"get_{name}")() for atoms in molecules]) for name in ("positions", "momenta")
    )
    masses = np.concatenate([atoms.get_masses() for atoms in molecules])[:, None]
    moving, integrator, path = Moving(positions, momenta, compute(positions), masses), make(masses, offsets), []
    for _ in range(STEPS):
        integrator.step(moving, compute)
        path.append([moving.positions.copy(), moving.momenta.copy()])
    return np.array(path)


@pytest.mark.parametrize("thermostat", [False, True])
def test_the_same_forces_give_the_same_bits(ethanol, thermostat):
    noise = [random_of(2, copy) for copy in range(2)]
    others = [random_of(2, copy) for copy in range(2)]
    molecules = [with_forces(ethanol.copy()), with_forces(Atoms("HOH", [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]]))]
    offsets = np.array([0, 9, 12])
    how = dict(temperature_K=300, friction=10 / (1000 * units.fs), fixcm=False)
    theirs = [
        AseLangevin(atoms, 0.5 * units.fs, rng=random, **how) if thermostat else AseVerlet(atoms, 0.5 * units.fs)
        for atoms, random in zip(molecules, noise)
    ]
    copies = [with_forces(atoms.copy()) for atoms in molecules]

    def compute(positions):
        for atoms, first, last in zip(copies, offsets, offsets[1:]):
            atoms.set_positions(positions[first:last])
        return np.concatenate([atoms.get_forces() for atoms in copies])

    positions = np.concatenate([atoms.positions for atoms in molecules])
    masses = np.concatenate([atoms.get_masses() for atoms in molecules])[:, None]
    moving = Moving(positions, np.zeros_like(positions), compute(positions), masses)
    verlet = VelocityVerlet(0.5)
    ours = Langevin(0.5, 300.0, 10.0, masses, Noise(others, offsets)) if thermostat else verlet
    for _ in range(STEPS):
        ours.step(moving, compute)
        for one in theirs:
            one.step()
    for name in ("positions", "momenta"):
        expected = np.concatenate([getattr(atoms, f"get_{name}")() for atoms in molecules])
        np.testing.assert_array_equal(getattr(moving, name), expected)
    assert np.abs(moving.positions - positions).max() > 0.01


def test_velocity_verlet_is_that_of_ase(molecules, calculator):
    theirs = moved_by_ase(molecules, calculator, lambda atoms, _: AseVerlet(atoms, 0.5 * units.fs))
    ours = moved_by_us(molecules, calculator, lambda *_: VelocityVerlet(0.5))
    assert np.abs(theirs[-1, 0] - theirs[0, 0]).max() > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_langevin_is_that_of_ase_with_the_same_random_numbers_in_each_copy(molecules, calculator):
    def of_ase(atoms, copy):
        friction, random = 10 / (1000 * units.fs), random_of(7, copy)
        return AseLangevin(atoms, 0.5 * units.fs, temperature_K=400, friction=friction, rng=random, fixcm=False)

    def of_ours(masses, offsets):
        return Langevin(0.5, 400.0, 10.0, masses, Noise([random_of(7, copy) for copy in range(3)], offsets))

    ours, theirs = moved_by_us(molecules, calculator, of_ours), moved_by_ase(molecules, calculator, of_ase)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    assert np.abs(ours[:, 0, :9] - ours[:, 0, 12:]).max() > 0.01, "copies differ"


def test_noise_of_a_molecule_does_not_depend_on_others():
    alone = Noise([random_of(3, 1)], np.array([0, 4]))
    among = Noise([random_of(3, copy) for copy in range(3)], np.array([0, 2, 6, 7]))
    among.draws[2] = False
    for _ in range(3):
        np.testing.assert_array_equal(alone.draw(), among.draw()[:, 2:6])
    assert not among.draw()[:, 6:].any() and among.draw()[:, :2].all()
    assert np.random.RandomState(3).random_sample() == random_of(3, 0).random_sample()
