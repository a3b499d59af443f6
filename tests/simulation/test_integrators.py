"""Integrators of many molecules: ASE's own on each of them, to the bit where the forces are."""

import numpy as np
import pytest
from ase import Atoms, units
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
