"""PaiNN's energies, and the gradients of a loss of them alone, in the native kernels that make forces.

The passes that forces need run, too, with derivatives of the loss that are 0 for them: on a CPU that is still faster
than autograd's operators, which write every message of every edge to memory several times.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.forces import NativeForces
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.models.base import Graph
from ipu_chem.models.painn import PaiNN

_REALS = {torch.float32: "float", torch.float64: "double"}
_MOST_BLOCKS = 32  # as in the C files


def use_energy_kernels(model: nn.Module) -> int:
    """Let PaiNN's energies come from native kernels; returns how many models do from now on.

    Args:
        model: with weights of one format on the CPU.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    parts = 0
    for part in model.modules():
        if type(part) is PaiNN and _is_supported(part):
            library(_REALS[part.embedding.weight.dtype])
            part.kernel = NativeEnergies(part)
            parts += 1
    return parts


class NativeEnergies:
    """Energies of one model, whose weights may change at any time, but stay the same tensors."""

    def __init__(self, model: PaiNN) -> None:
        """Take a model of one target that is a sum over atoms."""
        self._forces = NativeForces(model)

    def __call__(self, graph: Graph, training: bool) -> Optional[Tensor]:
        """Energies [B, G, 1]; None where autograd has to do it, or to say what is wrong.

        Args:
            graph: to compute.
            training: gradients of the weights will be asked for.
        """
        if graph.pos.requires_grad:
            return None
        found = self._forces(graph, training)
        return None if found is None else found[0]


def _is_supported(model: Any) -> bool:
    """True if the kernels have this model's sizes and formats."""
    formats = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]}
    one_target = model.readout == "sum" and model.head[2].weight.shape[0] == 1
    return one_target and len(formats) == 1 and formats <= set(_REALS) and len(model.interactions) <= _MOST_BLOCKS
