"""Molecules that enter and leave one set of arrays of fixed shape, while the others stay where they are."""

from typing import Any, Optional

import numpy as np


class Slots:
    """N places of atoms and G slots of molecules; the atoms of a molecule lie side by side.

    Attributes:
        positions: [N, 3] float64, Å, to be written in place; places that nobody has may hold anything finite.
        numbers: [N] int64, atomic numbers, 0 in places that nobody has.
        system: [N] int64, slot of each atom, G in places that nobody has.
        start, size: [G] int64, first place and atoms of each slot; a slot of 0 atoms is empty.
    """

    def __init__(self, atoms: int, molecules: int) -> None:
        """Get ready.

        Args:
            atoms: N.
            molecules: G.
        """
        self.positions = np.zeros((atoms, 3))
        self.numbers = np.zeros(atoms, np.int64)
        self.system = np.full(atoms, molecules, np.int64)
        self.start, self.size = np.zeros(molecules, np.int64), np.zeros(molecules, np.int64)
        self._arranged()

    @property
    def occupied(self) -> np.ndarray:
        """Slots with a molecule, [K] int64, in the order of their atoms."""
        return self._occupied

    def places(self, slot: int) -> slice:
        """Atoms of a slot."""
        return slice(int(self.start[slot]), int(self.start[slot] + self.size[slot]))

    def fits(self, atoms: int) -> bool:
        """True if a molecule of so many atoms may enter now."""
        return len(self._occupied) < len(self.size) and self._room(atoms) is not None

    def enter(self, atoms: Any) -> int:
        """Take ase.Atoms in; returns their slot.

        Raises:
            ValueError: there is no room; see `fits`.
        """
        count = len(atoms)
        first = self._room(count)
        if first is None or len(self._occupied) == len(self.size):
            raise ValueError(
                f"{atoms.get_chemical_formula()} ({count} atoms) finds no room among {len(self.system)} atoms and "
                f"{len(self.size)} molecules: let others leave first, or make a larger pack."
            )
        slot = int(np.argmin(self.size))
        self.start[slot], self.size[slot] = first, count
        own = self.places(slot)
        self.positions[own], self.numbers[own], self.system[own] = atoms.positions, atoms.numbers, slot
        self._arranged()
        return slot

    def leave(self, slot: int) -> None:
        """Empty a slot."""
        assert self.size[slot], f"slot {slot} is empty"
        own = self.places(slot)
        self.positions[own], self.numbers[own], self.system[own] = 0.0, 0, len(self.size)
        self.start[slot] = self.size[slot] = 0
        self._arranged()

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums over the atoms of each slot: [N] -> [G], [N, 3] -> [G, 3] float64; 0 for empty slots."""
        if values.ndim == 2:
            return np.stack([self.sum(column) for column in values.T], axis=1)
        return np.bincount(self.system, values, len(self.size) + 1)[:-1]

    def greatest(self, values: np.ndarray) -> np.ndarray:
        """Greatest values among the atoms of each slot: [N], 0 or more -> [G] float64; 0 for empty slots."""
        found = np.zeros(len(self.size))
        if len(self._occupied):
            # Every second segment lies between two molecules; the last of them begins behind the values.
            found[self._occupied] = np.maximum.reduceat(np.append(values, 0.0), self._bounds)[::2]
        return found

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of slots at their atoms: [G, ...] -> [N, ...], 0 in places that nobody has."""
        nobody = np.zeros((1, *values.shape[1:]), values.dtype)
        return np.concatenate([values, nobody]).take(self.system, axis=0)

    def _room(self, count: int) -> Optional[int]:
        """The first place of the smallest gap for so many atoms."""
        begins = np.append(0, self._bounds[1::2])
        room = np.append(self._bounds[::2], len(self.system)) - begins
        room[room < count] = len(self.system) + 1
        gap = int(np.argmin(room))
        return int(begins[gap]) if room[gap] <= len(self.system) else None

    def _arranged(self) -> None:
        """Order of the molecules, and begins and ends of their atoms."""
        used = np.flatnonzero(self.size)
        self._occupied = used[np.argsort(self.start[used], kind="stable")]
        begins = self.start[self._occupied]
        self._bounds = np.stack([begins, begins + self.size[self._occupied]], axis=1).reshape(-1)
