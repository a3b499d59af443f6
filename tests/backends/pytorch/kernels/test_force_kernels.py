"""Native energies, forces and gradients against autograd, which is the reference."""

import copy
import inspect

import pytest
import torch

from ipu_chem.backends.pytorch.kernels.forces import add_gradients_in_place, use_force_kernels
from ipu_chem.backends.pytorch.kernels.native import find_compiler
from ipu_chem.models.base import Graph
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.models.spookynet import SpookyNet

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
CUTOFF = 3.0
MODELS = [SchNet, PaiNN]
LOADS_BY_ASSIGNMENT = "assign" in inspect.signature(torch.nn.Module.load_state_dict).parameters


def packs(both=True, dtype=torch.float64, seed=0, slots=26, real=22):
    """Three packs of four molecules of random places, the last slots padding full of NaN and of wrong indices."""
    torch.manual_seed(seed)
    z = torch.randint(1, 10, (3, slots))
    pos = 1.5 * torch.randn(3, slots, 3, dtype=torch.float64)
    owner = torch.sort(torch.randint(0, 4, (3, slots)), 1).values
    node_mask = (torch.arange(slots) < real).expand(3, -1).clone()
    edges = []
    for pack in range(3):
        same = (owner[pack].unsqueeze(0) == owner[pack].unsqueeze(1)) & node_mask[pack] & node_mask[pack].unsqueeze(1)
        near = (torch.cdist(pos[pack], pos[pack]) < CUTOFF) & same & ~torch.eye(slots, dtype=torch.bool)
        edges.append((torch.triu(near) if both else near).nonzero().T)
    most = max(part.shape[1] for part in edges) + 4
    edge_index, edge_mask = torch.full((3, 2, most), 9_999), torch.zeros((3, most), dtype=torch.bool)
    graph_mask = torch.zeros((3, 4), dtype=torch.bool)
    for pack, part in enumerate(edges):
        edge_index[pack, :, : part.shape[1]] = part
        edge_mask[pack, : part.shape[1]] = True
        graph_mask[pack, owner[pack, :real].unique()] = True
    pos[:, real:], z[:, real:], owner[:, real:] = float("nan"), 77, 3
    return Graph(z, pos.to(dtype), owner, edge_index, node_mask, edge_mask, graph_mask)


def make(kind, both=True, dtype=torch.float64, **options):
    """A model whose weights are all there, and itself with kernels."""
    torch.manual_seed(1)
    model = kind(undirected=both, cutoff=CUTOFF, atom_references=torch.randn(100, 1), **options)
    torch.nn.init.normal_(model.head[2].weight, std=0.3)
    for name, part in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(part, std=0.1)
    plain, native = EnergyForces(model.to(dtype)), EnergyForces(copy.deepcopy(model).to(dtype))
    assert use_force_kernels(native) == 1 and native.kernel is not None
    return plain, native


def results(model, graph, retain=False):
    """Energies, forces and all gradients of a loss that is neither linear nor quadratic in them."""
    model.train()
    model.zero_grad()
    energy, forces = model(graph)
    weights = torch.linspace(-1.0, 2.0, forces.numel(), dtype=forces.dtype).reshape(forces.shape)
    loss = torch.nn.functional.huber_loss(energy, torch.ones_like(energy)) + (weights * forces.abs() ** 1.5).sum()
    loss.backward(retain_graph=retain)
    return {"energy": energy, "forces": forces, **{name: part.grad.clone() for name, part in model.named_parameters()}}


def difference(ours, reference):
    """The largest, relative to the largest value of the same tensor."""
    pairs = [(ours[name].detach().double(), value.detach().double()) for name, value in reference.items()]
    return max(float((own - value).abs().max() / value.abs().max().clamp(min=1e-30)) for own, value in pairs)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"hidden_features": 64}, {"hidden_features": 20}, {"hidden_features": 256, "num_interactions": 1}]
)
@pytest.mark.parametrize("kind", MODELS)
def test_float64_equals_autograd(kind, options, both):
    options = {"num_interactions": 2, **options}
    plain, native = make(kind, both, **options)
    graph = packs(both)
    reference, ours = results(plain, graph), results(native, graph)
    assert difference(ours, reference) < 1e-10
    assert ours.keys() == reference.keys() and not ours["forces"][~graph.node_mask].any()


