"""PopTorch's double: float16 weights, accumulators and moments, loss scaling and stochastic rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Half(nn.Module):
    """A float16 weight; the gradient of the loss by it is the sum of the inputs."""

    def __init__(self, poptorch: Any, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]).half())
        self.mark = poptorch.identity_loss

    def forward(self, x: Tensor) -> Tensor:
        return self.mark((self.weight * x.half()).float().sum(), "sum")


def trainer(poptorch: Any, model: nn.Module, optimizer: Any, accumulation: int = 1, **options: Any) -> Any:
    made = poptorch.Options().replicationFactor(options.get("replicas", 1))
    made.Training.gradientAccumulation(accumulation)
    if options.get("reduction") != "mean":
        made.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.Sum)
    if "seed" in options:
        made.randomSeed(options["seed"])
        made.Precision.enableStochasticRounding(True)
    return poptorch.trainingModel(model, made, optimizer)


def weight_after(program: Any, *calls: Tensor) -> float:
    for x in calls:
        program(x)
    program.copyWeightsToHost()
    return float(program.model.weight.detach())


def test_operators_round_to_float16_and_compute_in_float32(poptorch: Any) -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return x.sum(-1), x @ y, x + 0.5, x.float() + y.sum(), x * torch.tensor(2.0), x.softmax(-1)

    x = torch.cat([torch.full((1, 1), 2048.0), torch.ones(1, 200)], 1).half()
    y = torch.full((201, 1), 0.1).half()
    total, product, added, wide, scaled, soft = poptorch.inferenceModel(Sums())(x, y)
    assert total.dtype == torch.float16 and total.item() == 2248  # in float16 throughout it would stay at 2048
    exact = (x.double() @ y.double()).item()
    assert product.dtype == torch.float16 and abs(product.item() - exact) <= 0.0625
    assert added.dtype == torch.float16 and added[0, 1].item() == 1.5
    assert wide.dtype == torch.float32
    assert scaled.dtype == torch.float16  # a number does not widen an array
    assert soft.dtype == torch.float16 and soft[0, 0].item() == 1


def test_mixed_products_are_refused(poptorch: Any) -> None:
    layer = nn.Linear(3, 2).half()
    with pytest.raises(poptorch.Error, match="mixes torch.float16 and torch.float32"):
        poptorch.inferenceModel(layer)(torch.ones(1, 3))
    assert poptorch.inferenceModel(layer)(torch.ones(1, 3).half()).dtype == torch.float16


def test_no_master_copy_of_float16_weights(poptorch: Any) -> None:
    """Steps below half a spacing are lost, every time; those above are not."""
    for rate, moved in ((0.0002, 0.0), (0.0003, 2**-11)):  # around 1 the spacing downwards is 2**-11
        model = Half(poptorch)
        program = trainer(poptorch, model, poptorch.optim.SGD(model.parameters(), lr=rate))
        assert 1 - weight_after(program, *[torch.ones(1)] * (10 if moved == 0 else 1)) == moved
        program.destroy()


def test_stochastic_rounding_moves_weights_on_average(poptorch: Any) -> None:
    class Many(Half):
        def __init__(self, poptorch: Any) -> None:
            super().__init__(poptorch)
            self.weight = nn.Parameter(torch.ones(4000).half())

    results = []
    for seed in (1, 1, 2):
        model = Many(poptorch)
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.0001)
        program = trainer(poptorch, model, optimizer, seed=seed)
        program(torch.ones(1))
        program.destroy()
        results.append(model.weight.detach())
    assert results[0].equal(results[1]) and not results[0].equal(results[2])
    for weights in results:
        assert set(weights.tolist()) == {1.0, 1 - 2**-11}
        assert 1 - float(weights.double().mean()) == pytest.approx(0.0001, rel=0.15)


def test_rounding_in_all_directions(poptorch: Any) -> None:
    from poptorch.half import Rounding  # noqa: TID251 (the double)

    exact = torch.tensor([0.0, 1.0, -2.0, 65504.0, 2.0**-24])
    values = torch.tensor([1.0003, -1.0003, 3.1e-8, -3.1e-8, 1000.3, -5e-6, 65510.0])
    random = Rounding(True, 0)
    assert random.to(exact, torch.float16).float().equal(exact)
    rounded = torch.stack([random.to(values, torch.float16) for _ in range(4000)]).double()
    below, above = rounded.min(0).values, rounded.max(0).values
    assert bool((below <= values)[:-1].all() and (above >= values)[:-1].all())
    error = (rounded.mean(0) - values.double()).abs()
    assert bool((error[:-1] < 0.05 * (above - below)[:-1]).all())
    assert set(rounded[:, -1].tolist()) == {65504.0}  # never to infinity
    assert random.to(values, torch.float32) is values or random.to(values, torch.float32).equal(values)
    nearest = Rounding(False, 0)
    assert nearest.to(values, torch.float16).equal(values.half())


def test_types_of_the_state(poptorch: Any) -> None:
    half, single = torch.float16, torch.float32
    for kept_in, first in ((None, single), (single, single), (half, half)):
        model = Half(poptorch)
        given = {} if kept_in is None else {"accum_type": kept_in, "first_order_momentum_accum_type": kept_in}
        optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.01, **given)
        program = trainer(poptorch, model, optimizer)
        program(torch.ones(1))
        state = optimizer.state_dict()["ipu_state"]
        kinds = {name: value.dtype for name, value in state.items()}
        assert kinds == {"Accl1___weight": first, "Accl2___weight": single, "Step___weight": single}
        wrong = {**optimizer.state_dict(), "ipu_state": {**state, "Accl1___weight": state["Accl1___weight"].double()}}
        optimizer.load_state_dict(wrong)
        with pytest.raises(poptorch.Error, match="Accl1___weight is torch.float64"):
            program(torch.ones(1))
        optimizer.ipu_state_is_dirty = False
        program.destroy()
    model = Half(poptorch)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, velocity_accum_type=half)
    trainer(poptorch, model, optimizer)(torch.ones(1))
    assert optimizer.state_dict()["ipu_state"]["Accl1___weight"].dtype == half


def test_accumulators_in_float16_lose_small_gradients(poptorch: Any) -> None:
    """2048 + 1 is 2048 in float16: accumulated there, later micro-batches vanish."""
    x = torch.tensor([2048.0, 1.0, 1.0, 1.0])
    moved = {}
    for kept_in in (torch.float16, torch.float32):
        model = Half(poptorch, start=0.0)
        optimizer = poptorch.optim.SGD(model.parameters(), lr=1.0, accum_type=kept_in)
        moved[kept_in] = -weight_after(trainer(poptorch, model, optimizer, accumulation=4), x)
        poptorch.Machine.holder = None
    assert moved == {torch.float16: 2048, torch.float32: 2052}  # 2051, to the nearest float16


def test_means_in_float16_accumulators_are_left_out(poptorch: Any) -> None:
    """PopTorch takes running means there, which the double does not know; a sum can overflow."""
    model = Half(poptorch, start=0.0)
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.5, accum_type=torch.float16)
    with pytest.raises(NotImplementedError, match="running means"):
        trainer(poptorch, model, optimizer, accumulation=4, reduction="mean")
    program = trainer(poptorch, model, optimizer, accumulation=4)
    assert -weight_after(program, torch.full((4,), 30000.0)) == float("inf")


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_loss_scaling_saves_small_gradients(poptorch: Any, kind: str) -> None:
    """Of a gradient of 1e-8 nothing is left in float16; 8192 times as much survives, and the update divides it out."""

    class Tiny(Half):
        def forward(self, x: Tensor) -> Tensor:
            return self.mark((self.weight * x.half()).float() * 1e-8, "sum")

    moved = {}
    for scaling in (1.0, 8192.0):
        model = Tiny(poptorch, start=0.0)
        # Adam's step is its rate where the gradient is well above eps.
        rate = {"lr": 1e6} if kind == "SGD" else {"lr": 0.25, "eps": 1e-12}
        optimizer = getattr(poptorch.optim, kind)(model.parameters(), loss_scaling=scaling, **rate)
        program = trainer(poptorch, model, optimizer)
        moved[scaling] = -weight_after(program, torch.ones(1))
        program.destroy()
    assert moved[1.0] == 0 and moved[8192.0] == pytest.approx(0.01 if kind == "SGD" else 0.25, rel=0.01)
