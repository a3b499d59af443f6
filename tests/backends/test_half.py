"""float16 training emulated on the CPU: what is rounded, what is not, and that it learns."""

from typing import Any, List

import pytest
import torch
from poptorch_helpers import ADAMW, BATCHING, batches, random_packs, rates, small_schnet
from torch import Tensor, nn

from ipu_chem.backends.half import HalfOnCpu, round_stochastically, weights_to_half
from ipu_chem.backends.options import Precision
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.losses import mse
from ipu_chem.optim import OptimizerConfig

HALF = Precision(weights="float16", loss_scaling=128.0)


def train(precision: Precision, calls: int = 30, optimizer: OptimizerConfig = ADAMW) -> "tuple[Tensor, TorchBackend]":
    backend = TorchBackend("cpu", precision=precision)
    backend.compile(small_schnet(), mse, optimizer, BATCHING, batches(1)[0])
    data, rate = batches(3) * calls, [1e-2] * calls
    return torch.cat([backend.train_step(data[call], rate[call]) for call in range(calls)]), backend


@pytest.mark.parametrize("accumulation", ["float32", "float16"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_learns_what_float32_learns(stochastic: bool, accumulation: str) -> None:
    expected, _ = train(Precision())
    losses, backend = train(Precision("float16", 128.0, stochastic, accumulation=accumulation))
    assert losses.dtype == torch.float32 and losses[-6:].mean() < 0.9 * losses[:6].mean()
    assert float((losses - expected).abs().max()) > 1e-5  # it is not float32 in disguise
    torch.testing.assert_close(losses, expected, rtol=0.03, atol=0.0)
    state = backend.state_dict()
    assert {value.dtype for value in state["model"].values()} == {torch.float16, torch.float32}  # buffers stay
    assert all(value.dtype == torch.float32 for value in state["optimizer"].values())


def test_resumes_to_the_bit() -> None:
    _, backend = train(HALF, 6)
    saved = backend.state_dict()
    data, rate = batches(3) * 4, rates(10)
    expected = torch.cat([backend.train_step(data[call], rate[call]) for call in range(6, 10)])
    fresh = TorchBackend("cpu", precision=HALF)
    fresh.compile(small_schnet(), mse, ADAMW, BATCHING, batches(1)[0])
    fresh.load_state_dict(saved)
    assert torch.cat([fresh.train_step(data[call], rate[call]) for call in range(6, 10)]).equal(expected)


def test_energies_and_distances_stay_in_float32() -> None:
    model = small_schnet(atom_references=torch.full((100, 1), 100.3))
    packs = random_packs(4)
    exact = model(*packs.inputs).detach()
    weights_to_half(model)
    dtypes: List[torch.dtype] = []
    model.model.interactions[0].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with HalfOnCpu():
        prediction = model(*packs.inputs)
    assert dtypes == [torch.float16] and prediction.dtype == torch.float32
    assert model.model.atom_references.dtype == model.model.basis.centres.dtype == torch.float32
    error = (prediction.detach() - exact)[packs.graph_mask].abs().max()
    assert 0 < float(error) < 0.05  # of sums of 100.3, whose spacing in float16 would be up to 0.25


def test_operators_round_their_results_once() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(64, 256).half(), torch.randn(256, 64).half()
    with HalfOnCpu():
        product = left @ right
        mixed = left[:, :1] * torch.ones(1)[0]  # a float32 number does not widen
        wide = left[:, :1] + torch.zeros(64, 1)
    assert product.dtype == mixed.dtype == torch.float16 and wide.dtype == torch.float32
    assert product.equal((left.float() @ right.float()).half())


def test_products_of_mixed_formats_are_refused_as_on_devices() -> None:
    with HalfOnCpu(), pytest.raises(RuntimeError, match="mixes float16 with"):
        torch.zeros(2, 2).half() @ torch.zeros(2, 2)


def test_gradients_flow_in_float16() -> None:
    layer = nn.Linear(8, 8)
    weights_to_half(layer)
    with HalfOnCpu():
        layer(torch.randn(4, 8).half()).float().square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float16
    assert layer.weight.grad.abs().sum() > 0


def test_loss_scaling_saves_small_gradients() -> None:
    """A gradient of 1e-8 is nothing in float16; scaled by 4096 it is, and the update is the same size."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, *inputs: Tensor) -> Tensor:
            return (self.weight * torch.ones(1, dtype=self.weight.dtype)).float() * 1e-8

    moved = {}
    for scaling in (1.0, 4096.0):
        backend = TorchBackend("cpu", precision=Precision("float16", scaling))
        model = Tiny()
        backend.compile(model, lambda p, y, w: p.sum(), OptimizerConfig("sgd", 1e6), BATCHING, batches(1)[0])
        backend.train_step(batches(1)[0], 1e6)
        moved[scaling] = 1 - float(model.weight.detach())
    assert moved[1.0] == 0 and moved[4096.0] == pytest.approx(2 * 4 * 1e-8 * 1e6, rel=0.02)


def test_stochastic_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    values = torch.tensor([1.0001, -3.14159, 1e-3, 1000.3, 2e-6, 0.0])
    rounded = torch.stack([round_stochastically(values) for _ in range(4000)]).double()
    spacing = torch.tensor([2**-10, 2**-9, 2**-20, 2**-1, 2**-24, 2**-24]).double()
    assert bool(((rounded - values.double()).abs() <= spacing).all())
    normal = values.abs() >= 2**-14
    error = (rounded.mean(0) - values.double()).abs()[normal]
    assert bool((error < 0.05 * spacing[normal]).all())  # rounding to nearest would be up to half a spacing off
    exact = torch.tensor([1.0, -0.5, 1024.0, 65504.0])
    assert round_stochastically(exact).float().equal(exact)


def test_weights_that_do_not_fit_are_refused() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match="weight does not fit float16"):
        weights_to_half(layer)


def test_compilation_is_refused() -> None:
    from ipu_chem.backends.options import TorchOptions

    with pytest.raises(ValueError, match="does not go with torch.compile"):
        TorchBackend("cpu", TorchOptions(compile=True), HALF)


def test_evaluates_in_float16() -> None:
    backend: Any = TorchBackend("cpu", precision=HALF)
    backend.compile(small_schnet(), None, None, BATCHING, random_packs(8))
    packs = random_packs(8)
    exact = small_schnet()(*packs.inputs).detach()
    prediction = backend.evaluate(packs)
    assert prediction.dtype == torch.float32 and not prediction.equal(exact)
    torch.testing.assert_close(prediction, exact, rtol=0.02, atol=0.02)
