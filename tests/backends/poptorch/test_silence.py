"""Refusals of what PopTorch gets wrong without a word: it never trains, whatever PopTorch says."""

from typing import Any, Callable, Iterator

import pytest
import torch
from poptorch_helpers import ADAMW, POSITION_STEP, installed_double, random_packs, small_schnet
from torch import Tensor, nn

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.batches.types import compact_kind
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.base import Graph, GraphModel
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces

BATCHING = Batching(micro_batch_size=2)


@pytest.fixture
def poptorch() -> Iterator[Any]:
    """PopTorch as it is: in silence."""
    with installed_double() as module:
        before, module.Machine.strict = module.Machine.strict, False
        yield module
        module.Machine.strict = before


def first_axis(pos: Tensor) -> Tensor:
    return pos[:, :, :1]


def one_axis(pos: Tensor) -> Tensor:
    return pos.select(2, 0).unsqueeze(2)


def narrowed(pos: Tensor) -> Tensor:
    return pos.narrow(2, 0, 1)


class Energies(GraphModel):
    """Energies of molecules from a part of the positions."""

    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, graph: Graph) -> Tensor:
        part = self.part(graph.pos) * self.weight
        return (part * part).sum((1, 2), keepdim=True).expand(-1, graph.graph_mask.shape[1], 1)


class Derivative(nn.Module):
    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part

    def forward(self, pos: Tensor) -> Tensor:
        pos = pos.detach().requires_grad_(True)
        part = self.part(pos)
        return torch.autograd.grad((part * part).sum(), pos)[0]


@pytest.mark.parametrize("part", [first_axis, one_axis, narrowed])
def test_derivatives_of_slices(poptorch: Any, part: Callable[[Tensor], Tensor]) -> None:
    program = poptorch.inferenceModel(Derivative(part))
    assert not program(torch.ones(2, 3, 3)).any(), "zeros, and no word of it"
    program.destroy()
    packs = random_packs(BATCHING.packs_per_call)
    forces = torch.randn(*packs.z.shape, 3)
    packs = compact_kind(forces=True)(*packs, forces, torch.ones(*packs.z.shape, 1))
    model = CompactInputs(EnergyForces(Energies(part)), POSITION_STEP)
    with pytest.raises(ValueError, match="cannot compile the training program: .*IPUs cannot run aten::.*_backward"):
        PopTorchBackend().compile(model, with_forces(mse, 0.9), ADAMW, BATCHING, packs)


def floored(x: Tensor) -> Tensor:
    return x + torch.div(x.detach(), 0.25, rounding_mode="floor")


def put(x: Tensor) -> Tensor:
    index = torch.zeros(1, dtype=torch.int32, device=x.device)
    return x.index_put((index,), x.narrow(0, 0, 1), accumulate=True)


@pytest.mark.parametrize("function", [floored, put])
def test_operators(poptorch: Any, function: Callable[[Tensor], Tensor]) -> None:
    model = small_schnet()
    model.model.embedding.register_forward_hook(lambda module, inputs, output: function(output))
    with pytest.raises(ValueError, match=r"cannot compile the training program: .*silence.py:\d+: IPUs cannot run"):
        PopTorchBackend().compile(model, mse, ADAMW, BATCHING, random_packs(BATCHING.packs_per_call))
