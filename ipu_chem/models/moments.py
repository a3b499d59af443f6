"""Readouts that are moments of charges on atoms: the dipole moment and the electronic spatial extent of a molecule.

    dipole          |sum_i q_i r_i|
    dipole_vectors  |sum_i q_i r_i + m_i|, with a dipole m_i of each atom, which turns with the molecule
    extent          sum_i e_i |r_i|^2 + s_i

r_i are positions from the center of mass, so that predictions of ions, too, stay when a molecule is moved. The model
learns charges q_i, dipoles m_i, weights e_i and s_i from the sums alone. Charges are not made to add up to the
molecule's, which SchNet and PaiNN do not know.

Dipoles of charges: M. Gastegger, J. Behler, P. Marquetand, Chem. Sci. 8, 6924 (2017); with vectors: K. T. Schuett et
al., ICML 2021, arXiv:2102.03150; the extent: SchNetPack, K. T. Schuett et al., J. Chem. Theory Comput. 15, 448 (2019),
to which s_i adds how far the electrons of an atom are from its nucleus.

Shapes: B packs, N node, G graph slots, F features, T targets.
"""

from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.base import Graph, lengths
from ipu_chem.models.layers import Silu, at_least_float32, flat_index, look_up, read_out, sum_into, take_rows

DIPOLES = ("dipole", "dipole_vectors")
MOMENTS = (*DIPOLES, "extent")
_AREA = 50.0  # Å^2: with |r|^2 in it, weights for molecules of QM9's size are of order one
_SMALL = 0.1  # of first charges: at 0 a dipole's length has no derivative, and nothing would be learned

# Standard atomic weights in u (IUPAC 2021; of elements without, the longest-lived isotope's), atomic numbers 0 to 99.
_MASSES = (
    "1 1.008 4.0026 6.94 9.0122 10.81 12.011 14.007 15.999 18.998 20.180 22.990 24.305 26.982 28.085 30.974 32.06 "
    "35.45 39.948 39.098 40.078 44.956 47.867 50.942 51.996 54.938 55.845 58.933 58.693 63.546 65.38 69.723 72.630 "
    "74.922 78.971 79.904 83.798 85.468 87.62 88.906 91.224 92.906 95.95 97.9 101.07 102.91 106.42 107.87 112.41 "
    "114.82 118.71 121.76 127.60 126.90 131.29 132.91 137.33 138.91 140.12 140.91 144.24 145 150.36 151.96 157.25 "
    "158.93 162.50 164.93 167.26 168.93 173.05 174.97 178.49 180.95 183.84 186.21 190.23 192.22 195.08 196.97 "
    "200.59 204.38 207.2 208.98 209 210 222 223 226 227 232.04 231.04 238.03 237 244 243 247 247 251 252"
)


class Owners(NamedTuple):
    """Molecules that atoms belong to: fields of a `Graph` as `zero_padded` gives them."""

    graph_index: Tensor  # [B, N]
    node_mask: Tensor  # [B, N] bool
    graph_mask: Tensor  # [B, G] bool


