"""Low-rank adapters: a model begins as it was, adapters and head alone are trained, merged weights say the same."""

import numpy as np
import pytest
import torch
from poptorch_helpers import installed_double
from text_cases import make_loader, one_pack, sequences, small_chemgpt

from ipu_chem.backends.base import Program
from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.operators.check import check_program
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.losses import mse
from ipu_chem.models.adapters import LowRankLinear, adapt, merged_weights
from ipu_chem.models.property_head import ChemGPTProperty
from ipu_chem.optim import OptimizerConfig

RANK = 3


def adapted(dtype: torch.dtype = torch.float64) -> ChemGPTProperty:
    model = ChemGPTProperty(small_chemgpt(dtype), 2, lora_rank=RANK).to(dtype)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lin_" in name:  # fresh heads predict 0
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_fresh_adapters_change_nothing_and_all_linear_layers_have_one():
    pack, _ = one_pack(sequences([5, 9, 4, 12, 7]), np.zeros((5, 2)))
    model = adapted()
    plain = ChemGPTProperty(small_chemgpt(), 2).double()
    plain.load_state_dict(merged_weights(model.state_dict()))
    assert torch.equal(model(*pack.inputs), plain(*pack.inputs))
    layers = [name for name, module in model.named_modules() if isinstance(module, LowRankLinear)]
    linear = (
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.out_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    )
    assert layers == [f"layers.{index}.{name}" for index in range(2) for name in linear]
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    head = {f"head.lin_{one}.{kind}" for one in ("hidden", "out") for kind in ("weight", "bias")}
    assert trained == head | {f"{layer}.lora_{one}" for layer in layers for one in "ab"}
    assert {name for name in model.learning_rate_multipliers()} == dict(model.named_parameters()).keys()


def test_training_moves_adapters_and_head_alone_and_merged_weights_predict_the_same():
    ids, targets = sequences([5, 9, 4, 12, 7]), np.random.default_rng(0).normal(size=(5, 2))
    model, batching = adapted(), Batching(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = make_loader(ids, targets, batching)
    backend = TorchBackend()
    backend.compile(model, mse, OptimizerConfig("adamw", 1e-2), batching, loader.example(training=True))
    for epoch in range(3):
        for batch, _ in loader.epoch(0, epoch):
            backend.train_step(batch, 1e-2)
    after = backend.state_dict(weights_only=True)["model"]
    for name, value in after.items():
        assert torch.equal(value, before[name]) != ("lora_" in name or "lin_" in name), name
    model.load_state_dict(after)
    plain = ChemGPTProperty(small_chemgpt(), 2).double()
    plain.load_state_dict(merged_weights(after))
    pack, _ = one_pack(ids, targets)
    torch.testing.assert_close(plain(*pack.inputs), model(*pack.inputs), rtol=1e-10, atol=1e-10)
    assert (plain.layers[1].mlp.c_fc.weight - small_chemgpt().layers[1].mlp.c_fc.weight).abs().max() > 1e-3
    layer = model.layers[0].attention.q_proj
    torch.testing.assert_close(layer.weight, plain.layers[0].attention.q_proj.weight)  # for kernels that read weights


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_ipus_take_every_operator(weights):
    packs = [one_pack(sequences([5, 9, 8, 12], seed), np.zeros((4, 2)))[0] for seed in (0, 1)]
    model = adapted(torch.float32)
    if weights == "float16":
        weights_to_half(model)
        with HalfOnCpu():
            report = check_program(Program(model, mse), *packs)
    else:
        report = check_program(Program(model, mse), *packs)
    assert report.findings == (), report.text()


def test_the_double_of_poptorch_trains_as_torch_does():
    from ipu_chem.backends.poptorch.backend import PopTorchBackend
    from ipu_chem.backends.poptorch.options import IpuOptions

    ids, targets = sequences([5, 9, 4, 12, 7, 3, 8, 8] * 3), np.random.default_rng(0).normal(size=(24, 2))
    batching = Batching(1, 4, 1, 2)
    loader = make_loader(ids, targets, batching)
    losses = []
    with installed_double():
        for make in (TorchBackend, lambda: PopTorchBackend(IpuOptions(ipus_per_replica=2))):
            backend = make()
            backend.compile(
                adapted(torch.float32), mse, OptimizerConfig("adamw", 1e-2), batching, loader.example(training=True)
            )
            losses.append(torch.cat([backend.train_step(batch, 1e-2) for batch, _ in loader.epoch(0, 0)]))
            backend.close()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_a_rank_out_of_range_is_refused():
    with pytest.raises(ValueError, match="lora_rank=0"):
        adapt(small_chemgpt().layers, 0)
