"""PaiNN's energies in the kernels of forces, against autograd, which is the reference."""

import copy

import pytest
import torch

from backends.pytorch.kernels.test_force_kernels import difference, packs
from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels.forces.energies import use_energy_kernels
from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.losses import mse
from ipu_chem.models.painn import PaiNN
from ipu_chem.optim import OptimizerConfig

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


def models(dtype=torch.float64, **options):
    """A model with autograd, and itself with kernels."""
    torch.manual_seed(1)
    plain = PaiNN(undirected=True, cutoff=3.0, num_interactions=2, hidden_features=32, **options)
    for name, part in plain.named_parameters():
        if name.endswith("bias") or not part.any():
            torch.nn.init.normal_(part, std=0.2)
    plain = plain.to(dtype)
    return plain, copy.deepcopy(plain)


def results(model, graph):
    """Energies and all gradients of a loss that is neither linear nor quadratic in them."""
    model.train()
    model.zero_grad()
    energy = model(graph)
    torch.nn.functional.huber_loss(energy, torch.ones_like(energy)).backward()
    return {"energy": energy, **{name: part.grad.clone() for name, part in model.named_parameters()}}


@pytest.mark.parametrize("references", [False, True])
def test_float64_equals_autograd(references):
    plain, native = models(atom_references=torch.randn(100, 1) if references else None)
    assert use_energy_kernels(native) == 1 and native.kernel is not None
    for seed in (0, 1):
        graph = packs(both=True, seed=seed)
        reference = results(plain, graph)
        assert native.kernel(graph, True) is not None
        assert difference(results(native, graph), reference) < 1e-10
    with torch.no_grad():
        torch.testing.assert_close(native.eval()(graph), plain.eval()(graph), rtol=1e-10, atol=1e-10)
    assert (native(graph)[~graph.graph_mask] == 0).all()


def test_float32_is_no_farther_from_float64_than_torch_is():
    exact = results(models()[0], packs())
    plain, native = models(torch.float32)
    use_energy_kernels(native)
    graph = packs(dtype=torch.float32)
    assert difference(results(native, graph), exact) < 2 * difference(results(plain, graph), exact) + 1e-6


@pytest.mark.parametrize("options", [{"readout": "mean"}, {"num_targets": 2}, {"readout": "dipole_vectors"}])
def test_models_that_are_no_sum_of_one_target_stay_with_autograd(options):
    _, model = models(**options)
    assert use_energy_kernels(model) == 0 and model.kernel is None


def test_positions_that_are_differentiated_stay_with_autograd():
    plain, native = models()
    use_energy_kernels(native)
    graph = packs()
    graph = graph._replace(pos=torch.nan_to_num(graph.pos).requires_grad_())
    (native(graph).sum() - plain(graph).sum()).backward()
    assert graph.pos.grad.abs().max() < 1e-9 and native.kernel(graph, True) is None


def test_a_backend_on_a_cpu_takes_them_unless_told_otherwise():
    graph = packs(dtype=torch.float32)
    labels = torch.randn(3, 4, 1), graph.graph_mask.unsqueeze(-1).float() / graph.graph_mask.sum()
    example = Example(graph, *labels)
    for kernels in (True, False):
        _, model = models(torch.float32)
        backend = TorchBackend("cpu", TorchOptions(kernels=kernels, threads=1))
        backend.compile(model, mse, OptimizerConfig(), Batching(3), example)
        assert (model.kernel is not None) == kernels
        backend.close()


class Example(tuple):
    """A batch whose first element is the graph."""

    first_target = 1

    def __new__(cls, *parts):
        return super().__new__(cls, parts)
