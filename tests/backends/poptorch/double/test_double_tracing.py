"""PopTorch's double: what a forward pass may not do, beside operators without a handler."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


class Called(nn.Module):
    """Forward is what the test says."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("order", torch.tensor([2, 1, 0]))
        self.table = torch.ones(3)  # no buffer
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def compiled(poptorch: Any, function: Any, options: Any = None, x: Any = None) -> Any:
    return poptorch.inferenceModel(Called(function), options)(torch.arange(3.0) if x is None else x)


def gradient(function: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return slope


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: x.double() * 2, "float64, which PopTorch would make float32"),
        (lambda self, x: torch.cat([x[:0], x]), "without elements"),
        (lambda self, x: functional.one_hot(x.long()), "number of classes"),
        (lambda self, x: functional.scaled_dot_product_attention(*[x.reshape(1, 3, 1)] * 3), "scaled_dot_product"),
    ],
)
def test_forward_passes_that_leave_the_device(poptorch: Any, function: Any, message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        compiled(poptorch, function)
    assert poptorch.Machine.holder is None and not poptorch.isRunningOnIpu()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: torch.zeros(3).index_put((self.order,), x, accumulate=True), "accumulate is ignored"),
        (lambda self, x: x.expand(3, 3)[self.order[:2, None], self.order], "not broadcast"),
        (lambda self, x: x.index_put((x > 1,), x[:2]), "depends on values"),
        (lambda self, x: torch.div(x, 2, rounding_mode="floor"), "rounding_mode is ignored"),
        (lambda self, x: torch.rsub(x, x, alpha=2), "alpha is ignored"),
        (lambda self, x: functional.embedding(self.order, x.reshape(3, 1), padding_idx=0), "padding_idx"),
        (lambda self, x: x.topk(2, sorted=False).values, "sorted=False"),
        (lambda self, x: functional.layer_norm(x, [3], weight=self.weight), "weight and bias"),
        (lambda self, x: functional.cross_entropy(x[None], self.order[:1], weight=self.scale), "class weights"),
        (lambda self, x: x.var(0, correction=2), "correction"),
        (lambda self, x: torch.var_mean(x, 0, keepdim=True)[1], "keepdim"),
        (lambda self, x: x.reshape(1, 3).triu(), "constants"),
        (lambda self, x: torch.linalg.vector_norm(x, 0), "order 0"),
        (lambda self, x: gradient(lambda x: x[::2] ** 2, x), "slice_backward: what is copied into a slice is dropped"),
    ],
)
def test_arguments_that_handlers_refuse_or_ignore(poptorch: Any, function: Any, message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        compiled(poptorch, function)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda self, x: functional.one_hot(x.long(), 3).float() @ x, [0.0, 1.0, 2.0]),
        (lambda self, x: x[self.order] + self.weight, [3.0, 2.0, 1.0]),
        (lambda self, x: x.index_put((x > 1,), torch.tensor(7.0)), [0.0, 1.0, 7.0]),
        (lambda self, x: x * torch.tensor([1.0, 2.0, 3.0]), [0.0, 2.0, 6.0]),  # made inside: a constant
        (lambda self, x: x + torch.arange(3) + torch.ones(3).scatter_add(0, self.order.long(), x), [3.0, 4.0, 5.0]),
        (lambda self, x: x.topk(2).values.sum() + x, [3.0, 4.0, 5.0]),
        (lambda self, x: gradient(lambda x: torch.log1p(x * x), x), [0.0, 1.0, 0.8]),
        (lambda self, x: gradient(lambda x: torch.cat(x.split([1, 2])[::-1]) ** 2, x), [0.0, 2.0, 4.0]),
        (lambda self, x: torch.take_along_dim(x, self.order, 0), [2.0, 1.0, 0.0]),
        (lambda self, x: functional.softplus(x) * 0 + x, [0.0, 1.0, 2.0]),
    ],
)
def test_forward_passes_that_compile(poptorch: Any, function: Any, expected: Any) -> None:
    assert compiled(poptorch, function).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (functional.softplus, "softplus_backward"),
        (torch.tanh, "tanh_backward"),
        (torch.sigmoid, "sigmoid_backward"),
        (torch.abs, "sgn"),
        (lambda x: x.index_select(0, torch.tensor([0, 1])) ** 2, "index_add|index_select_backward"),
    ],
)
def test_derivatives_inside_are_operators_too(poptorch: Any, function: Any, operator: str) -> None:
    assert compiled(poptorch, lambda self, x: function(x)) is not None
    poptorch.Machine.holder = None
    with pytest.raises(poptorch.Error, match=f"without a handler: .*aten::({operator})"):
        compiled(poptorch, lambda self, x: gradient(function, x))


