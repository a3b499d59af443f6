"""The torch backend: its schedule equals one big batch, its state comes back to the bit."""

import numpy as np
import pytest
import torch
from support import pack_store, random_store

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import Batching
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.loader import PackLoader
from ipu_chem.batches.types import CompactPack
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, make_plan

BUDGET = Budget(nodes=24, edges=220, graphs=7)


def schnet():
    torch.manual_seed(0)
    model = SchNet(hidden_features=16, num_filters=16, num_interactions=2, num_gaussians=10, cutoff=4.0)
    torch.nn.init.normal_(model.head[2].weight, std=0.3)  # at zero, no gradient would reach the other layers
    return CompactInputs(model)


def loader(batching, count=60, missing=True):
    rng = np.random.default_rng(0)
    store = random_store(rng, count)
    targets = store.fields["y"].copy()
    if missing:  # labels that are absent must not count in the mean
        targets[::7] = np.nan
    plan = make_plan(store.sizes(), BUDGET)
    return PackLoader(store, np.arange(count), plan, targets, BUDGET, batching)


def train(batching, optimizer, packs, learning_rates):
    """Losses and final weights of a few calls over the same packs, whatever the batching."""
    backend = TorchBackend()
    backend.compile(schnet(), mse, optimizer, batching, None)
    losses = []
    for rate in learning_rates:
        for start in range(0, len(packs.z), batching.packs_per_call):
            call = CompactPack(*[field[start : start + batching.packs_per_call] for field in packs])
            losses += backend.train_step(call, rate).tolist()
    return np.array(losses), backend


def step_weights(pack, steps):
    """Packs whose weights sum to 1 over each of ``steps`` equal parts."""
    weight = pack.weight.reshape(steps, -1)
    weight = weight / weight.sum(1, keepdim=True)
    return pack._replace(weight=weight.reshape(pack.weight.shape))


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig("adamw", weight_decay=0.01),
        OptimizerConfig("sgd", momentum=0.9),
        OptimizerConfig("adam", max_grad_norm=0.1),
    ],
)
def test_replicas_and_accumulation_equal_one_big_batch(optimizer):
    pack = pack_store(random_store(np.random.default_rng(1), 80), BUDGET, kind=CompactPack)[0]
    pack = step_weights(CompactPack(*[field[:16] for field in pack]), steps=2)
    rates = [1e-2, 3e-3, 1e-3]
    big, reference = train(Batching(8), optimizer, pack, rates)
    cut, backend = train(Batching(2, 2, 2, 2), optimizer, pack, rates)
    np.testing.assert_allclose(cut, big, rtol=1e-6, atol=1e-6)
    expected, got = reference.state_dict()["model"], backend.state_dict()["model"]
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_of_the_call_is_used():
    pack = pack_store(random_store(np.random.default_rng(1), 30), BUDGET, kind=CompactPack)[0]
    pack = step_weights(CompactPack(*[field[:2] for field in pack]), 1)
    backend = TorchBackend()
    backend.compile(schnet(), mse, OptimizerConfig("sgd", learning_rate=1.0), Batching(2), None)
    before = backend.state_dict()["model"]
    backend.train_step(pack, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in backend.state_dict()["model"].items())
    backend.train_step(pack, 0.1)
    assert not torch.equal(backend.state_dict()["model"]["head.0.weight"], before["head.0.weight"])


def test_restored_state_continues_bit_for_bit():
    batching = Batching(2, 2)
    batches = [batch for batch, _ in loader(batching).epoch(0, 0)]
    assert len(batches) >= 4
    straight = TorchBackend()
    straight.compile(schnet(), mse, OptimizerConfig(), batching, None)
    for batch in batches[:2]:
        straight.train_step(batch, 1e-3)
    state = straight.state_dict()
    for batch in batches[2:]:
        straight.train_step(batch, 1e-3)
    resumed = TorchBackend()
    resumed.compile(CompactInputs(SchNet(16, 16, 2, 10, 4.0)), mse, OptimizerConfig(), batching, None)
    resumed.load_state_dict(state)
    for batch in batches[2:]:
        resumed.train_step(batch, 1e-3)
    for group, values in straight.state_dict().items():
        for name, value in values.items():
            other = resumed.state_dict()[group][name]
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), f"{group} {name}"


