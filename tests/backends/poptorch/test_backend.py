"""The IPU backend does what the torch backend does, through PopTorch's double."""

from typing import Any

import pytest
import torch
from poptorch_helpers import (
    ADAMW,
    BATCHING,
    assert_equal_models,
    batches,
    make,
    random_packs,
    rates,
    small_schnet,
    that_runs,
    train,
)
from torch import Tensor

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend, ipus_available
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.losses import huber, mae, mse
from ipu_chem.optim import OptimizerConfig


@pytest.mark.parametrize("loss", [mse, mae, huber])
def test_trains_like_the_torch_backend(poptorch: Any, loss: Any) -> None:
    expected, backend = make("torch", loss=loss), make("ipu", loss=loss)
    before = backend.state_dict()
    losses = train(backend, 10)
    assert losses.shape == (10, 2) and losses.dtype == torch.float32
    torch.testing.assert_close(losses, train(expected, 10), rtol=1e-6, atol=1e-6)
    assert_equal_models(backend.state_dict(), expected.state_dict())
    moved = [name for name, value in backend.state_dict()["model"].items() if not value.equal(before["model"][name])]
    assert len(moved) > 10


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig("adam", 1e-3, weight_decay=0.1),
        OptimizerConfig("adamw", 1e-3, max_grad_norm=0.05),
        OptimizerConfig("adam", 1e-3, max_grad_norm=0.05, betas=(0.8, 0.95), eps=1e-6),
        OptimizerConfig("sgd", 1e-3, momentum=0.9, weight_decay=0.1),
        OptimizerConfig("sgd", 1e-3),
        OptimizerConfig("sgd", 1e-3, max_grad_norm=0.05),
    ],
    ids=lambda config: f"{config.name}-{config.weight_decay}-{config.momentum}-{config.max_grad_norm}",
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_optimizer_does_the_same(poptorch: Any, optimizer: OptimizerConfig, accumulation: int) -> None:
    batching = that_runs(Batching(1, accumulation, 2, 3))
    expected, backend = make("torch", optimizer, batching), make("ipu", optimizer, batching)
    # torch divides by the norm plus 1e-6 when it clips, PopART by the norm.
    tolerance = 1e-5 if optimizer.max_grad_norm else 1e-6
    torch.testing.assert_close(train(backend, 4), train(expected, 4), rtol=tolerance, atol=tolerance)
    assert_equal_models(backend.state_dict(), expected.state_dict(), tolerance)


@pytest.mark.parametrize("batching", [Batching(), Batching(3, 1, 1, 1), Batching(1, 3, 1, 1), Batching(1, 1, 4, 1)])
def test_every_nesting_alone(poptorch: Any, batching: Batching) -> None:
    expected, backend = make("torch", batching=batching), make("ipu", batching=batching)
    torch.testing.assert_close(train(backend, 3), train(expected, 3), rtol=1e-6, atol=1e-6)
    assert_equal_models(backend.state_dict(), expected.state_dict())


def test_loss_scaling_changes_nothing_in_float32(poptorch: Any) -> None:
    plain, scaled = make("ipu"), PopTorchBackend(precision=Precision(loss_scaling=1024.0))
    expected = train(plain, 3)
    plain.close()
    scaled.compile(small_schnet(), mse, ADAMW, BATCHING, batches(1)[0])
    torch.testing.assert_close(train(scaled, 3), expected, rtol=1e-6, atol=1e-6)


def test_evaluates_like_the_torch_backend_in_pack_order(poptorch: Any) -> None:
    expected, backend = make("torch"), make("ipu")
    train(expected, 3), train(backend, 3)
    packs = random_packs(BATCHING.packs_per_evaluation, seed=5)
    prediction = backend.evaluate(packs)
    assert prediction.shape == packs.y.shape
    torch.testing.assert_close(prediction, expected.evaluate(packs), rtol=1e-6, atol=1e-6)


def test_training_goes_on_after_evaluation(poptorch: Any) -> None:
    expected, backend = make("torch"), make("ipu")
    packs = random_packs(BATCHING.packs_per_evaluation, seed=5)
    data, rate = batches(10), rates(10)
    for call in range(10):
        loss, wanted = backend.train_step(data[call], rate[call]), expected.train_step(data[call], rate[call])
        torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
        if call % 3 == 1:  # sums over atoms that cancel, after steps that round differently
            torch.testing.assert_close(backend.evaluate(packs), expected.evaluate(packs), rtol=1e-6, atol=5e-6)
    assert_equal_models(backend.state_dict(), expected.state_dict())


