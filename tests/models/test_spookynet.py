"""SpookyNet: charge, spin and what is far away; the rest is in the contract of graph models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spooky_cases import PLAIN, small_spookynet
from support import (
    GraphPack,
    as_dtype,
    gradients,
    one_by_one,
    pack_store,
    pairs_once,
    random_store,
    with_garbage,
)

from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.models.base import Graph
from ipu_chem.models.registry import build_model, sizes_of
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.spookynet import SpookyNet
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)
ROOMY = Budget(nodes=55, edges=500, graphs=7)  # never full
DTYPES = [torch.float32, torch.float64]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_partial_charges_follow_atoms_and_not_padding(seed):
    rng = np.random.default_rng(seed)
    pack = as_dtype(pack_store(random_store(rng, 6), ROOMY)[0], torch.float64)
    clean = small_spookynet(garbage=0).charges(pack.graph)
    assert torch.equal(clean, small_spookynet(garbage=-128).charges(with_garbage(pack, rng).graph))
    assert torch.isfinite(clean).all()
    pack = as_dtype(one_by_one(random_store(rng, 1, largest=9))[0], torch.float64)
    order = torch.from_numpy(rng.permutation(pack.z.shape[1]))
    edge_index = torch.argsort(order)[pack.edge_index.long()]
    moved = pack._replace(z=pack.z[:, order], pos=pack.pos[:, order], edge_index=edge_index)
    model = small_spookynet()
    torch.testing.assert_close(model.charges(pack.graph)[:, order], model.charges(moved.graph), rtol=0, atol=1e-12)


def test_charges_that_no_16_bit_number_holds_are_padding_all_the_same():
    pack = pack_store(random_store(np.random.default_rng(1), 1), BUDGET)[0]
    empty = GraphPack(*[torch.zeros_like(field) for field in pack])
    charge, spin = (torch.full(pack.graph_mask.shape, value) for value in (2**30, -(2**30)))
    model = small_spookynet(torch.float32)
    weights_to_half(model)
    with HalfOnCpu():
        assert torch.all(model.model(empty.graph._replace(charge=charge, spin=spin)) == 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("undirected", [False, True])
def test_second_derivatives_are_finite_at_the_start_of_training(dtype, undirected):
    store = random_store(np.random.default_rng(9), 12, largest=4)
    assert 1 in store.sizes()["nodes"]  # an atom alone
    pack = as_dtype(pack_store(pairs_once(store) if undirected else store, ROOMY)[0], dtype)
    torch.manual_seed(0)
    model = SpookyNet(16, 2, 8, 4.0, undirected=undirected).to(dtype)
    state = (torch.zeros(pack.graph_mask.shape).int(), torch.zeros(pack.graph_mask.shape).int())
    pos = pack.pos.clone().requires_grad_()
    energy = model(Graph(*pack._replace(pos=pos).graph[:7], *state))
    (push,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
    (curvature,) = torch.autograd.grad((push**2).sum(), pos, retain_graph=True)
    (energy.sum() + (push**2).sum()).backward()
    assert torch.isfinite(curvature).all() and curvature.abs().max() > 0
    assert torch.isfinite(gradients(model)).all()
    moving = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"embedding.nucleus.element", "head.element.weight", "zbl.power", "dispersion.s8"} <= moving


def test_charge_and_spin_change_the_energy():
    pack = as_dtype(pack_store(random_store(np.random.default_rng(2), 5), BUDGET)[0], torch.float64)
    for options in ({}, PLAIN):
        model = small_spookynet(**options).model
        energies = []
        for charge, spin in ((0, 0), (1, 0), (-1, 0), (2, 0), (0, 1), (0, 2)):
            state = (torch.full(pack.graph_mask.shape, value).to(torch.int8) for value in (charge, spin))
            energies.append(model(Graph(*pack.graph[:7], *state)).detach()[pack.graph_mask])
        for one in range(6):
            for other in range(one):
                assert (energies[one] - energies[other]).abs().min() > 1e-6


def test_all_of_a_molecule_sees_itself():
    model = small_spookynet(**PLAIN)
    # Two atoms of one molecule, 50 Å apart and without an edge: elements are felt, as the paper's attention does.
    far = as_dtype(one_by_one(random_store(np.random.default_rng(0), 1, largest=1))[0], torch.float64)
    pos, two = torch.tensor([[[0.0, 0, 0], [50.0, 0, 0]]], dtype=torch.float64), torch.ones((1, 2)).bool()
    energies = []
    for element in (6, 8):
        pair = far._replace(z=torch.tensor([[1, element]]), pos=pos, graph_index=torch.zeros(1, 2).int(), node_mask=two)
        state = torch.zeros((1, 1)).int()
        whole = pair.graph._replace(charge=state, spin=state)
        energies.append(model.model(whole).detach())
        alone = model.model(whole._replace(node_mask=two & torch.tensor([[True, False]]))).detach()
        energies.append(energies[-1] - alone)
    assert abs(float(energies[1] - energies[3])) > 1e-6


@pytest.mark.parametrize("features, blocks, radial, targets", [(10, 2, 5, 1), (128, 6, 16, 1), (7, 1, 1, 2)])
def test_number_of_parameters_follows_the_formula(features, blocks, radial, targets):
    def number(**options):
        model = SpookyNet(features, blocks, radial, 5.0, targets, **options)
        assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]
        return sum(p.numel() for p in model.parameters())

    body = blocks * (35 * features**2 + 93 * features + 3 * radial * features)
    body += 8 * features**2 + (MAX_Z + 40) * features + 1
    assert number(**PLAIN) == body + targets * (features + MAX_Z)
    if targets == 1:
        assert number() == body + 2 * (features + MAX_Z) + 10 + 4
        assert number(use_zbl=False, use_dispersion=False) == body + 2 * (features + MAX_Z)


def test_blocks_are_submodules_in_order_with_all_but_the_smallest_weights():
    model = small_spookynet().model
    names = dict(model.named_modules())
    assert model.blocks() == ["embedding", "interactions.0", "interactions.1", "head"]
    inside = {id(p) for name in model.blocks() for p in names[name].parameters()}
    outside = [name for name, p in model.named_parameters() if id(p) not in inside]
    assert {name.split(".")[0] for name in outside} == {"basis", "zbl", "dispersion"} and len(outside) == 9


def test_is_known_by_name_and_takes_its_own_sizes():
    terms = {"use_zbl", "use_electrostatics", "use_dispersion"}
    assert sizes_of("spookynet") == {"hidden_features", "num_interactions", "num_radial", "cutoff"} | terms
    shared = dict(hidden_features=8, num_interactions=2, cutoff=3.0)
    model = build_model("spookynet", 1, extensive=True, filter="auto", undirected=True, energy_scale=0.5, **shared)
    assert isinstance(model, SpookyNet) and len(model.interactions) == 2 and model.undirected
    assert model.needs_charge and model.energy_scale == 0.5 and model.cutoff == 3.0
    assert build_model("spookynet", 2, extensive=False, **shared, **PLAIN).readout == "mean"
    assert not any(build_model(name, 1, True).needs_charge for name in ("schnet", "painn"))
    with pytest.raises(ValueError, match="model.filter='table': spookynet has exact filters only"):
        build_model("spookynet", 1, extensive=True, filter="table", **shared)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"readout": "max"}, "readout='max'"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"num_radial": 0}, "num_radial=0: give an integer from 1 to 10,000"),
        ({"energy_scale": 0.0}, "energy_scale=0.0"),
        ({"num_targets": 2}, "2 targets with readout='sum': repulsion, electrostatics and dispersion add to one"),
        ({"readout": "mean", "use_zbl": False}, "1 targets with readout='mean'"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_spookynet(**options)
