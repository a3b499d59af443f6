"""SchNet: energies and other scalars of molecules from continuous-filter convolutions.

K. T. Schuett et al., "SchNet: A continuous-filter convolutional neural network for modeling quantum
interactions", NeurIPS 2017, arXiv:1706.08566; layer sizes and initialisation as in PyTorch Geometric.

On data's way: CompactInputs (or GraphPack.inputs) -> SchNet -> prediction [B, G, T] -> loss.
Shapes: B packs, N node, E edge, G graph slots, F features, T targets.
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.convolution import Convolution, EdgeList
from ipu_chem.models.layers import (
    GaussianBasis,
    ShiftedSoftplus,
    as_index,
    at_least_float32,
    cosine_cutoff,
    cosine_wave,
    flat_index,
    keep,
    look_up,
    read_out,
    take_rows,
)
from ipu_chem.models.tables import DistanceTable, make_table

MAX_Z = 100  # atomic numbers 0 (padding) to 99


class Edges(NamedTuple):
    """What messages need to know of the edges."""

    list: EdgeList  # P of them
    basis: Tensor  # [P, num_gaussians]; of the table's grid, [K, num_gaussians], when filters are tabulated
    envelope: Tensor  # [P or K, 1], cutoff function; 0 for padding edges
    places: Any  # of the edges in the table; None for exact filters


class Interaction(nn.Module):
    """One continuous-filter convolution with its atom-wise layers; the caller adds the result to x."""

    def __init__(self, hidden_features: int, num_filters: int, num_gaussians: int) -> None:
        super().__init__()
        self.filter_net = nn.Sequential(
            nn.Linear(num_gaussians, num_filters), ShiftedSoftplus(), nn.Linear(num_filters, num_filters)
        )
        self.lin_in = nn.Linear(hidden_features, num_filters, bias=False)
        self.lin_out = nn.Linear(num_filters, hidden_features)
        self.activation = ShiftedSoftplus()
        self.lin_last = nn.Linear(hidden_features, hidden_features)
        self.convolution = Convolution()

    def filters(self, basis: Tensor, envelope: Tensor) -> Tensor:
        """Filters of distances, [..., num_filters], from `Edges.basis` and `Edges.envelope`."""
        return self.filter_net(basis) * envelope

    def forward(self, x: Tensor, edges: Edges, table: Optional[DistanceTable]) -> Tensor:
        """Update [M, F] of every atom, from x [M, F]; ``table`` is None for exact filters."""
        filters = self.filters(edges.basis, edges.envelope)
        sent = self.lin_in(x)
        if table is None:
            received = self.convolution(sent, filters, edges.list)
        else:
            received = table.convolve(sent, table.tabulate(filters), edges.places, edges.list)
        return self.lin_last(self.activation(self.lin_out(received)))


class SchNet(nn.Module):
    """Scalar properties of molecules from atomic numbers and positions."""

    def __init__(
        self,
        hidden_features: int = 128,
        num_filters: int = 128,
        num_interactions: int = 3,
        num_gaussians: int = 50,
        cutoff: float = 5.0,
        num_targets: int = 1,
        readout: str = "sum",
        atom_references: Optional[Tensor] = None,
        filter: str = "exact",
        table_points: int = 0,
        undirected: bool = False,
    ) -> None:
        """Build the network.

        Args:
            hidden_features: F, features of an atom.
            num_filters: features of a message.
            num_interactions: blocks.
            num_gaussians: functions of the distance basis.
            cutoff: longest edge, Å.
            num_targets: T, values predicted for every molecule.
            readout: "sum" (extensive targets such as energies) or "mean" (intensive ones) over atoms.
            atom_references: [MAX_Z, T], fixed value of each element, added for every atom.
            filter: "exact" evaluates filters for every edge, "table" and "chebyshev" on a grid of distances, between
                whose points they are read (`ipu_chem.models.tables`); weights and results are the same.
            table_points: of the grid of a tabulated filter; 0 takes what float32 needs.
            undirected: edge_index has every pair of atoms once, in either order, instead of both directions.

        Raises:
            ValueError: a size is out of range, the readout or the kind of filter is unknown.
        """
        super().__init__()
        if readout not in ("sum", "mean"):
            raise ValueError(f"readout={readout!r}: choose 'sum' or 'mean'.")
        if min(hidden_features, num_filters, num_gaussians) < 2 or min(num_interactions, num_targets) < 1:
            raise ValueError("SchNet needs 2 or more features, filters and Gaussians and 1 or more blocks and targets.")
        if not cutoff > 0:
            raise ValueError(f"cutoff={cutoff}: the cutoff is a positive distance in Å.")
        self.cutoff = float(cutoff)
        self.readout = readout
        self.undirected = undirected
        self.embedding = nn.Embedding(MAX_Z, hidden_features)
        self.basis = GaussianBasis(num_gaussians, self.cutoff)
        self.table = make_table(filter, cutoff, cutoff / (num_gaussians - 1), table_points)
        self.interactions = nn.ModuleList(
            [Interaction(hidden_features, num_filters, num_gaussians) for _ in range(num_interactions)]
        )
        self.head = nn.Sequential(
            nn.Linear(hidden_features, hidden_features // 2),
            ShiftedSoftplus(),
            nn.Linear(hidden_features // 2, num_targets),
        )
        self.register_buffer("atom_references", atom_references)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights, zero biases, normal embeddings; the last layer starts at zero.

        A sum over atoms of random outputs would begin tens of standard deviations away from any target.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight)
        nn.init.zeros_(self.head[2].weight)

    def blocks(self) -> List[str]:
        """Names of the submodules at which a pipeline may be cut, in the order of execution."""
        return ["embedding"] + [f"interactions.{i}" for i in range(len(self.interactions))] + ["head"]

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        node_mask: Tensor,
        edge_mask: Tensor,
        graph_mask: Tensor,
    ) -> Tensor:
        """Predict.

        Args:
            z: [B, N] integer, atomic numbers.
            pos: [B, N, 3], Å.
            graph_index: [B, N] integer, molecule of each atom inside its pack.
            edge_index: [B, 2, E] integer, source and target atom inside the pack.
            node_mask, edge_mask, graph_mask: [B, N], [B, E], [B, G] bool, False in padding.

        Returns:
            [B, G, T], exactly 0 in padding slots.
        """
        return self.from_prepared(*self.prepare(z, pos, graph_index, edge_index, node_mask, edge_mask, graph_mask))

    def prepare(
        self,
        z: Tensor,
        pos: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        node_mask: Tensor,
        edge_mask: Tensor,
        graph_mask: Tensor,
    ) -> Tuple[Tensor, ...]:
        """All of `forward` that takes no weights: indices, distances and functions of them, as `from_prepared` has it.

        Distances keep the format of the positions until they are weighed by the weights' format.
        """
        # Padding may hold anything, NaN included; from here on it holds zeros.
        num_nodes = pos.shape[1]
        z = keep(as_index(z), node_mask).reshape(-1)
        graph_index = keep(as_index(graph_index), node_mask)
        pos = keep(pos, node_mask.unsqueeze(-1)).reshape(-1, 3)
        edge_index = keep(as_index(edge_index), edge_mask.unsqueeze(1))
        source, target = (flat_index(ends, num_nodes) for ends in edge_index.unbind(1))
        offset = take_rows(pos, target) - take_rows(pos, source)
        distance = torch.sqrt((offset * offset).sum(1) + 1e-12)  # never 0, where the root has no derivative
        real = edge_mask.reshape(-1).to(distance.dtype)
        common = (z, graph_index, node_mask, graph_mask, source, target)
        if self.table is None:
            return (*common, *self.distance_inputs(distance, real))
        return (*common, *self.grid_inputs(), *self.table.places(distance, real))

    def from_prepared(
        self,
        z: Tensor,
        graph_index: Tensor,
        node_mask: Tensor,
        graph_mask: Tensor,
        source: Tensor,
        target: Tensor,
        basis: Tensor,
        envelope: Tensor,
        *places: Tensor,
    ) -> Tensor:
        """The rest of `forward`."""
        table = self.table
        edges = Edges(
            EdgeList(source, target, self.undirected), basis, envelope, table.places_type(*places) if table else None
        )
        x = self.embedding(z)
        for interaction in self.interactions:
            x = x + interaction(x, edges, table)
        per_atom = at_least_float32(self.head(x))
        if self.atom_references is not None:
            per_atom = per_atom + look_up(self.atom_references.to(per_atom.dtype), z)
        return read_out(per_atom, graph_index, node_mask, graph_mask, self.readout == "mean")

    def distance_inputs(self, distance: Tensor, real: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """What filters are made of at distances [P] Å, [P, num_gaussians] and [P, 1]; 0 where ``real`` [P] is."""
        envelope = cosine_cutoff(distance, self.cutoff)
        return self._filter_inputs(distance, envelope if real is None else envelope * real)

    def grid_inputs(self) -> Tuple[Tensor, Tensor]:
        """The same at the distances of the table's grid, [K, num_gaussians] and [K, 1]."""
        grid = self.table.grid()
        return self._filter_inputs(grid, cosine_wave(grid, self.cutoff))

    def _filter_inputs(self, distance: Tensor, envelope: Tensor) -> Tuple[Tensor, Tensor]:
        """Basis and envelope in the format of the weights, [..., num_gaussians] and [..., 1]."""
        dtype = self.embedding.weight.dtype
        return self.basis(distance).to(dtype), envelope.unsqueeze(-1).to(dtype)
