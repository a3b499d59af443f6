"""Activations by torch's own fused operators, which have derivatives of any order but not on IPUs."""

import math

from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.backends.pytorch.kernels.calls import put_in
from ipu_chem.models.layers import ShiftedSoftplus, Silu


def use_torch_activations(model: nn.Module) -> int:
    """Let a model's activations run in one operator each; returns how many parts do from now on."""
    return put_in(model, {ShiftedSoftplus: _shifted_softplus, Silu: functional.silu})


def _shifted_softplus(x: Tensor) -> Tensor:
    return functional.softplus(x) - math.log(2.0)
