"""First features of SpookyNet's atoms: their element, and the molecule's charge and spin.

Electronic embeddings share a molecule's charge, or its unpaired electrons, out among its atoms by attention: which
atom takes how much follows from its element (Unke et al. 2021, arXiv:2105.00304).

Shapes: B packs, N node, G graph slots, F features.
"""

from typing import List

import torch
from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.models.layers import at_least_float32, softplus, sum_into, take_rows
from ipu_chem.models.residual import ResidualMLP, orthogonal
from ipu_chem.models.schnet import MAX_Z

# Shells in the order in which they are filled, and electrons that each takes.
_SHELLS = "1s 2s 2p 3s 3p 4s 3d 4p 5s 4d 5p 6s 4f 5d 6p".split()
_ROOM = {"s": 2, "p": 6, "d": 10, "f": 14}
_NOBLE = (2, 10, 18, 36, 54, 86)
# Elements whose ground state has electrons in another shell than that order says: number, from, to.
_MOVED = {
    **{z: (1, "4s", "3d") for z in (24, 29)},
    **{z: (1, "5s", "4d") for z in (41, 42, 44, 45, 47)},
    46: (2, "5s", "4d"),
    **{z: (1, "4f", "5d") for z in (57, 58, 64)},
    **{z: (1, "6s", "5d") for z in (78, 79)},
}


def electron_configuration(z: int) -> List[int]:
    """An atom's electrons: all, in each shell up to 6p, and outside the last noble gas in s, p, d and f.

    20 numbers for elements 1 to 86; zeros for 0 and, as 7s and 5f are none of those shells, for elements beyond.
    """
    return [z, *_filled(z), *_valence(z)] if 0 < z <= _NOBLE[-1] else [0] * (len(_SHELLS) + 5)


def _filled(z: int) -> List[int]:
    electrons, left = {}, z
    for shell in _SHELLS:
        electrons[shell] = min(left, _ROOM[shell[1]])
        left -= electrons[shell]
    if z in _MOVED:
        number, origin, goal = _MOVED[z]
        electrons[origin] -= number
        electrons[goal] += number
    return [electrons[shell] for shell in _SHELLS]


def _valence(z: int) -> List[int]:
    core = _filled(max([0, *(noble for noble in _NOBLE if noble < z)]))
    outside = [mine - theirs for mine, theirs in zip(_filled(z), core)]
    return [sum(count for shell, count in zip(_SHELLS, outside) if shell[1] == kind) for kind in "spdf"]


class NuclearEmbedding(nn.Module):
    """Features of an element: a vector of its own plus a linear map of its electrons, (MAX_Z + 20) F weights.

    By the second part elements learn from those with like shells. All weights begin at zero.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        electrons = torch.tensor([electron_configuration(z) for z in range(MAX_Z)], dtype=torch.float32)
        # Every column from 0 to 1.
        self.register_buffer("electrons", electrons / electrons.amax(0), persistent=False)
        self.element = nn.Parameter(torch.zeros(MAX_Z, features))
        self.configuration = nn.Linear(electrons.shape[1], features, bias=False)
        nn.init.zeros_(self.configuration.weight)

    def forward(self, z: Tensor) -> Tensor:
        """[B * N] integer -> [B * N, F]."""
        table = self.element + self.configuration(self.electrons.to(self.element.dtype))
        return functional.embedding(z, table)


class ElectronicEmbedding(nn.Module):
    """A molecule's charge or spin, shared out among its atoms: 4 F^2 + 7 F + 2 C F weights; begins at zero."""

    def __init__(self, features: int, states: int) -> None:
        """C is 2 for charges, which have keys and values for either sign, and 1 for spins."""
        super().__init__()
        self.query = orthogonal(features)
        self.key = nn.Linear(states, features, bias=False)
        self.value = nn.Linear(states, features, bias=False)
        nn.init.orthogonal_(self.key.weight)
        nn.init.orthogonal_(self.value.weight)
        self.mlp = ResidualMLP(features, starts_at_zero=True, bias=False)  # nothing of nothing is nothing

    def forward(self, x: Tensor, state: Tensor, owner: Tensor, real: Tensor) -> Tensor:
        """Share the state out over atoms.

        Args:
            x: [B * N, F], features of elements.
            state: [B * G, C] float, 0 or more.
            owner: [B * N] integer in 0..B * G - 1, molecule of each atom.
            real: [B * N, 1] float, 0 in padding.

        Returns:
            [B * N, F]; an atom's share falls the more the more atoms its molecule has.
        """
        sent = torch.cat([self.key(state / torch.clamp(state, min=1.0)), self.value(state)], 1)
        key, value = take_rows(sent, owner).split(x.shape[1], 1)
        match = at_least_float32(key * self.query(x)).sum(1, keepdim=True) * x.shape[1] ** -0.5
        weight = softplus(match) * real.to(match.dtype)
        total = sum_into(weight, owner, state.shape[0]) + 1e-8
        return self.mlp((weight / take_rows(total, owner)).to(x.dtype) * value)


class ElectronEmbedding(nn.Module):
    """Sum of the features of an atom's element and of its shares in the molecule's charge and spin."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.nucleus = NuclearEmbedding(features)
        self.charge = ElectronicEmbedding(features, states=2)
        self.spin = ElectronicEmbedding(features, states=1)

    def forward(self, z: Tensor, charge: Tensor, spin: Tensor, owner: Tensor, real: Tensor) -> Tensor:
        """Features [B * N, F] from z [B * N] integer, charge and spin [B * G] integer; see `ElectronicEmbedding`."""
        x = self.nucleus(z)
        charge, spin = charge.to(x.dtype).unsqueeze(1), spin.to(x.dtype).unsqueeze(1)
        signs = torch.clamp(torch.cat([charge, -charge], 1), min=0.0)
        return x + self.charge(x, signs, owner, real) + self.spin(x, torch.abs(spin), owner, real)
