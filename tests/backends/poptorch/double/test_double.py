"""PopTorch's double: options, what may stand in a forward pass, and what inputs are fixed to."""

import sys
from typing import Any, List

import pytest
import torch
from poptorch_helpers import Plain, Weighted, installed_double, random_packs, small_schnet
from torch import Tensor, nn

from ipu_chem.losses import LOSSES


class Broken(nn.Module):
    """A model whose forward is what the test says."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.weight, x)


def test_is_gone_after_use() -> None:
    with installed_double() as module:
        assert sys.modules["poptorch"] is module and module.__version__.startswith("3.4.0")
    assert not [name for name in sys.modules if name.split(".")[0] == "poptorch"]


# Options.


def test_options_refuse_wrong_types_and_names(poptorch: Any) -> None:
    options = poptorch.Options()
    for set_wrongly in (
        lambda: options.deviceIterations(2.0),
        lambda: options.replicationFactor("2"),
        lambda: options.Training.gradientAccumulation(2.0),
        lambda: options.outputMode("All"),
        lambda: options.setAvailableMemoryProportion({"0": 0.3}),
        lambda: options.connectionType(2),
        lambda: options.randomSeed(1.0),
        lambda: options.set(no_such_option=1),
    ):
        with pytest.raises(AssertionError):
            set_wrongly()
    with pytest.raises(ValueError, match="ReductionType"):
        options.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.NoReduction)
    with pytest.raises(ValueError, match="ReductionType"):
        options.Training.accumulationAndReplicationReductionType("Sum")
    with pytest.raises(AttributeError, match="deviceIteration"):
        options.deviceIteration(2)
    with pytest.raises(AttributeError):
        options.Training.gradient_accumulations  # noqa: B018
    with pytest.raises(AttributeError):
        options._private = 1


def test_options_are_frozen_by_the_first_program(poptorch: Any) -> None:
    options = poptorch.Options()
    poptorch.inferenceModel(Plain(), options)
    for change in (
        lambda: options.deviceIterations(2),
        lambda: options.Training.gradientAccumulation(2),
        lambda: options._Popart.set("defaultBufferingDepth", 2),
        lambda: options.Precision.enableStochasticRounding(True),
    ):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    assert options.clone().deviceIterations(2).device_iterations == 2


@pytest.mark.parametrize(("name", "value"), [("noSuchOption", 1), ("defaultBufferingDepth", "3")])
def test_popart_options_are_checked_when_compiled(poptorch: Any, name: str, value: Any) -> None:
    options = poptorch.Options()
    options._Popart.set(name, value)
    program = poptorch.inferenceModel(Plain(), options)
    with pytest.raises(poptorch.Error, match=name):
        program(torch.ones(1))


def test_only_poptorch_options_and_optimizers(poptorch: Any) -> None:
    with pytest.raises(poptorch.Error, match="poptorch.Options"):
        poptorch.inferenceModel(Plain(), {"device_iterations": 2})
    model = Weighted(poptorch)
    with pytest.raises(NotImplementedError):
        poptorch.trainingModel(model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))


def test_inference_takes_no_accumulation(poptorch: Any) -> None:
    options = poptorch.Options()
    options.Training.gradientAccumulation(2)
    with pytest.raises(poptorch.Error, match="gradientAccumulation"):
        poptorch.inferenceModel(Plain(), options)


# What may stand in a forward pass.


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda weight, x: x.index_add(0, torch.zeros(3, dtype=torch.long), weight), "aten::index_add"),
        (lambda weight, x: torch.sgn(x), "aten::sgn"),
        (lambda weight, x: (x.bfloat16() * 2).float(), "bfloat16"),
        (lambda weight, x: torch.where(x > 0, x.to(torch.uint8), x.to(torch.uint8)), "move and cast"),
        (lambda weight, x: x.to(torch.int16) + 1, "move and cast"),
    ],
)
def test_forward_passes_that_do_not_compile(poptorch: Any, function: Any, message: str) -> None:
    program = poptorch.inferenceModel(Broken(function))
    with pytest.raises(poptorch.Error, match=message):
        program(torch.ones(3))
    assert not program.isCompiled() and poptorch.Machine.holder is None


def test_one_loss_exactly(poptorch: Any) -> None:
    mark = poptorch.identity_loss
    with pytest.raises(poptorch.Error, match="no loss"):
        poptorch.trainingModel(Broken(lambda weight, x: (weight * x).sum()))(torch.ones(3))
    two = Broken(lambda weight, x: (mark((weight * x).sum(), "sum"), mark((weight + x).sum(), "sum")))
    with pytest.raises(poptorch.Error, match="2 independent losses"):
        poptorch.trainingModel(two)(torch.ones(3))
    chained = Broken(lambda weight, x: mark(mark((weight * x).sum(), "sum") * 2, "sum"))
    program = poptorch.trainingModel(chained, optimizer=poptorch.optim.SGD(chained.parameters(), lr=1.0))
    program(torch.ones(3))
    program.destroy()
    assert chained.weight.tolist() == [-1.0] * 3
    with pytest.raises(poptorch.Error, match="outside"):
        mark(torch.ones(1), "sum")
    with pytest.raises(AssertionError, match="reduction"):
        mark(torch.ones(1), "max")


@pytest.mark.parametrize(("reduction", "gradient"), [("sum", 1.0), ("mean", 1 / 3)])
def test_reductions_of_the_loss(poptorch: Any, reduction: str, gradient: float) -> None:
    model = Broken(lambda weight, x: poptorch.identity_loss(weight * x, reduction))
    program = poptorch.trainingModel(model, optimizer=poptorch.optim.SGD(model.parameters(), lr=1.0))
    program(torch.ones(3))
    program.destroy()
    torch.testing.assert_close(model.weight.detach(), torch.full((3,), 1 - gradient))


def test_bfloat16_is_refused(poptorch: Any) -> None:
    with pytest.raises(poptorch.Error, match="input is bfloat16"):
        poptorch.inferenceModel(Plain())(torch.ones(1, dtype=torch.bfloat16))
    with pytest.raises(poptorch.Error, match="weight is bfloat16"):
        poptorch.inferenceModel(nn.Linear(1, 1).bfloat16())(torch.ones(1, 1))


def test_inputs_are_fixed_once_compiled(poptorch: Any) -> None:
    program = poptorch.inferenceModel(Plain())
    program(torch.ones(2, 3))
    for other, message in [
        ((torch.ones(2, 4),), "shape"),
        ((torch.ones(2, 3).half(),), "data type"),
        ((torch.ones(2, 3, dtype=torch.int64),), "data type"),
        (([torch.ones(2, 3)],), "is a list"),
    ]:
        with pytest.raises(poptorch.Error, match=message):
            program(*other)
    with pytest.raises(AssertionError, match="2 arguments given"):
        program(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(poptorch.Error, match="forward needs 1"):
        program()
    program.destroy()
    program(torch.ones(2, 4))


# Operators of the models.


def operators_of(poptorch: Any, readout: str, references: bool, loss: Any) -> List[str]:
    from poptorch.tracing import Watch  # noqa: TID251 (the double)

    model = small_schnet(readout=readout, atom_references=torch.zeros(100, 1) if references else None)
    packs = random_packs(2)
    with Watch() as watch:
        loss(model(*packs.inputs), *packs.targets)
    return sorted(watch.names)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(("readout", "references"), [("sum", False), ("mean", True)])
def test_every_operator_of_schnet_has_a_handler(poptorch: Any, readout: str, references: bool, loss: Any) -> None:
    """Names as torch's dispatcher gives them below autograd; how they map to PopTorch's is said in tracing.py."""
    from poptorch.tracing import handled  # noqa: TID251 (the double)

    names = operators_of(poptorch, readout, references, loss)
    assert {"scatter_add", "gather", "softplus", "embedding"} <= set(names)
    assert [name for name in names if not handled(name)] == []


def test_supported_names(poptorch: Any) -> None:
    from poptorch.tracing import handled  # noqa: TID251 (the double)

    assert all(handled(name) for name in ("add", "add_", "_to_copy", "zero_", "copy_", "scatter_add_", "where"))
    assert not any(handled(name) for name in ("index_add", "nonzero", "sgn", "tanh_backward", "alias", "__add__"))
