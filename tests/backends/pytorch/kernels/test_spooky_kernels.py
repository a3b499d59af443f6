"""SpookyNet's interactions in native kernels against autograd, which is the reference."""

import copy

import numpy as np
import pytest
import torch

from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.backends.pytorch.kernels.spooky import add_gradients_in_place, use_spooky_kernels
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.losses import mse, with_forces
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.spookynet import SpookyNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan
from packing.store import Store
from tests.backends.pytorch.kernels.test_force_kernels import CUTOFF, LOADS_BY_ASSIGNMENT, packs, results

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
SMALL = {"hidden_features": 32, "num_interactions": 2, "num_radial": 7}


def charged(both=True, dtype=torch.float64, seed=0):
    """`packs` of elements that have dispersion, with charges and spins."""
    graph = packs(both, dtype, seed)
    torch.manual_seed(seed)
    z = torch.tensor([1, 6, 7, 8, 9])[torch.randint(0, 5, graph.z.shape)].masked_fill(~graph.node_mask, 77)
    charge, spin = torch.randint(-1, 2, graph.graph_mask.shape), torch.randint(0, 2, graph.graph_mask.shape)
    return graph._replace(z=z, charge=charge, spin=spin)


def make(both=True, dtype=torch.float64, wrap=EnergyForces, **options):
    """A model whose weights are all there, and itself with kernels."""
    torch.manual_seed(1)
    model = SpookyNet(undirected=both, cutoff=CUTOFF, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    plain, native = wrap(model.to(dtype)), wrap(copy.deepcopy(model).to(dtype))
    assert use_spooky_kernels(native) == 1
    return plain, native


def kernel_of(model):
    (found,) = [part.kernel for part in model.modules() if isinstance(part, SpookyNet)]
    return found


def difference(ours, reference):
    """The largest, relative to the largest value of the same tensor; those that are 0 but for rounding count less."""
    most = max(float(value.detach().abs().max()) for value in reference.values())
    pairs = [(ours[name].detach().double(), value.detach().double()) for name, value in reference.items()]
    return max(float((own - value).abs().max() / value.abs().max().clamp(min=1e-4 * most)) for own, value in pairs)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"num_interactions": 2},
        {"hidden_features": 20, "num_radial": 1},
        {"hidden_features": 33, "num_interactions": 1},
        {**SMALL, "use_electrostatics": False, "use_dispersion": False},
    ],
)
def test_float64_equals_autograd(options, both):
    plain, native = make(both, **options)
    graph = charged(both)
    reference, ours = results(plain, graph), results(native, graph)
    assert ours.keys() == reference.keys() and difference(ours, reference) < 1e-10
    assert not ours["forces"][~graph.node_mask].any()


def test_float32_is_no_farther_from_float64_than_torch_is():
    exact, _ = make()
    plain, native = make(dtype=torch.float32)
    graph, narrow = charged(), charged(dtype=torch.float32)
    reference = results(exact, graph._replace(pos=narrow.pos.double()))
    ours, torchs = difference(results(native, narrow), reference), difference(results(plain, narrow), reference)
    assert ours < 2 * torchs < 2e-2


@pytest.mark.parametrize("options", [SMALL, {**SMALL, "num_targets": 3, "use_zbl": False, "use_electrostatics": False}])
def test_energies_and_other_targets_alone(options):
    if options.get("num_targets"):
        options = {**options, "use_dispersion": False, "readout": "mean"}
    found = []
    for model in make(wrap=lambda model: model, **options):
        model.train()
        output = model(charged())
        (output**2).sum().backward()
        found.append({"output": output, **{name: part.grad for name, part in model.named_parameters()}})
    assert difference(found[1], found[0]) < 1e-10


@pytest.mark.parametrize("frozen", [False, True])
def test_charges_and_frozen_weights(frozen):
    plain, native = make(**SMALL)
    for model in (plain, native):
        for name, weight in model.named_parameters():
            weight.requires_grad_(not frozen or "head" in name or "decay" in name)
        model.zero_grad()
        energy, forces = model.train()(charged())
        (energy.sum() + (forces**2).sum() + (model.model.partial_charges(charged()) ** 2).sum()).backward()
    gradients = [{name: part.grad for name, part in model.named_parameters()} for model in (plain, native)]
    assert all((gradients[0][name] is None) == (part is None) for name, part in gradients[1].items())
    ours, reference = ({name: part for name, part in each.items() if part is not None} for each in gradients[::-1])
    assert difference(ours, reference) < 1e-10