def test_widths_that_fill_no_vector_and_filters_of_their_own_width():
    plain, native = make(SchNet, hidden_features=30, num_filters=17, num_gaussians=9, num_interactions=3)
    assert difference(results(native, packs()), results(plain, packs())) < 1e-10
    plain, native = make(PaiNN, hidden_features=30, num_radial=7)
    assert difference(results(native, packs()), results(plain, packs())) < 1e-10


@pytest.mark.parametrize("kind", MODELS)
def test_float32_is_no_farther_from_float64_than_torch_is(kind):
    exact, _ = make(kind)
    plain, native = make(kind, dtype=torch.float32)
    graph, narrow = packs(), packs(dtype=torch.float32)
    reference = results(exact, graph._replace(pos=narrow.pos.double()))
    ours, torchs = difference(results(native, narrow), reference), difference(results(plain, narrow), reference)
    assert ours < 2 * torchs < 1e-2


@pytest.mark.parametrize("fused", [False, True])  # in one kernel weights change without a new version of the tensor
@pytest.mark.parametrize("kind", MODELS)
def test_a_hundred_steps_of_training_are_those_of_autograd(kind, fused):
    models = make(kind, hidden_features=32, num_interactions=2)
    graph, losses = packs(), []
    target = torch.randn(graph.pos.shape, dtype=torch.float64) * graph.node_mask.unsqueeze(-1)
    for model in models:
        model.train()
        try:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        except RuntimeError:
            pytest.skip("this torch has fused AdamW on CUDA alone")
        losses.append([])
        for _ in range(100):
            optimizer.zero_grad()
            energy, forces = model(graph)
            loss = (energy**2).mean() + ((forces - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[1][-1] < 0.7 * losses[1][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)


@pytest.mark.parametrize("kind", MODELS)
def test_atoms_alone_and_packs_of_nothing(kind):
    plain, native = make(kind, hidden_features=32)
    graph = packs()
    alone = graph._replace(edge_mask=torch.zeros_like(graph.edge_mask))
    assert difference(results(native, alone), results(plain, alone)) < 1e-10
    empty = alone._replace(node_mask=torch.zeros_like(graph.node_mask), graph_mask=torch.zeros_like(graph.graph_mask))
    energy, forces = native(empty)
    assert not energy.any() and not forces.any()


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_keeps_nothing_and_sees_new_weights(kind):
    plain, native = make(kind, hidden_features=32)
    for _ in range(2):
        plain.eval(), native.eval()
        (energy, forces), (own_energy, own_forces) = plain(packs()), native(packs())
        assert not own_energy.requires_grad and not own_forces.requires_grad
        torch.testing.assert_close((own_energy, own_forces), (energy, forces), rtol=1e-10, atol=1e-10)
        with torch.inference_mode():
            torch.testing.assert_close(native(packs())[1], forces, rtol=1e-10, atol=1e-10)
        for model in (plain, native):
            with torch.no_grad():
                for part in model.parameters():
                    part.mul_(1.1)
    native.load_state_dict(plain.state_dict())
    torch.testing.assert_close(native(packs())[1], plain(packs())[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_asked_twice_between_other_passes(kind):
    plain, native = make(kind, hidden_features=32)
    native.train()
    energy, forces = native(packs())
    loss = energy.sum() + (forces**2).sum()
    loss.backward(retain_graph=True)
    once = [part.grad.clone() for part in native.parameters()]
    native(packs(seed=3))  # takes the workspace
    loss.backward()
    for part, before in zip(native.parameters(), once):
        torch.testing.assert_close(part.grad, 2 * before, rtol=1e-12, atol=1e-12)
    first, second = native(packs()), native(packs(seed=3))  # two before the first gradient
    native.zero_grad()
    (first[0].sum() + (first[1] ** 2).sum() + 0.0 * second[0].sum()).backward()
    for part, before in zip(native.parameters(), once):
        torch.testing.assert_close(part.grad, before, rtol=1e-12, atol=1e-12)


def test_a_weight_that_changed_before_its_gradient_is_refused_as_torch_does():
    _, native = make(PaiNN, hidden_features=32)
    native.train()
    energy, _ = native(packs())
    with torch.no_grad():
        native.model.embedding.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        energy.sum().backward()


def test_frozen_weights_get_no_gradient():
    plain, native = make(PaiNN, hidden_features=32)
    for model in (plain, native):
        for name, part in model.named_parameters():
            part.requires_grad_(name.startswith("model.head"))
        model.train()
        energy, forces = model(packs())
        (energy.sum() + (forces**2).sum()).backward()
    for part, other in zip(native.parameters(), plain.parameters()):
        assert (part.grad is None) == (not part.requires_grad)
        if part.grad is not None:
            torch.testing.assert_close(part.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_an_edge_from_an_atom_to_itself_is_left_to_autograd():
    plain, native = make(SchNet, hidden_features=32)
    graph = packs()
    graph.edge_index[0, :, 0] = 2
    assert difference(results(native, graph), results(plain, graph)) == 0.0


@pytest.mark.parametrize("field, value", [("z", 120), ("z", -1), ("edge_index", -1)])
def test_numbers_out_of_range_are_refused_as_by_autograd(field, value):
    _, native = make(PaiNN, hidden_features=32)
    graph = packs()
    getattr(graph, field)[0].reshape(-1)[0] = value
    with pytest.raises((IndexError, RuntimeError), match="out of (range|bounds)"):
        native(graph)


def test_an_edge_to_padding_is_left_to_autograd():
    plain, native = make(PaiNN, hidden_features=32)
    graph = packs()
    graph.edge_index[0, 1, 0] = 24
    torch.testing.assert_close(native(graph), plain(graph), rtol=0, atol=0)


def test_a_copy_has_weights_of_its_own():
    plain, native = make(PaiNN, hidden_features=32)
    other = copy.deepcopy(native)
    with torch.no_grad():
        native.model.embedding.weight.mul_(2.0)
    torch.testing.assert_close(other(packs())[1], plain(packs())[1], rtol=1e-10, atol=1e-10)
    other = copy.deepcopy(native)  # after a call, which keeps addresses
    torch.testing.assert_close(other(packs())[1], native(packs())[1], rtol=0, atol=0)
    assert other.float()(packs(dtype=torch.float32))[0].dtype == torch.float32


@pytest.mark.parametrize("kind", MODELS)
def test_values_of_the_last_batch_and_nan_in_the_workspace_are_never_read(kind):
    plain, native = make(kind, hidden_features=32)
    spaces = native.kernel._spaces  # type: ignore[union-attr]
    spaces.append(torch.full((4_000_000,), float("nan"), dtype=torch.float64))
    for seed in (0, 3, 0):  # other numbers of atoms, pairs and elements, in the same memory
        assert difference(results(native, packs(seed=seed)), results(plain, packs(seed=seed))) < 1e-10
    assert [len(space) for space in spaces] == [4_000_000]


@pytest.mark.parametrize("kind", MODELS)
def test_one_element_and_all_elements_of_the_table(kind):
    plain, native = make(kind, hidden_features=32)
    graph = packs()
    for z in (torch.full_like(graph.z, 6), torch.arange(1, graph.z.numel() + 1).reshape(graph.z.shape)):
        assert difference(results(native, graph._replace(z=z)), results(plain, graph._replace(z=z))) < 1e-10


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_added_in_place_to_what_is_there(kind):
    plain, native = make(kind, hidden_features=32)
    reference = results(plain, packs())
    for part in native.parameters():
        part.grad = torch.ones_like(part)
    places = [part.grad.data_ptr() for part in native.parameters()]
    add_gradients_in_place(native)
    native.train()
    for _ in range(2):
        energy, forces = native(packs())
        weights = torch.linspace(-1.0, 2.0, forces.numel(), dtype=forces.dtype).reshape(forces.shape)
        loss = torch.nn.functional.huber_loss(energy, torch.ones_like(energy)) + (weights * forces.abs() ** 1.5).sum()
        loss.backward()
    for name, part in native.named_parameters():
        torch.testing.assert_close(part.grad, 1 + 2 * reference[name], rtol=1e-10, atol=1e-10)
    assert places == [part.grad.data_ptr() for part in native.parameters()]


@pytest.mark.parametrize("kind", MODELS)
def test_frozen_weights_see_other_pairs_and_places(kind):
    plain, _ = make(kind, hidden_features=32)
    frozen = copy.deepcopy(plain).eval().requires_grad_(False)
    assert use_force_kernels(frozen, frozen=True) == 1
    plain.eval()
    graph = packs()
    for _ in range(2):
        torch.testing.assert_close(frozen(graph), plain(graph), rtol=1e-10, atol=1e-10)
        graph = graph._replace(pos=graph.pos + 0.1 * torch.randn_like(graph.pos))
        torch.testing.assert_close(frozen(graph), plain(graph), rtol=1e-10, atol=1e-10)
        graph.edge_mask[:, ::3] = False  # in place
    expected = plain(packs(seed=3))
    with torch.inference_mode():  # whose tensors have no versions
        torch.testing.assert_close(frozen(packs(seed=3)), expected, rtol=1e-10, atol=1e-10)


def test_models_without_a_native_form_stay_as_they_are():
    means = EnergyForces(SchNet(readout="mean"))
    mixed = EnergyForces(SchNet().double())
    mixed.model.head.float()
    several = EnergyForces(PaiNN(num_targets=2))
    spooky = EnergyForces(SpookyNet())
    for model in (means, mixed, several, spooky):
        assert use_force_kernels(model) == 0 and model.kernel is None


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_is_moved_to_another_format_keeps_its_kernel_and_its_values(kind):
    plain, native = make(kind, dtype=torch.float32, hidden_features=32)
    results(native, packs(dtype=torch.float32))
    plain, native = plain.double(), native.double()
    assert difference(results(native, packs()), results(plain, packs())) < 1e-10
    narrow = packs(dtype=torch.float32)
    assert difference(results(native.float(), narrow), results(plain, packs())) < 1e-2


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_in_place_begin_anew_where_there_are_none(kind):
    plain, native = make(kind, hidden_features=32)
    for weight in native.parameters():
        weight.grad = torch.zeros_like(weight)
    add_gradients_in_place(native)
    other = copy.deepcopy(native)  # copies of parameters have no gradients
    reference = results(plain, packs())
    for one in (native, other):
        assert difference(results(one, packs()), reference) < 1e-10


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_weights_that_are_loaded_are_those_that_compute(kind, frozen):
    """Also those that are other tensors, which ``assign=True`` of torch 2.1 puts in place of the model's."""
    sizes = {"hidden_features": 16, "num_interactions": 1}
    _, native = make(kind, **sizes)
    native = native.eval().requires_grad_(False)
    assert use_force_kernels(native, frozen=frozen) == 1
    native(packs())
    other = kind(undirected=True, cutoff=CUTOFF, atom_references=torch.randn(100, 1), **sizes).double()
    torch.nn.init.normal_(other.head[2].weight, std=0.3)
    for how in ({}, {"assign": True}) if LOADS_BY_ASSIGNMENT else ({},):
        for one in (copy.deepcopy(native), native):
            one.load_state_dict({name: value.clone() for name, value in other.state_dict().items()}, **how)
            expected = EnergyForces(other).eval()(packs())
            torch.testing.assert_close(one(packs()), expected, rtol=1e-10, atol=1e-10)
        native.load_state_dict(make(kind, **sizes)[0].state_dict())