def test_weights_of_every_step_sum_to_one():
    batching = Batching(2, 2, 1, 2)
    for batch, molecules in loader(batching).epoch(0, 3):
        assert batch.weight.shape[0] == batching.packs_per_call
        sums = batch.weight.double().reshape(2, -1).sum(1)
        torch.testing.assert_close(sums, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
        assert int(batch.graph_mask.sum()) == molecules


def test_evaluation_sees_every_molecule_once_in_a_known_order():
    source = loader(Batching(3, 4, 2))
    backend = TorchBackend()
    backend.compile(schnet(), None, None, source.batching, None)
    seen = []
    for batch, positions in source.evaluation():
        assert backend.evaluate(batch).shape == batch.y.shape
        assert np.array_equal(batch.y[batch.graph_mask].numpy()[:, 0], np.nan_to_num(source._y[positions, 0]))
        seen.append(positions)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(60))


def test_predictions_need_no_loss_and_training_does():
    source, found = loader(Batching(3)), []
    batch = source.example(training=False)
    for loss in (None, mse):
        backend = TorchBackend()
        backend.compile(schnet(), loss, None, source.batching, batch)
        found.append(backend.evaluate(batch))
    assert torch.equal(*found)
    with pytest.raises(AssertionError, match="an optimizer needs a loss"):
        TorchBackend().compile(schnet(), None, OptimizerConfig(), source.batching, batch)


def test_wrong_number_of_packs_is_refused():
    source = loader(Batching(2, 2))
    backend = TorchBackend()
    backend.compile(schnet(), mse, OptimizerConfig(), Batching(4, 2), None)
    with pytest.raises(ValueError, match="holds 4 packs"):
        backend.train_step(source.example(training=True), 1e-3)


def test_backends_by_name():
    assert get_backend("cpu").name == "cpu"
    assert get_backend("auto").name in ("cpu", "cuda")
    with pytest.raises(ValueError, match="choose one of auto, cpu, cuda, ipu"):
        get_backend("tpu")
    with pytest.raises(ValueError, match="needs PopTorch"):
        get_backend("ipu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_missing_cuda_is_said():
    with pytest.raises(ValueError, match="sees no CUDA device"):
        get_backend("cuda")


@pytest.mark.parametrize("field", ["micro_batch_size", "device_iterations"])
def test_batching_refuses_nonsense(field):
    with pytest.raises(ValueError, match=f"batching.{field}=0"):
        Batching(**{field: 0})


def test_a_call_that_would_hold_empty_steps_is_refused():
    few = loader(Batching(device_iterations=64), count=4)
    with pytest.raises(ValueError, match="use batching.device_iterations=") as refused:
        few.check_steps()
    fitting = int(str(refused.value).rstrip(".").rpartition("=")[2])
    assert 1 <= fitting <= few.plan.num_packs
    loader(Batching(device_iterations=fitting), count=4).check_steps()
    loader(Batching(2, 2)).check_steps()


@pytest.mark.parametrize("packs, asked, fitting", [(13, 2, 1), (12, 5, 4), (9, 6, 3), (7, 4, 1)])
def test_iterations_that_would_fit_are_named(packs, asked, fitting):
    made = loader(Batching(device_iterations=asked))
    made.plan = make_plan(np.full(packs, 9), Budget(nodes=9))
    with pytest.raises(ValueError, match=f"use batching.device_iterations={fitting}\\."):
        made.check_steps()
    made.batching = Batching(device_iterations=fitting)
    made.check_steps()
