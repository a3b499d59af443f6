"""PaiNN: energies and other scalars of molecules from messages that carry directions.

K. T. Schuett, O. T. Unke, M. Gastegger, "Equivariant message passing for the prediction of tensorial properties
and molecular spectra", ICML 2021, arXiv:2102.03150. Every atom has scalars, which do not change when the molecule
is turned, and vectors, which turn with it; unlike SchNet it tells angles apart that distances along edges do not.

Shapes: B packs, N node, E edge, G graph slots, F features, T targets. Vectors are [B * N, 3, F].
"""

import math
from typing import Any, Callable, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.base import Graph, check_readout_and_cutoff, edge_vectors, lengths, zero_padded
from ipu_chem.models.layers import Silu, SincBasis, at_least_float32, look_up, read_out, sum_into, take_rows
from ipu_chem.models.moments import MOMENTS, Owners, VectorHead, make_moment, outputs_of_atoms, start_last_layer
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.tables import DistanceTable, Tabulated, make_table
from ipu_chem.ranges import BLOCKS, FEATURES, check_number


class Edges(NamedTuple):
    """Edges as messages need them."""

    source: Tensor  # [P] integer; of undirected edges both ways, [2 P]
    target: Tensor  # [P] or [2 P] integer
    direction: Tensor  # [P] or [2 P, 3], unit vectors from source to target
    basis: Tensor  # [P, num_radial]; of the table's grid, [K, num_radial], when filters are tabulated
    envelope: Tensor  # [P or K, 1], cutoff function; 0 for padding edges
    places: Any  # of the P edges in the table; None for exact filters


class Interaction(nn.Module):
    """Messages from the neighbors, then an update of each atom by itself: 11 F^2 + 8 F + 3 F (R + 1) weights."""

    def __init__(self, hidden_features: int, num_radial: int, undirected: bool = False) -> None:
        super().__init__()
        features = self.features = hidden_features
        self.undirected = undirected
        self.message_net = nn.Sequential(nn.Linear(features, features), Silu(), nn.Linear(features, 3 * features))
        self.filter_net = nn.Linear(num_radial, 3 * features)
        self.mix = nn.Linear(features, 2 * features, bias=False)
        self.update_net = nn.Sequential(nn.Linear(2 * features, features), Silu(), nn.Linear(features, 3 * features))

    def forward(
        self, scalars: Tensor, vectors: Tensor, edges: Edges, table: Optional[DistanceTable]
    ) -> Tuple[Tensor, Tensor]:
        """Scalars [B * N, F] and vectors [B * N, 3, F] after the block; ``table`` is None for exact filters."""
        filters = self.filters(edges.basis, edges.envelope)
        if table is not None:
            filters = table.read(table.tabulate(filters), edges.places)
        if self.undirected:
            filters = torch.cat([filters, filters])
        scalars, vectors = self._message(scalars, vectors, edges, filters)
        return self._update(scalars, vectors)

    def filters(self, basis: Tensor, envelope: Tensor) -> Tensor:
        """Filters of distances, [..., 3 F], from `Edges.basis` and `Edges.envelope`."""
        return self.filter_net(basis) * envelope

    def _message(self, scalars: Tensor, vectors: Tensor, edges: Edges, filters: Tensor) -> Tuple[Tensor, Tensor]:
        atoms, width = scalars.shape[0], 3 * self.features
        # One gather and one sum for scalars and vectors together: on an IPU each is an exchange between tiles.
        sent = take_rows(torch.cat([self.message_net(scalars), vectors.reshape(atoms, width)], 1), edges.source)
        gates, carried = sent.split([width, width], 1)
        gates = gates * filters
        message, pointing, passing = gates.unsqueeze(1).split(self.features, 2)  # [B * E, 1, F] each
        turned = carried.reshape(-1, 3, self.features) * passing + edges.direction.unsqueeze(2) * pointing
        received = sum_into(torch.cat([message.squeeze(1), turned.reshape(-1, width)], 1), edges.target, atoms)
        added, turned = received.split([self.features, width], 1)
        return scalars + added, vectors + turned.reshape(-1, 3, self.features)

    def _update(self, scalars: Tensor, vectors: Tensor) -> Tuple[Tensor, Tensor]:
        left, right = self.mix(vectors).split(self.features, 2)  # U v and V v, [B * N, 3, F]
        wide = at_least_float32(right)
        length = torch.sqrt((wide * wide).sum(1) + 1e-8).to(scalars.dtype)  # never 0, where roots have no derivative
        gates = self.update_net(torch.cat([scalars, length], 1))
        of_scalars, of_products, of_vectors = gates.split(self.features, 1)
        scalars = scalars + of_scalars + of_products * (left * right).sum(1)
        return scalars, vectors + left * of_vectors.unsqueeze(1)