def test_evaluation_without_training(poptorch: Any) -> None:
    expected, backend = make("torch", optimizer=None), make("ipu", optimizer=None)
    packs = random_packs(BATCHING.packs_per_evaluation, seed=5)
    torch.testing.assert_close(backend.evaluate(packs), expected.evaluate(packs), rtol=1e-6, atol=1e-6)
    weights = small_schnet(seed=3).state_dict()
    for each in (expected, backend):
        each.load_state_dict({"model": weights})
    torch.testing.assert_close(backend.evaluate(packs), expected.evaluate(packs), rtol=1e-6, atol=1e-6)
    assert set(backend.state_dict()) == {"model"}


@pytest.mark.parametrize("ipus", [1, 2])
def test_predictions_need_no_loss(poptorch: Any, ipus: int) -> None:
    packs, found = random_packs(BATCHING.packs_per_evaluation, seed=5), []
    for loss in (None, mse):
        backend = PopTorchBackend(IpuOptions(ipus_per_replica=ipus))
        backend.compile(small_schnet(), loss, None, BATCHING, packs)
        found.append(backend.evaluate(packs))
        backend.close()
    assert torch.equal(*found)


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("optimizer", [ADAMW, OptimizerConfig("sgd", 1e-3, momentum=0.9)], ids=["adamw", "sgd"])
def test_resumes_where_it_was_saved(poptorch: Any, optimizer: OptimizerConfig, evaluated: bool) -> None:
    backend = make("ipu", optimizer)
    train(backend, 5)
    if evaluated:  # the training program is then off the device
        backend.evaluate(random_packs(BATCHING.packs_per_evaluation))
    saved = backend.state_dict()
    assert set(saved) == {"model", "optimizer"} and saved["optimizer"]
    copies = {group: {name: value.clone() for name, value in values.items()} for group, values in saved.items()}
    expected = train(backend, 10, first=5)
    end = backend.state_dict()
    for group in saved:  # what was handed out stays as it was
        assert all(type(value) is Tensor and value.equal(copies[group][name]) for name, value in saved[group].items())

    backend.load_state_dict(saved)  # back in the same process
    assert_equal_models(backend.state_dict(), saved, 0)
    torch.testing.assert_close(train(backend, 10, first=5), expected, rtol=0, atol=0)
    backend.close()

    fresh = make("ipu", optimizer)  # in a new one
    fresh.load_state_dict(saved)
    torch.testing.assert_close(train(fresh, 10, first=5), expected, rtol=0, atol=0)
    assert_equal_models(fresh.state_dict(), end, 0)
    assert fresh.state_dict()["optimizer"].keys() == end["optimizer"].keys()
    assert all(fresh.state_dict()["optimizer"][name].equal(value) for name, value in end["optimizer"].items())


def test_loaded_weights_are_evaluated_and_training_weights_come_back(poptorch: Any) -> None:
    """What evaluating averaged weights in mid-training does."""
    backend, undisturbed = make("ipu"), None
    packs = random_packs(BATCHING.packs_per_evaluation, seed=5)
    train(backend, 4)
    raw = backend.state_dict(weights_only=True)
    assert set(raw) == {"model"}
    averaged = {name: value * 0.5 for name, value in raw["model"].items()}
    backend.load_state_dict({"model": averaged})
    other = small_schnet()
    other.load_state_dict(averaged)
    torch.testing.assert_close(backend.evaluate(packs), other(*packs.inputs), rtol=1e-6, atol=1e-6)
    backend.load_state_dict(raw)
    after = train(backend, 8, first=4)
    backend.close()
    undisturbed = make("ipu")
    torch.testing.assert_close(train(undisturbed, 8)[4:], after, rtol=0, atol=0)


@pytest.mark.not_on_sdk("counts how often the double runs a forward")
def test_evaluates_in_eval_mode_and_trains_in_train_mode(poptorch: Any) -> None:
    model, seen = small_schnet(), []
    head = model.model.head
    head[0] = torch.nn.Sequential(head[0], torch.nn.Dropout(0.5))
    head[0].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    backend = PopTorchBackend()
    backend.compile(model, mse, ADAMW, BATCHING, batches(1)[0])
    assert seen == [True, False, True]  # both programs are looked at, one is compiled
    seen.clear()
    packs = random_packs(BATCHING.packs_per_evaluation)
    prediction = backend.evaluate(packs)
    assert prediction.equal(backend.evaluate(packs))
    assert len(seen) > 2 and not any(seen)
    seen.clear()
    train(backend, 1)
    assert len(seen) == 8 and all(seen)


@pytest.mark.not_on_sdk("looks inside the double")
def test_wide_dtypes_travel_narrow(poptorch: Any) -> None:
    packs = random_packs(BATCHING.packs_per_call, 2)
    wide = packs._replace(
        z=packs.z.long(), edge_index=packs.edge_index.long(), graph_ends=packs.graph_ends.long(), y=packs.y.double()
    )
    backend, expected = PopTorchBackend(), make("torch")
    backend.compile(small_schnet(), mse, ADAMW, BATCHING, wide)
    torch.testing.assert_close(backend.train_step(wide, 1e-3), expected.train_step(packs, 1e-3), rtol=0, atol=1e-6)
    traveled = backend._training._compiled_args[0]
    assert traveled.z.dtype == traveled.edge_index.dtype == torch.int32 and traveled.y.dtype == torch.float32


