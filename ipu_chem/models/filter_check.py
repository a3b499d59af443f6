"""Errors of filters that are read from a table, against those of the network itself; molecules are not needed."""

import copy
from typing import List

import torch
from torch import Tensor, nn

from ipu_chem.models.tables import DistanceTable, Tabulated

# Relative to the largest value of a filter: what float32 itself costs a network of two layers.
LARGEST_FILTER_ERROR = 2e-6
_PER_INTERVAL = 3  # distances compared between two points of the grid


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
