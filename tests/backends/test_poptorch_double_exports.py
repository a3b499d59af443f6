"""PopTorch's double: programs in files, models and optimizers that are copied and pickled while they are wrapped."""

import copy
import pickle
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from poptorch_helpers import installed_double
from torch import Tensor, nn


@pytest.fixture
def poptorch() -> Iterator[Any]:
    with installed_double() as module:
        yield module


class Linear(nn.Module):
    """Trained, it has a loss; can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> Any:
        import poptorch  # noqa: TID251 (the double)

        y = self.layer(x) * self.scale
        return poptorch.identity_loss(y.square().sum(), "sum") if self.training else y


def trainer(poptorch: Any, model: nn.Module, options: Any = None) -> Any:
    return poptorch.trainingModel(model, options, poptorch.optim.AdamW(model.parameters(), lr=0.1))


X = torch.tensor([[1.0, 2.0]])


def test_a_program_goes_on_where_it_was_saved(poptorch: Any, tmp_path: Path) -> None:
    model, file = Linear(), str(tmp_path / "folder" / "program.poptorch")
    program = trainer(poptorch, model)
    program.compile(X)
    program(X)
    program.copyWeightsToHost()
    program.save(file)
    expected = [program(X) for _ in range(3)]
    program.destroy()
    loaded = poptorch.load(file)
    assert loaded.isCompiled() and loaded.isAttachedToDevice() and type(loaded.model).__name__ == "PoptorchLinear"
    assert [loaded(X) for _ in range(3)] == expected
    assert float(loaded._optimizer.state_dict()["ipu_state"]["Step___layer.weight"]) == 4


def test_programs_compiled_offline_run_when_loaded(poptorch: Any, tmp_path: Path) -> None:
    options = poptorch.Options().useOfflineIpuTarget()
    model = Linear().eval()
    poptorch.inferenceModel(model, options).compileAndExport(str(tmp_path), X)
    assert poptorch.Machine.holder is None
    seen = []
    loaded = poptorch.load(str(tmp_path / "model.poptorch"), seen.append)
    assert loaded(X).equal(model(X).detach()) and not seen[0].exists("ipu_version")


def test_a_program_without_its_model(poptorch: Any, tmp_path: Path) -> None:
    file, model = str(tmp_path / "bare"), Linear().eval()
    poptorch.inferenceModel(model).compileAndExport(file, X, export_model=False)
    poptorch.Machine.holder = None
    with pytest.raises(AssertionError, match="export_model=False"):
        poptorch.load(file)
    again = poptorch.inferenceModel(model)
    again.loadExecutable(file)
    assert again(X).equal(model(X).detach())
    with pytest.raises(poptorch.Error, match="not been compiled"):
        poptorch.inferenceModel(model).save(file)


def test_programs_with_named_stages_cannot_be_saved(poptorch: Any, tmp_path: Path) -> None:
    """PopTorch keeps them in a class of a function's own, which pickle does not find."""
    for stages, saved in (((), True), (("a",), False)):
        options = poptorch.Options().setExecutionStrategy(poptorch.ShardedExecution(*stages))
        program = poptorch.inferenceModel(Linear().eval(), options)
        program.compile(X)
        if saved:
            program.save(str(tmp_path / "saved"))
        else:
            with pytest.raises((AttributeError, pickle.PicklingError)):
                program.save(str(tmp_path / "unsaved"))
        program.destroy()


def test_another_version(poptorch: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "program")
    poptorch.inferenceModel(Linear().eval()).compileAndExport(file, X)
    poptorch.__version__ = "3.3.0"
    with pytest.raises(AssertionError, match="version 3.4.0-double, this is 3.3.0"):
        poptorch.load(file)


def test_wrapped_models_copied_and_pickled(poptorch: Any) -> None:
    model = Linear()
    program = trainer(poptorch, model)
    program(X)
    with pytest.raises(RuntimeError, match="wrapped"):
        poptorch.trainingModel(copy.copy(model))
    state = model.state_dict()
    assert all(type(value) is Tensor for value in state.values())
    restored = pickle.loads(pickle.dumps(model))
    assert type(restored) is Linear and type(restored.layer.weight) is nn.Parameter and type(restored.scale) is Tensor
    assert type(model).__name__ == "PoptorchLinear" and type(model.scale).__name__ == "PoptorchBuffer"
    assert model.copyWeightsToHostIfNeeded() and not model.copyWeightsToHostIfNeeded()
    model.destroy()
    assert type(model) is Linear and not program.isCompiled()
    program(X)  # compiled again, of a model that is no longer wrapped
    with pytest.raises(poptorch.Error, match="never wrapped"):
        program.destroy()
    odd = Linear()
    odd.register_buffer("odd", nn.Parameter(torch.ones(1), requires_grad=False))
    with pytest.raises(poptorch.Error, match="torch.Tensor, got Parameter"):
        trainer(poptorch, odd)


def test_optimizers_pickled(poptorch: Any) -> None:
    model = Linear()
    kinds = {"accum_type": torch.float32, "first_order_momentum_accum_type": torch.float16}
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.1, loss_scaling=4.0, max_grad_norm=2.0, **kinds)
    optimizer.variable_attrs.markAsConstant("loss_scaling")
    poptorch.trainingModel(model, None, optimizer)(X)
    optimizer.state_dict()
    restored = pickle.loads(pickle.dumps(optimizer))
    assert (restored.loss_scaling, restored.max_grad_norm) == (4.0, 2.0)
    assert restored.first_order_momentum_accum_type == torch.float16
    assert restored.variable_attrs.isConstant("loss_scaling") and not restored.variable_attrs.isConstant("lr")
    assert restored.ipu_state_is_dirty and not restored.host_state_is_dirty
    assert float(restored.state_dict()["ipu_state"]["Step___layer.weight"]) == 1


def test_attributes_are_those_of_the_model(poptorch: Any) -> None:
    model = Linear().eval()
    program = poptorch.inferenceModel(model)
    assert program.layer is model.layer and program.model is not model and program.training is False
    assert [name for name, _ in program.named_parameters()] == ["layer.weight", "layer.bias"]
    with pytest.raises(AttributeError, match="nothing_there"):
        program.nothing_there  # noqa: B018
    again = poptorch.inferenceModel(program)
    assert again.model.layer is model.layer
    with pytest.raises(poptorch.Error, match="backward"):
        program(X).backward()
