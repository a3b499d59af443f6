"""PopTorch's double: who holds the device, where weights and optimizer state are, and when they travel."""

from typing import Any

import pytest
import torch
from poptorch_helpers import Plain, Weighted, trainer
from torch import Tensor, nn

# Host and device.


def test_weights_on_the_host_are_stale_until_copied(poptorch: Any) -> None:
    model = Weighted(poptorch)
    program = trainer(poptorch, model)
    program(torch.ones(1, 1))
    assert model.weight.item() == 0
    program.copyWeightsToHost()
    assert model.weight.item() == -1
    with torch.no_grad():
        model.weight.fill_(10.0)
    y, _ = program(torch.ones(1, 1))
    assert float(y) == -1  # the device has not heard of it
    program.copyWeightsToDevice()  # and now overwrites what the last call did
    y, _ = program(torch.ones(1, 1))
    assert float(y) == 10
    assert program.copyWeightsToHostIfNeeded() and not program.copyWeightsToHostIfNeeded()
    assert model.weight.item() == 9
    program.load_state_dict({"weight": torch.tensor([5.0]), "scale": torch.tensor([2.0])})
    assert float(program(torch.ones(1, 1))[0]) == 10


def test_weights_that_no_operator_takes_stay_on_the_host(poptorch: Any) -> None:
    class Partly(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Partly(1, 1)
    program = poptorch.inferenceModel(model)
    program(torch.ones(1, 1))
    with torch.no_grad():
        model.weight.fill_(7.0), model.bias.fill_(7.0)
    program.copyWeightsToHost()
    assert model.weight.item() != 7 and model.bias.item() == 7


def test_copies_need_a_compiled_program(poptorch: Any) -> None:
    program = trainer(poptorch, Weighted(poptorch))
    for call in (program.copyWeightsToHost, program.copyWeightsToDevice, program.attachToDevice):
        with pytest.raises(poptorch.Error, match="not been compiled"):
            call()


def test_one_program_holds_the_device(poptorch: Any) -> None:
    model = Weighted(poptorch)
    training = trainer(poptorch, model)
    training(torch.ones(1, 1))
    inference = poptorch.inferenceModel(Plain())
    with pytest.raises(poptorch.Error, match="in use"):
        inference(torch.ones(1))
    training.detachFromDevice()
    assert model.weight.item() == -1  # detaching brings weights and optimizer state back
    assert training._executable.parameters["weight"].isnan().all()  # and leaves nothing on the device
    with pytest.raises(poptorch.Error, match="not attached"):
        training.detachFromDevice()
    inference(torch.ones(1))
    with pytest.raises(poptorch.Error, match="in use"):
        training(torch.ones(1, 1))
    with pytest.raises(poptorch.Error, match="attached already"):
        inference.attachToDevice()
    inference.destroy()
    assert float(training(torch.ones(1, 1))[0]) == -1
    training.destroy()
    assert poptorch.Machine.holder is None


def test_numbers_of_ipus(poptorch: Any) -> None:
    for replicas, message in [(3, "powers of two: 4"), (128, "too many IPUs"), (32, "failed to acquire 32")]:
        program = poptorch.inferenceModel(Plain(), poptorch.Options().replicationFactor(replicas))
        with pytest.raises(poptorch.Error, match=message):
            program(torch.ones(replicas))
    simulated = poptorch.Options().replicationFactor(2).useIpuModel(True)
    with pytest.raises(poptorch.Error, match="IPU model"):
        poptorch.inferenceModel(Plain(), simulated)(torch.ones(2))
    assert poptorch.ipuHardwareIsAvailable() and not poptorch.ipuHardwareIsAvailable(17)


def test_offline_programs_cannot_run(poptorch: Any) -> None:
    program = poptorch.inferenceModel(Plain(), poptorch.Options().useOfflineIpuTarget())
    program.compile(torch.ones(1))
    assert program.isCompiled() and not program.isAttachedToDevice()
    with pytest.raises(AssertionError, match="offline"):
        program(torch.ones(1))
    with pytest.raises(AssertionError, match="offline"):
        program.attachToDevice()


def test_wrapping(poptorch: Any) -> None:
    model = Weighted(poptorch)
    program = trainer(poptorch, model)
    assert type(model).__name__ == "PoptorchWeighted" and type(model.weight).__name__ == "PoptorchParameter"
    with pytest.raises(RuntimeError, match="wrapped"):
        poptorch.trainingModel(model)
    program(torch.ones(1, 1))
    program.destroy()
    assert type(model) is Weighted and type(model.weight) is nn.Parameter and type(model.scale) is Tensor


# Optimizers.


def rate_of(program: Any) -> float:
    """The learning rate that the device uses: what weight 0 loses in a step with gradient 1."""
    program.model.weight.detach().zero_()
    program.copyWeightsToDevice()
    program(torch.ones(1, 1))
    program.copyWeightsToHost()
    return -program.model.weight.item()


def test_learning_rate_stays_until_set(poptorch: Any) -> None:
    model = Weighted(poptorch)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=1.0)
    program = trainer(poptorch, model, optimizer=optimizer)
    program(torch.ones(1, 1))
    optimizer.param_groups[0]["lr"] = 0.25
    assert rate_of(program) == 1.0
    program.setOptimizer(optimizer)
    assert rate_of(program) == 0.25
    program.detachFromDevice()  # set while detached: sent when attached again
    optimizer.param_groups[0]["lr"] = 0.5
    program.setOptimizer(optimizer)
    program.attachToDevice()
    assert rate_of(program) == 0.5
    saved = optimizer.state_dict()
    optimizer.param_groups[0]["lr"] = 2.0
    program.setOptimizer(optimizer)
    optimizer.load_state_dict(saved)  # restores state, but never the device's learning rate
    assert optimizer.param_groups[0]["lr"] == 0.5 and rate_of(program) == 2.0


