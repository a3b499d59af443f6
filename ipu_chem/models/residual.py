"""Residual networks on features of atoms, as SpookyNet has them everywhere.

O. T. Unke et al., "SpookyNet: Learning force fields with electronic degrees of freedom and nonlocal effects",
Nat. Commun. 12, 7273 (2021), arXiv:2105.00304.

Shapes: M atoms, F features.
"""

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import logistic


class Swish(nn.Module):
    """alpha x / (1 + exp(-beta x)) with an alpha and a beta of every feature's own: 2 F weights.

    It begins as a good likeness of GELU and may become linear (beta = 0) or a ReLU (large beta).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.full((features,), 1.702))

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] -> [..., F]."""
        return self.alpha * x * logistic(self.beta * x)


class Residual(nn.Module):
    """x plus two layers of it, each behind its activation: 2 F^2 + 6 F weights; begins as the identity."""

    def __init__(self, features: int, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(Swish(features), orthogonal(features, bias), Swish(features), zero(features, bias))

    def forward(self, x: Tensor) -> Tensor:
        """[M, F] -> [M, F]."""
        return x + self.layers(x)


class ResidualMLP(nn.Sequential):
    """A residual block, an activation and a layer: 3 F^2 + 9 F weights, 3 F fewer without biases."""

    def __init__(self, features: int, starts_at_zero: bool = False, bias: bool = True) -> None:
        last = zero(features, bias) if starts_at_zero else orthogonal(features, bias)
        super().__init__(Residual(features, bias), Swish(features), last)


def orthogonal(features: int, bias: bool = True) -> nn.Linear:
    """A layer that only turns features at first: an orthogonal matrix and no bias."""
    layer = zero(features, bias)
    nn.init.orthogonal_(layer.weight)
    return layer


def zero(features: int, bias: bool = True) -> nn.Linear:
    """A layer whose output is 0 at first."""
    layer = nn.Linear(features, features, bias)
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
