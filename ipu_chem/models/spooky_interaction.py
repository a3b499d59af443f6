"""SpookyNet's interactions: with neighbors by messages that know directions, with the whole molecule by attention.

O. T. Unke et al., Nat. Commun. 12, 7273 (2021), arXiv:2105.00304.

Shapes: B packs, N node, P edge or
pair, F features, R radial functions.
"""

import math
from typing import NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import at_least_float32, inverse_softplus, keep, softplus, sum_into, take_rows
from ipu_chem.models.residual import Residual, ResidualMLP

_OUT_OF_SIGHT = -1.0e9
_DECAY = 0.5 / 0.5291772105638411  # 1/Å at first: half of 1/bohr
_SMALLEST_EXPONENT = -80.0  # as in `ipu_chem.models.layers`


class BernsteinBasis(nn.Module):
    """Distances as binomial(K - 1, k) x^(K - 1 - k) (1 - x)^k x for k = 0 to K - 1, x = exp(-decay d): 1 weight.

    The paper's polynomials, weighted by exp(-decay d) as in the authors' code.
    """

    def __init__(self, num_radial: int) -> None:
        """K is ``num_radial``, 1 or more; the decay is learned."""
        super().__init__()
        last = num_radial - 1
        falls = torch.arange(num_radial, dtype=torch.float32)
        # Large binomials meet small powers: logarithms of both are added up before the exponential.
        binomials = [math.lgamma(last + 1) - math.lgamma(k + 1) - math.lgamma(last - k + 1) for k in range(num_radial)]
        self.register_buffer("log_binomials", torch.tensor(binomials, dtype=torch.float32), persistent=False)
        self.register_buffer("rises", falls, persistent=False)
        self.register_buffer("falls", num_radial - falls, persistent=False)  # one more by the weight exp(-decay d)
        self.decay = nn.Parameter(torch.tensor([inverse_softplus(_DECAY)]))

    def forward(self, distance: Tensor, envelope: Tensor) -> Tensor:
        """[P] Å, never 0, and values of the cutoff function [P] -> [P, num_radial]."""
        log_x = (-softplus(at_least_float32(self.decay)) * distance).unsqueeze(1)
        exponent = self.log_binomials + self.falls * log_x + self.rises * torch.log(-torch.expm1(log_x))
        return torch.exp(torch.clamp(exponent, min=_SMALLEST_EXPONENT)) * envelope.unsqueeze(1)


class EdgeFunctions(NamedTuple):
    """Functions of P edges that interactions take, each edge once."""

    source: Tensor  # [P] integer
    target: Tensor  # [P] integer
    angular: Tensor  # [P, 8], spherical harmonics of l = 1 and l = 2 of the direction from source to target
    radial: Tensor  # [P, R], basis times cutoff function; 0 for padding edges

    def both_ways(self, undirected: bool) -> "SpookyEdges":
        """Edges for messages, undirected ones in either direction."""
        dipole, quadrupole_ = self.angular.split([3, 5], 1)
        source, target = self.source, self.target
        if undirected:
            source, target = torch.cat([source, target]), torch.cat([target, source])
            dipole, quadrupole_ = torch.cat([dipole, -dipole]), torch.cat([quadrupole_, quadrupole_])
        return SpookyEdges(source, target, dipole, quadrupole_, self.radial)


class SpookyEdges(NamedTuple):
    """Edges as messages need them; P of them, 2 P where undirected edges work both ways."""

    source: Tensor  # [P] integer
    target: Tensor  # [P] integer
    dipole: Tensor  # [P, 3], the three spherical harmonics of l = 1
    quadrupole: Tensor  # [P, 5], the five of l = 2
    radial: Tensor  # [P, R], basis times cutoff function; 0 for padding edges; not twice for undirected edges


def quadrupole(direction: Tensor) -> Tensor:
    """Spherical harmonics of l = 2, [P, 5], of unit vectors [P, 3]; squares of them sum to 1."""
    x, y, z = direction.split(1, 1)
    root = math.sqrt(3.0)
    return torch.cat([root * x * y, root * x * z, root * y * z, 1.5 * z * z - 0.5, 0.5 * root * (x * x - y * y)], 1)


