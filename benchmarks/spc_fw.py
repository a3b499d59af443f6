"""Flexible water with known forces: SPC/Fw as an ASE calculator for clusters.

Y. Wu, H. L. Tepper, G. A. Voth, J. Chem. Phys. 124, 024503 (2006): harmonic bonds and angles, point charges and a
Lennard-Jones term between oxygens. Cheap labels of the right kind where a data set of water has energies only.
"""

from typing import Any, List, Optional

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.units import kcal, mol

_BOND, _LENGTH = 1059.162 * kcal / mol, 1.012  # eV/Å², Å
_BEND, _ANGLE = 75.90 * kcal / mol, np.deg2rad(113.24)  # eV/rad²
_DEPTH, _SIZE = 0.1554253 * kcal / mol, 3.165492  # eV, Å
_CHARGES = np.array([-0.82, 0.41, 0.41])
_COULOMB = 14.399645  # eV Å / e²


class SpcFw(Calculator):
    """Energies (eV) and forces (eV/Å) of free clusters; atoms in the order O, H, H of every molecule."""

    implemented_properties = ["energy", "forces"]

    def calculate(
        self, atoms: Any = None, properties: Optional[List[str]] = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """See ASE."""
        super().calculate(atoms, properties, system_changes)
        pos = self.atoms.get_positions().reshape(-1, 3, 3)
        if (self.atoms.numbers.reshape(-1, 3) != [8, 1, 1]).any():
            raise ValueError("SPC/Fw takes molecules of water, atoms in the order O, H, H.")
        forces = np.zeros_like(pos)
        energy = _inside(pos, forces) + _between(pos, forces)
        self.results = {"energy": energy, "forces": forces.reshape(-1, 3)}


def _inside(pos: np.ndarray, forces: np.ndarray) -> float:
    """Bonds and angles; adds their forces."""
    bonds = pos[:, 1:] - pos[:, :1]  # [M, 2, 3]
    lengths = np.linalg.norm(bonds, axis=2)
    stretch = lengths - _LENGTH
    pull = _BOND * (stretch / lengths)[:, :, None] * bonds
    unit = bonds / lengths[:, :, None]
    cosine = np.clip((unit[:, 0] * unit[:, 1]).sum(1), -1.0, 1.0)
    bend = np.arccos(cosine) - _ANGLE
    # d(angle)/d(bond), for each of the two bonds.
    gradient = (
        -(unit[:, ::-1] - cosine[:, None, None] * unit) / (lengths * np.sqrt(1.0 - cosine**2)[:, None])[:, :, None]
    )
    pull += (_BEND * bend)[:, None, None] * gradient
    forces[:, 1:] -= pull
    forces[:, 0] += pull.sum(1)
    return float(0.5 * _BOND * (stretch**2).sum() + 0.5 * _BEND * (bend**2).sum())


def _between(pos: np.ndarray, forces: np.ndarray) -> float:
    """Charges and dispersion of different molecules; adds their forces."""
    first, second = np.triu_indices(len(pos), 1)
    offset = pos[first][:, :, None] - pos[second][:, None]  # [P, 3, 3, 3]
    distance = np.linalg.norm(offset, axis=3)
    coulomb = _COULOMB * np.outer(_CHARGES, _CHARGES) / distance
    gradient = -coulomb / distance**2  # over the distance, for the direction
    oxygens = distance[:, 0, 0]
    power = (_SIZE / oxygens) ** 6
    gradient[:, 0, 0] -= 24.0 * _DEPTH * (2.0 * power**2 - power) / oxygens**2
    push = -gradient[..., None] * offset
    np.add.at(forces, first, push.sum(2))
    np.add.at(forces, second, -push.sum(1))
    return float(coulomb.sum() + 4.0 * _DEPTH * (power**2 - power).sum())
