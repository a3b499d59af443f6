"""Filters read from a table of distances instead of computed for every edge.

A filter network sees nothing of an edge but its length. So its values on a grid of distances, computed anew in
every step, stand in for one evaluation per edge, and gradients flow through them into the same weights.

Shapes: P edges or pairs of all packs,
F features, K points or intervals of the grid.
"""

import copy
import math
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.base import GraphModel
from ipu_chem.models.convolution import EdgeList, convolve
from ipu_chem.models.layers import as_index, cosine_cutoff, cosine_wave, take_rows
from ipu_chem.ranges import check_number

FILTERS = ("exact", "table", "chebyshev")
# Intervals per width of the narrowest function that filters are made of: there the cubic's error is that of
# float32 itself, also when training sharpens the filters tenfold.
_INTERVALS_PER_WIDTH = 20
_GHOSTS = 2  # grid points beyond either end, by which derivatives at the ends are taken
_POLYNOMIALS_PER_WIDTH = 4
# Relative to the largest value of a filter: what float32 itself costs a network of two layers.
LARGEST_FILTER_ERROR = 2e-6
_PER_INTERVAL = 3  # distances compared between two points of the grid


class DistanceTable(nn.Module):
    """A grid of distances up to the cutoff; functions are tabulated on it and read anywhere between."""

    places_type: Any  # a NamedTuple of tensors, what `places` returns

    def __init__(self, cutoff: float, points: int) -> None:
        super().__init__()
        check_number("table_points", points, "from 4 to 1,000,000", whole=True)
        self.cutoff = float(cutoff)
        self.points = points

    def grid(self) -> Tensor:
        """Distances in Å at which functions are to be evaluated for `tabulate`."""
        raise NotImplementedError

    def tabulate(self, values: Tensor) -> Tensor:
        """Values at the distances of `grid`, [., F], as a table."""
        raise NotImplementedError

    def places(self, distance: Tensor, real: Tensor) -> Any:
        """Look up distances, once for all tables.

        Args:
            distance: [P] Å; beyond the cutoff the end of the table is read.
            real: [P] 1 for real edges, 0 in padding, where 0 will be read.
        """
        raise NotImplementedError

    def read(self, table: Tensor, places: Any) -> Tensor:
        """Values of the tabulated functions at those distances, [P, F]."""
        raise NotImplementedError

    def convolve(self, x: Tensor, table: Tensor, places: Any, edges: EdgeList) -> Tensor:
        """`convolve` with filters read from a table."""
        return convolve(x, self.read(table, places), edges)


class Places(NamedTuple):
    """Places of distances in a `CubicTable`, and the weights of its values and derivatives there."""

    low: Tensor  # [P], grid point at or below, as `as_index` gives it
    value_low: Tensor  # [P, 1]
    rise_low: Tensor  # [P, 1], of the derivative there
    value_high: Tensor  # [P, 1], of the next grid point
    rise_high: Tensor  # [P, 1]


