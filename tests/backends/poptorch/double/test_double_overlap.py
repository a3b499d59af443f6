"""PopTorch's double: inputs and outputs that travel while the IPU computes, and where they may not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Called(nn.Module):
    """Forward is what the test says; x and y are marked unless it says otherwise."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(self.weight, x, y)


def options_of(poptorch: Any, strategy: Any = None, tiles: int = 32, mode: Any = None) -> Any:
    options = poptorch.Options().setExecutionStrategy(strategy or poptorch.ShardedExecution())
    if tiles:
        options.TensorLocations.numIOTiles(tiles)
    return options.outputMode(poptorch.OutputMode.All if mode is None else mode)


def marks(poptorch: Any) -> Any:
    mode = poptorch.OverlapMode.OverlapDeviceIterationLoop
    return (
        lambda value: poptorch.set_overlap_for_input(value, mode),
        lambda value: poptorch.set_overlap_for_output(value, mode),
    )


def test_changes_nothing_of_what_is_computed(poptorch: Any) -> None:
    load, store = marks(poptorch)

    def marked(weight: Tensor, x: Tensor, y: Tensor) -> Any:
        x, y = load((x, y))
        return store({"sum": x + weight * y, "pair": (x * y,)})

    x, y = torch.randn(4, 3), torch.randn(4, 3)
    options = options_of(poptorch).deviceIterations(2)
    got = poptorch.inferenceModel(Called(marked), options)(x, y)
    assert set(got) == {"sum", "pair"} and got["sum"].equal(x + 2 * y) and got["pair"][0].equal(x * y)
    assert marked(torch.tensor(2.0), x, y)["sum"].equal(x + 2 * y)  # outside a program marks do nothing


def test_trains_through_marks(poptorch: Any) -> None:
    load, store = marks(poptorch)
    moved = []
    for marked in (False, True):

        def forward(weight: Tensor, x: Tensor, y: Tensor, marked: bool = marked) -> Any:
            x = load(x) if marked else x
            loss = poptorch.identity_loss((weight * x * y).sum(), "sum")
            return store(loss) if marked else loss

        model = Called(forward)
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1)
        program = poptorch.trainingModel(model, options_of(poptorch), optimizer)
        loss = program(torch.arange(3.0).reshape(1, 3), torch.ones(1, 3))
        assert loss.tolist() == 6
        program.destroy()
        moved.append(model.weight.detach())
    assert moved[0].equal(moved[1]) and moved[0].tolist() == pytest.approx([2.0, 1.9, 1.8])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda load, store, w, x, y: load(x) + x + y, "only operator on an input; input 0"),
        (lambda load, store, w, x, y: (load(y) + x, y), "only operator on an input; input 1"),
        (lambda load, store, w, x, y: load(x) + load(x) + y, "only operator on an input"),
        (lambda load, store, w, x, y: load(load(x)) + y, "not an input of the model"),
        (lambda load, store, w, x, y: load(x + 1) + y, "not an input of the model"),
        (lambda load, store, w, x, y: load(w) + x + y, "not an input of the model"),
        (lambda load, store, w, x, y: store(x + y) * 2, "not an output of the model"),
        (lambda load, store, w, x, y: (store(x + y), x * y, store(x - y) + 1), "not an output of the model"),
        (lambda load, store, w, x, y: [store(x + y)] * 2, "returned twice"),
    ],
)
def test_marks_in_the_wrong_place(poptorch: Any, forward: Any, message: str) -> None:
    load, store = marks(poptorch)
    model = Called(lambda weight, x, y: forward(load, store, weight, x, y))
    with pytest.raises(poptorch.Error, match=message):
        poptorch.inferenceModel(model, options_of(poptorch))(torch.ones(1, 3), torch.ones(1, 3))


def test_a_mark_on_an_unused_input_is_no_harm(poptorch: Any) -> None:
    load, _ = marks(poptorch)

    def forward(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
        load(y)
        return load(x) * weight

    program = poptorch.inferenceModel(Called(forward), options_of(poptorch))
    assert program(torch.ones(1, 3), torch.ones(1, 3)).tolist() == [[2.0] * 3]


def test_options_for_overlap(poptorch: Any) -> None:
    load, store = marks(poptorch)
    modes, pipelined = poptorch.OutputMode, poptorch.PipelinedExecution()
    for options, message in [
        (options_of(poptorch, pipelined), "does not go with PipelinedExecution"),
        (poptorch.Options(), "does not go with PipelinedExecution"),  # the default
        (options_of(poptorch, tiles=0), "no I/O tiles"),
        (options_of(poptorch, mode=modes.Final), "OutputMode.All or OutputMode.Sum"),
    ]:
        for forward in (lambda weight, x, y: load(x) + y, lambda weight, x, y: store(x + y)):
            with pytest.raises(poptorch.Error, match=message):
                poptorch.inferenceModel(Called(forward), options)(torch.ones(1, 3), torch.ones(1, 3))
    # Without overlap none of it matters.
    off = poptorch.OverlapMode.NoOverlap
    plain = Called(lambda weight, x, y: poptorch.set_overlap_for_input(x, off) + y)
    assert poptorch.inferenceModel(plain)(torch.ones(1, 3), torch.ones(1, 3)).tolist() == [[2.0] * 3]


def test_inner_derivatives_do_not_pass_marks(poptorch: Any) -> None:
    """Of an input that was marked, torch knows no derivative; of what is detached from it, it does."""
    load, _ = marks(poptorch)

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad((x * x * y).sum(), x)[0]

    def through(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(poptorch.identity_loss(x * x * y, "sum"), x)[0]

    with pytest.raises(poptorch.Error, match="derivative of poptorch::identity_loss"):
        poptorch.inferenceModel(Called(through))(torch.ones(1, 3), torch.ones(1, 3))
    beside = Called(lambda weight, x, y: slope(load(x).detach().requires_grad_(True), load(y)))
    program = poptorch.inferenceModel(beside, options_of(poptorch))
    assert program(torch.full((1, 3), 3.0), torch.ones(1, 3)).tolist() == [[6.0] * 3]
