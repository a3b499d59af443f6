"""SpookyNet: packed equals one by one, padding is inert, energies follow no coordinate system but charge and spin."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spooky_cases import PLAIN, forces, small_spookynet
from support import (
    as_dtype,
    assert_packed_equals_one_by_one,
    gradients,
    one_by_one,
    pack_store,
    pairs_once,
    random_store,
    with_garbage,
)

from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.poptorch.operators.check import check_program
from ipu_chem.batches.types import GraphPack
from ipu_chem.losses import LOSSES
from ipu_chem.models.registry import build_model, sizes_of
from ipu_chem.models.schnet import MAX_Z
from ipu_chem.models.spookynet import SpookyNet
from packing import Budget

BUDGET = Budget(nodes=24, edges=220, graphs=7)
ROOMY = Budget(nodes=55, edges=500, graphs=7)  # never full
DTYPES = [torch.float32, torch.float64]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 14),
    targets=st.integers(1, 3),
    readout=st.sampled_from(["sum", "mean"]),
    loss=st.sampled_from(sorted(LOSSES)),
    undirected=st.booleans(),
    references=st.booleans(),
)
def test_pack_equals_its_molecules_one_by_one(seed, count, targets, readout, loss, undirected, references):
    rng = np.random.default_rng(seed)
    store = random_store(rng, count, targets=targets)
    store = pairs_once(store) if undirected else store
    physical = {} if (targets, readout) == (1, "sum") else PLAIN
    table = torch.from_numpy(rng.normal(size=(MAX_Z, targets))) if references else None
    model = small_spookynet(
        num_targets=targets, readout=readout, undirected=undirected, atom_references=table, **physical
    )
    assert_packed_equals_one_by_one(model, store, BUDGET, LOSSES[loss], seed % 1000, 1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 9), dtype=st.sampled_from(DTYPES))
def test_forces_and_their_slopes_in_packs_equal_those_one_by_one(seed, count, dtype):
    rng = np.random.default_rng(seed)
    store = random_store(rng, count)
    pack, order = pack_store(store, BUDGET, seed % 1000)
    pack, model = with_garbage(as_dtype(pack, dtype), rng), small_spookynet(dtype)
    together = forces(model, pack)
    (together**2).sum().backward()
    slopes, energies = gradients(model), model(*pack.inputs).detach()[pack.graph_mask]
    model.zero_grad()
    alone = [forces(model, as_dtype(single, dtype)) for single in one_by_one(store)]
    sum((push**2).sum() for push in alone).backward()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    close = dict(rtol=tolerance, atol=tolerance * float(slopes.abs().max()))
    torch.testing.assert_close(gradients(model), slopes, **close)
    close = dict(rtol=tolerance, atol=tolerance * float(together.detach().abs().max()))
    expected = torch.cat([alone[item][0] for item in order])
    torch.testing.assert_close(together[pack.node_mask].detach(), expected.detach(), **close)
    expected = torch.stack([model(*as_dtype(single, dtype).inputs)[0, 0] for single in one_by_one(store)])[order]
    torch.testing.assert_close(energies, expected.detach(), rtol=tolerance, atol=tolerance)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from(DTYPES), undirected=st.booleans())
def test_garbage_in_padding_changes_no_bit(seed, dtype, undirected):
    rng = np.random.default_rng(seed)
    store = random_store(rng, 6)
    pack = as_dtype(pack_store(pairs_once(store) if undirected else store, ROOMY)[0], dtype)
    outcomes = []
    for batch, garbage in ((pack, 0), (with_garbage(pack, rng), -128)):
        model = small_spookynet(dtype, garbage, undirected=undirected)
        prediction = model(*batch.inputs)
        push = forces(model, batch)
        (LOSSES["mse"](prediction, *batch.targets) + (push**2).sum()).backward()
        assert torch.all(push[~pack.node_mask] == 0) and torch.all(prediction[~pack.graph_mask] == 0)
        outcomes.append((prediction.detach(), push.detach(), gradients(model), model.charges(*batch.inputs).detach()))
    for clean, dirty in zip(*outcomes):
        assert torch.isfinite(clean).all() and torch.equal(clean, dirty)


def test_an_empty_pack_gives_zero_loss_and_zero_gradients():
    pack = pack_store(random_store(np.random.default_rng(1), 1), BUDGET)[0]
    empty = GraphPack(*[torch.zeros_like(field) for field in pack])
    model = small_spookynet(torch.float32)
    value = LOSSES["mse"](model(*empty.inputs), *empty.targets) + (forces(model, empty) ** 2).sum()
    value.backward()
    assert float(value.detach()) == 0 and torch.all(gradients(model) == 0)
    # Nonsense that no 16-bit number holds is nonsense all the same.
    state = [torch.full(pack.graph_mask.shape, value) for value in (2**30, -(2**30))]
    weights_to_half(model)
    with HalfOnCpu():
        assert torch.all(model.model(*empty.inputs, *state) == 0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), mirror=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_energies_stay_and_forces_turn_with_the_molecule(seed, mirror, dtype):
    rng = np.random.default_rng(seed)
    pack = as_dtype(pack_store(random_store(rng, 6), BUDGET)[0], dtype)
    model = small_spookynet(dtype)
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3))))[0]
    turn = (turn * torch.sign(torch.linalg.det(turn)) * (-1 if mirror else 1)).to(dtype)
    moved = pack._replace(pos=pack.pos @ turn + torch.from_numpy(rng.normal(size=3)).to(dtype))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(model(*pack.inputs), model(*moved.inputs), rtol=tolerance, atol=tolerance)
    before, after = forces(model, pack), forces(model, moved)
    largest = float(before.detach().abs().max())
    torch.testing.assert_close(before @ turn, after, rtol=0, atol=10 * tolerance * max(largest, 1.0))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_atoms_and_edges_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    pack = as_dtype(one_by_one(random_store(rng, 1, largest=9))[0], torch.float64)
    atoms, edges = pack.z.shape[1], pack.edge_mask.shape[1]
    order, edge_order = torch.from_numpy(rng.permutation(atoms)), torch.from_numpy(rng.permutation(edges))
    moved = pack._replace(
        z=pack.z[:, order],
        pos=pack.pos[:, order],
        edge_index=torch.argsort(order)[pack.edge_index.long()][:, :, edge_order],
        edge_mask=pack.edge_mask[:, edge_order],
    )
    model = small_spookynet()
    torch.testing.assert_close(model(*pack.inputs), model(*moved.inputs), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forces(model, pack)[:, order], forces(model, moved), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(model.charges(*pack.inputs)[:, order], model.charges(*moved.inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["all", "learned"])
def test_forces_are_slopes_of_the_energy(options):
    pack = as_dtype(pack_store(random_store(np.random.default_rng(5), 4, largest=5), BUDGET)[0], torch.float64)
    model = small_spookynet(**options)

    def energy(pos):
        return float(model(pack.z, pos, *pack.inputs[2:]).sum().detach())

    found, h = forces(model, pack).detach(), 1e-3
    expected = torch.zeros_like(found)
    for place in torch.nonzero(pack.node_mask.unsqueeze(2).expand_as(pack.pos)).tolist():
        step = torch.zeros_like(pack.pos)
        step[tuple(place)] = h
        near = energy(pack.pos + step) - energy(pack.pos - step)
        far = energy(pack.pos + 2 * step) - energy(pack.pos - 2 * step)
        expected[tuple(place)] = -(8 * near - far) / (12 * h)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(found.abs().max()))


def test_slopes_of_weights_are_right():
    pack = as_dtype(pack_store(random_store(np.random.default_rng(5), 3, largest=4), BUDGET)[0], torch.float64)
    model = small_spookynet(hidden_features=3, num_radial=3, num_interactions=1)
    # Of every kind of weight, the physical terms' included.
    kinds = "decay alpha beta element key.weight query.weight filters.weight mix_d.weight power shares s8 a1 a2".split()
    names = {kind: [name for name, _ in model.named_parameters() if name.endswith(kind)][-1] for kind in kinds}
    weights = dict(model.named_parameters())

    def energies(*values):
        return torch.func.functional_call(model, dict(zip(names.values(), values)), pack.inputs)

    assert torch.autograd.gradcheck(
        energies, tuple(weights[name].detach().clone().requires_grad_() for name in names.values())
    )


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
    energy = model(pack.z, pos, *pack.inputs[2:], *state)
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
            energies.append(model(*pack.inputs, *state).detach()[pack.graph_mask])
        for one in range(6):
            for other in range(one):
                assert (energies[one] - energies[other]).abs().min() > 1e-6


def test_molecules_of_a_pack_do_not_see_each_other_and_all_of_a_molecule_does():
    store = random_store(np.random.default_rng(4), 3, largest=6)
    pack = as_dtype(pack_store(store, BUDGET)[0], torch.float64)
    model = small_spookynet(**PLAIN)
    first = pack.graph_index == 0
    changed = pack._replace(
        z=torch.where(first, pack.z, 9 + pack.z % 2).to(pack.z.dtype),
        pos=torch.where(first.unsqueeze(2), pack.pos, 0.9 * pack.pos),
    )
    before, after = model(*pack.inputs)[0].detach(), model(*changed.inputs)[0].detach()
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])

    # Two atoms of one molecule, 50 Å apart and without an edge: elements are felt, as the paper's attention does.
    far = as_dtype(one_by_one(random_store(np.random.default_rng(0), 1, largest=1))[0], torch.float64)
    pos, two = torch.tensor([[[0.0, 0, 0], [50.0, 0, 0]]], dtype=torch.float64), torch.ones((1, 2)).bool()
    energies = []
    for element in (6, 8):
        pair = far._replace(z=torch.tensor([[1, element]]), pos=pos, graph_index=torch.zeros(1, 2).int(), node_mask=two)
        state = torch.zeros((1, 1)).int()
        energies.append(model.model(*pair.inputs, state, state).detach())
        alone = model.model(*pair._replace(node_mask=two & torch.tensor([[True, False]])).inputs, state, state).detach()
        energies.append(energies[-1] - alone)
    assert abs(float(energies[1] - energies[3])) > 1e-6


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["all", "learned"])
def test_pairs_work_as_edges_in_both_directions(options):
    store = random_store(np.random.default_rng(3), 9)
    outcomes = []
    for each, undirected in ((store, False), (pairs_once(store), True)):
        pack = as_dtype(pack_store(each, BUDGET)[0], torch.float64)
        model = small_spookynet(undirected=undirected, **options)
        prediction, push = model(*pack.inputs), forces(model, pack)
        (LOSSES["mse"](prediction, *pack.targets) + (push**2).sum()).backward()
        outcomes.append((prediction.detach(), push.detach(), gradients(model)))
    for directed, once in zip(*outcomes):
        torch.testing.assert_close(directed, once, rtol=1e-10, atol=1e-10 * float(directed.abs().max()))


class Training(torch.nn.Module):
    """A program that ends in a loss, with forces in it or not."""

    def __init__(self, model, with_forces):
        super().__init__()
        self.model, self.with_forces = model, with_forces

    def forward(self, z, pos, *others):
        *others, charge, spin, y, weight = others
        pos = pos.detach().requires_grad_(self.with_forces)
        energy = self.model(z, pos, *others, charge, spin)
        loss = LOSSES["mse"](energy, y, weight)
        if not self.with_forces:
            return loss
        push = -torch.autograd.grad(energy.sum(), pos, create_graph=True)[0]
        return loss + (push * push).sum()


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("with_forces", [False, True])
@pytest.mark.parametrize("options", [{}, PLAIN, {**PLAIN, "readout": "mean", "num_targets": 2}, {"undirected": True}])
def test_every_operator_has_a_poptorch_handler(options, with_forces, weights):
    targets = options.get("num_targets", 1)
    table = torch.zeros(MAX_Z, targets)
    model = small_spookynet(torch.float32, atom_references=table, **options)
    examples = []
    for seed in (0, 1):
        pack = pack_store(random_store(np.random.default_rng(seed), 4, targets=targets), ROOMY)[0]
        y, weight = (target.float() for target in pack.targets)
        examples.append((*pack.inputs, *model.state(*pack.inputs), y, weight))
    program = Training(model.model, with_forces)
    if weights == "float16":
        weights_to_half(program)
        with HalfOnCpu():
            report = check_program(program, *examples)
    else:
        report = check_program(program, *examples)
    assert report.findings == (), report.text()
    assert {"gather", "scatter_add", "bmm", "amax", "expm1", "embedding"} <= set(report.operators)
    assert not {"_softmax", "softplus", "silu", "sigmoid"} & set(report.operators)


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["all", "learned"])
def test_half_weights_give_nearly_the_same(options):
    pack = pack_store(random_store(np.random.default_rng(8), 8), BUDGET)[0]
    model = small_spookynet(torch.float32, noise=0.1, hidden_features=16, **options)
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
    assert not any(getattr(build_model(name, 1, True), "needs_charge", False) for name in ("schnet", "painn"))
    with pytest.raises(ValueError, match="model.filter='table': spookynet has exact filters only"):
        build_model("spookynet", 1, extensive=True, filter="table", **shared)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"readout": "max"}, "readout='max'"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"num_radial": 0}, "1 or more radial functions"),
        ({"energy_scale": 0.0}, "energy_scale=0.0"),
        ({"num_targets": 2}, "2 targets with readout='sum': repulsion, electrostatics and dispersion add to one"),
        ({"readout": "mean", "use_zbl": False}, "1 targets with readout='mean'"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small_spookynet(**options)
