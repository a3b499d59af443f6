"""Small SpookyNets, and a way to give every molecule of a pack the charge and spin that follow from its atoms."""

from typing import Any

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import flat_index, keep, sum_into
from ipu_chem.models.spookynet import SpookyNet

PLAIN = dict(use_zbl=False, use_electrostatics=False, use_dispersion=False)


class Charged(nn.Module):
    """A SpookyNet that takes what other models take: charges from -1 to 2, spins from 0 to 2, nonsense in padding."""

    def __init__(self, model: SpookyNet, garbage: int = 77) -> None:
        super().__init__()
        self.model = model
        self.garbage = garbage

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs, *self.state(*inputs))

    def charges(self, *inputs: Tensor) -> Tensor:
        return self.model.partial_charges(*inputs, *self.state(*inputs))

    def state(self, z: Tensor, pos: Tensor, graph_index: Tensor, *others: Tensor) -> Any:
        node_mask, graph_mask = others[1], others[3]
        owner = flat_index(keep(graph_index.long(), node_mask), graph_mask.shape[1])
        electrons = sum_into(keep(z.long(), node_mask).reshape(-1, 1), owner, graph_mask.numel()).reshape(
            graph_mask.shape
        )
        charge, spin = electrons % 4 - 1, electrons % 3
        return tuple(torch.where(graph_mask, value, self.garbage).to(torch.int8) for value in (charge, spin))


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


def forces(model: nn.Module, pack: Any) -> Tensor:
    """Minus the slope of the energies, differentiated inside the forward pass and differentiable again."""
    pos = pack.pos.detach().requires_grad_()
    energy = model(pack.z, pos, *pack.inputs[2:]).sum()
    return -torch.autograd.grad(energy, pos, create_graph=True)[0]
