"""PaiNN's native features and their gradients against autograd, which is the reference."""

import copy

import pytest
import torch

from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels import features
from ipu_chem.backends.pytorch.kernels.features import groups, use_feature_kernels
from ipu_chem.backends.pytorch.kernels.forces import compact
from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.models.painn import PaiNN
from tests.backends.pytorch.kernels.test_force_kernels import CUTOFF, LOADS_BY_ASSIGNMENT, packs

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")


def make(dtype=torch.float64, both=True, **options):
    """A model whose weights are all there, and itself with kernels."""
    torch.manual_seed(1)
    options = {"hidden_features": 24, "num_radial": 7, "num_interactions": 3, **options}
    model = PaiNN(undirected=both, cutoff=CUTOFF, **options)
    torch.nn.init.normal_(model.head[2].weight, std=0.3)
    for name, part in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(part, std=0.1)
    plain, native = model.to(dtype), copy.deepcopy(model).to(dtype)
    assert use_feature_kernels(native) == 1 and native.kernel is not None
    return plain, native


def results(model, graph):
    """Values and all gradients of a loss of targets, or of scalars and vectors too."""
    model.zero_grad()
    values = model(graph)
    scalars, vectors = model.features(graph)
    real = graph.node_mask.reshape(-1)
    loss = values.sin().sum() + scalars[real].cos().sum() + (vectors[real] ** 2).tanh().sum()
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [values, scalars[real], vectors[real], *gradients]


def assert_equal(ours, theirs, tolerance=1e-10):
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * max(float(other.abs().max()), 1.0))


@pytest.mark.parametrize("full", [1, 9, 1000])
@pytest.mark.parametrize("both", [True, False])
def test_values_and_gradients_in_float64(monkeypatch, both, full):
    monkeypatch.setattr(features, "FULL", full)
    plain, native = make(both=both)
    graph = packs(both)
    assert_equal(results(native, graph), results(plain, graph))
    real = 22  # slots; the others are padding
    nodes = {name: getattr(graph, name)[:, :real] for name in ("z", "pos", "graph_index", "node_mask")}
    assert_equal([native(graph)], [native(graph._replace(**nodes))], 1e-14)
    with torch.no_grad():
        assert_equal([native(graph)], [plain(graph)])


@pytest.mark.parametrize(
    "options",
    [{"hidden_features": 64}, {"num_targets": 3, "readout": "mean"}, {"num_interactions": 1}, {"filter": "table"}],
    ids=str,
)
def test_sizes_targets_and_readouts(options):
    plain, native = make(**options)
    # Tables are of float32's accuracy, the kernel evaluates filters exactly.
    assert_equal(results(native, packs()), results(plain, packs()), 1e-4 if "filter" in options else 1e-10)


def test_float32_is_as_close_to_float64_as_torch_is():
    exact, _ = make(hidden_features=64)
    plain, native = (model.float() for model in make(hidden_features=64))
    graph = packs(dtype=torch.float32)
    wanted = results(exact, graph._replace(pos=graph.pos.double()))
    for ours, theirs, right in zip(results(native, graph), results(plain, graph), wanted):
        scale = float(right.abs().max())
        errors = [float((one.double() - right).abs().max()) / scale for one in (ours, theirs)]
        assert errors[0] <= 2 * errors[1] + 1e-6


def test_steps_of_a_training_stay_together():
    plain, native = make()
    for model in (plain, native):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for seed in range(10):
            optimizer.zero_grad()
            model(packs(seed=seed)).square().mean().backward()
            optimizer.step()
    assert_equal(native.parameters(), plain.parameters(), 1e-9)


def test_a_second_backward_and_frozen_weights():
    plain, native = make()
    native.embedding.requires_grad_(False)
    loss = native(packs()).square().sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for name, parameter in native.named_parameters() if parameter.requires_grad]
    native(packs(seed=3))  # takes the workspaces
    loss.backward()
    twice = [parameter.grad for parameter in native.parameters() if parameter.requires_grad]
    assert_equal(twice, [2 * gradient for gradient in once])
    assert native.embedding.weight.grad is None


def test_what_the_kernel_does_not_take_is_left_to_autograd():
    plain, native = make()
    graph = packs()
    positions = graph.pos.clone().requires_grad_(True)
    for model in (plain, native):
        (gradient,) = torch.autograd.grad(model(graph._replace(pos=positions)).sum(), positions)
        assert gradient[graph.node_mask].abs().max() > 1e-3
    broken = graph._replace(edge_index=graph.edge_index.clone())
    broken.edge_index[0, :, 0] = 2  # an edge from an atom to itself
    assert native.kernel(broken) is None
    native.to(torch.float16)
    assert native.kernel(graph) is None


def test_memory_is_used_again():
    _, native = make()
    counts = []
    for turn in range(12):
        graph = packs(slots=30, real=12 + turn % 6, seed=turn)
        native(graph).square().sum().backward()
        native.eval()(graph)
        counts.append(len(native.kernel._spaces))
    assert max(counts[6:]) == max(counts) <= 4


def test_groups_hold_whole_molecules():
    graph = packs()
    molecules = compact(graph, "double", 100)
    whole = molecules.index.numpy()
    for full in (1, 7, 20, 500):
        parts = groups(molecules, full)
        assert sum(part.atoms for part in parts) == molecules.atoms
        assert sum(part.pairs for part in parts) == molecules.pairs
        assert len(parts) <= max(molecules.atoms // full, 1)
        assert all(part.atoms < full + 22 for part in parts) and (full > 7 or len(parts) > 5)
        begin, ends = 0, []
        for part in parts:
            index = part.index.numpy()
            assert (index[2 * part.atoms : 3 * part.atoms] == whole[2 * molecules.atoms :][begin:][: part.atoms]).all()
            pairs = index[3 * part.atoms : 3 * part.atoms + 2 * part.pairs].reshape(2, part.pairs)
            assert pairs.size == 0 or 0 <= pairs.min() <= pairs.max() < part.atoms
            ends.append(pairs + begin)
            begin += part.atoms
        rest = whole[3 * molecules.atoms :][: 2 * molecules.pairs].reshape(2, -1)
        assert (torch.cat([torch.from_numpy(one) for one in ends], 1).numpy() == rest).all()


@pytest.mark.parametrize("kernels", [True, False])
def test_the_backend_takes_them_unless_told_not_to(kernels):
    model = PaiNN(8, 1, 3, CUTOFF)
    backend = TorchBackend("cpu", TorchOptions(kernels=kernels))
    graph = packs(dtype=torch.float32)
    backend.compile(model, None, None, Batching(), graph)
    assert (model.kernel is not None) == kernels


@pytest.mark.skipif(not LOADS_BY_ASSIGNMENT, reason="torch 2.0 loads weights into the tensors that are there")
def test_weights_that_are_loaded_by_assignment_are_those_that_compute():
    (other, _), (_, native) = make(num_interactions=1), make(num_interactions=1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    native.load_state_dict({name: value.clone() for name, value in other.state_dict().items()}, assign=True)
    assert_equal(results(native, packs()), results(other, packs()))