def loader(count=12, atoms=6):
    """Molecules of random places and labels, four a pack."""
    random = np.random.default_rng(0)
    offsets = np.arange(count + 1) * atoms
    pos = (1.3 * random.normal(size=(count * atoms, 3))).astype(np.float32)
    pairs = radius_pairs(pos, offsets, CUTOFF)
    fields = {"z": random.choice([1, 6, 8], count * atoms).astype(np.uint8), "pos": pos, "edge_index": pairs.values}
    fields.update(charge=random.integers(-1, 2, count).astype(np.int8), spin=np.zeros(count, np.uint8))
    store = Store(
        {"nodes": offsets, "edges": pairs.offsets}, fields, {"z": "nodes", "pos": "nodes", "edge_index": "edges"}
    )
    budget = Budget(nodes=4 * atoms + 3, edges=4 * int(np.diff(pairs.offsets).max()) + 5, graphs=4)
    plan = make_plan(store.sizes(), budget, "best_fit")
    energies, forces = random.normal(size=(count, 1)), random.normal(size=pos.shape)
    return PackLoader(
        store, np.arange(count), plan, energies.astype(np.float32), budget, Batching(1), charges=True,
        forces=forces.astype(np.float32),
    )  # fmt: skip


def backend_of(kernels, batches):
    """A small model with forces, and the backend that trains it."""
    torch.manual_seed(0)
    model = SpookyNet(undirected=True, cutoff=CUTOFF, use_dispersion=False, **SMALL)
    backend = TorchBackend(options=TorchOptions(kernels=kernels, threads=1))
    compact, loss, example = CompactInputs(EnergyForces(model)), with_forces(mse, 0.9), batches.example(training=True)
    backend.compile(compact, loss, OptimizerConfig(name="adamw"), Batching(1), example)
    return model, backend


def test_a_run_cut_in_two_is_that_in_one_piece_to_the_bit():
    batches = loader()
    steps = [batch for epoch in range(2) for batch, _ in batches.epoch(0, epoch)]
    whole, first, second = (backend_of(True, batches)[1] for _ in range(3))
    for batch in steps:
        whole.train_step(batch, 3e-3)
    for batch in steps[:3]:
        first.train_step(batch, 3e-3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in steps[3:]:
        second.train_step(batch, 3e-3)
    for name, value in whole.state_dict()["model"].items():
        assert np.array_equal(value, second.state_dict()["model"][name]), name


def test_training_by_the_backend_is_that_of_autograd():
    found, batches = [], loader()
    for kernels in (True, False):
        model, backend = backend_of(kernels, batches)
        assert (kernel_of(model) is None) == (not kernels)
        losses = []
        for epoch in range(10):
            for batch, _ in batches.epoch(0, epoch):
                losses.append(float(backend.train_step(batch, 3e-3)))
        found.append(losses)
        if kernels:
            assert kernel_of(model).adds_in_place
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0][-1] < 0.9 * found[0][0]