def test_program_options_are_what_was_asked_for(poptorch: Any, tmp_path: Any) -> None:
    asked = IpuOptions(
        available_memory_proportion=(0.3,),
        executable_cache=str(tmp_path),
        prefetch_depth=4,
        merge_all_reduce=True,
        profile_dir=str(tmp_path / "report"),
        seed=7,
    )
    backend = PopTorchBackend(asked, Precision(stochastic_rounding=True))
    backend.compile(small_schnet(), mse, ADAMW, BATCHING, batches(1)[0])
    backend.evaluate(random_packs(BATCHING.packs_per_evaluation))
    training, inference = backend._training.options, backend._inference.options
    assert (training.device_iterations, training.replication_factor) == (2, BATCHING.replication_factor)
    accumulations = [options.Training.gradient_accumulation for options in (training, inference)]
    assert accumulations == [BATCHING.gradient_accumulation, 1]
    reduction = training.Training.accumulation_and_replication_reduction_type
    assert reduction == poptorch.ReductionType.Sum
    assert training.output_mode == inference.output_mode == poptorch.OutputMode.All
    assert training.available_memory_proportion == inference.available_memory_proportion == {0: 0.3}
    assert training.random_seed == 7 and not inference.exists("random_seed")
    popart = training._Popart.options
    assert popart["accumulateOuterFragmentSettings.schedule"] == 2
    assert popart["replicatedCollectivesSettings.mergeAllReduceCollectives"] is True
    assert popart["replicatedCollectivesSettings.prepareScheduleForMergingCollectives"] is True
    assert popart["defaultBufferingDepth"] == inference._Popart.options["defaultBufferingDepth"] == 4
    assert popart["enableStochasticRounding"] is True
    assert popart["cachePath"] == str(tmp_path)
    assert popart["engineOptions"]["autoReport.directory"] == str(tmp_path / "report")
    assert not training.exists("use_model")


def test_optimizer_leaves_only_the_learning_rate_variable(poptorch: Any) -> None:
    backend = make("ipu", OptimizerConfig("sgd", 1e-3))
    constant = backend._optimizer.variable_attrs.isConstant
    assert not constant("lr")
    assert all(constant(name) for name in ("momentum", "weight_decay", "dampening", "loss_scaling"))


def test_simulator_runs_both_programs(poptorch: Any) -> None:
    batching = Batching(2, 2, 1, 2)
    backend, expected = make("ipu", batching=batching, ipu_model=True), make("torch", batching=batching)
    torch.testing.assert_close(train(backend, 3), train(expected, 3), rtol=1e-6, atol=1e-6)
    packs = random_packs(batching.packs_per_evaluation)
    torch.testing.assert_close(backend.evaluate(packs), expected.evaluate(packs), rtol=1e-6, atol=1e-6)


def test_synthetic_data_runs_the_schedule(poptorch: Any) -> None:
    backend = make("ipu", synthetic_data=True)
    assert train(backend, 2).shape == (2, 2)


@pytest.mark.not_on_sdk("its IPU Model cannot compile for a device")
def test_offline_compiles_both_programs_and_runs_none(poptorch: Any, tmp_path: Any) -> None:
    backend = make("ipu", offline=2, executable_cache=str(tmp_path))
    assert backend._training.isCompiled() and backend._inference.isCompiled()
    with pytest.raises(ValueError, match="only compiles"):
        train(backend, 1)
    with pytest.raises(ValueError, match="only compiles"):
        backend.evaluate(random_packs(BATCHING.packs_per_evaluation))


@pytest.mark.not_on_sdk("looks inside the double")
def test_close_gives_the_device_back_and_unwraps_the_model(poptorch: Any) -> None:
    backend = PopTorchBackend()
    model = small_schnet()
    backend.compile(model, mse, ADAMW, BATCHING, batches(1)[0])
    train(backend, 2)
    state = backend.state_dict()
    train(backend, 4, first=2)
    backend.load_state_dict(state)
    backend.close()
    backend.close()
    assert poptorch.Machine.holder is None
    assert type(model.model.embedding.weight) is torch.nn.Parameter
    for name, value in model.state_dict().items():
        assert value.equal(state["model"][name]), name


@pytest.mark.not_on_sdk("its IPU Model is no IPU")
def test_is_found_by_name(poptorch: Any) -> None:
    assert ipus_available()
    assert get_backend("ipu", ipu_options=IpuOptions(seed=1)).options.seed == 1
    assert get_backend("auto").name == "ipu"
