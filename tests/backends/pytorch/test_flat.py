"""Weights in one tensor: the same steps, the same checkpoints."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.flat import FlatWeights
from ipu_chem.backends.pytorch.numerics import build_optimizer
from ipu_chem.batches.types import compact_kind
from ipu_chem.losses import huber, mse, with_forces
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.painn import PaiNN
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig

OPTIMIZERS = [
    OptimizerConfig("adamw", weight_decay=0.01),
    OptimizerConfig("adam", weight_decay=0.01, max_grad_norm=0.1),
    OptimizerConfig("sgd", momentum=0.9),
]
LOSSES = [with_forces(mse, 0.95), with_forces(huber, 0.5)]


def batch(packs=4, seed=0):
    """Packs of two molecules of five atoms, the last slots padding; one label is missing."""
    random = np.random.default_rng(seed)
    pairs = [(i + start, j + start) for start in (0, 5) for i in range(5) for j in range(i + 1, 5)]
    edges = np.zeros((packs, 2, 24), np.int64)
    edges[:, :, : len(pairs)] = np.array(pairs).T
    forces = random.normal(size=(packs, 12, 3))
    force_weight = np.zeros((packs, 12, 1))
    force_weight[:, :10] = 1 / (3 * 10 * packs)
    weight = np.zeros((packs, 3, 1))
    weight[:, :2] = 1 / (2 * packs)
    weight[0, 0] = 0.0
    fields = dict(
        z=torch.from_numpy(random.integers(1, 9, (packs, 12)).astype(np.uint8)),
        pos=torch.from_numpy(random.normal(scale=1.5, size=(packs, 12, 3)).astype(np.float32)),
        graph_ends=torch.tensor([[5, 10, 10]] * packs),
        edge_index=torch.from_numpy(edges),
        num_edges=torch.full((packs, 1), len(pairs)),
        y=torch.from_numpy(random.normal(size=(packs, 3, 1)).astype(np.float32)),
        weight=torch.from_numpy(weight.astype(np.float32)),
        forces=torch.from_numpy(forces.astype(np.float32)),
        force_weight=torch.from_numpy(force_weight.astype(np.float32)),
    )
    return compact_kind(forces=True)(**fields)


def started(kind, optimizer, batching, kernels=True, loss=LOSSES[0], model=None):
    torch.manual_seed(0)
    model = model or kind(hidden_features=32, num_interactions=2, cutoff=4.0, undirected=True)
    nn.init.normal_(model.head[2].weight, std=0.3)
    backend = TorchBackend(options=TorchOptions(kernels=kernels))
    backend.compile(CompactInputs(EnergyForces(model)), loss, optimizer, batching, batch())
    return backend


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: one.name)
@pytest.mark.parametrize("kind", [SchNet, PaiNN])
def test_steps_are_those_of_single_weights(kind, optimizer, loss, monkeypatch):
    flat = started(kind, optimizer, Batching(2, 2), loss=loss)
    assert flat._flat is not None and [len(group["params"]) for group in flat._flat.groups] == [1]
    monkeypatch.setattr(TorchBackend, "_may_be_flat", lambda self: False)
    single = started(kind, optimizer, Batching(2, 2), loss=loss)
    assert single._flat is None
    for step in range(4):
        ours, theirs = flat.train_step(batch(seed=step), 1e-3), single.train_step(batch(seed=step), 1e-3)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    ours, theirs = flat.state_dict(), single.state_dict()
    assert ours["optimizer"].keys() == theirs["optimizer"].keys()
    for name, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][name], value, rtol=1e-4, atol=2e-5)
    for name, value in theirs["optimizer"].items():
        torch.testing.assert_close(ours["optimizer"][name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("flat_first", [True, False])
def test_runs_go_on_from_checkpoints_of_either_form(flat_first, monkeypatch):
    may_be = TorchBackend._may_be_flat

    def one(flat):
        monkeypatch.setattr(TorchBackend, "_may_be_flat", may_be if flat else lambda self: False)
        return started(PaiNN, OptimizerConfig("adamw"), Batching(4))

    first = one(flat_first)
    first.train_step(batch(), 1e-3)
    state = copy.deepcopy(first.state_dict())
    expected = first.train_step(batch(seed=1), 1e-3), first.train_step(batch(seed=2), 1e-3)
    second = one(not flat_first)
    second.load_state_dict(state)
    assert all(torch.equal(value, second.state_dict()["optimizer"][name]) for name, value in state["optimizer"].items())
    got = second.train_step(batch(seed=1), 1e-3), second.train_step(batch(seed=2), 1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_adamw_is_that_of_single_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1))
    other = copy.deepcopy(net)
    config = OptimizerConfig("adamw", learning_rate=1e-2, weight_decay=0.1)
    flat = FlatWeights([{"params": list(net.parameters())}])
    optimizers = [build_optimizer(config, flat.groups), build_optimizer(config, other.parameters())]
    for _ in range(5):
        x = torch.randn(6, 7)
        flat.clear_gradients()
        optimizers[1].zero_grad()
        for model, optimizer in zip((net, other), optimizers):
            (model(x) ** 2).sum().backward()
            optimizer.step()
    for ours, theirs in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert all(weight.data_ptr() % 64 == 0 for weight in net.parameters())


def test_groups_keep_their_options_and_the_numbers_of_their_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weights = list(net.parameters())
    flat = FlatWeights([{"params": weights[:3], "lr": 0.1}, {"params": weights[3:], "lr": 0.2}])
    assert [group["lr"] for group in flat.groups] == [0.1, 0.2]
    state = {
        place: {"step": torch.tensor(3.0), "exp_avg": torch.full_like(weight.data, float(place))}
        for place, weight in enumerate(weights)
    }
    joined = flat.together(state)
    assert sorted(joined) == [0, 1] and joined[0]["exp_avg"].shape == flat.values[0].shape
    back = flat.apart(joined)
    assert sorted(back) == sorted(state)
    for place, values in state.items():
        for name, value in values.items():
            assert torch.equal(back[place][name], value)
    assert flat.apart({}) == flat.together({}) == {}
    del state[1]  # a weight that nothing has moved yet
    assert not flat.apart(flat.together(state))[1]["exp_avg"].any()


def test_decay_leaves_weights_alone_that_nothing_depends_on():
    class Idle(SchNet):
        def __init__(self, **options):
            super().__init__(**options)
            self.idle = nn.Parameter(torch.ones(3))

    options = dict(hidden_features=16, num_filters=16, num_interactions=1, cutoff=4.0, undirected=True)
    backend = started(None, OPTIMIZERS[0], Batching(4), model=Idle(**options))
    backend.train_step(batch(), 1e-1)
    assert backend._flat is None and torch.equal(backend.state_dict()["model"]["idle"], torch.ones(3))


def test_packs_that_kernels_leave_to_autograd_train_all_the_same():
    optimizer = OptimizerConfig("adamw", weight_decay=0.01)
    native, plain = (started(PaiNN, optimizer, Batching(4), kernels) for kernels in (True, False))
    assert native._flat is not None
    looped = batch()
    looped.edge_index[0, :, 0] = 2  # an atom with itself
    for step in (looped, batch(seed=1), looped):
        torch.testing.assert_close(native.train_step(step, 1e-3), plain.train_step(step, 1e-3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_that_others_have_dropped_or_weights_that_they_have_moved_are_trained_all_the_same(kernels):
    optimizer = OptimizerConfig("adamw")
    left, touched = (started(PaiNN, optimizer, Batching(4), kernels) for _ in range(2))
    model = touched._program.model
    for step in range(4):
        if step == 1:
            model.zero_grad()
        if step == 2:
            for weight in model.parameters():
                weight.data = weight.data.clone()
        if step == 3:
            model.double().float()
        losses = [backend.train_step(batch(seed=step), 1e-2) for backend in (left, touched)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-7)
    for name, value in left.state_dict()["model"].items():
        torch.testing.assert_close(touched.state_dict()["model"][name], value, rtol=1e-4, atol=1e-5)