class Moment(nn.Module):
    """Moments of what a head predicts for every atom."""

    def __init__(self, readout: str, num_targets: int) -> None:
        """Choose the moment.

        Args:
            readout: one of `MOMENTS`.
            num_targets: T.
        """
        super().__init__()
        assert readout in MOMENTS, readout
        self.is_dipole = readout in DIPOLES
        self.num_targets = num_targets
        masses = torch.tensor([float(mass) for mass in _MASSES.split()])
        self.register_buffer("masses", masses.unsqueeze(1), persistent=False)

    def arms(self, graph: Graph) -> Tensor:
        """Positions from the center of mass of the molecule, [B * N, 3] Å, without meaning in padding."""
        pos = at_least_float32(graph.pos.reshape(-1, 3))
        mass = look_up(self.masses.to(pos.dtype), graph.z.reshape(-1))  # type: ignore[operator]
        mass = mass * graph.node_mask.reshape(-1, 1).to(pos.dtype)
        num_packs, num_graphs = graph.graph_mask.shape
        owner = flat_index(graph.graph_index, num_graphs)
        sums = sum_into(torch.cat([pos * mass, mass], 1), owner, num_packs * num_graphs)
        weighted, total = sums.split([3, 1], 1)
        return pos - take_rows(weighted / torch.clamp(total, min=1.0), owner)

    def forward(self, per_atom: Tensor, arms: Tensor, owners: Owners, dipoles: Optional[Tensor] = None) -> Tensor:
        """Moments of molecules.

        Args:
            per_atom: [B * N, T] charges; of the extent [B * N, 2 T], weights and then the extents of atoms.
            arms: as `arms` gives them.
            owners: of the atoms.
            dipoles: [B * N, 3, T] of atoms; None without.

        Returns:
            [B, G, T], exactly 0 in padding.
        """
        per_atom = at_least_float32(per_atom)
        arms = arms.to(per_atom.dtype)
        if not self.is_dipole:
            weights, own = per_atom.split(self.num_targets, 1)
            return read_out(weights * ((arms * arms).sum(1, keepdim=True) * (1.0 / _AREA)) + own, *owners, mean=False)
        moments = per_atom.unsqueeze(2) * arms.unsqueeze(1)  # [B * N, T, 3]
        if dipoles is not None:
            moments = moments + at_least_float32(dipoles).transpose(1, 2)
        total = read_out(moments.reshape(-1, 3 * self.num_targets), *owners, mean=False)
        graph_mask = owners.graph_mask
        length = lengths(total.reshape(*graph_mask.shape, self.num_targets, 3))
        return length * graph_mask.unsqueeze(-1).to(length.dtype)


class GatedBlock(nn.Module):
    """Layer of scalars and vectors that keeps directions: vectors are mixed and weighed, scalars see their lengths.

    The gated equivariant block of PaiNN (arXiv:2102.03150, figure 3), without its last activation.
    """

    def __init__(self, features: int, scalars: int, vectors: int, hidden: int) -> None:
        """Build it; ``features`` scalars and vectors in, ``scalars`` and ``vectors`` out."""
        super().__init__()
        self.scalars, self.vectors = scalars, vectors
        self.mix = nn.Linear(features, 2 * vectors, bias=False)
        self.net = nn.Sequential(nn.Linear(features + vectors, hidden), Silu(), nn.Linear(hidden, scalars + vectors))

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tuple[Tensor, Tensor]:
        """[M, F] and [M, 3, F] -> [M, scalars] and [M, 3, vectors]."""
        measured, turned = self.mix(vectors).split(self.vectors, 2)
        wide = at_least_float32(measured)
        length = torch.sqrt((wide * wide).sum(1) + 1e-8).to(scalars.dtype)
        found = self.net(torch.cat([scalars, length], 1))
        scalars, gates = found.split([self.scalars, self.vectors], 1)
        return scalars, turned * gates.unsqueeze(1)


class VectorHead(nn.Module):
    """Charges and dipoles of atoms from their scalars and vectors, by two gated blocks."""

    def __init__(self, features: int, num_targets: int) -> None:
        super().__init__()
        half = max(features // 2, 1)
        self.first = GatedBlock(features, half, half, half)
        self.activation = Silu()
        self.last = GatedBlock(half, num_targets, num_targets, half)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tuple[Tensor, Tensor]:
        """[M, F] and [M, 3, F] -> [M, T] and [M, 3, T]."""
        scalars, vectors = self.first(scalars, vectors)
        return self.last(self.activation(scalars), vectors)


def make_moment(readout: str, num_targets: int, atom_references: Optional[Tensor]) -> Optional[Moment]:
    """The `Moment` of a readout, None for sums and means.

    Raises:
        ValueError: element references were given, which moments do not add up.
    """
    if readout not in MOMENTS:
        return None
    if atom_references is not None:
        raise ValueError(f"readout={readout!r}: a moment has no references of elements; leave atom_references out.")
    return Moment(readout, num_targets)


def outputs_of_atoms(readout: str, num_targets: int) -> int:
    """Numbers that a head predicts for every atom."""
    return 2 * num_targets if readout == "extent" else num_targets


@torch.no_grad()
def start_last_layer(last: nn.Linear, readout: str) -> None:
    """Weights with which the last layer begins: zeros, or small charges for dipoles.

    A sum over atoms of random outputs would begin tens of standard deviations away from any target.
    """
    if readout in DIPOLES:
        last.weight.mul_(_SMALL)
    else:
        last.weight.zero_()
