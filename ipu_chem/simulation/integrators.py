"""Equations of motion of many molecules at once, step by step, rounded as by ASE's integrators.

Arrays are float64 in ASE's units: Å, eV, atomic mass units, and for times what follows from these. N atoms of all
molecules lie one behind the other; a molecule never sees another one.
"""

from dataclasses import dataclass
from typing import Callable, List, Sequence

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]  # positions [N, 3], Å -> forces [N, 3], eV/Å


@dataclass
class Moving:
    """Atoms that move.

    Attributes:
        positions: [N, 3], Å.
        momenta: [N, 3].
        forces: [N, 3] at these positions, eV/Å.
        masses: [N, 1], atomic mass units.
    """

    positions: np.ndarray
    momenta: np.ndarray
    forces: np.ndarray
    masses: np.ndarray


class VelocityVerlet:
    """Steps at constant energy: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637, 1982)."""

    def __init__(self, timestep: float) -> None:
        """Take the timestep in fs."""
        self._timestep = _in_ase_units(timestep)

    def step(self, atoms: Moving, compute: Compute) -> None:
        """Move all atoms on by a step, in place."""
        momenta = atoms.momenta + 0.5 * self._timestep * atoms.forces
        atoms.positions = atoms.positions + self._timestep * momenta / atoms.masses
        atoms.forces = compute(atoms.positions)
        atoms.momenta = momenta + 0.5 * self._timestep * atoms.forces


class Langevin:
    """Steps at constant temperature (Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310, 2006, eq. 23)."""

    def __init__(
        self, timestep: float, temperature: float, friction: float, masses: np.ndarray, noise: "Noise"
    ) -> None:
        """Take constants.

        Args:
            timestep: fs.
            temperature: K.
            friction: 1/ps.
            masses: [N, 1] of the atoms that `step` will be given.
            noise: random forces of each molecule.
        """
        from ase.units import fs, kB

        dt, rate = _in_ase_units(timestep), friction / (1000 * fs)
        sigma = np.sqrt(2 * kB * temperature * rate / masses)
        self._timestep, self._noise = dt, noise
        self._force = dt / 2.0 - dt * dt * rate / 8.0
        self._drag = dt * rate / 2 - dt * dt * rate * rate / 8.0
        self._kick = np.sqrt(dt) * sigma / 2.0 - dt**1.5 * rate * sigma / 8.0
        self._shift = dt**1.5 * sigma / (2 * np.sqrt(3))
        self._pull = rate / 2.0 * self._shift

    def step(self, atoms: Moving, compute: Compute) -> None:
        """Move all atoms on by a step, in place."""
        first, second = self._noise.draw()
        shift = self._shift * second
        kick = self._kick * first - self._pull * second
        velocities = atoms.momenta / atoms.masses
        velocities = velocities + (self._force * atoms.forces / atoms.masses - self._drag * velocities + kick)
        before = atoms.positions
        atoms.positions = before + self._timestep * velocities + shift
        velocities = (atoms.positions - before - shift) / self._timestep
        atoms.forces = compute(atoms.positions)
        velocities = velocities + (self._force * atoms.forces / atoms.masses - self._drag * velocities + kick)
        atoms.momenta = velocities * atoms.masses


class Noise:
    """Normal random numbers; every molecule draws its own, so that nobody else changes its path."""

    def __init__(self, randoms: Sequence[np.random.RandomState], offsets: np.ndarray) -> None:
        """Take the state of each of I molecules; molecule i owns atoms offsets[i] .. offsets[i + 1]."""
        self.randoms: List[np.random.RandomState] = list(randoms)
        self.draws = [True] * len(self.randoms)  # False for a molecule at rest, whose numbers are 0
        self._ends = offsets.tolist()
        self._numbers = np.zeros((2, self._ends[-1], 3))

    def draw(self) -> np.ndarray:
        """[2, N, 3], each molecule's in the order in which ASE asks for them; overwritten by the next call."""
        numbers = self._numbers
        for random, draws, first, last in zip(self.randoms, self.draws, self._ends, self._ends[1:]):
            numbers[:, first:last] = random.standard_normal((2, last - first, 3)) if draws else 0.0
        return numbers


def random_of(seed: int, copy: int) -> np.random.RandomState:
    """Random numbers of a copy of a simulation; those of copy 0 are of the seed alone."""
    return np.random.RandomState(seed if copy == 0 else [seed, copy])


def _in_ase_units(timestep: float) -> float:
    from ase.units import fs

    return timestep * fs
