"""Neighbors found on the device: only positions are transferred from the host, edges are made inside the program.

Distances are taken between the atoms of one pack, never over the micro-batch, and of each atom's distances
the k smallest within the cutoff become edges: static shapes, however many neighbors there are.
"""

from typing import Tuple

import torch
from torch import Tensor

from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.layers import as_index
from ipu_chem.models.wrapper import GraphWrapper

_NOT_A_NEIGHBOR = -1.0e9  # minus a squared distance in Å² that no molecule reaches; float32 throughout


class DeviceEdges(GraphWrapper):
    """A graph model that takes graphs without edges."""

    finds_edges = True

    def __init__(self, model: GraphModel, cutoff: float, max_neighbors: int) -> None:
        """Wrap a model.

        Args:
            model: any.
            cutoff: Å, longest edge.
            max_neighbors: k, edges that end at an atom; further ones are left out, the nearest come first.

        Raises:
            ValueError: there is nothing to look for.
        """
        super().__init__(model)
        if max_neighbors < 1 or not cutoff > 0:
            raise ValueError(
                f"max_neighbors={max_neighbors}, cutoff={cutoff}: give 1 or more neighbors within a positive "
                "distance in Å."
            )
        self.cutoff = float(cutoff)
        self.max_neighbors = max_neighbors

    def expand(self, graph: Graph) -> Graph:  # type: ignore[override]
        """The graph with edge_index [B, 2, N * k] and edge_mask."""
        edge_index, edge_mask = neighbors_in_packs(
            graph.pos, graph.graph_index, graph.node_mask, self.cutoff, self.max_neighbors
        )
        return graph._replace(edge_index=edge_index, edge_mask=edge_mask)


def neighbors_in_packs(
    pos: Tensor, graph_index: Tensor, node_mask: Tensor, cutoff: float, max_neighbors: int
) -> Tuple[Tensor, Tensor]:
    """The nearest atoms of the same molecule, for every atom of every pack.

    Args:
        pos: [B, N, 3], Å.
        graph_index: [B, N] integer, molecule of each atom inside its pack.
        node_mask: [B, N] bool, False in padding.
        cutoff: Å.
        max_neighbors: k; at most N.

    Returns:
        edge_index [B, 2, N * k] of (source, target), sorted by target, and edge_mask [B, N * k] bool.
    """
    num_packs, num_nodes = graph_index.shape
    per_atom = min(max_neighbors, num_nodes)
    # The choice of neighbors has no derivative: gradients flow through the distances that the model takes itself.
    pos = torch.where(node_mask.unsqueeze(-1), pos.detach().float(), torch.zeros((), device=pos.device))
    owner = torch.where(node_mask, graph_index.to(torch.int32), torch.full((), -1, dtype=torch.int32).to(pos.device))
    squared = torch.zeros((), device=pos.device)
    for place in pos.unbind(2):  # [B, N, N] three times, not [B, N, N, 3] once
        offset = place.unsqueeze(2) - place.unsqueeze(1)
        squared = squared + offset * offset
    slot = as_index(torch.arange(num_nodes, dtype=torch.int32, device=pos.device))
    others = (slot.unsqueeze(1) != slot.unsqueeze(0)).unsqueeze(0)
    together = (owner.unsqueeze(2) == owner.unsqueeze(1)) & node_mask.unsqueeze(2)
    near = together & others & (squared <= cutoff * cutoff)
    nearness = torch.where(near, -squared, torch.full((), _NOT_A_NEIGHBOR, device=pos.device))
    nearest, source = torch.topk(nearness, per_atom, dim=2)  # [B, N, k], for every target
    target = slot.reshape(1, num_nodes, 1).expand(num_packs, num_nodes, per_atom)
    edge_index = torch.stack([as_index(source).reshape(num_packs, -1), target.reshape(num_packs, -1)], 1)
    return edge_index, (nearest > 0.5 * _NOT_A_NEIGHBOR).reshape(num_packs, -1)
