"""Bonds of molecules that are simulated, and their lengths over time."""

from typing import Optional, Tuple

import numpy as np

from ipu_chem.data.neighbors import radius_pairs

_BONDED = 1.25  # pairs up to this many sums of covalent radii apart are bonded


class Bonds:
    """Pairs of atoms that are bonded at the start, and the farthest apart that they have been; I molecules, P bonds.

    Attributes:
        pairs: [P, 2], first < second, counted through all molecules.
        molecule: [P], of each bond.
        longest: [P] Å, so far.
    """

    def __init__(self, numbers: np.ndarray, start: np.ndarray, offsets: Optional[np.ndarray] = None) -> None:
        """Find bonds.

        Args:
            numbers: [N] atomic numbers.
            start: [N, 3] positions, Å.
            offsets: [I + 1]; molecule i owns atoms offsets[i] .. offsets[i + 1]; one molecule if None.
        """
        from ase.data import covalent_radii

        self._offsets = np.array([0, len(numbers)]) if offsets is None else np.asarray(offsets)
        radii = covalent_radii[numbers]
        near = radius_pairs(start, self._offsets, 2 * _BONDED * float(radii.max()))
        molecule = np.repeat(np.arange(len(near)), np.diff(near.offsets))
        pairs = near.values.astype(np.int64) + self._offsets[molecule][:, None]
        lengths = np.linalg.norm(start[pairs[:, 0]] - start[pairs[:, 1]], axis=1)
        bonded = lengths <= _BONDED * radii[pairs].sum(1)
        self.pairs, self.molecule, self._start = pairs[bonded], molecule[bonded], lengths[bonded]
        self._is_oh = (np.sort(np.asarray(numbers)[self.pairs], axis=1) == [1, 8]).all(1)
        self._lengths, self.longest = self._start, self._start.copy()
        self._first, self._second = self.pairs.T.copy()

    def update(self, positions: np.ndarray) -> np.ndarray:
        """Take new positions [N, 3]; returns each bond's length by that at the start, [P]."""
        offset = positions[self._first] - positions[self._second]
        self._lengths = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        finite = self._lengths if np.isfinite(self._lengths.sum()) else np.nan_to_num(self._lengths, posinf=0.0)
        np.maximum(self.longest, finite, out=self.longest)
        return self._lengths / self._start

    def worst(self, ratios: np.ndarray, molecule: int = 0) -> str:
        """Sentence about the bond of the greatest of the ratios that `update` has returned."""
        own = np.flatnonzero(self.molecule == molecule)
        bond = int(own[ratios[own].argmax()])
        first, second = self._atoms(bond)
        length = f"the bond of atoms {first} and {second} is {self._lengths[bond]:.2f} Å long"
        return f"{length}, {ratios[bond]:.2f} times that at the start"

    def stretched(self, molecule: int = 0) -> Tuple[float, Tuple[int, int], float]:
        """Most stretched bond so far: ratio (1 without bonds), its atoms, and the longest O-H bond, Å (0 without)."""
        own = np.flatnonzero(self.molecule == molecule)
        if not len(own):
            return 1.0, (-1, -1), 0.0
        ratios = self.longest[own] / self._start[own]
        oh = own[self._is_oh[own]]
        longest_oh = float(self.longest[oh].max()) if len(oh) else 0.0
        return float(ratios.max()), self._atoms(int(own[ratios.argmax()])), longest_oh

    def _atoms(self, bond: int) -> Tuple[int, int]:
        """Atoms of a bond, counted in their molecule."""
        first, second = (self.pairs[bond] - self._offsets[self.molecule[bond]]).tolist()
        return first, second
