"""PopTorch's double: which optimizers may take the place of which, what has state, and PopART's arithmetic."""

from typing import Any, Dict, List

import pytest
import torch
from poptorch_helpers import Weighted, trainer
from torch import Tensor, nn


class Two(nn.Module):
    """A loss of one weight; a frozen one and an unused one beside it."""

    def __init__(self, poptorch: Any) -> None:
        super().__init__()
        self.used, self.unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.full((2,), 3.0), requires_grad=False)
        self.mark = poptorch.identity_loss

    def forward(self, x: Tensor) -> Tensor:
        return self.mark((self.used * self.frozen * x).sum(), "sum")


def test_state_is_kept_of_what_is_trained(poptorch: Any) -> None:
    model = Two(poptorch)
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    program = poptorch.trainingModel(model, None, optimizer)
    program(torch.ones(2))
    assert sorted(optimizer.state_dict()["ipu_state"]) == ["Accl1___used", "Accl2___used", "Step___used"]
    program.destroy()
    assert model.used.tolist() == pytest.approx([0.85, 0.85])
    assert model.unused.tolist() == [1.0, 1.0] and model.frozen.tolist() == [3.0, 3.0]  # not even decayed


@pytest.mark.parametrize(("accumulation", "momentum", "names"), [(1, None, 0), (2, None, 1), (1, 0.0, 1), (1, 0.9, 1)])
def test_state_of_sgd(poptorch: Any, accumulation: int, momentum: Any, names: int) -> None:
    """None without accumulation and momentum; a momentum that was given is a variable, and may become one."""
    model = Weighted(poptorch)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    program = trainer(poptorch, model, None, (1, accumulation, 1), optimizer=optimizer)
    program.compile(torch.ones(accumulation, 1))
    assert len(optimizer.state_dict()["ipu_state"]) == names
    program.destroy()
    if momentum == 0.0:
        constant = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0)
        constant.variable_attrs.markAsConstant("momentum")
        program = trainer(poptorch, model, None, (1, 1, 1), optimizer=constant)
        program.compile(torch.ones(1, 1))
        assert constant.state_dict()["ipu_state"] == {}


def test_weights_that_the_optimizer_leaves_out(poptorch: Any) -> None:
    """PopART would train them with the defaults; the double does not know how."""
    model = Two(poptorch)
    optimizer = poptorch.optim.SGD([model.unused], lr=0.1)
    with pytest.raises(NotImplementedError, match="used is in no group"):
        poptorch.trainingModel(model, None, optimizer)(torch.ones(2))
    with pytest.raises(KeyError):
        poptorch.trainingModel(Two(poptorch), None, optimizer)


def another(poptorch: Any, model: nn.Module, **changed: Any) -> Any:
    given: Dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1, **changed}
    kind = given.pop("kind", "AdamW")
    constants: List[str] = given.pop("constants", ["betas", "eps", "loss_scaling"])
    if kind == "SGD":
        del given["betas"]
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), **given)
    for name in constants:
        if name in (*optimizer.defaults, "loss_scaling"):
            optimizer.variable_attrs.markAsConstant(name)
    return optimizer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.2, "weight_decay": 0.0}, None),
        ({"kind": "Adam"}, "another type, ADAM, compiled for ADAMW"),
        ({"kind": "SGD"}, "another type"),
        ({"betas": (0.8, 0.99)}, "betas was compiled in as a constant"),
        ({"eps": 1e-6}, "eps was compiled in as a constant"),
        ({"loss_scaling": 2.0}, "loss_scaling was compiled in as a constant"),
        ({"max_grad_norm": 1.0}, "max_grad_norm is 1.0, compiled for inf"),
        ({"first_order_momentum_accum_type": torch.float16}, "first_type is torch.float16"),
        ({"constants": ["betas", "eps", "loss_scaling", "lr"]}, "lr was constant or variable"),
    ],
)
def test_another_optimizer_for_a_compiled_program(poptorch: Any, changed: Any, message: Any) -> None:
    model = Weighted(poptorch)
    optimizer = another(poptorch, model)
    program = trainer(poptorch, model, optimizer=optimizer)
    program(torch.ones(1, 1))
    if message is None:
        program.setOptimizer(another(poptorch, model, **changed))
        program(torch.ones(1, 1))
        assert float(optimizer.state_dict()["ipu_state"]["Step___weight"]) == 1  # as it was left
        return
    with pytest.raises(poptorch.Error, match=message):
        program.setOptimizer(another(poptorch, model, **changed))


