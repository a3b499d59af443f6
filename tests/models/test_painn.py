"""PaiNN: packed equals one by one, padding is inert, scalars stay and vectors turn with the molecule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poptorch_helpers import installed_double
from support import (
    as_dtype,
    assert_packed_equals_one_by_one,
    gradients,
    one_by_one,
    pack_store,
    random_store,
    with_garbage,
)

from ipu_chem.batches.types import GraphPack
from ipu_chem.losses import LOSSES
from ipu_chem.models.layers import SincBasis, silu
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.registry import build_model, sizes_of
from ipu_chem.models.schnet import MAX_Z, SchNet
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)


def small_painn(dtype=torch.float64, **options):
    torch.manual_seed(0)
    sizes = dict(hidden_features=10, num_interactions=2, num_radial=5, cutoff=4.0)
    model = PaiNN(**{**sizes, **options}).to(dtype)
    for parameter in model.parameters():  # zero biases would hide a leak through padding
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def features(model, pack):
    return model.features(pack.z, pack.pos, pack.edge_index, pack.node_mask, pack.edge_mask)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 14),
    targets=st.integers(1, 3),
    readout=st.sampled_from(["sum", "mean"]),
    loss=st.sampled_from(sorted(LOSSES)),
    references=st.booleans(),
)
def test_pack_equals_its_molecules_one_by_one(seed, count, targets, readout, loss, references):
    rng = np.random.default_rng(seed)
    store = random_store(rng, count, targets=targets)
    table = torch.from_numpy(rng.normal(size=(MAX_Z, targets))) if references else None
    model = small_painn(num_targets=targets, readout=readout, atom_references=table)
    assert_packed_equals_one_by_one(model, store, BUDGET, LOSSES[loss], seed % 1000)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_garbage_in_padding_changes_no_bit(seed, dtype):
    rng = np.random.default_rng(seed)
    store = random_store(rng, 6, targets=2)
    pack = as_dtype(pack_store(store, Budget(nodes=55, edges=500, graphs=7))[0], dtype)  # never full
    dirty = with_garbage(pack, rng)
    assert not pack.node_mask.all() and not torch.equal(pack.z, dirty.z)

    outputs = []
    for batch in (pack, dirty):
        model = small_painn(dtype, num_targets=2)
        prediction = model(*batch.inputs)
        value = LOSSES["mse"](prediction, *batch.targets)
        value.backward()
        outputs.append((prediction.detach(), value.detach(), gradients(model)))
    for clean, garbage in zip(*outputs):
        assert torch.isfinite(clean).all() and torch.equal(clean, garbage)


def test_padding_slots_predict_exactly_zero():
    pack = pack_store(random_store(np.random.default_rng(1), 4), BUDGET)[0]
    prediction = small_painn(torch.float32)(*pack.inputs)
    assert torch.all(prediction[~pack.graph_mask] == 0) and torch.all(prediction[pack.graph_mask] != 0)


def test_an_empty_pack_gives_zero_loss_and_zero_gradients():
    pack = pack_store(random_store(np.random.default_rng(1), 1), BUDGET)[0]
    empty = GraphPack(*[torch.zeros_like(field) for field in pack])
    model = small_painn(torch.float32)
    value = LOSSES["mse"](model(*empty.inputs), *empty.targets)
    value.backward()
    assert float(value.detach()) == 0 and torch.all(gradients(model) == 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), mirror=st.booleans())
def test_scalars_stay_and_vectors_turn_with_the_molecule(seed, mirror):
    rng = np.random.default_rng(seed)
    pack = as_dtype(pack_store(random_store(rng, 6), BUDGET)[0], torch.float64)
    model = small_painn()
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3))))[0]
    turn = turn * torch.sign(torch.linalg.det(turn)) * (-1 if mirror else 1)
    moved = pack._replace(pos=pack.pos @ turn + torch.from_numpy(rng.normal(size=3)))
    close = dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(*pack.inputs), model(*moved.inputs), **close)
    real = pack.node_mask.reshape(-1)
    (scalars, vectors), (same, turned) = features(model, pack), features(model, moved)
    torch.testing.assert_close(scalars[real], same[real], **close)
    torch.testing.assert_close(torch.einsum("nxf,xy->nyf", vectors, turn)[real], turned[real], **close)
    pairs = pack.edge_mask.any()
    assert bool(vectors[real].abs().max() > 1e-3) == bool(pairs)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_atoms_and_edges_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    pack = as_dtype(one_by_one(random_store(rng, 1, largest=9))[0], torch.float64)
    atoms, edges = pack.z.shape[1], pack.edge_mask.shape[1]
    order, edge_order = torch.from_numpy(rng.permutation(atoms)), torch.from_numpy(rng.permutation(edges))
    place = torch.argsort(order)  # of each atom in the new order
    moved = pack._replace(
        z=pack.z[:, order],
        pos=pack.pos[:, order],
        edge_index=place[pack.edge_index.long()][:, :, edge_order],
        edge_mask=pack.edge_mask[:, edge_order],
    )
    model = small_painn()
    torch.testing.assert_close(model(*pack.inputs), model(*moved.inputs), rtol=1e-10, atol=1e-10)
    for before, after in zip(features(model, pack), features(model, moved)):
        torch.testing.assert_close(before[order], after, rtol=1e-10, atol=1e-10)


def bent(degrees: float) -> GraphPack:
    """Three atoms, bonds of 1 Å from the middle one to the others and edges along the bonds alone."""
    angle = np.deg2rad(degrees)
    pos = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [np.cos(angle), np.sin(angle), 0]]], dtype=torch.float64)
    edges = torch.tensor([[[0, 2, 1, 1], [1, 1, 0, 2]]])
    true = torch.ones((1, 4), dtype=torch.bool)
    zero = torch.zeros((1, 1, 1), dtype=torch.float64)
    elements = torch.tensor([[1, 8, 9]], dtype=torch.uint8)
    return GraphPack(elements, pos, torch.zeros((1, 3)).int(), edges, true[:, :3], true, true[:, :1], zero, zero)


def test_angles_matter_where_all_edges_are_equally_long():
    narrow, wide = bent(100.0), bent(150.0)
    torch.manual_seed(0)
    blind = SchNet(hidden_features=12, num_filters=10, num_interactions=2, num_gaussians=9, cutoff=4.0).double()
    torch.nn.init.normal_(blind.head[2].weight)  # type: ignore[arg-type]
    assert abs(float((blind(*narrow.inputs) - blind(*wide.inputs)).detach())) < 1e-12  # the edges' lengths are the same
    model = small_painn()
    assert abs(float(model(*narrow.inputs) - model(*wide.inputs))) > 1e-4
    # One block's update sees the sum of directions; the angle does not need several.
    single = small_painn(num_interactions=1)
    assert abs(float(single(*narrow.inputs) - single(*wide.inputs))) > 1e-4


def test_slopes_by_positions_and_weights_are_right():
    pack = as_dtype(pack_store(random_store(np.random.default_rng(5), 3, largest=4), BUDGET)[0], torch.float64)
    model = small_painn(hidden_features=4, num_radial=3)
    pos = pack.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda pos: model(pack.z, pos, *pack.inputs[2:]), (pos,))
    weights = [model.interactions[0].filter_net.weight, model.interactions[1].mix.weight]
    weights += [model.interactions[0].update_net[2].bias, model.embedding.weight]

    def energies(*values):
        names = {id(weight): name for name, weight in model.named_parameters()}
        return torch.func.functional_call(model, {names[id(w)]: v for w, v in zip(weights, values)}, pack.inputs)

    assert torch.autograd.gradcheck(energies, tuple(w.detach().clone().requires_grad_() for w in weights))


def forces(model, pack):
    """Minus the slope of the energies, differentiated inside the forward pass and differentiable again."""
    pos = pack.pos.detach().requires_grad_()
    energy = model(pack.z, pos, *pack.inputs[2:]).sum()
    return -torch.autograd.grad(energy, pos, create_graph=True)[0]


def test_forces_turn_with_the_molecule_and_add_up_to_nothing():
    rng = np.random.default_rng(6)
    pack = as_dtype(one_by_one(random_store(rng, 1, largest=9))[0], torch.float64)
    model = small_painn()
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3))))[0]
    push = forces(model, pack)
    torch.testing.assert_close(forces(model, pack._replace(pos=pack.pos @ turn)), push @ turn, rtol=1e-9, atol=1e-9)
    assert push.abs().max() > 1e-3 and push.sum(1).abs().max() < 1e-10


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_garbage_in_padding_does_not_reach_forces(seed, dtype):
    rng = np.random.default_rng(seed)
    pack = as_dtype(pack_store(random_store(rng, 5), Budget(nodes=46, edges=400, graphs=6))[0], dtype)
    model = small_painn(dtype)
    slopes = []
    for batch in (pack, with_garbage(pack, rng)):
        model.zero_grad()
        push = forces(model, batch)
        (push * push).sum().backward()
        assert torch.all(push[~pack.node_mask] == 0)
        slopes.append(torch.cat([push.detach().reshape(-1), gradients(model)]))
    assert torch.isfinite(slopes[0]).all() and torch.equal(slopes[0], slopes[1])


@pytest.mark.parametrize("readout, references", [("sum", False), ("mean", True)])
@pytest.mark.parametrize("with_forces", [False, True])
def test_every_operator_has_a_poptorch_handler(readout, references, with_forces):
    table = torch.zeros(MAX_Z, 1) if references else None
    model = small_painn(torch.float32, readout=readout, atom_references=table)
    pack = pack_store(random_store(np.random.default_rng(7), 4), BUDGET)[0]
    with installed_double():
        from poptorch.tracing import handled, operators  # noqa: TID251 (the double)

        def program():
            loss = LOSSES["mse"](model(*pack.inputs), *pack.targets)
            return loss + (forces(model, pack) ** 2).sum() if with_forces else loss

        names = operators(program)
        assert {"gather", "scatter_add", "sin", "split_with_sizes", "embedding"} <= names
        assert [name for name in names if not handled(name)] == []


@pytest.mark.parametrize("features, blocks, radial, targets", [(10, 2, 5, 1), (128, 3, 20, 4), (7, 1, 1, 2)])
def test_number_of_parameters_follows_the_formula(features, blocks, radial, targets):
    model = PaiNN(features, blocks, radial, 5.0, targets)
    half = features // 2
    per_block = 11 * features**2 + 8 * features + 3 * features * (radial + 1)
    head = half * (features + 1) + targets * (half + 1)
    assert sum(p.numel() for p in model.parameters()) == MAX_Z * features + blocks * per_block + head
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def test_half_weights_give_nearly_the_same():
    from ipu_chem.backends.half import HalfOnCpu, weights_to_half

    pack = pack_store(random_store(np.random.default_rng(8), 8), BUDGET)[0]
    model = small_painn(torch.float32, hidden_features=16)
    wide = model(*pack.inputs)
    LOSSES["mse"](wide, *pack.targets).backward()
    slope = gradients(model)
    weights_to_half(model)
    model.zero_grad()
    with HalfOnCpu():
        narrow = model(*pack.inputs)
        LOSSES["mse"](narrow, *pack.targets).backward()
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 0.02 * wide.abs().max()
    assert (gradients(model).float() - slope).norm() < 0.05 * slope.norm()


def test_blocks_are_submodules_in_order_with_all_weights():
    model = small_painn()
    names = dict(model.named_modules())
    assert model.blocks() == ["embedding", "interactions.0", "interactions.1", "head"]
    assert {id(p) for name in model.blocks() for p in names[name].parameters()} == {id(p) for p in model.parameters()}


def test_silu_is_torchs_with_finite_slopes_everywhere():
    x = torch.linspace(-200, 200, 4001, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(silu(x), torch.nn.functional.silu(x), rtol=1e-12, atol=1e-30)
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([-1e30, -1e4, -100.0, -88.0, -1.0, 0.0, 1.0, 88.0, 1e4], dtype=dtype, requires_grad=True)
        first = torch.autograd.grad(silu(x).sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x)[0]
        assert torch.isfinite(torch.stack([silu(x), first, second])).all()
    torch.testing.assert_close(first[-4:].detach(), torch.tensor([0.5, 0.92767051, 1, 1]).double())


def test_sinc_basis_follows_the_formula_in_double():
    distance = torch.linspace(0.1, 5, 50, dtype=torch.float64)
    waves = torch.arange(1, 21, dtype=torch.float64)
    exact = torch.sin(waves * np.pi * distance[:, None] / 5.0) / distance[:, None]
    torch.testing.assert_close(SincBasis(20, 5.0)(distance), exact, rtol=1e-12, atol=1e-12)
    assert SincBasis(20, 5.0)(distance)[-1].abs().max() < 1e-14


def test_is_known_by_name_and_takes_its_own_sizes():
    assert {"hidden_features", "num_interactions", "num_radial", "cutoff", "table_points"} == sizes_of("painn")
    shared = dict(hidden_features=8, num_filters=9, num_interactions=2, num_gaussians=7, cutoff=3.0)
    own = {size: value for size, value in shared.items() if size in sizes_of("painn")}
    model = build_model("painn", 2, extensive=False, **own)
    assert isinstance(model, PaiNN) and len(model.interactions) == 2 and model.readout == "mean"
    assert model.embedding.weight.shape == (MAX_Z, 8) and model.head[2].weight.shape == (2, 4)  # type: ignore
    assert isinstance(build_model("schnet", 1, extensive=True, **shared), SchNet)
    with pytest.raises(ValueError, match="painn has no hidden_size; it takes cutoff, hidden_features"):
        build_model("painn", 1, extensive=True, hidden_size=8)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"readout": "max"}, "readout='max'"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"num_radial": 0}, "1 or more radial functions"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_painn(**options)
