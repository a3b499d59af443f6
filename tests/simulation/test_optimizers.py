"""Optimizers of packs: the steps of ASE's own on each molecule, to the last digits, whatever the others do."""

from contextlib import suppress

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import BFGS, FIRE

from ipu_chem.simulation.batch import load_force_fields
from ipu_chem.simulation.bfgs import Bfgs, Hessian
from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.fire import Fire
from ipu_chem.simulation.moving import MovingPack

STEPS = 50
PAIRS = [pytest.param(Bfgs, BFGS, id="bfgs"), pytest.param(Fire, FIRE, id="fire")]


def structures(ethanol):
    """Molecules that are far from rest, some stretched so that curvatures are negative."""
    rng = np.random.default_rng(3)
    water = Atoms("OHH", [[0.3, 0.1, 0], [1.25, 0.15, 0.1], [0.0, 1.0, 0.05]])
    made = [ethanol.copy(), water, ethanol.copy(), water.copy()]
    for atoms, size in zip(made, (0.02, 0.05, 0.1, 0.3)):
        atoms.positions += rng.normal(0, size, atoms.positions.shape)
    made[0].positions *= 1.2
    return made


def by_ase(kind, atoms, calculator):
    """Positions after each step; those of drawn weights may end in a collision, which the calculator refuses."""
    atoms, places = atoms.copy(), []
    atoms.calc = calculator
    with suppress(ValueError):
        for _ in kind(atoms, logfile=None).irun(fmax=0.0, steps=STEPS):
            places.append(atoms.positions.copy())
    return np.array(places)


@pytest.mark.parametrize("ours, theirs", PAIRS)
@pytest.mark.parametrize("model", ["painn", "schnet"])
def test_steps_are_those_of_ase(make_run, ethanol, ours, theirs, model):
    run, given = make_run(model={"name": model}), structures(ethanol)
    pack = MovingPack(load_force_fields(run), given, 100, dtype="float64")
    optimizer = ours(pack)
    slots = [pack.enter(atoms) for atoms in given]
    for slot in slots:
        optimizer.enter(slot)
    places, refused = [pack.positions.copy()], {}
    for step in range(1, STEPS + 1):
        assert optimizer.step(pack().force) == {}
        places.append(pack.positions.copy())
        for slot in pack().refused:
            refused.setdefault(slot, step)
    calculator = Calculator.from_run(run, dtype="float64")
    for slot, atoms in zip(slots, given):
        expected = by_ase(theirs, atoms, calculator)
        found = np.array(places)[: len(expected), pack.places(slot)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
        assert len(expected) == refused.get(slot, STEPS + 1) > 10
        assert np.abs(expected[-1] - expected[0]).max() > 0.1
    assert len(refused) < 2


def test_molecules_that_enter_later_begin_anew(make_run, ethanol):
    run, given = make_run(), structures(ethanol)[:3:2]
    for ours, theirs in ((Bfgs, BFGS), (Fire, FIRE)):
        pack = MovingPack(load_force_fields(run), given, 9, dtype="float64")
        optimizer = ours(pack)
        for atoms in given:
            slot = pack.enter(atoms)
            optimizer.enter(slot)
            for _ in range(20):
                optimizer.step(pack().force)
            expected = by_ase(theirs, atoms, Calculator.from_run(run, dtype="float64"))
            np.testing.assert_allclose(pack.positions, expected[20], rtol=0, atol=1e-8)
            optimizer.leave(slot)
            pack.leave(slot)


def test_negative_curvature_has_the_steps_of_eigenvalues_and_the_inverse_comes_back():
    """A saddle of two dimensions among others, on which ASE's formulas are computed beside."""
    rng = np.random.default_rng(0)
    curvatures = np.array([-20.0, 5.0, 40.0, 90.0, 30.0, 60.0])
    hessian, matrix = Hessian(6), np.eye(6) * 70.0
    x, last, seen = rng.normal(0, 0.3, 6), None, set()
    for step in range(60):
        # The saddle becomes a bowl on the way, so that the matrix becomes positive again.
        now = np.abs(curvatures) if step >= 20 else curvatures
        gradient = now * x
        if last is not None:
            s, y = x - last[0], gradient - last[1]
            image = matrix @ s
            if np.abs(s).max() >= 1e-7:
                matrix = matrix + np.outer(y, y) / (s @ y) - np.outer(image, image) / (s @ image)
        last = x, gradient
        values, vectors = np.linalg.eigh(matrix)
        expected = -vectors @ ((gradient @ vectors) / np.abs(values))
        found = hessian.move(x.reshape(2, 3), -gradient.reshape(2, 3)).reshape(-1)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)
        seen.add((hessian.inverse is None, bool(values[0] < 0)))
        x = x + expected * min(1.0, 0.2 / np.abs(expected).max())
        if np.abs(x).max() < 1e-9:
            break
    assert seen == {(False, False), (True, True)}


def test_a_hessian_that_is_lost_is_refused():
    hessian = Hessian(3)
    hessian.move(np.zeros((1, 3)), np.ones((1, 3)))
    with pytest.raises(ArithmeticError, match="BFGS finds no step"):
        hessian.move(np.ones((1, 3)), np.ones((1, 3)))  # no curvature at all: ASE divides by 0