def test_constants_cannot_change(poptorch: Any) -> None:
    model = Weighted(poptorch)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
    assert not optimizer.variable_attrs.isConstant("weight_decay") and optimizer.variable_attrs.isConstant("momentum")
    optimizer.variable_attrs.markAsConstant("weight_decay")
    with pytest.raises(AssertionError, match="max_grad_norm"):
        optimizer.variable_attrs.markAsConstant("max_grad_norm")
    program = trainer(poptorch, model, optimizer=optimizer)
    program(torch.ones(1, 1))
    optimizer.param_groups[0]["weight_decay"] = 0.2
    with pytest.raises(poptorch.Error, match="weight_decay"):
        program.setOptimizer(optimizer)


def test_optimizer_state_lives_on_the_device(poptorch: Any) -> None:
    model = Weighted(poptorch)
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.1)
    program = trainer(poptorch, model, optimizer=optimizer)
    assert optimizer.state_dict()["ipu_state"] is None  # nothing before compilation
    program.compile(torch.ones(1, 1))
    names = ["Accl1___weight", "Accl2___weight", "Step___weight"]
    assert sorted(optimizer.state_dict()["ipu_state"]) == names
    program(torch.ones(1, 1))
    after_one = {name: value.clone() for name, value in optimizer.state_dict()["ipu_state"].items()}
    assert float(after_one["Step___weight"]) == 1
    saved = {**optimizer.state_dict(), "ipu_state": after_one}
    program(torch.ones(1, 1))
    optimizer.load_state_dict(saved)  # written to the device with the next call
    program(torch.ones(1, 1))
    assert float(optimizer.state_dict()["ipu_state"]["Step___weight"]) == 2
    program.detachFromDevice()
    program.attachToDevice()
    assert float(optimizer.state_dict()["ipu_state"]["Step___weight"]) == 2
    program.destroy()

    other = poptorch.optim.AdamW(model.parameters(), lr=0.1)
    other.load_state_dict(saved)
    again = trainer(poptorch, model, optimizer=other)
    again(torch.ones(1, 1))
    assert float(other.state_dict()["ipu_state"]["Step___weight"]) == 2


def test_optimizer_state_of_torch_is_refused(poptorch: Any) -> None:
    model = Weighted(poptorch)
    optimizer = poptorch.optim.Adam(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="IPU optimizer"):
        optimizer.load_state_dict(torch.optim.Adam(model.parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="amsgrad"):
        trainer(poptorch, model, optimizer=poptorch.optim.Adam(model.parameters(), amsgrad=True))
    with pytest.raises(TypeError):
        poptorch.optim.SGD(model.parameters(), lr=1.0, betas=(0.9, 0.9))
    with pytest.raises(AssertionError, match="accum_type"):
        poptorch.optim.Adam(model.parameters(), accum_type=torch.float64)
