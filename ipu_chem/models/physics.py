"""Physical terms of SpookyNet, whose energies are in eV: repulsion of nuclei that are close, and Coulomb's law.

O. T. Unke et al., Nat. Commun. 12, 7273 (2021), arXiv:2105.00304. Coulomb's law has no cutoff, so it is for all pairs
of atoms of a pack, [B, N, N]: packs are small, and a mask costs less than lists of pairs, whose number would have to be
budgeted besides that of the edges. Shapes: B packs, N node, G graph slots, P edges, M atoms.
"""

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import (
    at_least_float32,
    inverse_softplus,
    keep,
    smooth_switch,
    softplus,
    sum_into,
    take_rows,
)

COULOMB = 14.399645351950548  # eV Å / e^2
BOHR = 0.5291772105638411  # Å
_SHARES = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.1998, 0.94229, 0.4029, 0.20162)


def same_molecule(graph_index: Tensor, node_mask: Tensor) -> Tensor:
    """Pairs of atoms that see each other.

    Args:
        graph_index: [B, N] integer, molecule of each atom; anything in padding.
        node_mask: [B, N] bool, False in padding.

    Returns:
        [B, N, N] bool: True for pairs of one molecule and for each slot with itself, in padding for nothing else.
    """
    slot = torch.arange(graph_index.shape[1], dtype=torch.int32, device=graph_index.device)
    owner = torch.where(node_mask, graph_index.to(torch.int32), -1 - slot)  # every slot of padding is alone
    return owner.unsqueeze(2) == owner.unsqueeze(1)


def others(same: Tensor) -> Tensor:
    """`same_molecule` without each slot with itself: pairs of different atoms, none in padding."""
    slot = torch.arange(same.shape[1], dtype=torch.int32, device=same.device)
    return same & (slot.unsqueeze(1) != slot)


def pair_distances(pos: Tensor, pairs: Tensor) -> Tensor:
    """Distances [B, N, N] of the pairs that the mask names, 1 elsewhere.

    Args:
        pos: [B, N, 3] Å, no NaN.
        pairs: [B, N, N] bool.
    """
    offset = pos.unsqueeze(2) - pos.unsqueeze(1)
    squared = (offset * offset).sum(3) + 1e-12  # never 0, where the root has no derivative
    return torch.sqrt(keep(squared, pairs) + 1.0 - pairs.to(squared.dtype))


def positive(*values: float) -> nn.Parameter:
    """A weight whose softplus begins at the values, [K]."""
    return nn.Parameter(torch.tensor([inverse_softplus(value) for value in values]))


class ZblRepulsion(nn.Module):
    """Repulsion as COULOMB z1 z2 / d sum(shares exp(-decays d / a)), a = 0.8854 bohr / (z1^0.23 + z2^0.23): 10 weights.

    The universal screened potential of J. F. Ziegler, J. P. Biersack, U. Littmark, "The stopping and range of ions in
    matter", 1985. All of 0.23, 1 / (0.8854 bohr), shares and decays are learned; shares are kept at a sum of 1, so that
    bare charges repel each other at short distances.
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
