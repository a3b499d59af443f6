"""SpookyNet: energies of molecules with a charge and unpaired electrons, from local, nonlocal and physical terms.

O. T. Unke, S. Chmiela, M. Gastegger, K. T. Schuett, H. E. Sauceda, K.-R. Mueller, "SpookyNet: Learning force fields
with electronic degrees of freedom and nonlocal effects", Nat. Commun. 12, 7273 (2021), arXiv:2105.00304.

As in the paper: embeddings of elements, charge and spin, messages as s, p and d orbitals over Bernstein polynomials,
residual blocks with learned activations and their initial weights, repulsion, charges that sum to the molecule's and
their electrostatics. Otherwise: attention is exact (`NonlocalInteraction` says why), dispersion has one C6 for an
element instead of D4's reference molecules (`ipu_chem.models.dispersion`), and several targets may be predicted.

Shapes: B packs, N node, E edge, G graph slots, F features, T targets.
"""

from typing import Any, Callable, Iterable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.base import Graph, GraphModel, check_readout_and_cutoff, edge_vectors, zero_padded
from ipu_chem.models.dispersion import Dispersion, check_dispersion_elements
from ipu_chem.models.electrons import ElectronEmbedding
from ipu_chem.models.layers import at_least_float32, flat_index, look_up, read_out, smooth_cutoff, sum_into
from ipu_chem.models.physics import Electrostatics, ZblRepulsion, conserve_charge, others, pair_distances, same_molecule
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.spooky_interaction import BernsteinBasis, EdgeFunctions, SpookyInteraction, quadrupole
from ipu_chem.ranges import BLOCKS, FEATURES, check_number


class Atoms(NamedTuple):
    """Atoms, beside their graph."""

    owner: Tensor  # [B * N] integer in 0..B * G - 1
    real: Tensor  # [B * N, 1] float, 0 in padding
    same: Tensor  # [B, N, N] bool, see `same_molecule`


class Distances(NamedTuple):
    """Lengths of edges, as physical terms take them."""

    source: Tensor  # [E'] integer, of the edges of all packs
    target: Tensor  # [E'] integer
    distance: Tensor  # [E'] Å, 1 in padding
    envelope: Tensor  # [E'], cutoff function; 0 in padding


class Head(nn.Module):
    """Targets of atoms, and their charges if wanted, from features and elements: (F + MAX_Z) weights each."""

    def __init__(self, hidden_features: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_features, outputs, bias=False)
        self.element = nn.Embedding(MAX_Z, outputs)
        nn.init.orthogonal_(self.output.weight)
        nn.init.zeros_(self.element.weight)

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """[B * N, F] and [B * N] integer -> [B * N, outputs], in float32 or better."""
        return at_least_float32(self.output(features)) + at_least_float32(self.element(z))


