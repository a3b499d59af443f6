"""Velocities at the start of a simulation, and what has kinetic energy."""

from typing import Any

import numpy as np


def degrees_of_freedom(positions: np.ndarray, thermostat: str) -> int:
    """Degrees of freedom that have kinetic energy: without thermostat the molecule neither moves as a whole nor turns.

    Raises:
        ValueError: a lone atom, whose energy is all in moving as a whole.
    """
    if thermostat != "none":
        return 3 * len(positions)
    turns = int(np.linalg.matrix_rank(positions - positions.mean(0), tol=1e-3))
    degrees = 3 * len(positions) - 3 - (3 if turns > 1 else 2)
    if turns == 0 or degrees < 1:
        raise ValueError("a lone atom has nothing to vibrate against; simulate a molecule.")
    return degrees


def draw_velocities(atoms: Any, temperature: float, degrees: int, random: np.random.RandomState) -> None:
    """Maxwell and Boltzmann's, without momentum and rotation, of exactly this temperature in K."""
    from ase.units import kB

    masses = atoms.get_masses()[:, None]
    velocities = random.standard_normal((len(atoms), 3)) / np.sqrt(masses)
    velocities -= (masses * velocities).sum(0) / masses.sum()
    # Rotation goes with its angular momentum; about the axis of a linear molecule there is none to be had.
    place = atoms.positions - atoms.get_center_of_mass()
    inertia = (masses * place**2).sum() * np.eye(3) - (masses * place).T @ place
    spin = np.linalg.pinv(inertia, rcond=1e-9) @ (masses * np.cross(place, velocities)).sum(0)
    velocities -= np.cross(spin, place)
    kinetic = 0.5 * float((masses * velocities**2).sum())
    atoms.set_velocities(velocities * np.sqrt(0.5 * degrees * kB * temperature / max(kinetic, 1e-30)))
