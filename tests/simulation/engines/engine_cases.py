"""Comparison of engines with ASE: forces of one place, and dynamics from rest, where units of time and mass count."""

import re
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.models.schnet import SchNet
from ipu_chem.simulation.calculator import Calculator

README = (Path(__file__).parents[3] / "ipu_chem" / "simulation" / "README.md").read_text(encoding="utf-8")
STEPS, STEP_FS = 100, 0.5  # of every trajectory


class Charged(SchNet):
    """A SchNet whose energy also has a part of the charge."""

    needs_charge = True

    def forward(self, graph):
        energy = super().forward(graph)
        return energy + (graph.charge.to(energy.dtype) + 10 * graph.spin.to(energy.dtype)).unsqueeze(2)


def by_ase(run, atoms):
    """Energy, eV, and forces, eV/Å, of the calculator in float64."""
    calculator = Calculator.from_run(run, dtype="float64")
    calculator.calculate(atoms)
    return calculator.results["energy"], calculator.results["forces"]


def assert_same(ours, theirs, tolerance=1e-6):
    """Compare (energy, forces); forces to a fraction of the largest."""
    (energy, forces), (other, expected) = ours, theirs
    # Most of an energy is that of lone atoms; units of 2014 and of 2018 differ by 8e-9.
    assert energy == pytest.approx(other, rel=2e-8, abs=tolerance)
    size = np.abs(expected).max()
    assert size > 0.001
    np.testing.assert_allclose(forces, expected, rtol=0, atol=tolerance * size)


def moved_by_ase(run, atoms):
    """Positions, Å, and total energies, eV, of `STEPS` steps from rest at constant energy."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = atoms.copy()
    atoms.calc = Calculator.from_run(run, dtype="float64")
    totals = []
    dynamics = VelocityVerlet(atoms, STEP_FS * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(STEPS)
    return atoms.positions, np.array(totals)


def assert_conserved(totals, potentials):
    """Total energy moves by a small part of what went from potential to kinetic energy; both in any unit."""
    exchanged = np.ptp(potentials)
    assert exchanged > 0 and np.ptp(totals) < 0.05 * exchanged
    half = len(totals) // 2
    assert abs(np.mean(totals[half:]) - np.mean(totals[:half])) < 0.02 * exchanged


def example(word, language="py"):
    """The block of the README that holds a word."""
    (found,) = [block for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if word in block]
    return found