class CubicTable(DistanceTable):
    """Cubics between points at equal distances, with continuous derivatives: robust when training sharpens filters."""

    places_type = Places

    def __init__(self, cutoff: float, width: float, points: int = 0) -> None:
        """Choose the grid.

        Args:
            cutoff: Å, end of the grid.
            width: Å, of the narrowest function that is tabulated: a Gaussian's standard deviation.
            points: K, intervals of the grid; 0 takes the power of two that makes them 1/20 of the width or less.

        Raises:
            ValueError: less than 4 intervals.
        """
        super().__init__(cutoff, points or 2 ** math.ceil(math.log2(_INTERVALS_PER_WIDTH * cutoff / width)))
        self.spacing = self.cutoff / self.points
        # Whole numbers, which are exact in every format.
        steps = torch.arange(-_GHOSTS, self.points + _GHOSTS + 1, dtype=torch.float32)
        self.register_buffer("steps", steps, persistent=False)
        self.kernel: Optional[Callable[..., Tensor]] = None  # a backend's own form of `convolve`

    def grid(self) -> Tensor:
        """[K + 5] Å, slightly beyond both ends."""
        return self.steps * self.spacing

    def tabulate(self, values: Tensor) -> Tensor:
        """[K + 5, F] as values and derivatives at the points from 0 to the cutoff, [K + 1, 2 F].

        Derivatives are differences of fourth order: closer to them than the cubic is to the function.
        """
        last = self.points + 2 * _GHOSTS
        near, far = values[3:last] - values[1 : last - 2], values[4:] - values[: last - 3]
        return torch.cat([values[_GHOSTS : last - 1], near * (8.0 / 12.0) - far * (1.0 / 12.0)], 1)

    def places(self, distance: Tensor, real: Tensor) -> Places:
        scaled = torch.clamp(distance, max=self.cutoff) * (1.0 / self.spacing)
        low = torch.clamp(torch.floor(scaled.detach()), max=self.points - 1.0)
        t = scaled - low
        rest = 1.0 - t
        weights = (
            (1.0 + 2.0 * t) * rest * rest * real,
            t * rest * rest * real,
            t * t * (3.0 - 2.0 * t) * real,
            -t * t * rest * real,
        )
        return Places(as_index(low), *(weight.unsqueeze(1) for weight in weights))

    def read(self, table: Tensor, places: Places) -> Tensor:
        """Hermite's cubics, [P, F]."""
        features, dtype = table.shape[1] // 2, table.dtype
        low, low_rise = take_rows(table, places.low).split(features, 1)
        high, high_rise = take_rows(table, places.low + 1).split(features, 1)
        return (
            low * places.value_low.to(dtype)
            + low_rise * places.rise_low.to(dtype)
            + high * places.value_high.to(dtype)
            + high_rise * places.rise_high.to(dtype)
        )

    def convolve(self, x: Tensor, table: Tensor, places: Places, edges: EdgeList) -> Tensor:
        """See `DistanceTable.convolve`; by the backend's kernel where it has put one."""
        if self.kernel is not None:
            return self.kernel(x, table, places, edges)
        return super().convolve(x, table, places, edges)


class Polynomials(NamedTuple):
    """Polynomials of a `ChebyshevTable` at distances."""

    values: Tensor  # [P, K], of every polynomial


class ChebyshevTable(DistanceTable):
    """Chebyshev polynomials: filters of all edges are one matrix product, which suits units made for those.

    They span the whole range of distances, so what is sharp anywhere needs more of them everywhere: with filters ten
    times as sharp the error is a hundred times as large, and derivatives lose digits next to the cutoff. `CubicTable`
    knows neither.
    """

    places_type = Polynomials

    def __init__(self, cutoff: float, width: float, points: int = 0) -> None:
        """Choose how many polynomials.

        Args:
            cutoff: Å, end of the grid.
            width: Å, of the narrowest function that is tabulated: a Gaussian's standard deviation.
            points: K, polynomials; 0 takes four for every width, in multiples of 32.

        Raises:
            ValueError: less than 4.
        """
        super().__init__(cutoff, points or 32 * math.ceil(_POLYNOMIALS_PER_WIDTH * cutoff / width / 32))
        angle = math.pi * (torch.arange(self.points, dtype=torch.float64) + 0.5) / self.points
        degree = torch.arange(self.points, dtype=torch.float64)
        transform = torch.cos(degree.unsqueeze(1) * angle) * (2.0 / self.points)
        transform[0] *= 0.5
        self.register_buffer("nodes", (0.5 * self.cutoff * (1.0 + torch.cos(angle))).float(), persistent=False)
        self.register_buffer("degree", degree.float(), persistent=False)
        self.register_buffer("transform", transform.float(), persistent=False)

    def grid(self) -> Tensor:
        """[K] Å, roots of the next polynomial."""
        return self.nodes

    def tabulate(self, values: Tensor) -> Tensor:
        """[K, F] as coefficients of the polynomials, [K, F]."""
        return self.transform.to(values.dtype) @ values

    def places(self, distance: Tensor, real: Tensor) -> Polynomials:
        # Not quite up to the ends, where the angle has no derivative.
        place = torch.clamp(distance * (2.0 / self.cutoff) - 1.0, min=-1.0 + 1e-6, max=1.0 - 1e-6)
        return Polynomials(torch.cos(torch.acos(place).unsqueeze(1) * self.degree) * real.unsqueeze(1))

    def read(self, table: Tensor, places: Polynomials) -> Tensor:
        """[P, F]."""
        return places.values.to(table.dtype) @ table


