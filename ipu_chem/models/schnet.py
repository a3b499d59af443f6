"""SchNet: energies and other scalars of molecules from continuous-filter convolutions.

K. T. Schuett et al., "SchNet: A continuous-filter convolutional neural network for modeling quantum
interactions", NeurIPS 2017, arXiv:1706.08566; layer sizes and initialization as in PyTorch Geometric.

Shapes: B packs, N node, E edge, G graph slots, F features, T targets.
"""

from typing import Any, NamedTuple, Optional, Tuple

from torch import Tensor, nn

from ipu_chem.models.base import Graph, check_readout_and_cutoff, edge_vectors, lengths, zero_padded
from ipu_chem.models.convolution import Convolution, EdgeList
from ipu_chem.models.layers import GaussianBasis, ShiftedSoftplus, at_least_float32, look_up, read_out
from ipu_chem.models.moments import Owners, make_moment, outputs_of_atoms, start_last_layer
from ipu_chem.models.tables import DistanceTable, Tabulated, make_table
from ipu_chem.ranges import BLOCKS, FEATURES, FUNCTIONS, check_number

MAX_Z = 100  # atomic numbers 0 (padding) to 99


class Edges(NamedTuple):
    """Edges as messages need them."""

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


class SchNet(Tabulated):
    """Scalar properties of molecules from atomic numbers and positions."""

    usual_filter = "table"  # two layers cost more than reading

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
            num_filters: features of a message; 0 is as many as an atom has.
            num_interactions: blocks.
            num_gaussians: functions of the distance basis.
            cutoff: longest edge, Å.
            num_targets: T, values predicted for every molecule.
            readout: "sum" (extensive targets such as energies) or "mean" (intensive ones) over atoms; "dipole" or
                "extent", moments of charges on atoms (`ipu_chem.models.moments`).
            atom_references: [MAX_Z, T], fixed value of each element, added for every atom.
            filter: "exact" evaluates filters for every edge, "table" and "chebyshev" on a grid of distances, between
                whose points they are read (`ipu_chem.models.tables`); weights and results are the same.
            table_points: of the grid of a tabulated filter; 0 takes what float32 needs.
            undirected: edge_index has every pair of atoms once, in either order, instead of both directions.

        Raises:
            ValueError: a size is out of range, the readout or the kind of filter is unknown, references with a moment.
        """
        super().__init__()
        check_readout_and_cutoff(readout, cutoff, ("dipole", "extent"))
        check_number("hidden_features", hidden_features, FEATURES, whole=True)
        num_filters = num_filters or hidden_features
        check_number("num_filters", num_filters, FEATURES, whole=True)
        check_number("num_gaussians", num_gaussians, FUNCTIONS, whole=True)
        check_number("num_interactions", num_interactions, BLOCKS, whole=True)
        check_number("num_targets", num_targets, "1 or more", whole=True)
        self.cutoff = float(cutoff)
        self.readout = readout
        self.moment = make_moment(readout, num_targets, atom_references)
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
            nn.Linear(hidden_features // 2, outputs_of_atoms(readout, num_targets)),
        )
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
        start_last_layer(self.head[2], self.readout)  # type: ignore[arg-type]

    def forward(self, graph: Graph) -> Tensor:
        return self.from_prepared(*self.prepare(graph))

    def prepare(self, graph: Graph) -> Tuple[Tensor, ...]:
        """Indices, distances and functions of them, as `from_prepared` takes them.

        Distances keep the format of the positions until they are weighed by the weights' format.
        """
        graph = zero_padded(graph)
        source, target, vectors = edge_vectors(graph)
        distance = lengths(vectors)
        real = graph.edge_mask.reshape(-1).to(distance.dtype)
        common = (graph.z.reshape(-1), graph.graph_index, graph.node_mask, graph.graph_mask, source, target)
        arms = () if self.moment is None else (self.moment.arms(graph),)
        if self.table is None:
            return (*common, *self.distance_inputs(distance, real), *arms)
        return (*common, *self.grid_inputs(), *self.table.places(distance, real), *arms)

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
        *rest: Tensor,
    ) -> Tensor:
        table = self.table
        places = rest if self.moment is None else rest[:-1]
        edges = Edges(
            EdgeList(source, target, self.undirected), basis, envelope, table.places_type(*places) if table else None
        )
        x = self.embedding(z)
        for interaction in self.interactions:
            x = x + interaction(x, edges, table)
        per_atom = at_least_float32(self.head(x))
        if self.moment is not None:
            return self.moment(per_atom, rest[-1], Owners(graph_index, node_mask, graph_mask))
        if self.atom_references is not None:
            per_atom = per_atom + look_up(self.atom_references.to(per_atom.dtype), z)
        return read_out(per_atom, graph_index, node_mask, graph_mask, self.readout == "mean")
