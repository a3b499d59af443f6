"""Distances as polynomials of exp(-decay d): SpookyNet's radial basis.

O. T. Unke et al., Nat. Commun. 12, 7273 (2021), arXiv:2105.00304, weighted by exp(-decay d) as in the authors' code.

On data's way: distances of edges -> `BernsteinBasis` -> filters of local interactions.
"""

import math

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import at_least_float32, inverse_softplus, softplus

_DECAY = 0.5 / 0.5291772105638411  # 1/Å at first: half of 1/bohr
_SMALLEST_EXPONENT = -80.0  # as in `ipu_chem.models.layers`


class BernsteinBasis(nn.Module):
    """binomial(K - 1, k) x^(K - 1 - k) (1 - x)^k x for k = 0 to K - 1, with x = exp(-decay d): 1 weight."""

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