def test_evaluation_sees_new_weights_and_keeps_nothing():
    plain, native = make(**SMALL)
    for _ in range(2):
        plain.eval(), native.eval()
        (energy, forces), (own_energy, own_forces) = plain(charged()), native(charged())
        assert not own_energy.requires_grad and not own_forces.requires_grad
        torch.testing.assert_close((own_energy, own_forces), (energy, forces), rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(native(charged())[1], forces, rtol=1e-9, atol=1e-9)
            for model in (plain, native):
                for part in model.parameters():
                    part.mul_(1.05)
    assert len(kernel_of(native)._spaces) == 1  # memory has come back each time


def test_gradients_asked_twice_between_other_passes():
    _, native = make(**SMALL)
    native.train()
    energy, forces = native(charged())
    loss = energy.sum() + (forces**2).sum()
    loss.backward(retain_graph=True)
    once = [part.grad.clone() for part in native.parameters()]
    native(charged(seed=3))
    loss.backward()
    for part, before in zip(native.parameters(), once):
        torch.testing.assert_close(part.grad, 2 * before, rtol=1e-9, atol=1e-9)
    first, second = native(charged()), native(charged(seed=3))  # two before the first gradient
    native.zero_grad()
    (first[0].sum() + (first[1] ** 2).sum() + 0.0 * second[1].sum()).backward()
    for part, before in zip(native.parameters(), once):
        torch.testing.assert_close(part.grad, before, rtol=1e-9, atol=1e-9)


def test_gradients_of_the_head_alone_leave_nothing_behind():
    _, native = make(wrap=lambda model: model, **SMALL)
    native.train()
    graph = charged()
    pos = graph.pos.clone().requires_grad_()
    energy = native(graph._replace(pos=pos)).sum()
    (once,) = torch.autograd.grad(energy, pos, create_graph=True)
    torch.autograd.grad((once[graph.node_mask] ** 2).sum(), native.head.output.weight, retain_graph=True)
    (again,) = torch.autograd.grad(energy, pos)  # tangents of the line above are no part of it
    torch.testing.assert_close(again, once.detach(), rtol=1e-12, atol=1e-12, equal_nan=True)


def test_gradients_in_evaluation_are_those_of_training():
    _, native = make(wrap=lambda model: model, **SMALL)
    gradients = []
    for training in (True, False):
        native.train(training).zero_grad()
        graph = charged()
        pos = graph.pos.clone().requires_grad_()
        (slope,) = torch.autograd.grad(native(graph._replace(pos=pos)).sum(), pos, create_graph=True)
        (slope[graph.node_mask] ** 2).sum().backward()
        gradients.append([part.grad.clone() for part in native.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_the_passes_cannot_give_is_refused():
    _, native = make(wrap=lambda model: model, **SMALL)
    native.train()
    graph = charged()
    pos = graph.pos.clone().requires_grad_()
    energy = native(graph._replace(pos=pos))
    with pytest.raises(RuntimeError, match=r"derivatives of the gradients of weights; set torch.kernels=false"):
        torch.autograd.grad(energy.sum(), list(native.parameters()), create_graph=True)
    one, two = (torch.autograd.grad(part, pos, create_graph=True)[0] for part in (energy.sum(), (energy**2).sum()))
    with pytest.raises(RuntimeError, match=r"several derivatives of one prediction; set torch.kernels=false"):
        ((one + two)[graph.node_mask] ** 2).sum().backward()


def test_a_weight_that_changed_before_its_gradient_is_refused_as_torch_does():
    _, native = make(**SMALL)
    energy, _ = native.train()(charged())
    with torch.no_grad():
        native.model.interactions[0].before.layers[1].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        energy.sum().backward()


@pytest.mark.parametrize("what", ["an edge to itself", "molecules among each other"])
def test_other_graphs_are_left_to_autograd(what):
    plain, native = make(**SMALL)
    graph = charged()
    if what == "an edge to itself":
        graph.edge_index[0, :, 0] = 2
    else:
        graph = graph._replace(graph_index=graph.graph_index.flip(1))
    assert difference(results(native, graph), results(plain, graph)) == 0.0


def test_atoms_alone_and_packs_of_nothing():
    plain, native = make(**SMALL)
    graph = charged()
    alone = graph._replace(edge_mask=torch.zeros_like(graph.edge_mask))
    assert difference(results(native, alone), results(plain, alone)) < 1e-10
    no_slots = graph._replace(edge_index=graph.edge_index[:, :, :0], edge_mask=graph.edge_mask[:, :0])
    for one in (native, plain):
        assert difference(results(one, no_slots), results(plain, alone)) < 1e-10
    empty = alone._replace(node_mask=torch.zeros_like(graph.node_mask), graph_mask=torch.zeros_like(graph.graph_mask))
    energy, forces = native(empty)
    assert not energy.any() and not forces.any()


def test_a_copy_has_weights_of_its_own_and_takes_other_formats():
    plain, native = make(**SMALL)
    other = copy.deepcopy(native)
    with torch.no_grad():
        native.model.interactions[0].before.layers[1].weight.mul_(2.0)
    torch.testing.assert_close(other(charged())[1], plain(charged())[1], rtol=1e-9, atol=1e-9)
    narrow = other.float()(charged(dtype=torch.float32))[1]
    assert narrow.dtype == torch.float32 and kernel_of(other).dtype == torch.float32


def test_models_without_a_native_form_stay_as_they_are():
    mixed = SpookyNet(**SMALL).double()
    mixed.head.float()
    for model in (SchNet(), mixed, SpookyNet(**SMALL).bfloat16()):
        assert use_spooky_kernels(model) == 0


def test_gradients_in_place_begin_anew_where_there_are_none():
    plain, native = make(**SMALL)
    for weight in native.parameters():
        weight.grad = torch.zeros_like(weight)
    add_gradients_in_place(native)
    reference = results(plain, charged())
    for one in (native, copy.deepcopy(native)):  # copies of parameters have no gradients
        assert difference(results(one, charged()), reference) < 1e-10


def test_models_that_are_derived_from_spookynet_compute_themselves():
    class Doubled(SpookyNet):
        def _features(self, *inputs):
            return 2.0 * super()._features(*inputs)

    assert use_spooky_kernels(EnergyForces(Doubled(undirected=True, cutoff=CUTOFF, **SMALL))) == 0


def test_weights_that_are_loaded_are_those_that_compute():
    (other, _), (_, native) = make(**SMALL), make(**SMALL)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    for how in ({}, {"assign": True}) if LOADS_BY_ASSIGNMENT else ({},):
        native.load_state_dict({name: value.clone() for name, value in other.state_dict().items()}, **how)
        assert difference(results(native, charged()), results(other, charged())) < 1e-10
        native.load_state_dict(make(**SMALL)[0].state_dict())
