"""Bonds of a molecule that is simulated, and their lengths over time."""

from typing import Any, Dict, Tuple

import numpy as np

from ipu_chem.data.neighbors import radius_pairs

_BONDED = 1.25  # pairs up to this many sums of covalent radii apart are bonded


class Bonds:
    """Pairs of atoms that are bonded at the start, and the farthest apart that they have been.

    Attributes:
        pairs: [P, 2], first < second.
        largest_ratio: of a bond's length to that at the start; 1 where there are no bonds.
        largest_oh: Å, of a bond between O and H; 0 where there is none.
    """

    def __init__(self, numbers: np.ndarray, start: np.ndarray) -> None:
        """Find bonds.

        Args:
            numbers: [n] atomic numbers.
            start: [n, 3] positions, Å.
        """
        from ase.data import covalent_radii

        radii = covalent_radii[numbers]
        near = radius_pairs(start, np.array([0, len(numbers)]), 2 * _BONDED * float(radii.max())).values
        lengths = np.linalg.norm(start[near[:, 0]] - start[near[:, 1]], axis=1)
        bonded = lengths <= _BONDED * radii[near].sum(1)
        self.pairs, self._start = near[bonded].astype(np.int64), lengths[bonded]
        self._is_oh = np.sort(np.asarray(numbers)[self.pairs], axis=1).tolist()
        self._is_oh = np.array([pair == [1, 8] for pair in self._is_oh], bool)
        self.largest_ratio, self.largest_oh, self.stretched = 1.0, 0.0, (-1, -1)

    def update(self, positions: np.ndarray) -> Tuple[float, str]:
        """Take new positions; returns the largest ratio among them, and a sentence about its bond."""
        if not len(self.pairs):
            return 1.0, ""
        offset = positions[self.pairs[:, 0]] - positions[self.pairs[:, 1]]
        lengths = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        ratios = lengths / self._start
        worst = int(ratios.argmax())
        if ratios[worst] > self.largest_ratio:
            self.largest_ratio, self.stretched = float(ratios[worst]), tuple(self.pairs[worst].tolist())
        if self._is_oh.any():
            self.largest_oh = max(self.largest_oh, float(lengths[self._is_oh].max()))
        first, second = self.pairs[worst]
        return float(ratios[worst]), f"the bond of atoms {first} and {second} is {lengths[worst]:.2f} Å long"

    def state(self) -> Dict[str, Any]:
        """Values for `restore`, as JSON has them."""
        return {"ratio": self.largest_ratio, "oh": self.largest_oh, "stretched": list(self.stretched)}

    def restore(self, state: Dict[str, Any]) -> None:
        """Continue from `state`."""
        self.largest_ratio, self.largest_oh = state["ratio"], state["oh"]
        self.stretched = tuple(state["stretched"])
