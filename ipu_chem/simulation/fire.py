"""FIRE for many molecules at once: inertia that is mixed with the forces downhill, and lost uphill.

E. Bitzek and others, Phys. Rev. Lett. 97, 170201 (2006), with the constants and the order of ``ase.optimize.FIRE``,
whose steps these are.
"""

from typing import Dict

import numpy as np

from ipu_chem.simulation.slots import Slots

MAX_STEP = 0.2  # Å
_FIRST_TIME, _LONGEST_TIME = 0.1, 1.0
_PATIENCE = 5  # steps downhill before the time step grows
_LONGER, _SHORTER = 1.1, 0.5  # factors of the time step
_MIXING, _LESS_MIXING = 0.1, 0.99


class Fire:
    """A velocity for every atom; time step, mixing and steps downhill for every molecule."""

    def __init__(self, slots: Slots) -> None:
        """Move the molecules of slots."""
        self._slots = slots
        self._velocity = np.zeros_like(slots.positions)
        self._time, self._mixing = np.zeros(len(slots.size)), np.zeros(len(slots.size))
        self._downhill = np.zeros(len(slots.size), np.int64)
        self._is_new = np.zeros(len(slots.size), bool)

    def enter(self, slot: int) -> None:
        """Begin with a molecule at rest."""
        self._velocity[self._slots.places(slot)] = 0.0
        self._time[slot], self._mixing[slot], self._downhill[slot] = _FIRST_TIME, _MIXING, 0
        self._is_new[slot] = True

    def leave(self, slot: int) -> None:
        """Forget a molecule that is about to leave its slot."""
        self._velocity[self._slots.places(slot)] = 0.0

    def step(self, force: np.ndarray) -> Dict[int, str]:
        """Move the positions of the slots.

        Args:
            force: [N, 3] float64, eV/Å, where the atoms are.

        Returns:
            slot -> why its molecule cannot be moved; never any.
        """
        slots, velocity = self._slots, self._velocity
        power = slots.sum(np.einsum("ij,ij->i", force, velocity))
        downhill = power > 0
        length = np.sqrt(slots.sum(np.einsum("ij,ij->i", velocity, velocity)))
        strength = np.sqrt(slots.sum(np.einsum("ij,ij->i", force, force)))
        kept = np.where(downhill, 1.0 - self._mixing, 0.0)
        turned = np.where(downhill, self._mixing * length / np.where(downhill, strength, 1.0), 0.0)
        velocity *= slots.spread(kept)[:, None]
        velocity += slots.spread(turned)[:, None] * force
        long = downhill & (self._downhill > _PATIENCE)
        uphill = ~downhill & ~self._is_new
        self._time[long] = np.minimum(self._time[long] * _LONGER, _LONGEST_TIME)
        self._mixing[long] *= _LESS_MIXING
        self._time[uphill] *= _SHORTER
        self._mixing[uphill] = _MIXING
        self._downhill = np.where(downhill, self._downhill + 1, 0)
        self._is_new[:] = False
        time = slots.spread(self._time)[:, None]
        velocity += time * force
        moves = time * velocity
        far = np.sqrt(slots.sum(np.einsum("ij,ij->i", moves, moves)))
        moves *= slots.spread(np.where(far > MAX_STEP, MAX_STEP / np.maximum(far, MAX_STEP), 1.0))[:, None]
        slots.positions += moves
        return {}