def test_training_may_use_them_all(poptorch: Any) -> None:
    """PopART takes the derivatives of the program itself."""
    model = Called(lambda self, x: poptorch.identity_loss(functional.softplus(self.weight * x).abs(), "sum"))
    program = poptorch.trainingModel(model, optimizer=poptorch.optim.SGD(model.parameters(), lr=1.0))
    program(torch.zeros(3))
    program.destroy()
    assert model.weight.tolist() == [1.0] * 3


def test_weights_stay_where_they_are(poptorch: Any) -> None:
    def reassigns(self: Any, x: Tensor) -> Tensor:
        self.scale = self.scale * 2
        return x * self.scale

    def removes(self: Any, x: Tensor) -> Tensor:
        del self._buffers["scale"]
        self._buffers["other"] = x
        return x

    with pytest.raises(poptorch.Error, match="scale is reassigned"):
        compiled(poptorch, reassigns)
    with pytest.raises((poptorch.Error, KeyError, AttributeError), match="scale"):
        compiled(poptorch, removes)


def test_buffers_changed_in_place(poptorch: Any) -> None:
    def counts(self: Any, x: Tensor) -> Tensor:
        self.scale.add_(1)
        self.order.add_(1)
        return x * self.scale, self.order * 1

    model = Called(counts)
    program = poptorch.inferenceModel(model, poptorch.Options().deviceIterations(2))
    scale, order = program(torch.ones(6))
    assert scale.tolist() == [2.0] * 3 + [3.0] * 3  # not counted while it was compiled
    assert order.tolist() == [3, 2, 1] * 2  # PopART has no integer variables: these are constants
    program.copyWeightsToHost()
    assert model.scale.tolist() == [3.0] * 3 and model.order.tolist() == [2, 1, 0]
    program.destroy()
    with pytest.raises(poptorch.Error, match="scale is changed .* between replicas"):
        compiled(poptorch, counts, poptorch.Options().replicationFactor(2), torch.ones(6))
    with pytest.raises(NotImplementedError, match="inputs that are changed in place"):
        compiled(poptorch, lambda self, x: x.add_(1))


def test_batch_normalization_is_one_operator(poptorch: Any) -> None:
    norm, x = nn.BatchNorm1d(3).train(), torch.randn(4, 3)
    program = poptorch.inferenceModel(norm)
    torch.testing.assert_close(program(x), nn.BatchNorm1d(3).train()(x).detach())
    program.copyWeightsToHost()
    torch.testing.assert_close(norm.running_mean, x.mean(0) / 10)
    assert int(norm.num_batches_tracked) == 0


def test_losses_of_torch_count(poptorch: Any) -> None:
    """A second, unused loss function is an independent loss; one on the way to the marked one is not."""
    mark = poptorch.identity_loss

    def beside(self: Any, x: Tensor) -> Any:
        y = self.weight * x
        return mark(y.sum(), "sum"), functional.mse_loss(y, x)

    def before(self: Any, x: Tensor) -> Any:
        return mark(functional.cross_entropy((self.weight * x)[None], torch.tensor([1])) * 2, "sum")

    for function, message in ((beside, "2 independent losses"), (before, None)):
        model = Called(function)
        program = poptorch.trainingModel(model, optimizer=poptorch.optim.SGD(model.parameters(), lr=1.0))
        if message is None:
            assert program(torch.ones(3)).dim() == 0
        else:
            with pytest.raises(poptorch.Error, match=message):
                program(torch.ones(3))


def test_weights_and_inputs_of_the_wrong_kind(poptorch: Any) -> None:
    with pytest.raises(poptorch.Error, match="weight is float64"):
        poptorch.inferenceModel(nn.Linear(1, 1).double())(torch.ones(1, 1))
    empty = Called(lambda self, x: x)
    empty.register_buffer("nothing", torch.zeros(0, 3))
    with pytest.raises(poptorch.Error, match="nothing has no elements"):
        poptorch.inferenceModel(empty)(torch.ones(3))
    with pytest.raises(poptorch.Error, match="input has no elements"):
        compiled(poptorch, lambda self, x: x, None, torch.ones(0, 3))
    assert compiled(poptorch, lambda self, x: x * 2, None, torch.ones(3).double()).dtype == torch.float32