class PaiNN(Tabulated):
    """Scalar properties of molecules from atomic numbers and positions."""

    # A backend's own form of features: graph -> scalars and vectors, or None where it has none for this graph.
    kernel: Optional[Callable[[Graph], Optional[Tuple[Tensor, Tensor]]]] = None

    def __init__(
        self,
        hidden_features: int = 128,
        num_interactions: int = 3,
        num_radial: int = 20,
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
            hidden_features: F, scalars of an atom and as many vectors.
            num_interactions: blocks.
            num_radial: R, functions of the distance basis.
            cutoff: longest edge, Å.
            num_targets: T, values predicted for every molecule.
            readout: "sum" (extensive targets such as energies) or "mean" (intensive ones) over atoms; "dipole",
                "dipole_vectors" or "extent", moments of charges on atoms (`ipu_chem.models.moments`).
            atom_references: [MAX_Z, T], fixed value of each element, added for every atom.
            filter: "exact", "table" or "chebyshev", see `SchNet`.
            table_points: of the grid of a tabulated filter; 0 takes what float32 needs.
            undirected: see `SchNet`.

        Raises:
            ValueError: a size is out of range, the readout or the kind of filter is unknown, references with a moment.
        """
        super().__init__()
        check_readout_and_cutoff(readout, cutoff, MOMENTS)
        check_number("hidden_features", hidden_features, FEATURES, whole=True)
        check_number("num_radial", num_radial, "from 1 to 10,000", whole=True)
        check_number("num_interactions", num_interactions, BLOCKS, whole=True)
        check_number("num_targets", num_targets, "1 or more", whole=True)
        self.cutoff = float(cutoff)
        self.readout = readout
        self.moment = make_moment(readout, num_targets, atom_references)
        self.undirected = undirected
        self.embedding = nn.Embedding(MAX_Z, hidden_features)
        self.basis = SincBasis(num_radial, self.cutoff)
        # A wave is as narrow as a Gaussian whose width is a third of the wave's length.
        width = 2.0 * cutoff / (math.pi * num_radial)
        self.table = make_table(filter, cutoff, width, table_points)
        self.interactions = nn.ModuleList(
            [Interaction(hidden_features, num_radial, undirected) for _ in range(num_interactions)]
        )
        half, outputs = hidden_features // 2, outputs_of_atoms(readout, num_targets)
        self.head: Any
        if readout == "dipole_vectors":
            self.head = VectorHead(hidden_features, num_targets)
        else:
            self.head = nn.Sequential(nn.Linear(hidden_features, half), Silu(), nn.Linear(half, outputs))
        self.register_buffer("atom_references", atom_references)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights, zero biases, normal embeddings; the last layer as `start_last_layer` says."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight)
        last = self.head.last.net if isinstance(self.head, VectorHead) else self.head
        start_last_layer(last[2], self.readout)

    def forward(self, graph: Graph) -> Tensor:
        graph = zero_padded(graph)
        scalars, vectors = self._features(graph)
        if isinstance(self.head, VectorHead):
            return self._moment(graph, *self.head(scalars, vectors))
        per_atom = at_least_float32(self.head(scalars))
        if self.moment is not None:
            return self._moment(graph, per_atom)
        if self.atom_references is not None:
            per_atom = per_atom + look_up(self.atom_references.to(per_atom.dtype), graph.z.reshape(-1))
        return read_out(per_atom, graph.graph_index, graph.node_mask, graph.graph_mask, self.readout == "mean")

    def _moment(self, graph: Graph, per_atom: Tensor, dipoles: Optional[Tensor] = None) -> Tensor:
        assert self.moment is not None
        owners = Owners(graph.graph_index, graph.node_mask, graph.graph_mask)
        return self.moment(per_atom, self.moment.arms(graph), owners, dipoles)

    def features(self, graph: Graph) -> Tuple[Tensor, Tensor]:
        """Scalars [B * N, F] and vectors [B * N, 3, F] of every atom.

        Vectors turn with the molecule and change sign under inversion; both are without meaning in padding.
        """
        return self._features(zero_padded(graph))

    def _features(self, graph: Graph) -> Tuple[Tensor, Tensor]:
        if self.kernel is not None:
            found = self.kernel(graph)
            if found is not None:
                return found
        edges = self._edges(graph)
        scalars = self.embedding(graph.z.reshape(-1))
        vectors = torch.zeros((scalars.shape[0], 3, scalars.shape[1]), dtype=scalars.dtype, device=scalars.device)
        for interaction in self.interactions:
            scalars, vectors = interaction(scalars, vectors, edges, self.table)
        return scalars, vectors

    def _edges(self, graph: Graph) -> Edges:
        """Directions and distances, which keep the format of the positions until they are weighed."""
        source, target, offset = edge_vectors(graph)
        distance = lengths(offset)
        real = graph.edge_mask.reshape(-1).to(distance.dtype)
        direction = (offset / distance.unsqueeze(1)).to(self.embedding.weight.dtype)
        if self.undirected:
            source, target = torch.cat([source, target]), torch.cat([target, source])
            direction = torch.cat([direction, -direction])
        ends = (source, target, direction)
        if self.table is None:
            return Edges(*ends, *self.distance_inputs(distance, real), None)
        return Edges(*ends, *self.grid_inputs(), self.table.places(distance, real))

    def grid(self) -> Tensor:
        """See `Tabulated.grid`; waves have a value at 0, too, but not as a quotient; they are flat there."""
        grid = super().grid()
        return torch.where(grid == 0.0, torch.full_like(grid, 1e-4), grid)
