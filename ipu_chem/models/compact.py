"""Inputs of a graph model, made on the device from the fewest bytes that can be transferred to it.

Masks and indices follow from counts that the host states: where each molecule ends, how many edges there are.
None is guessed from an atomic number or a position.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.wrapper import GraphWrapper


class CompactInputs(GraphWrapper):
    """A graph model that takes compact packs (`ipu_chem.batches.types`)."""

    def __init__(self, model: GraphModel, position_step: Optional[float] = None) -> None:
        """Wrap a model.

        Args:
            model: any; `DeviceEdges` around it is sent no edges.
            position_step: Å, what a 1 of integer positions means; None when positions come in Å.

        Raises:
            ValueError: the step is no length.
        """
        super().__init__(model)
        if position_step is not None and not position_step > 0:
            raise ValueError(f"position_step={position_step}: give a positive length in Å, or None for positions in Å.")
        self.position_step = position_step
        self.takes_edges = not model.finds_edges

    def expand(self, z: Tensor, pos: Tensor, graph_ends: Tensor, *rest: Tensor) -> Graph:  # type: ignore[override]
        """The graph of a compact pack.

        Args:
            z: [B, N] integer, atomic numbers.
            pos: [B, N, 3], Å, or int16 in steps.
            graph_ends: [B, G] integer, atoms up to the end of each molecule; in padding those of the whole pack.
            *rest: with edges first edge_index [B, 2, E] integer, atoms inside the pack, and num_edges [B, 1] integer,
                how many of them are real, which the others follow; then what else the model takes of molecules,
                such as charge and spin, [B, G] each.

        Raises:
            ValueError: positions come in another form than was said.
        """
        if pos.is_floating_point() != (self.position_step is None):
            raise ValueError(f"positions are {pos.dtype}, the model was made for position_step={self.position_step}.")
        if self.position_step is not None:
            pos = pos.to(torch.float32) * self.position_step
        node_mask, graph_index, graph_mask = masks_from_ends(graph_ends, z.shape[1])
        if not self.takes_edges:
            return Graph(z, pos, graph_index, None, node_mask, None, graph_mask, *rest)  # type: ignore[arg-type]
        edge_index, num_edges = rest[:2]
        slot = torch.arange(edge_index.shape[2], dtype=torch.int32, device=z.device)
        edge_mask = slot.unsqueeze(0) < num_edges.to(torch.int32)
        return Graph(z, pos, graph_index, edge_index, node_mask, edge_mask, graph_mask, *rest[2:])


def masks_from_ends(graph_ends: Tensor, num_nodes: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Masks of real slots, and the molecule of each atom.

    Args:
        graph_ends: [B, G] integer, atoms up to the end of each molecule; in padding those of the whole pack.
        num_nodes: N.

    Returns:
        node_mask [B, N] bool, graph_index [B, N] int32 in 0..G-1, graph_mask [B, G] bool.
    """
    num_packs, num_graphs = graph_ends.shape
    ends = graph_ends.to(torch.int32)  # IPUs compare no narrower integers
    slot = torch.arange(num_nodes, dtype=torch.int32, device=ends.device).unsqueeze(0)
    node_mask = slot < ends.narrow(1, num_graphs - 1, 1)
    ended = (ends.unsqueeze(1) <= slot.unsqueeze(2)).to(torch.int32)  # [B, N, G]
    graph_index = torch.clamp(ended.sum(2, dtype=torch.int32), max=num_graphs - 1)
    start = torch.zeros((num_packs, 1), dtype=torch.int32, device=ends.device)
    before = torch.cat([start, ends], 1).narrow(1, 0, num_graphs)
    return node_mask, graph_index, ends > before
