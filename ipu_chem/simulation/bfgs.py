"""BFGS for many molecules at once, each with a Hessian of its own.

The steps are those of ``ase.optimize.BFGS``: H gains y y^T / (s.y) - H s s^T H / (s.H s) with the last move s and the
change of the gradient y, and the step is -|H|^-1 g, by eigenvalues whose signs are dropped. As long as every s.y is
positive so are the eigenvalues, and |H|^-1 is the inverse, which has an update of its own (J. Nocedal and S. J. Wright,
Numerical Optimization, eq. 6.17): n^2 operations instead of the n^3 of a diagonalization.
"""

from typing import Dict, List, Optional, Tuple

import numpy as np

from ipu_chem.simulation.slots import Slots

MAX_STEP = 0.2  # Å, of the atom that moves most
_FIRST_CURVATURE = 70.0  # eV/Å^2
_SAME_PLACE = 1e-7  # Å
_FLAT = 1e-8  # s.y / (|s| |y|) below which eigenvalues are safer


class Bfgs:
    """Moves of molecules, by Hessians that are learned from the forces on the way."""

    def __init__(self, slots: Slots) -> None:
        """Move the molecules of slots."""
        self._slots = slots
        self._hessians: List[Hessian] = [Hessian(0) for _ in slots.size]

    def enter(self, slot: int) -> None:
        """Begin with a molecule of which nothing is known."""
        self._hessians[slot] = Hessian(3 * int(self._slots.size[slot]))

    def leave(self, slot: int) -> None:
        """Forget a molecule that is about to leave its slot."""
        self._hessians[slot] = Hessian(0)

    def step(self, force: np.ndarray) -> Dict[int, str]:
        """Move the positions of the slots.

        Args:
            force: [N, 3] float64, eV/Å, where the atoms are.

        Returns:
            slot -> why its molecule cannot be moved.
        """
        slots, failed = self._slots, {}
        moves = np.zeros_like(slots.positions)
        for slot in slots.occupied.tolist():
            own = slots.places(slot)
            try:
                moves[own] = self._hessians[slot].move(slots.positions[own], force[own])
            except (ArithmeticError, np.linalg.LinAlgError) as error:
                failed[slot] = str(error)
        far = slots.greatest(np.sqrt(np.einsum("ij,ij->i", moves, moves)))
        moves *= slots.spread(np.where(far >= MAX_STEP, MAX_STEP / np.maximum(far, MAX_STEP), 1.0))[:, None]
        slots.positions += moves
        return failed


class Hessian:
    """Second derivatives of one molecule's energy, as far as its moves have shown them.

    Attributes:
        inverse: [3 n, 3 n], 1 / (eV/Å^2); None where some eigenvalue may be negative.
        matrix: [3 n, 3 n], eV/Å^2, there.
    """

    def __init__(self, size: int) -> None:
        """Begin with the same curvature in all 3 n directions."""
        self.inverse: Optional[np.ndarray] = np.eye(size) / _FIRST_CURVATURE
        self.matrix: Optional[np.ndarray] = None
        self._last: Optional[Tuple[np.ndarray, np.ndarray]] = None  # position and force

    def move(self, positions: np.ndarray, force: np.ndarray) -> np.ndarray:
        """The step from positions [n, 3] with a force [n, 3] on them, [n, 3], Å, before it is cut to `MAX_STEP`.

        Raises:
            ArithmeticError: there is none that is finite.
        """
        x, f = positions.reshape(-1).copy(), force.reshape(-1).copy()
        if self._last is not None:
            moved = x - self._last[0]
            if np.abs(moved).max() >= _SAME_PLACE:
                self._learn(moved, self._last[1] - f)
        self._last = x, f
        step = self._by_eigenvalues(f) if self.inverse is None else self.inverse @ f
        if not np.isfinite(step).all():
            raise ArithmeticError("BFGS finds no step from here.")
        return step.reshape(-1, 3)

    def _learn(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take in that the gradient has changed by y along the move s."""
        curvature = s @ y
        if self.inverse is not None and curvature > _FLAT * np.sqrt((s @ s) * (y @ y)):
            image = self.inverse @ y
            half = image / curvature - s * ((1 + (y @ image) / curvature) / (2 * curvature))
            self.inverse -= np.stack([s, half], 1) @ np.stack([half, s])
            return
        if self.inverse is not None:
            self.matrix, self.inverse = np.linalg.inv(self.inverse), None
        assert self.matrix is not None
        image = self.matrix @ s
        with np.errstate(divide="ignore", invalid="ignore"):  # refused below
            self.matrix += np.outer(y, y) / curvature - np.outer(image, image) / (s @ image)

    def _by_eigenvalues(self, f: np.ndarray) -> np.ndarray:
        """|H|^-1 f; the inverse is there again where no eigenvalue is negative any more."""
        if self.matrix is None or not np.isfinite(self.matrix).all():
            raise ArithmeticError("BFGS finds no step from here.")
        values, vectors = np.linalg.eigh(self.matrix)
        if values[0] > _FLAT * values[-1]:
            self.inverse, self.matrix = (vectors / values) @ vectors.T, None
        return vectors @ ((f @ vectors) / np.abs(values))
