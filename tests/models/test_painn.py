"""PaiNN: scalars stay and vectors turn with the molecule; the rest is in the contract of graph models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    GraphPack,
    as_dtype,
    one_by_one,
    pack_store,
    random_store,
)

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
    return model.features(pack.graph)


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


@pytest.mark.parametrize("features, blocks, radial, targets", [(10, 2, 5, 1), (128, 3, 20, 4), (7, 1, 1, 2)])
def test_number_of_parameters_follows_the_formula(features, blocks, radial, targets):
    model = PaiNN(features, blocks, radial, 5.0, targets)
    half = features // 2
    per_block = 11 * features**2 + 8 * features + 3 * features * (radial + 1)
    head = half * (features + 1) + targets * (half + 1)
    assert sum(p.numel() for p in model.parameters()) == MAX_Z * features + blocks * per_block + head
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def test_blocks_are_submodules_in_order_with_all_weights():
    model = small_painn()
    names = dict(model.named_modules())
    assert model.blocks() == ["embedding", "interactions.0", "interactions.1", "head"]
    assert {id(p) for name in model.blocks() for p in names[name].parameters()} == {id(p) for p in model.parameters()}


def test_silu_is_torchs_with_finite_derivatives_everywhere():
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
        ({"num_radial": 0}, "num_radial=0: give an integer from 1 to 10,000"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_painn(**options)