class LocalInteraction(nn.Module):
    """Messages from the neighbors as s, p and d orbitals, met as scalars: 19 F^2 + 45 F + 3 R F weights."""

    def __init__(self, hidden_features: int, num_radial: int, undirected: bool) -> None:
        super().__init__()
        features = self.features = hidden_features
        self.undirected = undirected
        self.filters = nn.Linear(num_radial, 3 * features, bias=False)
        self.own, self.sent_s, self.sent_p, self.sent_d = (ResidualMLP(features) for _ in range(4))
        self.mix_p = nn.Linear(features, 2 * features, bias=False)
        self.mix_d = nn.Linear(features, 2 * features, bias=False)
        self.mlp = ResidualMLP(features, starts_at_zero=True)
        for weight in (*self.filters.weight.detach().split(features), self.mix_p.weight, self.mix_d.weight):
            nn.init.orthogonal_(weight)

    def forward(self, x: Tensor, edges: SpookyEdges) -> Tensor:
        """[B * N, F] -> [B * N, F], to be added."""
        width = self.features
        filters = self.filters(edges.radial)
        if self.undirected:
            filters = torch.cat([filters, filters])
        # One gather and one sum for all three kinds: on an IPU each is an exchange between tiles.
        sent = take_rows(torch.cat([self.sent_s(x), self.sent_p(x), self.sent_d(x)], 1), edges.source) * filters
        s, p, d = sent.split(width, 1)
        carried = torch.cat([s, _outer(edges.dipole, p), _outer(edges.quadrupole, d)], 1)
        received = sum_into(carried, edges.target, x.shape[0])
        s, p, d = received.split([width, 3 * width, 5 * width], 1)
        return self.mlp(self.own(x) + s + _meet(self.mix_p, p, 3) + _meet(self.mix_d, d, 5))


def _outer(angular: Tensor, features: Tensor) -> Tensor:
    """[P, L] and [P, F] -> [P, L F]."""
    width = angular.shape[1] * features.shape[1]  # there may be no pairs to infer it from
    return (angular.unsqueeze(2) * features.unsqueeze(1)).reshape(features.shape[0], width)


def _meet(mix: nn.Linear, received: Tensor, components: int) -> Tensor:
    """Products of two maps of vectors [M, L F], summed over components: scalars [M, F]."""
    left, right = mix(received.reshape(received.shape[0], components, -1)).split(mix.in_features, 2)
    return (left * right).sum(1)


class NonlocalInteraction(nn.Module):
    """Attention of every atom to all of its molecule: 9 F^2 + 27 F weights; begins at zero.

    The paper estimates the softmax by random features (FAVOR+), at a cost that is linear in the number of atoms; here
    it is exact. A pack has fewer atoms than a good estimate would take random features, the product of queries and
    keys of a whole pack is what matrix units do best, and results depend on no random draw.
    """

    def __init__(self, hidden_features: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (ResidualMLP(hidden_features, starts_at_zero=True) for _ in range(3))

    def forward(self, x: Tensor, same: Tensor) -> Tensor:
        """[B * N, F], mask [B, N, N] of `same_molecule` -> [B * N, F], to be added."""
        query, key, value = (
            part(x).reshape(same.shape[0], same.shape[1], -1) for part in (self.query, self.key, self.value)
        )
        return attend(query, key, value, same).reshape(x.shape)


def attend(query: Tensor, key: Tensor, value: Tensor, same: Tensor) -> Tensor:
    """Values, weighted by the softmax of scaled products with their keys among what is seen.

    Written out, for torch's softmax has a derivative that IPUs lack where a model differentiates itself.

    Args:
        query, key, value: [B, N, F].
        same: [B, N, N] bool, who sees whom; everyone sees someone.

    Returns:
        [B, N, F], in the values' format.
    """
    query = at_least_float32(query) * query.shape[2] ** -0.5
    scores = torch.matmul(query, at_least_float32(key).transpose(1, 2))
    seen = torch.where(same, scores.detach(), torch.full((), _OUT_OF_SIGHT, dtype=scores.dtype, device=scores.device))
    # A constant by which numerator and denominator are divided: derivatives need not know it.
    weights = keep(torch.exp(keep(scores - seen.amax(2, keepdim=True), same)), same)
    shares = weights / weights.sum(2, keepdim=True)
    return torch.matmul(shares.to(value.dtype), value)


class SpookyInteraction(nn.Module):
    """Both interactions between residual blocks: 35 F^2 + 93 F + 3 R F weights."""

    def __init__(self, hidden_features: int, num_radial: int, undirected: bool) -> None:
        super().__init__()
        self.before = Residual(hidden_features)
        self.local_interaction = LocalInteraction(hidden_features, num_radial, undirected)
        self.nonlocal_interaction = NonlocalInteraction(hidden_features)
        self.after = Residual(hidden_features)
        self.output = ResidualMLP(hidden_features)

    def forward(self, x: Tensor, edges: SpookyEdges, same: Tensor) -> Tuple[Tensor, Tensor]:
        """Features [B * N, F] after the block, and what it adds to the features that energies are read from."""
        x = self.before(x)
        x = self.after(x + self.local_interaction(x, edges) + self.nonlocal_interaction(x, same))
        return x, self.output(x)
