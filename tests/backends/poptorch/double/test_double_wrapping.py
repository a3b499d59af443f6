"""PopTorch's double: models that are copied and pickled while they are wrapped."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn


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
