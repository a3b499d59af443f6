"""PopTorch's double does what the real front end was seen to do: shared tensors, merged gathers, slices, errors."""

import logging
from typing import Any, List

import pytest
import torch
from poptorch_helpers import Plain
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.nn import functional


class Called(nn.Module):
    """Forward is what the test says."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("order", torch.tensor([2, 1, 0]))
        self.table = torch.ones(3)  # no buffer
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def run(poptorch: Any, function: Any, x: Any = None) -> Any:
    poptorch.Machine.holder = None
    return poptorch.inferenceModel(Called(function))(torch.arange(3.0) if x is None else x)


def derivative(function: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(function(x).sum(), x, create_graph=True)[0]


# Shared tensors.


class Tied(nn.Module):
    """Two layers of one weight; trained, it has a loss."""

    def __init__(self, poptorch: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
        self.second.weight = self.first.weight
        self.mark = poptorch.identity_loss

    def forward(self, x: Tensor) -> Any:
        y = self.second(self.first(x))
        return self.mark(y.sum(), "sum") if self.training else y


class Around(nn.Module):
    """Gives its state dict under the names of what is inside, unless it is told not to."""

    def __init__(self, model: nn.Module, names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if self.names == "inside":
            return self.model.state_dict(*args, **kwargs)
        state = super().state_dict(*args, **kwargs)
        if self.names == "hidden":
            del state["model.second.weight"]
        return state


def test_shared_tensors_are_one_on_the_device(poptorch: Any) -> None:
    for model in (Tied(poptorch), Around(Tied(poptorch), "paths")):
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.01)
        program = poptorch.trainingModel(model, None, optimizer)
        x = torch.ones(1, 2)
        assert program(x).item() == 8
        program.destroy()
        tied = model.model if isinstance(model, Around) else model
        assert tied.first.weight is tied.second.weight
        # Both uses are in the gradient: 2 from the one, 4 / 2 from the other.
        torch.testing.assert_close(tied.first.weight.detach(), torch.full((2, 2), 1 - 0.01 * 4))


@pytest.mark.parametrize("training", [True, False])
def test_names_of_shared_tensors_are_paths(poptorch: Any, training: bool) -> None:
    """AttributeError says it, and PopTorch's cleaning up masks it; nothing is left behind."""
    model = Around(Tied(poptorch), "inside").train(training)
    before = dict(model.named_parameters(remove_duplicate=False))
    for _ in range(2):
        program = poptorch.trainingModel(model) if training else poptorch.inferenceModel(model)
        with pytest.raises(UnboundLocalError, match="'old_addresses' referenced before assignment") as caught:
            program(torch.ones(1, 2))
        assert isinstance(caught.value.__context__, AttributeError) and "second" in str(caught.value.__context__)
        assert poptorch.Machine.holder is None and not program.isCompiled()
        model = Around(model.model, "inside").train(training)
    assert all(model.model.get_parameter(name[6:]) is tensor for name, tensor in before.items())


def test_names_that_nothing_shares_may_be_any(poptorch: Any) -> None:
    model = Around(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "inside").eval()
    assert poptorch.inferenceModel(model)(torch.ones(1, 2)).shape == (1, 2)


def test_shared_tensors_that_the_state_dict_hides(poptorch: Any) -> None:
    with pytest.raises(poptorch.Error, match="model.second.weight is also model.first.weight"):
        poptorch.inferenceModel(Around(Tied(poptorch), "hidden").eval())(torch.ones(1, 2))


def test_shared_buffers_are_looked_for_among_the_parameters(poptorch: Any) -> None:
    model = nn.Sequential(Plain(), Plain())
    model[0].register_buffer("table", torch.ones(1))
    model[1].register_buffer("table", model[0].table)
    with pytest.raises(KeyError, match="0.table"):
        poptorch.inferenceModel(model)(torch.ones(1))


def test_inputs_ask_for_no_derivative(poptorch: Any) -> None:
    with pytest.raises(poptorch.Error, match="input 0 has requires_grad"):
        poptorch.inferenceModel(Plain())(torch.ones(1, requires_grad=True))


# Gathers.


