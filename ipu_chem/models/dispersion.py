"""London dispersion in the manner of DFT-D4: C6 and C8 that follow charges, damped by Becke and Johnson's function.

D4 interpolates C6 between reference molecules from large tables (E. Caldeweyher et al., J. Chem. Phys. 150, 154122
(2019)). Here an element has one C6, that of DFT-D2, made for atoms in molecules (S. Grimme, J. Comput. Chem. 27, 1787
(2006), table 1), and what follows from charges does so as in D4 around a neutral atom: with C6 of pairs as the
geometric mean both parts are products of two atoms' values. C8 / C6 and the radii of the damping are D4's. Untrained,
energies between small molecules are within a fifth of D4's.

Shapes: B packs, N node slots.
"""

import math
from typing import Iterable

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import at_least_float32, look_up, softplus
from ipu_chem.models.physics import BOHR, positive
from ipu_chem.models.schnet import MAX_Z

_HARTREE = 27.211386024367243  # eV
_AVOGADRO = 6.02214076e23
_HARTREE_JOULE = 4.3597447222071e-18
# J nm^6 / mol in atomic units: 17.34.
_C6_UNIT = 1.0 / (_AVOGADRO * _HARTREE_JOULE * (0.1 * BOHR) ** 6)
# Atomic number: C6 of D2 (J nm^6 / mol); <r^4> / <r^2> (bohr^2), chemical hardness (hartree / e) and effective nuclear
# charge (e) of D4.
_ELEMENTS = {
    1: (0.14, 8.0589, 0.47259288, 1),
    5: (3.13, 11.8799, 0.33949086, 5),
    6: (1.75, 7.8715, 0.42195412, 6),
    7: (1.23, 5.5588, 0.50438193, 7),
    8: (0.70, 4.7566, 0.58691863, 8),
    9: (0.75, 3.8025, 0.66931351, 9),
    14: (9.23, 12.7442, 0.30539645, 14),
    15: (7.84, 9.5361, 0.34734014, 15),
    16: (5.57, 8.1652, 0.38924725, 16),
    17: (5.07, 6.7463, 0.43115670, 17),
    34: (12.64, 8.1350, 0.40273549, 34),
    35: (12.47, 7.1251, 0.43445776, 35),
    53: (31.50, 8.4110, 0.41040808, 25),
}
DISPERSION_ELEMENTS = tuple(_ELEMENTS)
_STEEPNESS, _HARDNESS_FACTOR = 3.0, 2.0  # D4's g_a and g_c
_SMALLEST_CHARGE = 0.02  # e, of a core with its electrons' share missing; the energy no longer changes there


def check_dispersion_elements(elements: Iterable[int]) -> None:
    """Refuse molecules with elements that have no coefficients, which a device would give no dispersion at all.

    Args:
        elements: atomic numbers.

    Raises:
        ValueError: names those that are none of `DISPERSION_ELEMENTS`.
    """
    unknown = sorted({int(z) for z in elements} - set(_ELEMENTS))
    if unknown:
        raise ValueError(
            f"no dispersion coefficients for the atomic numbers {', '.join(map(str, unknown))}, only for "
            f"{', '.join(map(str, _ELEMENTS))}; leave these molecules out, or set model.use_dispersion=false."
        )


class Dispersion(nn.Module):
    """-C6 (s6 / (d^6 + R^6) + s8 C8/C6 / (d^8 + R^8)) over pairs, R = a1 sqrt(C8/C6) + a2: 4 weights.

    s6, s8, a1 and a2 (bohr) are learned, from D4's values for Hartree-Fock on.
    """

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros((4, MAX_Z), dtype=torch.float64)
        for z, (c6, moments, hardness, core) in _ELEMENTS.items():
            ratio = math.sqrt(3.0 * 0.5 * moments * math.sqrt(z))
            table[:, z] = torch.tensor([math.sqrt(c6 * _C6_UNIT), math.sqrt(ratio), _HARDNESS_FACTOR * hardness, core])
        self.register_buffer("elements", table.t().to(torch.float32).contiguous(), persistent=False)
        self.s6, self.s8 = positive(1.0), positive(1.61679827)
        self.a1, self.a2 = positive(0.44959224), positive(3.35743605)

    def forward(self, z: Tensor, charges: Tensor, distance: Tensor, pairs: Tensor) -> Tensor:
        """Energies of atoms, each half of its pairs'.

        Args:
            z: [B, N] integer, atomic numbers; elements without coefficients have no energy.
            charges: [B, N, 1] e.
            distance: [B, N, N] Å, never 0.
            pairs: [B, N, N] bool, which atoms belong together.

        Returns:
            [B, N, 1] eV.
        """
        s6, s8, a1, a2 = (softplus(at_least_float32(weight)) for weight in (self.s6, self.s8, self.a1, self.a2))
        atoms = look_up(self.elements.to(charges.dtype), z.reshape(-1)).reshape(*z.shape, 4)
        root_c6, root_ratio, hardness, core = atoms.split(1, 2)  # [B, N, 1] each
        strength = root_c6 * _response(charges, hardness, core)
        root = root_ratio * root_ratio.transpose(1, 2)  # sqrt(C8 / C6) of pairs, bohr
        square, radius = _squared(distance / BOHR), _squared(a1 * root + a2)
        d6, r6 = _cubed(square), _cubed(radius)
        coupling = s6 / (d6 + r6) + s8 * root * root / (d6 * square + r6 * radius)
        return -0.5 * _HARTREE * strength * torch.matmul(coupling * pairs.to(coupling.dtype), strength)


def _response(charges: Tensor, hardness: Tensor, core: Tensor) -> Tensor:
    """Factor by which a charge changes the root of C6: D4's zeta, 1 for neutral atoms and less for cations."""
    left = torch.clamp(core + charges, min=_SMALLEST_CHARGE)
    exponent = torch.clamp(hardness * (1.0 - core / left), min=-80.0)
    return torch.exp(_STEEPNESS * (1.0 - torch.exp(exponent)))


def _squared(x: Tensor) -> Tensor:
    return x * x


def _cubed(x: Tensor) -> Tensor:
    return x * x * x
