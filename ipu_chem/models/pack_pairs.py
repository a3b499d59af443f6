"""All pairs of atoms of a pack, [B, N, N], and which of them belong to one molecule.

For what has no cutoff. Packs are small, so a mask costs less than lists of pairs, whose number would have to be
budgeted besides that of the edges.

On data's way: positions and owners of atoms -> masks and distances -> attention, electrostatics, dispersion.
"""

import torch
from torch import Tensor

from ipu_chem.models.layers import keep


def same_molecule(graph_index: Tensor, node_mask: Tensor) -> Tensor:
    """Which atoms see which.

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
