"""PopTorch's double: the schedule of a call, its layout of inputs and outputs, and arguments of other kinds."""

from typing import Any, NamedTuple, Tuple

import pytest
import torch
from poptorch_helpers import Plain, Weighted, trainer
from torch import Tensor, nn


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 2), (2, 1, 2)])
def test_layout_of_inputs_and_outputs(poptorch: Any, sizes: Tuple[int, int, int]) -> None:
    """[device iteration, accumulation, replica, micro-batch]: a step's weight shows how far training was."""
    iterations, accumulation, replicas = sizes
    micro = 2
    x = torch.arange(1.0, iterations * accumulation * replicas * micro + 1).unsqueeze(1)
    per_step = x.reshape(iterations, -1)
    weight_before = -torch.cat([torch.zeros(1), per_step.sum(1).cumsum(0)[:-1]])
    every = (per_step * weight_before.unsqueeze(1)).reshape(-1, 1)
    losses = every.reshape(-1, micro).sum(1)

    y, loss = trainer(poptorch, Weighted(poptorch), poptorch.OutputMode.All, sizes)(x)
    assert y.shape == x.shape and y.equal(every)
    assert loss.shape == ((len(losses),) if len(losses) > 1 else ()) and loss.reshape(-1).equal(losses)

    poptorch.Machine.holder = None
    y, loss = trainer(poptorch, Weighted(poptorch), None, sizes)(x)  # Final is the default in training
    assert y.equal(every[-replicas * micro :])
    assert loss.shape == ((replicas,) if replicas > 1 else ()) and loss.reshape(-1).equal(losses[-replicas:])


@pytest.mark.parametrize(("sizes", "factor"), [((1, 4, 1), 4), ((1, 1, 2), 2), ((1, 2, 2), 4), ((4, 1, 1), 1)])
def test_reduction_over_accumulation_and_replicas(poptorch: Any, sizes: Tuple[int, int, int], factor: int) -> None:
    x = torch.ones(sizes[0] * sizes[1] * sizes[2], 1)
    moved = {}
    for reduction in (poptorch.ReductionType.Sum, poptorch.ReductionType.Mean):
        model = Weighted(poptorch)
        program = trainer(poptorch, model, sizes=sizes, reduction=reduction)
        program(x)
        program.destroy()
        moved[reduction.name] = -float(model.weight.detach())
    assert moved == {"Sum": factor * sizes[0], "Mean": sizes[0]}


def test_mean_is_the_default_reduction(poptorch: Any) -> None:
    assert poptorch.Options().Training.accumulation_and_replication_reduction_type == poptorch.ReductionType.Mean


def test_inference_returns_everything_in_order(poptorch: Any) -> None:
    options = poptorch.Options().deviceIterations(3).replicationFactor(2)
    x = torch.arange(12.0)
    assert poptorch.inferenceModel(Plain(), options)(x).equal(x * 2)


def test_named_arguments(poptorch: Any) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, *more: Tensor, scale: Any = 2, **named: Tensor) -> Tensor:
            return x * scale + sum(more) + named["z"] * 10 + named.get("a", 0)

    one = torch.ones(2)
    program = poptorch.inferenceModel(Named(), poptorch.Options().deviceIterations(2))
    assert program(one, one, one, z=one, a=one).tolist() == [15.0, 15.0]
    assert program(one, one, one, a=one * 5, z=one).tolist() == [19.0, 19.0]  # in the order of compilation
    for call, message in [
        (lambda: program(one, one, z=one, a=one), "2 positional arguments given, compiled for 3"),
        (lambda: program(one, one, one, z=one), "has the keys"),
        (lambda: program(one, one, one, z=one, a=one, scale=3), "scale. is 3, compiled for 2"),
        (lambda: program(one, one, one, z=one, a=None), "is a NoneType"),
    ]:
        with pytest.raises(poptorch.Error, match=message):
            call()
    with pytest.raises(AssertionError, match="more than once"):
        program(one, z=one, x=one)
    plain = poptorch.inferenceModel(Plain())
    with pytest.raises(AssertionError, match="not among the parameters"):
        plain(z=one)
    poptorch.Machine.holder = None
    assert plain(x=one).tolist() == [2.0, 2.0]


def test_batch_must_divide(poptorch: Any) -> None:
    with pytest.raises(AssertionError, match="no multiple of"):
        trainer(poptorch, Weighted(poptorch), sizes=(2, 2, 2))(torch.ones(12, 1))


def test_named_tuples_keep_their_properties(poptorch: Any) -> None:
    class Pair(NamedTuple):
        left: Tensor
        right: Tensor

        @property
        def total(self) -> Tensor:
            return self.left + self.right

    class Total(nn.Module):
        def forward(self, pair: Any) -> Any:
            assert type(pair) is Pair
            return Pair(pair.total, pair.left.long())

    out = poptorch.inferenceModel(Total())(Pair(torch.ones(2), torch.ones(2)))
    assert type(out) is Pair and out.total.tolist() == [3.0, 3.0]
    assert out.right.dtype == torch.int32  # there are no 64-bit integers on the device
