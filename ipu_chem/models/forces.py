"""Forces, the negative derivatives of a model's energies, taken inside the device program.

F = -dE/dpos holds for every model and every position, so that energies are conserved in simulations. The derivative
is taken in forward, where a compiler sees it as operators like others: so IPUs, too, train on exact forces. What a
model is made of must have derivatives made of operators that PopTorch has, which `ipu-chem doctor` checks.
"""

from typing import Callable, List, Optional, Tuple

import torch
from torch import Tensor

from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.layers import ShiftedSoftplus, keep
from ipu_chem.models.wrapper import Wrapper


class EnergyForces(Wrapper, GraphModel):
    """A graph model that gives the forces on atoms beside the energies of molecules."""

    differentiates = True
    # A backend's own form: (graph, training) -> energies and forces, or None where it has none for this graph.
    kernel: Optional[Callable[[Graph, bool], Optional[Tuple[Tensor, Tensor]]]] = None

    def __init__(self, model: GraphModel) -> None:
        """Wrap a model of one extensive target."""
        super().__init__(model)
        self.needs_charge = model.needs_charge
        for part in model.modules():
            if isinstance(part, ShiftedSoftplus):
                part.elementary = True

    def blocks(self) -> List[str]:
        """One: a derivative runs back through the whole model, so no pipeline can be cut inside."""
        return ["model"]

    def forward(self, graph: Graph) -> Tuple[Tensor, Tensor]:
        """Energies [B, G, 1] and forces [B, N, 3], energy per Å, both exactly 0 in padding."""
        if self.kernel is not None:
            found = self.kernel(graph, self.training)
            if found is not None:
                return found
        with torch.enable_grad():
            pos = graph.pos.detach().requires_grad_(True)
            energy = self.model(graph._replace(pos=pos))
            (derivative,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training)
        if not self.training:
            energy = energy.detach()
        return energy, keep(-derivative, graph.node_mask.unsqueeze(-1))
