"""Coulomb energy of atoms' partial charges, at all distances inside a molecule.

O. T. Unke et al., Nat. Commun. 12, 7273 (2021), arXiv:2105.00304.

On data's way: SpookyNet's charges -> `conserve_charge` -> `Electrostatics` -> energies of atoms. Shapes: B packs, N
node, G graph slots.
"""

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import smooth_switch, sum_into, take_rows
from ipu_chem.models.zbl import COULOMB


def conserve_charge(partial: Tensor, total: Tensor, owner: Tensor, real: Tensor) -> Tensor:
    """Charges that sum to that of their molecule: what is missing is spread evenly over its atoms.

    Args:
        partial: [B * N, 1] e, as predicted.
        total: [B * G, 1] e, of molecules.
        owner: [B * N] integer in 0..B * G - 1.
        real: [B * N, 1] float, 0 in padding.

    Returns:
        [B * N, 1] e, 0 in padding.
    """
    sums, atoms = sum_into(torch.cat([partial * real, real], 1), owner, total.shape[0]).split(1, 1)
    missing = (total - sums) / torch.clamp(atoms, min=1.0)
    return (partial + take_rows(missing, owner)) * real


class Electrostatics(nn.Module):
    """1 / d between charges, but 1 / sqrt(d^2 + 1) where they are close: nothing to learn besides charges.

    From one to the other it goes smoothly between a quarter and three quarters of the cutoff.
    """

    def __init__(self, cutoff: float) -> None:
        """Cutoff in Å, of the model; the energy itself has none."""
        super().__init__()
        self.start, self.end = 0.25 * cutoff, 0.75 * cutoff

    def forward(self, charges: Tensor, distance: Tensor, pairs: Tensor) -> Tensor:
        """Energies of atoms, each half of its pairs'.

        Args:
            charges: [B, N, 1] e.
            distance: [B, N, N] Å, never 0.
            pairs: [B, N, N] bool, which atoms belong together.

        Returns:
            [B, N, 1] eV.
        """
        close = smooth_switch(distance, self.start, self.end)
        coupling = close / torch.sqrt(distance * distance + 1.0) + (1.0 - close) / distance
        return 0.5 * COULOMB * charges * torch.matmul(coupling * pairs.to(distance.dtype), charges)