def rows(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(0, index.unsqueeze(1).expand(-1, values.shape[1]))


def order(x: Tensor) -> Tensor:
    """Indices that are not known when the program is compiled: 2, 1, 0 of 0, 1, 2."""
    return (2 - x).to(torch.int32)


def two(first: int, second: int, columns: int = 1, chained: bool = False) -> Any:
    """Sums of two gathers from columns of as many rows as are said."""

    def function(self: Any, x: Tensor) -> Tensor:
        a = x[:, None].expand(3, columns) * 2
        b = rows(torch.cat([a, a + 1])[:first], order(x)).sum()
        c = torch.cat([a, a - 1])[:second]
        return rows(c + b, order(x)).sum() + x if chained else rows(c, order(x)).sum() + b + x

    return function


@pytest.mark.parametrize(
    ("sizes", "columns", "merges"),
    [((4, 5), 1, True), ((4, 4), 1, False), ((4, 5), 2, False)],
    ids=["unequal columns", "equal columns", "rows of two"],
)
def test_gathers_without_a_known_shape_are_merged(poptorch: Any, sizes: Any, columns: int, merges: bool) -> None:
    if merges:
        with pytest.raises(poptorch.Error, match="concat: .* 2 gathers have no known shape"):
            run(poptorch, two(*sizes, columns))
        assert poptorch.Machine.holder is None
    else:
        run(poptorch, two(*sizes, columns))


def scattered(x: Tensor, size: int, index: Tensor) -> Tensor:
    """A sum into rows, whose derivative is a gather."""
    index = index.unsqueeze(1).expand(-1, x.shape[1])
    return torch.zeros(size, x.shape[1]).scatter_add(0, index, x)


@pytest.mark.parametrize(("columns", "merges"), [(1, True), (2, False)])
def test_derivatives_of_scatters_are_gathers(poptorch: Any, columns: int, merges: bool) -> None:
    def energy(x: Tensor, index: Tensor) -> Tensor:
        x = x.unsqueeze(1).expand(-1, columns) * 1.0
        return (scattered(x, 4, index) ** 2).sum() + (scattered(x, 5, index) ** 3).sum()

    def function(self: Any, x: Tensor) -> Tensor:
        return derivative(lambda y: energy(y, order(x)), x)

    if merges:
        with pytest.raises(poptorch.Error, match="concat"):
            run(poptorch, function)
    else:
        assert run(poptorch, function).tolist() == [0.0, 2 * 5.0, 2 * 16.0]
    assert run(poptorch, lambda self, x: energy(x, order(x))).item() == columns * (
        1 + 4 + 1 + 8
    )  # without derivatives there is no gather


def test_a_derivative_that_needs_no_values_meets_the_first_gathers(poptorch: Any) -> None:
    """It starts at ones in the energy's shape, not at the energy."""

    def function(self: Any, x: Tensor) -> Tensor:
        first = rows(x.unsqueeze(1), order(x)).sum()  # 3 of 3
        return first + derivative(lambda y: scattered((first * y).unsqueeze(1), 4, order(x)), x)  # 3 of 4

    with pytest.raises(poptorch.Error, match="concat"):
        run(poptorch, function)


def test_gathers_that_are_not_merged(poptorch: Any) -> None:
    """One after the other, of other types, not needed, or of constants."""

    def unneeded(self: Any, x: Tensor) -> Tensor:
        rows(torch.cat([x, x])[:, None], order(x))
        return rows(x[:, None], order(x)).sum()

    def of_constants(self: Any, x: Tensor) -> Tensor:
        return rows(x[:, None], order(x)).sum() + torch.take_along_dim(torch.arange(4.0), self.order, 0).sum()

    def of_other_types(self: Any, x: Tensor) -> Tensor:
        wide = torch.cat([x, x])[:, None]
        return rows(x[:, None], order(x)).sum() + rows(wide.to(torch.int32), order(x)).sum()

    for function in (two(4, 5, chained=True), unneeded, of_constants, of_other_types):
        run(poptorch, function)


def test_rows_by_a_constant_index_have_no_known_shape(poptorch: Any) -> None:
    """Its expansion is evaluated when the program is compiled: nothing says any more that it was expanded."""

    def function(self: Any, x: Tensor) -> Tensor:
        a = x[:, None].expand(3, 2) * 2
        return rows(a, self.order).sum() + rows(torch.cat([a, a]), self.order).sum() + x

    with pytest.raises(poptorch.Error, match="concat"):
        run(poptorch, function)


def test_cross_products_end_in_a_gather(poptorch: Any) -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        one, other = x.expand(2, 3), x.expand(4, 3) * 2
        return torch.linalg.cross(one, one + 1).sum() + torch.linalg.cross(other, other + 1).sum() + x

    with pytest.raises(poptorch.Error, match="concat"):
        run(poptorch, function)


def test_gathers_of_other_stages_are_not_merged(poptorch: Any) -> None:
    class Gathers(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size
            self.register_buffer("order", torch.tensor([1, 0]))

        def forward(self, x: Tensor) -> Tensor:
            values = x[0, : self.size, None]
            return x + rows(values, self.order).sum()

    class Beside(nn.Module):
        def __init__(self, apart: bool) -> None:
            super().__init__()
            self.a, self.b = Gathers(3), Gathers(4)
            if apart:
                poptorch.BeginBlock(self.b, ipu_id=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    for apart in (False, True):
        poptorch.Machine.holder = None
        options = poptorch.Options().setExecutionStrategy(poptorch.ShardedExecution())
        program = poptorch.inferenceModel(Beside(apart), options)
        if apart:
            assert program(torch.arange(4.0)[None]).tolist() == [[2.0, 4.0, 6.0, 8.0]]
        else:
            with pytest.raises(poptorch.Error, match="concat"):
                program(torch.arange(4.0)[None])


# What PopTorch gets wrong.


WRONG = {
    "slice": lambda self, x: derivative(lambda x: x[1:] ** 2, x),
    "step": lambda self, x: derivative(lambda x: x[::2] ** 2, x),
    "select": lambda self, x: derivative(lambda x: x[1] ** 2, x),
    "narrow": lambda self, x: derivative(lambda x: x.narrow(0, 1, 1) ** 2, x),
    "diff": lambda self, x: derivative(lambda x: torch.diff(x) ** 2, x),
    "accumulate": lambda self, x: torch.zeros(3).index_put((self.order * 0,), x * 0 + 1, accumulate=True),
    "floor": lambda self, x: torch.div(x, 2, rounding_mode="floor"),
}
GIVES = {**dict.fromkeys(WRONG, [0.0] * 3), "accumulate": [1.0, 0.0, 0.0], "floor": [0.0, 0.5, 1.0]}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_wrong_is_refused(poptorch: Any, name: str) -> None:
    operator = {"accumulate": "index_put", "floor": "div", "select": "select_backward"}.get(name, "slice_backward")
    with pytest.raises(poptorch.Error, match=f"aten::{operator}: "):
        run(poptorch, WRONG[name])


@pytest.mark.parametrize("name", WRONG)
def test_or_is_as_wrong_as_on_an_ipu(poptorch: Any, name: str) -> None:
    poptorch.Machine.strict = False
    assert run(poptorch, WRONG[name]).tolist() == GIVES[name]


def test_parts_that_are_right(poptorch: Any) -> None:
    for function in (
        lambda x: x.split([1, 2])[1] ** 2,
        lambda x: x.chunk(3)[1] ** 2,
        lambda x: x.unbind()[1] ** 2,
        lambda x: functional.pad(x, (-1, -1)) ** 2,
    ):
        assert run(poptorch, lambda self, x, function=function: derivative(function, x))[1].item() == 2.0


@pytest.mark.parametrize("strict", [False, True])
def test_only_inner_derivatives_of_slices_are_dropped(poptorch: Any, strict: bool) -> None:
    """PopART differentiates slices well; of what depends on a dropped derivative, no weight learns."""
    poptorch.Machine.strict = strict
    mark = poptorch.identity_loss
    outer = Called(lambda self, x: mark((self.weight[:1] * x[:1]).sum(), "sum"))
    inner = Called(lambda self, x: mark(derivative(lambda x: x[1:] * self.weight[1:], x).sum() + self.weight[0], "sum"))
    for model, gradient in ((outer, [1.0, 0.0, 0.0]), (inner, [1.0, 0.0, 0.0])):
        optimizer = poptorch.optim.SGD(model.parameters(), lr=1.0)
        program = poptorch.trainingModel(model, None, optimizer)
        if strict and model is inner:
            with pytest.raises(poptorch.Error, match="slice_backward"):
                program(torch.ones(3))
            continue
        program(torch.ones(3))
        program.destroy()
        assert (1 - model.weight.detach()).tolist() == gradient


# Exceptions.


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (lambda self, x: x * x.sum().item(), NotImplementedError, "_local_scalar_dense"),
        (lambda self, x: x if x.sum() > 0 else -x, NotImplementedError, "_local_scalar_dense"),
        (lambda self, x: x * int(x[0]), NotImplementedError, "_local_scalar_dense"),
        (lambda self, x: torch.allclose(x, x) * x, NotImplementedError, "_local_scalar_dense"),
        (lambda self, x: x[x > 0], DynamicOutputShapeException, "index"),
        (lambda self, x: torch.from_numpy(x.numpy()), TypeError, "can't convert ipu:0"),
        (lambda self, x: x + self.table, RuntimeError, r"Expected an IPU tensor but got tensor\(device=cpu"),
        (lambda self, x: x.repeat_interleave(2), RuntimeError, "repeat_interleave"),
        (lambda self, x: x * x.tolist()[0], RuntimeError, "illegal move"),
        (lambda self, x: x + x.detach().cpu(), RuntimeError, "illegal move"),
        (lambda self, x: x + x.to("cpu"), RuntimeError, "illegal move"),
        (lambda self, x: x.nonzero(), RuntimeError, "aten::nonzero"),
        (lambda self, x: x.masked_select(x > 0), RuntimeError, "aten::masked_select"),
        (lambda self, x: x.unique(), RuntimeError, "aten::_unique2"),
        (lambda self, x: torch.zeros(3).scatter(0, self.order, x, reduce="add"), RuntimeError, "int64 for index"),
    ],
)
def test_exceptions_are_those_of_torch(poptorch: Any, function: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(poptorch, function)
    assert not isinstance(caught.value, poptorch.Error) and poptorch.Machine.holder is None


CONSTRUCTORS = {
    "eye": lambda self, x: torch.eye(3) @ x,
    "scalar_tensor": lambda self, x: torch.scalar_tensor(2.0) * x,
    "tril_indices": lambda self, x: x + torch.tril_indices(3, 3)[0, :3],
    "as_tensor": lambda self, x: torch.as_tensor([1.0, 2.0, 3.0]) * x,
    "hann_window": lambda self, x: torch.hann_window(3) * x,
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_of_the_host(poptorch: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match="Expected an IPU tensor"):
        run(poptorch, CONSTRUCTORS[name])


def test_constructors_of_the_device(poptorch: Any) -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        made = torch.arange(3) + torch.zeros(3) + torch.ones(3) + torch.full((3,), 2.0) + torch.tensor([1.0, 2.0, 3.0])
        return x + made + torch.where(x > 0, x, 0.0) * 0

    assert run(poptorch, function).tolist() == [4.0, 7.0, 10.0]


def test_indices_among_constants(poptorch: Any) -> None:
    """Torch evaluates them while the program is compiled, and they are int32 by then."""
    for function in (
        lambda self, x: functional.one_hot(self.order.long(), 3) * x,
        lambda self, x: functional.one_hot(torch.arange(3), 3) * x,
        lambda self, x: torch.arange(3.0).gather(0, self.order) * x,
        lambda self, x: torch.arange(3.0)[self.order] * x,
    ):
        with pytest.raises(poptorch.Error, match="of constants: expected int64"):
            run(poptorch, function)
    assert run(poptorch, lambda self, x: torch.arange(3.0).index_select(0, self.order) * x).tolist() == [0.0, 1.0, 0.0]
    assert run(poptorch, lambda self, x: functional.one_hot(x.long(), 3)).equal(torch.eye(3).int())


def test_a_backward_before_the_import(poptorch: Any) -> None:
    poptorch.Machine.imported_after_backward = True
    with pytest.raises(RuntimeError, match="device_ready_queues_.size.* INTERNAL ASSERT FAILED"):
        run(poptorch, lambda self, x: derivative(lambda x: x * x, x))
    assert run(poptorch, lambda self, x: x * 2).tolist() == [0.0, 2.0, 4.0]  # without a derivative inside, all is well


# What PopTorch takes, and the double only if it is told to.


TAKEN = {
    "attention": (
        lambda self, x: functional.scaled_dot_product_attention(*[x.reshape(1, 3, 1)] * 3).reshape(3),
        torch.softmax(torch.arange(3.0)[:, None] * torch.arange(3.0), -1) @ torch.arange(3.0),
    ),
    "uint8": (lambda self, x: x.to(torch.uint8) + x.to(torch.uint8), torch.tensor([0, 2, 4], dtype=torch.uint8)),
    "float64": (lambda self, x: x.double() * 2, torch.tensor([0.0, 2.0, 4.0])),
    "equal": (lambda self, x: x if torch.equal(x, x + 1) else -x, -torch.arange(3.0)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_double_refuses_and_poptorch_does_not(poptorch: Any, name: str) -> None:
    function, expected = TAKEN[name]
    with pytest.raises(poptorch.Error):
        run(poptorch, function)
    poptorch.Machine.strict = False
    torch.testing.assert_close(run(poptorch, function), expected)


def test_float64_weights(poptorch: Any) -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    with pytest.raises(poptorch.Error, match="weight is float64"):
        poptorch.inferenceModel(layer)(torch.ones(1, 1))
    poptorch.Machine.strict = False
    assert poptorch.inferenceModel(layer)(torch.ones(1, 1)).dtype == torch.float32


# 32 bits.


def test_integers_are_32_bits_wide_inside(poptorch: Any) -> None:
    seen: List[torch.dtype] = []

    def function(self: Any, x: Tensor) -> Any:
        made = (
            x.to(torch.int64),
            torch.arange(3),
            torch.tensor([1, 2]),
            self.order,
            x.argmax(0),
            x.topk(2).indices,
            torch.arange(3).sum(),
            functional.one_hot(x.long(), 3),
        )
        seen.extend(tensor.dtype for tensor in made)
        return x

    run(poptorch, function)
    assert set(seen) == {torch.int32} and len(seen) == 16  # traced, and run


def test_indices_are_32_bits_wide(poptorch: Any) -> None:
    """In training too, where derivatives use them again."""

    def function(weight: Tensor, index: Tensor) -> Tensor:
        y = weight.gather(0, index) + weight[index] * 2 + weight.index_select(0, index) * 3
        y = y + torch.zeros(3).scatter_add(0, index, weight * 4) + torch.take_along_dim(weight, index, 0) * 5
        y = y + torch.zeros(3).scatter_reduce(0, index, weight * 6, "sum") + torch.zeros(3).scatter(0, index, y * 7)
        y = y + functional.embedding(index, weight[:, None])[:, 0] * 8 + weight.topk(3).values
        y = y * torch.tensor([1.0, 2.0, 3.0])
        return y.sum() + functional.cross_entropy(weight.expand(3, 3), index, reduction="sum")

    mark = poptorch.identity_loss
    model = Called(lambda self, x: mark(function(self.weight + x, self.order.to(torch.int32)), "sum"))
    program = poptorch.trainingModel(model, None, poptorch.optim.SGD(model.parameters(), lr=1.0))
    weight = (torch.ones(3) + torch.arange(3.0)).requires_grad_(True)
    expected = function(weight, model.order.clone())
    torch.testing.assert_close(program(torch.arange(3.0)), expected.detach())
    program.destroy()
    torch.testing.assert_close(1 - model.weight.detach(), torch.autograd.grad(expected, weight)[0])


def coerced(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [line for line in caplog.messages if "coerced" in line or "suppressed" in line]


def test_a_line_for_every_64_bit_tensor(poptorch: Any, caplog: pytest.LogCaptureFixture) -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        return x + torch.arange(3) + torch.arange(3, dtype=torch.int32) + torch.ones(3)

    with caplog.at_level(logging.WARNING, "poptorch"):
        run(poptorch, function)  # the buffer and the first range
    lines = coerced(caplog)
    assert len(lines) == 2 and all("Type coerced from Long to Int for tensor id" in line for line in lines)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "poptorch"):
        poptorch.Machine.holder = None
        program = poptorch.inferenceModel(Plain())
        program(torch.ones(1, dtype=torch.float64))
        program(torch.ones(1, dtype=torch.float64))  # once, when it is compiled
    assert ["Type coerced from Double to Float for tensor id" in line for line in coerced(caplog)[:1]] == [True]
    assert len([line for line in coerced(caplog) if "tensor id" in line]) == 1


def test_numbers_are_64_bits_wide_four_times(poptorch: Any, caplog: pytest.LogCaptureFixture) -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        return ((x * 2.0 + 1) / 3.0 - 1 + 2.0 * x) * 5.0 * (x > 1)

    with caplog.at_level(logging.WARNING, "poptorch"):
        run(poptorch, function)
    lines = [line for line in coerced(caplog) if "tensor id" not in line]
    assert ["Double to Float" in line for line in lines[:4]] == [True, False, True, False]
    assert lines[4:] == ["...repeated messages suppressed..."]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "poptorch"):
        run(poptorch, function)
    assert [line for line in coerced(caplog) if "tensor id" not in line] == []  # of a process, not of a program
