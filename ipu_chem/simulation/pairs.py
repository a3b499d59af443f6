"""Neighbor lists of molecules in slots, with a skin: only those whose atoms have moved are searched anew."""

from typing import Any, Dict, Sequence, Tuple

import numpy as np

from ipu_chem.data.checks import check_atoms
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.simulation.slots import Slots

_FARTHEST = 1000.0  # Å; float32 has 4 digits left behind the point


class NeighborLists:
    """Pairs of each molecule within the cutoff and a skin.

    Attributes:
        pairs: slot -> [P, 2] int64, places of atoms, each pair once.
        refused: slot -> why no model can take its atoms where they are.
        built_at: [N, 3] float64, Å, positions at the last search of each molecule; 0 in places that nobody has.
        middle: [N, 3] float64, Å, center of each atom's molecule at its last search.
    """

    def __init__(self, slots: Slots, cutoff: float, skin: float) -> None:
        """Follow the molecules of slots.

        Args:
            slots: of molecules.
            cutoff: Å.
            skin: Å, by which pairs that are kept may exceed the cutoff.
        """
        self._slots, self._reach, self._limit = slots, cutoff + skin, (skin / 2) ** 2
        self.built_at = np.zeros_like(slots.positions)
        self.middle = np.zeros_like(slots.positions)
        self.pairs: Dict[int, np.ndarray] = {}
        self.refused: Dict[int, str] = {}

    def enter(self, slot: int) -> None:
        """Expect a molecule that has no list yet."""
        self.built_at[self._slots.places(slot)] = np.nan

    def leave(self, slot: int) -> None:
        """Forget a molecule that is about to leave its slot."""
        own = self._slots.places(slot)
        self.built_at[own] = self.middle[own] = 0.0
        self.pairs.pop(slot, None)
        self.refused.pop(slot, None)

    def update(self) -> bool:
        """Search the lists of molecules of which some atom has moved half the skin; True if there are any."""
        moved = self._slots.positions - self.built_at
        # A coordinate that is no number compares as False, and is refused below.
        near = np.einsum("ij,ij->i", moved, moved) <= self._limit
        if near.all():
            return False
        stale = np.unique(self._slots.system[~near])
        stale = stale[stale < len(self._slots.size)]
        if len(stale):
            self._search(stale[self._taken(stale)])
        return len(stale) > 0

    def _taken(self, slots: np.ndarray) -> np.ndarray:
        """True for molecules whose atoms are where atoms can be; the others are refused until they are."""
        for slot in slots.tolist():
            self.refused.pop(slot, None)
        taken = np.ones(len(slots), bool)
        places, offsets = self.atoms(slots)
        numbers, positions = self._slots.numbers[places], self._slots.positions[places]
        try:
            check_places(numbers, positions, offsets, [""] * len(slots))
        except ValueError:  # of the first at fault; there may be more
            for item, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:])):
                slot, own = int(slots[item]), slice(int(begin), int(end))
                try:
                    check_places(numbers[own], positions[own], np.array([0, end - begin]), [formula(numbers[own])])
                except ValueError as error:
                    taken[item] = False
                    self.refused[slot] = str(error)
                    self.pairs.pop(slot, None)
                    self.built_at[places[own]] = np.nan  # the next update checks it again
        return taken

    def _search(self, slots: np.ndarray) -> None:
        """Pairs of molecules."""
        if not len(slots):
            return
        places, offsets = self.atoms(slots)
        sizes, positions = np.diff(offsets), self._slots.positions[places]
        self.built_at[places] = positions
        centers = np.add.reduceat(positions, offsets[:-1]) / sizes[:, None]
        self.middle[places] = np.repeat(centers, sizes, axis=0)
        found = radius_pairs(positions, offsets, self._reach)
        for item, slot in enumerate(slots.tolist()):
            self.pairs[slot] = found[item].astype(np.int64) + self._slots.start[slot]

    def atoms(self, slots: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Places of the atoms of slots, one molecule behind the other, and offsets [K + 1] of the molecules."""
        sizes = self._slots.size[slots]
        offsets = np.append(0, np.cumsum(sizes))
        return np.arange(offsets[-1]) + np.repeat(self._slots.start[slots] - offsets[:-1], sizes), offsets


def check_places(numbers: np.ndarray, positions: np.ndarray, offsets: np.ndarray, names: Sequence[str]) -> None:
    """Refuse places where no atoms can be, as `check_atoms` does, and atoms that have flown away."""
    sizes = np.diff(offsets)
    if sizes.all() and np.isfinite(positions).all():  # else `check_atoms` has a sentence
        with np.errstate(over="ignore"):
            centers = np.add.reduceat(positions, offsets[:-1]) / sizes[:, None]
            away = np.abs(positions - np.repeat(centers, sizes, axis=0)).max(1)
        if (away > _FARTHEST).any():
            item = int(np.searchsorted(offsets, np.argmax(away > _FARTHEST), side="right")) - 1
            raise ValueError(
                f"{names[item]}: an atom is {away[away > _FARTHEST][0]:.3g} Å from the middle of its molecule, which "
                "has flown apart, or its positions are not in Å."
            )
    check_atoms(numbers, positions, offsets, names)


def pairs_per_atom(structures: Sequence[Any], reach: float) -> float:
    """Pairs within a distance, Å, for each atom, in the one of some ase.Atoms that has most of them."""
    offsets = np.append(0, np.cumsum([len(atoms) for atoms in structures]))
    found = radius_pairs(np.concatenate([atoms.positions for atoms in structures]), offsets, reach)
    return float((found.lengths / np.diff(offsets)).max())


def formula(numbers: np.ndarray) -> str:
    """Formula of atomic numbers [n] in Hill's order."""
    from ase.symbols import Symbols

    return Symbols(numbers).get_chemical_formula()
