"""Building blocks shared by the models: written in static shapes and in operators that PopTorch has.

Shapes: B packs, N node slots, E edge slots, G graph slots,
F features; "flat" tensors put the packs of a batch one after the other, [B * N, F].
"""

import math
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

# exp(-80) is 1.8e-35: still a normal float32. Smaller values turn denormal, at which CPU matrix products
# trap and run several times slower, and at 1e-35 of the others they could not change a sum anyway.
_SMALLEST_EXPONENT = -80.0
_index_dtype = torch.int64  # of `as_index`; as wide as CPUs and GPUs ask for


class ShiftedSoftplus(nn.Module):
    """ln(0.5 e^x + 0.5), which is 0 at 0 (Schuett et al. 2017)."""

    kernel: Optional[Callable[[Tensor], Tensor]] = None  # a backend's own form
    elementary = False  # of operators whose derivatives PopTorch has, for models that differentiate energies

    def forward(self, x: Tensor) -> Tensor:
        """Element by element, any shape."""
        if self.kernel is not None:
            return self.kernel(x)
        if self.elementary:
            size = torch.clamp(x, min=0.0) + torch.clamp(-x, min=0.0)  # flat at 0, where both have a derivative
            return torch.log1p(torch.exp(-size)) + 0.5 * (x + size) - math.log(2.0)
        return functional.softplus(x) - math.log(2.0)


class TanhGelu(nn.Module):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): the GELU of GPT-2 and GPT-Neo, and of IPUs."""

    kernel: Optional[Callable[[Tensor], Tensor]] = None  # a backend's own form

    def forward(self, x: Tensor) -> Tensor:
        """Element by element, any shape."""
        if self.kernel is not None:
            return self.kernel(x)
        return functional.gelu(x, approximate="tanh")


class Silu(nn.Module):
    """`silu` as a layer."""

    kernel: Optional[Callable[[Tensor], Tensor]] = None  # a backend's own form

    def forward(self, x: Tensor) -> Tensor:
        """Element by element, any shape."""
        return silu(x) if self.kernel is None else self.kernel(x)


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)), whose derivatives of any order are made of operators that a forward pass may hold.

    torch's own has a backward operator that PopTorch takes in its own backward pass alone, not where a model
    differentiates energies itself.
    """
    # Below the bound exp would overflow and turn derivatives to NaN; there the result is 0 but for rounding.
    largest = 11.0 if x.dtype == torch.float16 else 80.0
    return x / (1.0 + torch.exp(torch.clamp(-x, max=largest)))


def logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), made of the same operators as `silu` for the same reason."""
    largest = 11.0 if x.dtype == torch.float16 else 80.0
    return 1.0 / (1.0 + torch.exp(torch.clamp(-x, max=largest)))


def softplus(x: Tensor) -> Tensor:
    """ln(1 + exp(x)), which is positive, made of operators whose derivatives a forward pass may hold."""
    larger = torch.clamp(x, min=0.0).detach()  # a constant below: no kink at 0
    return larger + torch.log1p(torch.exp(x - larger) + torch.expm1(-larger))


def inverse_softplus(value: float) -> float:
    """The argument for which softplus has a positive value."""
    return value + math.log(-math.expm1(-value))


class GaussianBasis(nn.Module):
    """Distances on a row of Gaussians, evenly spaced from 0 to the cutoff (Schuett et al. 2017)."""

    def __init__(self, num_gaussians: int, cutoff: float) -> None:
        """Centers are as far apart as the Gaussians are wide.

        Args:
            num_gaussians: 2 or more.
            cutoff: Å.
        """
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, num_gaussians))
        spacing = cutoff / (num_gaussians - 1)
        self.factor = -0.5 / spacing**2

    def forward(self, distance: Tensor) -> Tensor:
        """[...] Å -> [..., num_gaussians]."""
        offset = distance.unsqueeze(-1) - self.centres
        # x * x, not a power: powers of two cost IPUs hundreds of cycles an element.
        return torch.exp(torch.clamp(self.factor * (offset * offset), min=_SMALLEST_EXPONENT))


class SincBasis(nn.Module):
    """sin(n pi d / cutoff) / d for n = 1, 2, ...: spherical waves that end at the cutoff (Gasteiger et al. 2020)."""

    def __init__(self, num_radial: int, cutoff: float) -> None:
        """Waves of 1 to ``num_radial`` half periods.

        Args:
            num_radial: 1 or more.
            cutoff: Å.
        """
        super().__init__()
        self.register_buffer("half_periods", torch.arange(1, num_radial + 1, dtype=torch.float32), persistent=False)
        self.factor = math.pi / cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """[...] Å, never 0 -> [..., num_radial] 1/Å."""
        distance = distance.unsqueeze(-1)
        return torch.sin(distance * self.factor * self.half_periods) / distance


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Falls smoothly from 1 at 0 to 0 at the cutoff, 0 beyond (Behler 2011); Å, any shape."""
    return cosine_wave(torch.clamp(distance, max=cutoff), cutoff)


def cosine_wave(distance: Tensor, cutoff: float) -> Tensor:
    """`cosine_cutoff` as it would go on beyond the cutoff, without a kink there."""
    return 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)


def smooth_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """exp(-d^2 / (cutoff^2 - d^2)): falls from 1 at 0 to 0 at the cutoff, 0 beyond, without a kink in any derivative.

    The cutoff function of Unke et al. 2021 (arXiv:2105.00304); Å, any shape.
    """
    inside = distance < cutoff
    inner = keep(distance, inside)
    exponent = -(inner * inner) / ((cutoff - inner) * (cutoff + inner))
    return keep(torch.exp(torch.clamp(exponent, min=_SMALLEST_EXPONENT)), inside)