@pytest.mark.parametrize(
    ("group", "error"),
    [({"betas": [0.9, 0.99]}, AssertionError), ({"lr": "0.1"}, AssertionError), ({"eps": None}, AssertionError)],
)
def test_values_of_the_wrong_kind(poptorch: Any, group: Any, error: type) -> None:
    model = Weighted(poptorch)
    optimizer = another(poptorch, model)
    optimizer.param_groups[0].update(group)
    with pytest.raises(error):
        trainer(poptorch, model, optimizer=optimizer)


def test_groups_have_their_own_rates(poptorch: Any) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return poptorch.identity_loss(((self.a + self.b) * x).sum(), "sum")

    model = Pair()
    optimizer = poptorch.optim.SGD([{"params": [model.a]}, {"params": [model.b], "lr": 0.5}], lr=0.25)
    program = poptorch.trainingModel(model, None, optimizer)
    program(torch.ones(1))
    optimizer.param_groups[1]["lr"] = 2.0
    program.setOptimizer(optimizer)
    program(torch.ones(1))
    program.destroy()
    assert (model.a.item(), model.b.item()) == (-0.5, -2.5)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
        ("SGD", {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "dampening": 0.2}),
        ("Adam", {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-3}),
        ("AdamW", {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-3}),
    ],
)
@pytest.mark.parametrize("scaling", [1.0, 64.0])
def test_updates_are_those_of_torch(poptorch: Any, kind: str, given: Any, scaling: float) -> None:
    torch.manual_seed(0)
    model, start, x = Weighted(poptorch, 3), torch.randn(3), torch.randn(5, 1, 3)
    model.weight.data.copy_(start)
    weight = nn.Parameter(start.clone())
    reference = getattr(torch.optim, kind)([weight], **given)
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), loss_scaling=scaling, **given)
    program = trainer(poptorch, model, optimizer=optimizer)
    for number, step in enumerate(x):
        program(step)
        weight.grad = step[0].clone()
        if "momentum" in given and number == 0:
            weight.grad = step[0] * 0.8 - 0.2 * 0.1 * start  # torch does not dampen the first step
        reference.step()
    program.destroy()
    torch.testing.assert_close(model.weight.detach(), weight.detach(), rtol=1e-6, atol=1e-7)


def test_bias_correction_cannot_be_turned_off(poptorch: Any) -> None:
    """PopTorch 3.4 hands PopART the same mode either way."""
    moved = []
    for correction in (True, False):
        model = Weighted(poptorch)
        optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0, bias_correction=correction)
        program = trainer(poptorch, model, optimizer=optimizer)
        program(torch.ones(1, 1))
        program.destroy()
        moved.append(-model.weight.item())
    assert moved == pytest.approx([0.1, 0.1])


def test_clipping(poptorch: Any) -> None:
    """By the norm of what enters the moments, without an epsilon."""
    for limit, moved in ((100.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        model = Weighted(poptorch, 2)
        optimizer = poptorch.optim.SGD(model.parameters(), lr=1.0, max_grad_norm=limit)
        program = trainer(poptorch, model, optimizer=optimizer)
        program(torch.tensor([[3.0, 4.0]]))
        program.destroy()
        assert (-model.weight.detach()).tolist() == pytest.approx(moved, rel=1e-7)
