"""Forces: minus the slope of the energy, in packs as one by one, with slopes of their own for training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import as_dtype, gradients, one_by_one, pack_store, pairs_once, random_store, with_garbage

from ipu_chem.losses import LOSSES, with_forces
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from packing import Budget

BUDGET = Budget(nodes=30, edges=260, graphs=8)
MODELS = ["schnet", "painn"]


def force_model(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = {
        "schnet": lambda: SchNet(8, 9, 2, 7, 4.0, **options),
        "painn": lambda: PaiNN(8, 2, 5, 4.0, **options),
    }[name]()
    for parameter in model.parameters():  # a head of zeros would give no forces
        parameter.data += 0.2 * torch.randn_like(parameter)
    return EnergyForces(model.to(dtype))


def force_loss(model, pack, forces):
    """Of energies and forces, all of weight 1; random labels in ``forces`` [B, N, 3]."""
    prediction = model(*pack.inputs)
    weight = pack.node_mask.unsqueeze(-1).to(forces.dtype)
    return prediction, with_forces(LOSSES["mse"], 0.7)(prediction, pack.y, pack.weight, forces, weight)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 10),
    name=st.sampled_from(MODELS),
    filter=st.sampled_from(["exact", "table", "chebyshev"]),
    undirected=st.booleans(),
)
def test_pack_equals_its_molecules_one_by_one(seed, count, name, filter, undirected):
    rng = np.random.default_rng(seed)
    store = random_store(rng, count)
    store = pairs_once(store) if undirected else store
    model = force_model(name, filter=filter, undirected=undirected)
    pack, order = pack_store(store, BUDGET, seed % 1000)
    pack = as_dtype(pack, torch.float64)
    labels = torch.from_numpy(rng.normal(size=tuple(pack.pos.shape)))
    (energies, forces), value = force_loss(model, pack, labels)
    value.backward()
    together = gradients(model)
    model.zero_grad()

    starts = store.axes["nodes"]
    of_atoms = labels[pack.node_mask].split([int(starts[i + 1] - starts[i]) for i in order])
    label_of = dict(zip(order.tolist(), of_atoms))
    alone, total = [], 0.0
    for item, single in enumerate(one_by_one(store)):
        single = as_dtype(single, torch.float64)
        output, part = force_loss(model, single, label_of[item].unsqueeze(0))
        part.backward()
        alone.append(tuple(value.detach()[0] for value in output))
        total += float(part.detach())
    close = dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(energies[pack.graph_mask].detach(), torch.cat([alone[i][0] for i in order]), **close)
    torch.testing.assert_close(forces[pack.node_mask].detach(), torch.cat([alone[i][1] for i in order]), **close)
    assert float(value.detach()) == pytest.approx(total, rel=1e-10)
    torch.testing.assert_close(together, gradients(model), **close)


@pytest.mark.parametrize("filter", ["exact", "table"])
@pytest.mark.parametrize("name", MODELS)
def test_forces_are_finite_differences_through_packs(name, filter):
    rng = np.random.default_rng(4)
    pack = as_dtype(pack_store(random_store(rng, 9, cutoff=3.9), BUDGET)[0], torch.float64)
    model = force_model(name, filter=filter, table_points=64 if filter == "table" else 0).eval()
    forces = model(*pack.inputs)[1][pack.node_mask]
    step, places = 1e-5, pack.node_mask.nonzero()
    differences = torch.zeros_like(forces)
    for row, (b, n) in enumerate(places.tolist()):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                pos = pack.pos.clone()
                pos[b, n, axis] += sign * step
                energies.append(model(*pack._replace(pos=pos).inputs)[0].sum())
            differences[row, axis] = -(energies[0] - energies[1]) / (2 * step)
    assert forces.abs().max() > 0.1
    torch.testing.assert_close(forces, differences, rtol=1e-6, atol=1e-6 * float(forces.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_garbage_in_padding_changes_no_bit_and_padding_feels_no_force(name, dtype):
    rng = np.random.default_rng(2)
    pack = as_dtype(pack_store(random_store(rng, 6), Budget(nodes=55, edges=500, graphs=7))[0], dtype)  # never full
    labels = torch.from_numpy(rng.normal(size=tuple(pack.pos.shape))).to(dtype)
    outputs = []
    for batch, wanted in (
        (pack, labels),
        (with_garbage(pack, rng), torch.where(pack.node_mask.unsqueeze(-1), labels, torch.nan)),
    ):
        model = force_model(name, dtype)
        (energies, forces), value = force_loss(model, batch._replace(node_mask=pack.node_mask), wanted)
        value.backward()
        assert torch.all(forces[~pack.node_mask] == 0)
        outputs.append((energies.detach(), forces.detach(), value.detach(), gradients(model)))
    for clean, garbage in zip(*outputs):
        assert torch.isfinite(clean).all() and torch.equal(clean, garbage)


@pytest.mark.parametrize("name", MODELS)
def test_net_forces_and_torques_vanish(name):
    pack = as_dtype(pack_store(random_store(np.random.default_rng(3), 8), BUDGET)[0], torch.float64)
    forces = force_model(name).eval()(*pack.inputs)[1]
    for b in range(len(pack.z)):
        for graph in range(int(pack.graph_mask[b].sum())):
            mine = (pack.graph_index[b] == graph) & pack.node_mask[b]
            force, place = forces[b][mine], pack.pos[b][mine]
            assert force.sum(0).abs().max() < 1e-10 and torch.linalg.cross(place, force).sum(0).abs().max() < 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_keeps_no_graph_and_gives_the_same(name):
    pack = as_dtype(pack_store(random_store(np.random.default_rng(3), 8), BUDGET)[0], torch.float64)
    model = force_model(name)
    training = model.train()(*pack.inputs)
    with torch.no_grad():
        evaluated = model.eval()(*pack.inputs)
    for one, other in zip(training, evaluated):
        assert one.requires_grad and not other.requires_grad
        assert torch.equal(one.detach(), other)


def test_the_softplus_of_force_models_has_the_right_slopes_everywhere():
    x = torch.linspace(-120.0, 120.0, 2001, dtype=torch.float64, requires_grad=True)  # 0 among them
    activation = ShiftedSoftplus()
    activation.elementary = True
    value = activation(x)
    torch.testing.assert_close(value, torch.logaddexp(x, torch.zeros_like(x)) - np.log(2.0), rtol=1e-13, atol=1e-14)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, torch.sigmoid(x), rtol=1e-12, atol=1e-15)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    inner = x.detach() != 0
    expected = torch.sigmoid(x) * torch.sigmoid(-x)
    torch.testing.assert_close(curvature[inner], expected[inner].detach(), rtol=1e-10, atol=1e-15)


def test_a_share_of_forces_that_is_none_is_refused():
    for share in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match="force_share"):
            with_forces(LOSSES["mse"], share)