def smooth_switch(distance: Tensor, start: float, end: float) -> Tensor:
    """Falls from 1 at the start to 0 at the end, constant on both sides, without a kink in any derivative.

    With x from 0 at the start to 1 at the end it is g(1 - x) / (g(x) + g(1 - x)), g(x) = exp(-1 / x) (Unke et al.
    2021); Å, any shape.
    """
    # Where the clamp acts the result differs from 1 or 0 by 1e-34.
    place = torch.clamp((distance - start) * (1.0 / (end - start)), min=0.0125, max=0.9875)
    return logistic(1.0 / place - 1.0 / (1.0 - place))


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask is True and 0 elsewhere, whatever stands there.

    Values must be int32, int64 or floating-point: IPUs cannot select between narrower integers.
    """
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def at_least_float32(values: Tensor) -> Tensor:
    """16-bit formats as float32, others as they are: what is added up over a molecule or a step needs the digits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@contextmanager
def indices_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside, `as_index` makes integers of this width; a backend says so whose device has no 64-bit ones."""
    global _index_dtype
    before, _index_dtype = _index_dtype, dtype
    try:
        yield
    finally:
        _index_dtype = before


def as_index(x: Tensor) -> Tensor:
    """Integers in the width in which the device indexes: int64 unless `indices_in` says otherwise; any shape."""
    return x.to(_index_dtype)


def flat_index(index: Tensor, slots: int) -> Tensor:
    """Indices inside each pack as indices into flat tensors of ``slots`` rows a pack.

    Args:
        index: [B, K], as `as_index` gives it.
        slots: rows of each pack.

    Returns:
        [B * K], of the same dtype.
    """
    first = torch.arange(index.shape[0], dtype=index.dtype, device=index.device).unsqueeze(1) * slots
    return (index + first).reshape(-1)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Row index[k] of a table of constants [M, F] for every k, [K, F]; for what no derivative is taken of."""
    assert not table.requires_grad, "take_rows has a derivative that IPUs have, too"
    return table.index_select(0, index)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Row index[k] of values [M, F] for every k, [K, F]; its derivative adds up as `sum_into` does.

    Models gather and scatter by this, `sum_into` and `look_up` alone, because of two rules that are easy to break:

    - The derivative of index_select is an operator without a PopTorch handler, which matters where a model
      differentiates energies itself. Gathers with an expanded index have one.
    - PopTorch knows the shape of such a gather only if the values have two rows and two columns or more. Others it
      merges with each other, whatever their sizes, and then fails; the derivative of a scatter is a gather, too.

    So a single column goes as two halves of it, a single row twice. Halving and doubling are exact, so results and
    derivatives are those of the plain gather to the last bit.

    Args:
        values: [M, F].
        index: [K] integer in 0..M-1.
    """
    if values.shape[0] == 1:
        values = values.expand(2, -1)
    wide = _two_columns(values)
    taken = wide.gather(0, as_index(index).unsqueeze(1).expand(-1, wide.shape[1]))
    return taken if values.shape[1] > 1 else taken.sum(1, keepdim=True, dtype=values.dtype)


def sum_into(values: Tensor, index: Tensor, slots: int) -> Tensor:
    """Add row k of values [K, F] to row index[k] of a zero tensor [slots, F]; rows and columns as `take_rows` says.

    Args:
        values: [K, F].
        index: [K] integer in 0..slots-1.
        slots: 1 or more.
    """
    wide = _two_columns(values)
    zeros = torch.zeros((max(slots, 2), wide.shape[1]), dtype=wide.dtype, device=wide.device)
    total = zeros.scatter_add(0, as_index(index).unsqueeze(1).expand(-1, wide.shape[1]), wide)
    if slots == 1:
        total = total.sum(0, keepdim=True, dtype=values.dtype)
    return total if values.shape[1] > 1 else total.sum(1, keepdim=True, dtype=values.dtype)


def _two_columns(values: Tensor) -> Tensor:
    """[K, F], or [K, 2] that add up to the single column of [K, 1]."""
    if values.shape[1] > 1:
        return values
    if values.is_floating_point():
        return (0.5 * values).expand(-1, 2)
    return torch.cat([values, torch.zeros_like(values)], 1)  # halves of integers are none


def read_out(per_atom: Tensor, graph_index: Tensor, node_mask: Tensor, graph_mask: Tensor, mean: bool) -> Tensor:
    """Sums, or means, over the atoms of every molecule.

    Args:
        per_atom: [B * N, T].
        graph_index: [B, N] in 0..G-1, also in padding, as `as_index` gives it.
        node_mask, graph_mask: [B, N], [B, G] bool, False in padding.
        mean: divide by the number of atoms.

    Returns:
        [B, G, T], exactly 0 in padding slots.
    """
    num_packs, num_graphs = graph_mask.shape
    owner = flat_index(graph_index, num_graphs)
    real = node_mask.reshape(-1, 1).to(per_atom.dtype)
    total = sum_into(per_atom * real, owner, num_packs * num_graphs)
    if mean:
        total = total / torch.clamp(sum_into(real, owner, num_packs * num_graphs), min=1.0)
    total = total.reshape(num_packs, num_graphs, -1)
    return total * graph_mask.unsqueeze(-1).to(total.dtype)