class SpookyNet(GraphModel):
    """Energies, or other scalars, from atomic numbers, positions, charge and spin.

    It has I (35 F^2 + 93 F + 3 R F) + 8 F^2 + (MAX_Z + 40) F + 1 weights for I blocks and R radial functions, F + MAX_Z
    for each target and for charges, 10 for repulsion and 4 for dispersion.
    """

    needs_charge = True
    # A backend's own form of all interactions: (features of elements, edges, graph, training) -> features to read
    # energies from, or None where it has none for this graph.
    kernel: Optional[Callable[[Tensor, EdgeFunctions, Graph, bool], Optional[Tensor]]] = None

    def __init__(
        self,
        hidden_features: int = 128,
        num_interactions: int = 3,
        num_radial: int = 20,
        cutoff: float = 5.0,
        num_targets: int = 1,
        readout: str = "sum",
        atom_references: Optional[Tensor] = None,
        undirected: bool = False,
        use_zbl: bool = True,
        use_electrostatics: bool = True,
        use_dispersion: bool = True,
        energy_scale: float = 1.0,
    ) -> None:
        """Build the network.

        Args:
            hidden_features: F, features of an atom.
            num_interactions: blocks.
            num_radial: R, polynomials of the distance basis.
            cutoff: longest edge, Å, of messages and repulsion.
            num_targets: T, values predicted for every molecule.
            readout: "sum" (extensive targets such as energies) or "mean" (intensive ones) over atoms.
            atom_references: [MAX_Z, T], fixed value of each element, added for every atom.
            undirected: edge_index has every pair of atoms once, in either order, instead of both directions.
            use_zbl: add the repulsion of nuclei.
            use_electrostatics: add the Coulomb energy of partial charges.
            use_dispersion: add a dispersion energy that depends on partial charges.
            energy_scale: eV that a prediction of 1 means: the physical terms are divided by it.

        Raises:
            ValueError: a size is out of range, the readout is unknown, physical terms are asked for what is no energy.
        """
        super().__init__()
        physical = use_zbl or use_electrostatics or use_dispersion
        check_readout_and_cutoff(readout, cutoff)
        check_number("hidden_features", hidden_features, FEATURES, whole=True)
        check_number("num_radial", num_radial, "from 1 to 10,000", whole=True)
        check_number("num_interactions", num_interactions, BLOCKS, whole=True)
        check_number("num_targets", num_targets, "1 or more", whole=True)
        if not energy_scale > 0:
            raise ValueError(f"energy_scale={energy_scale}: give the eV that a prediction of 1 stands for.")
        if physical and (num_targets != 1 or readout != "sum"):
            raise ValueError(
                f"{num_targets} targets with readout={readout!r}: repulsion, electrostatics and dispersion add to one "
                "energy summed over atoms; set use_zbl, use_electrostatics and use_dispersion to false for others."
            )
        self.cutoff = float(cutoff)
        self.num_targets = num_targets
        self.readout = readout
        self.undirected = undirected
        self.energy_scale = float(energy_scale)
        self.basis = BernsteinBasis(num_radial)
        self.embedding = ElectronEmbedding(hidden_features)
        self.interactions = nn.ModuleList(
            [SpookyInteraction(hidden_features, num_radial, undirected) for _ in range(num_interactions)]
        )
        charged = int(use_electrostatics or use_dispersion)
        self.head = Head(hidden_features, num_targets + charged)
        self.zbl = ZblRepulsion() if use_zbl else None
        self.electrostatics = Electrostatics(self.cutoff) if use_electrostatics else None
        self.dispersion = Dispersion() if use_dispersion else None
        self.register_buffer("atom_references", atom_references)

    def blocks(self) -> List[str]:
        return ["embedding"] + [f"interactions.{i}" for i in range(len(self.interactions))] + ["head"]

    @classmethod
    def added_energies(cls, **options: Any) -> Tuple[str, ...]:
        return tuple(name for name in ("use_zbl", "use_electrostatics", "use_dispersion") if options.get(name, True))

    @classmethod
    def check_elements(cls, elements: Iterable[int], **options: Any) -> None:
        if options.get("use_dispersion", True):
            check_dispersion_elements(elements)

    def forward(self, graph: Graph) -> Tensor:
        """See `GraphModel.forward`; in float32 or better."""
        graph, atoms = self._atoms(graph)
        edges, distances = self._edges(graph, atoms)
        per_atom, charges = self._outputs(graph, atoms, edges)
        per_atom = per_atom + self._physical(graph, atoms, distances, charges)
        if self.atom_references is not None:
            per_atom = per_atom + look_up(self.atom_references.to(per_atom.dtype), graph.z.reshape(-1))
        return read_out(per_atom, graph.graph_index, graph.node_mask, graph.graph_mask, self.readout == "mean")

    def partial_charges(self, graph: Graph) -> Tensor:
        """Charges of atoms, [B, N] e, which sum to their molecule's and are 0 in padding.

        Raises:
            ValueError: the model has neither electrostatics nor dispersion, so it learns no charges.
        """
        graph, atoms = self._atoms(graph)
        _, charges = self._outputs(graph, atoms, self._edges(graph, atoms)[0])
        if charges is None:
            raise ValueError("a SpookyNet without electrostatics and dispersion predicts no charges.")
        return charges.reshape(graph.z.shape)

    def _atoms(self, graph: Graph) -> Tuple[Graph, Atoms]:
        """The graph with zeros in padding, and what follows from it."""
        same = same_molecule(graph.graph_index, graph.node_mask)
        graph = zero_padded(graph)
        real = graph.node_mask.reshape(-1, 1).to(graph.pos.dtype)
        return graph, Atoms(flat_index(graph.graph_index, graph.graph_mask.shape[1]), real, same)

    def _edges(self, graph: Graph, atoms: Atoms) -> Tuple[EdgeFunctions, Distances]:
        """Directions, distances and functions of them, in the format of the positions until weights meet them."""
        source, target, offset = edge_vectors(graph)
        real = graph.edge_mask.reshape(-1).to(offset.dtype)
        # Padding gets a length of 1 Å, at which nothing is steep.
        distance = torch.sqrt((offset * offset).sum(1) + 1e-12 + (1.0 - real))
        envelope = smooth_cutoff(distance, self.cutoff) * real
        dtype = self.head.output.weight.dtype
        dipole = offset / distance.unsqueeze(1)
        angular = torch.cat([dipole, quadrupole(dipole)], 1).to(dtype)
        edges = EdgeFunctions(source, target, angular, self.basis(distance, envelope).to(dtype))
        return edges, Distances(source, target, distance, envelope)

    def _outputs(self, graph: Graph, atoms: Atoms, edges: EdgeFunctions) -> Tuple[Tensor, Optional[Tensor]]:
        """Targets [B * N, T] and charges [B * N, 1] of atoms, the latter None where nothing needs them."""
        assert graph.charge is not None and graph.spin is not None
        z, charge, spin = graph.z.reshape(-1), graph.charge.reshape(-1), graph.spin.reshape(-1)
        x = self.embedding(z, charge, spin, atoms.owner, atoms.real)
        features = None if self.kernel is None else self.kernel(x, edges, graph, self.training)
        outputs = self.head(self._features(x, edges, atoms) if features is None else features, z)
        if outputs.shape[1] == self.num_targets:
            return outputs, None
        targets, charges = outputs.split([self.num_targets, 1], 1)
        total = charge.to(charges.dtype).unsqueeze(1)
        return targets, conserve_charge(charges, total, atoms.owner, atoms.real.to(charges.dtype))

    def _features(self, x: Tensor, edges: EdgeFunctions, atoms: Atoms) -> Tensor:
        """Features to read energies from, [B * N, F], from those of elements."""
        ways = edges.both_ways(self.undirected)
        features = torch.zeros_like(x)
        for interaction in self.interactions:
            x, added = interaction(x, ways, atoms.same)
            features = features + added
        return features

    def _physical(self, graph: Graph, atoms: Atoms, edges: Distances, charges: Optional[Tensor]) -> Tensor:
        """Repulsion, electrostatics and dispersion, as energies of atoms [B * N, 1]; 0 without them."""
        energy = torch.zeros_like(atoms.real)
        if self.zbl is not None:
            pairs = self.zbl(graph.z.reshape(-1), edges.distance, edges.envelope, edges.source, edges.target)
            # One of both ends gets all of it, which is the same to their molecule.
            share = 1.0 if self.undirected else 0.5
            energy = energy + sum_into(share * pairs, edges.target, energy.shape[0])
        if charges is not None:
            between = others(atoms.same)
            distance = pair_distances(graph.pos, between)
            charges = charges.reshape(*distance.shape[:2], 1).to(distance.dtype)
            if self.electrostatics is not None:
                energy = energy + self.electrostatics(charges, distance, between).reshape(-1, 1)
            if self.dispersion is not None:
                energy = energy + self.dispersion(graph.z, charges, distance, between).reshape(-1, 1)
        return energy * (1.0 / self.energy_scale)
