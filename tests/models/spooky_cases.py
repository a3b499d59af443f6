"""Small SpookyNets that are given the charge and spin that follow from the atoms of each molecule."""

from typing import Any

import torch
from contracts.graph_model import Charged as _Charged
from contracts.graph_model import charged
from torch import Tensor

from ipu_chem.models.base import Graph
from ipu_chem.models.spookynet import SpookyNet

PLAIN = dict(use_zbl=False, use_electrostatics=False, use_dispersion=False)


class Charged(_Charged):
    """A SpookyNet that takes what other models take."""

    def charges(self, graph: Graph) -> Tensor:
        return self.model.partial_charges(charged(graph, self.garbage))  # type: ignore[operator]


def small_spookynet(
    dtype: torch.dtype = torch.float64, garbage: int = 77, noise: float = 0.3, **options: Any
) -> Charged:
    """With no weight at its initial value, so that nothing is zero or equal by chance."""
    torch.manual_seed(0)
    sizes = dict(hidden_features=6, num_interactions=2, num_radial=5, cutoff=4.0)
    model = SpookyNet(**{**sizes, **options}).to(dtype)
    for parameter in model.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return Charged(model, garbage)
