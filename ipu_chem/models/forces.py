"""Forces: what a model's energies say about how atoms are pulled, by differentiation inside the device program.

F = -dE/dpos holds for every model and every position, so that energies are conserved in simulations. The derivative
is taken in forward, where a compiler sees it as operators like others: so IPUs, too, train on exact forces. What a
model is made of must have derivatives made of operators that PopTorch has, which `ipu-chem doctor` checks.

On data's way: inside CompactInputs (and DeviceEdges), around the graph model.
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import keep
from ipu_chem.models.wrapper import Wrapper


class EnergyForces(Wrapper):
    """A graph model that gives the forces on atoms beside the energies of molecules."""

    # To backends: operators inside must have derivatives of derivatives.
    differentiates = True

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model of one extensive target.

        Args:
            model: forward as `SchNet`'s, one target.
        """
        super().__init__(model)
        for part in model.modules():
            if hasattr(part, "elementary"):
                part.elementary = True

    def blocks(self) -> List[str]:
        """One: a derivative runs back through the whole model, so no pipeline can be cut inside."""
        return ["model"]

    def forward(
        self, z: Tensor, pos: Tensor, graph_index: Tensor, edge_index: Tensor, node_mask: Tensor, *rest: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Predict; arguments as of the model's forward.

        Returns:
            Energies [B, G, 1] and forces [B, N, 3], energy per Å, both exactly 0 in padding.
        """
        with torch.enable_grad():
            pos = pos.detach().requires_grad_(True)
            energy = self.model(z, pos, graph_index, edge_index, node_mask, *rest)
            (derivative,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training)
        if not self.training:
            energy = energy.detach()
        return energy, keep(-derivative, node_mask.unsqueeze(-1))