def make_table(filter: str, cutoff: float, width: float, points: int = 0) -> Optional[DistanceTable]:
    """The table of a kind of filter, None for exact ones.

    Args:
        filter: "exact", "table" or "chebyshev".
        cutoff, width, points: of `CubicTable` or `ChebyshevTable`.

    Raises:
        ValueError: unknown kind.
    """
    if filter not in FILTERS:
        raise ValueError(f"filter={filter!r}: choose one of {', '.join(FILTERS)}.")
    if filter == "exact":
        return None
    return (CubicTable if filter == "table" else ChebyshevTable)(cutoff, width, points)


class Tabulated(GraphModel):
    """A graph model whose filters follow from the lengths of edges alone, so that they may be tabulated.

    Attributes:
        table: None for exact filters.
        interactions: modules with ``filters(basis, envelope)``, of what `distance_inputs` or `grid_inputs` gives.
        basis: of distances, [...] Å -> [..., R].
        embedding: of elements; filters have the format of its weights.
        head: of features, to targets of atoms.
        cutoff: Å.
    """

    table: Optional[DistanceTable]
    interactions: nn.ModuleList
    basis: nn.Module
    embedding: nn.Embedding
    head: nn.Module
    cutoff: float

    def blocks(self) -> List[str]:
        return ["embedding"] + [f"interactions.{i}" for i in range(len(self.interactions))] + ["head"]

    def distance_inputs(self, distance: Tensor, real: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Basis [P, R] and cutoff function [P, 1] at distances [P] Å, the latter 0 where ``real`` [P] is."""
        envelope = cosine_cutoff(distance, self.cutoff)
        return self._inputs(distance, envelope if real is None else envelope * real)

    def grid_inputs(self) -> Tuple[Tensor, Tensor]:
        """The same at the distances of the table's grid, [K, R] and [K, 1]."""
        grid = self.grid()
        return self._inputs(grid, cosine_wave(grid, self.cutoff))

    def grid(self) -> Tensor:
        """[K] Å."""
        assert self.table is not None
        return self.table.grid()

    def _inputs(self, distance: Tensor, envelope: Tensor) -> Tuple[Tensor, Tensor]:
        dtype = self.embedding.weight.dtype
        return self.basis(distance).to(dtype), envelope.unsqueeze(-1).to(dtype)


def filter_error(model: nn.Module) -> float:
    """The largest error of a model's tabulated filters, relative to the largest value of the same block's filters.

    The table is computed in float32, as devices do, and compared with the network in float64.

    Args:
        model: a graph model or a wrapper of one, on the CPU, weights of any format.

    Returns:
        0.0 when no filter is tabulated; NaN when weights are not finite.
    """
    errors = [_error_of(part) for part in _tabulated(model)]
    return max(errors, key=lambda error: error if error == error else float("inf")) if errors else 0.0


def is_tabulated(model: nn.Module) -> bool:
    """True if a model, or the model in a wrapper, reads filters from a table."""
    return bool(_tabulated(model))


def _tabulated(model: nn.Module) -> List[Tabulated]:
    return [part for part in model.modules() if isinstance(part, Tabulated) and part.table is not None]


@torch.no_grad()
def _error_of(model: Tabulated) -> float:
    single, double = copy.deepcopy(model).float(), copy.deepcopy(model).double()
    table: DistanceTable = single.table  # type: ignore[assignment]
    between = torch.linspace(0.0, 1.0, _PER_INTERVAL + 2)[1:-1]
    distance = ((torch.arange(table.points).unsqueeze(1) + between) * (table.cutoff / table.points)).reshape(-1)
    places = table.places(distance, torch.ones_like(distance))
    errors = []
    for tabulated, exact in zip(single.interactions, double.interactions):  # type: ignore[arg-type]
        read = table.read(table.tabulate(tabulated.filters(*single.grid_inputs())), places)  # type: ignore[operator]
        true: Tensor = exact.filters(*double.distance_inputs(distance.double()))  # type: ignore[operator]
        errors.append((read.double() - true).abs().max() / true.abs().max().clamp(min=1e-30))
    return float(torch.stack(errors).max())
