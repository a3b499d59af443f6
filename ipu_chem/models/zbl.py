"""Repulsion of nuclei that are close: the universal screened potential of Ziegler, Biersack and Littmark.

J. F. Ziegler, J. P. Biersack, U. Littmark, "The stopping and range of ions in matter", 1985; with learned constants as
in O. T. Unke et al., Nat. Commun. 12, 7273 (2021), arXiv:2105.00304.

On data's way: edges of SpookyNet -> `ZblRepulsion` -> energies of edges. Shapes: P edges, M atoms.
"""

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import at_least_float32, inverse_softplus, softplus, take_rows

COULOMB = 14.399645351950548  # eV Å / e^2
BOHR = 0.5291772105638411  # Å
_SHARES = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.1998, 0.94229, 0.4029, 0.20162)


def positive(*values: float) -> nn.Parameter:
    """A weight whose softplus begins at the values, [K]."""
    return nn.Parameter(torch.tensor([inverse_softplus(value) for value in values]))


class ZblRepulsion(nn.Module):
    """COULOMB z1 z2 / d times the sum of shares exp(-decays d / a), a = 0.8854 bohr / (z1^0.23 + z2^0.23): 10 weights.

    All of 0.23, 1 / (0.8854 bohr), shares and decays are learned; shares are kept at a sum of 1, so that bare charges
    repel each other at short distances.
    """

    def __init__(self) -> None:
        super().__init__()
        self.power = positive(0.23)
        self.inverse_length = positive(1.0 / (0.8854 * BOHR))
        self.shares = positive(*_SHARES)
        self.decays = positive(*_DECAYS)

    def forward(self, z: Tensor, distance: Tensor, envelope: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Energies of pairs.

        Args:
            z: [M] integer, atomic numbers.
            distance: [P] Å, never 0.
            envelope: [P], cutoff function; 0 for padding edges.
            source, target: [P] integer in 0..M-1.

        Returns:
            [P, 1] eV.
        """
        power, inverse_length, shares, decays = (
            softplus(at_least_float32(weight)) for weight in (self.power, self.inverse_length, self.shares, self.decays)
        )
        number = z.to(distance.dtype).unsqueeze(1)
        # z^power; where z is 0, in padding, the logarithm is kept from becoming infinite.
        size = torch.exp(torch.log(torch.clamp(number, min=1.0)) * power)
        ends = torch.cat([number, size], 1)
        (z1, size1), (z2, size2) = (take_rows(ends, end).split(1, 1) for end in (source, target))
        distance = distance.unsqueeze(1)
        reduced = distance * (size1 + size2) * inverse_length
        screening = (shares / shares.sum() * torch.exp(-decays * reduced)).sum(1, keepdim=True)
        return COULOMB * z1 * z2 / distance * screening * envelope.unsqueeze(1)
