"""Attention inside molecules and GELU in machine code equal their torch forms: values, slopes, padding, odd shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import gradients

from ipu_chem.backends.options import Batching
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.kernels import native
from ipu_chem.backends.pytorch.kernels.fused import fused_attention, use_fused_attention
from ipu_chem.backends.pytorch.kernels.transformer import attention, gelu, use_transformer_kernels
from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.attention import attend, attention_mask
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.optim import OptimizerConfig

needs_compiler = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler here")
VARIANTS = [{}, {"scale_attention": False}, {"positions": "rope", "local_window": 5}]


def plain(query, key, value, mask, scale):
    return attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, scale).transpose(1, 2)


def case(seed, packs, slots, heads, width, window, size=1.0):
    """Random features and a mask of molecules of 1 to 12 symbols."""
    rng = np.random.default_rng(seed)
    places = [np.concatenate([np.arange(n) for n in rng.integers(1, 13, slots)])[:slots] for _ in range(packs)]
    mask = attention_mask(torch.from_numpy(np.stack(places)), torch.float32, window)
    draw = lambda: torch.from_numpy(rng.normal(0, size, (packs, slots, heads, width)).astype(np.float32))  # noqa: E731
    return [draw().requires_grad_(True) for _ in range(3)], mask, draw()


@pytest.mark.parametrize("form", [pytest.param(attention, marks=needs_compiler), fused_attention])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    packs=st.integers(1, 3),
    slots=st.integers(1, 40),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 2, 5, 8, 12, 16, 32, 33]),
    window=st.integers(0, 9),
    scale=st.floats(0.1, 2.0),
)
def test_attention_equals_its_plain_form(form, seed, packs, slots, heads, width, window, scale):
    inputs, mask, down = case(seed, packs, slots, heads, width, window)
    wide = [part.detach().double().requires_grad_(True) for part in inputs]
    exact = plain(*wide, mask.double(), scale)
    slopes = torch.autograd.grad((exact * down).sum(), wide)
    got = form(*inputs, mask, scale)
    for ours, true in zip((got, *torch.autograd.grad((got * down).sum(), inputs)), (exact, *slopes)):
        assert (ours - true).abs().max() <= 2e-5 * (1 + true.abs().max())


@needs_compiler
def test_scores_may_be_large():
    """Unscaled ones of wide heads are: shares are taken from the largest, whatever it is."""
    inputs, mask, down = case(1, 2, 30, 2, 16, 0, size=20.0)
    wide = [part.detach().double().requires_grad_(True) for part in inputs]
    exact = plain(*wide, mask.double(), 1.0)
    got = attention(*inputs, mask, 1.0)
    assert (got - exact).abs().max() < 1e-2  # float32 holds scores of some thousands to three digits after the point
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad((got * down).sum(), inputs))


@needs_compiler
def test_lost_numbers_stay_in_their_molecule():
    inputs, _, down = case(2, 1, 12, 2, 8, 0)
    mask = attention_mask(torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]]), torch.float32)
    for part in inputs:
        part.data[0, 5] = float("nan")
    got = attention(*inputs, mask, 1.0)
    slopes = torch.autograd.grad((got * down).sum(), inputs)
    lost = torch.tensor([slot in (5, 6) for slot in range(12)])
    assert torch.equal(torch.isnan(got[0]).any(-1).any(-1), lost)  # and not hidden
    assert torch.isfinite(torch.stack(slopes)[:, 0, [0, 1, 2, 3, 7, 8, 9, 10, 11]]).all()


@needs_compiler
def test_gelu_equals_its_torch_form_over_the_whole_range():
    x = torch.cat([torch.linspace(-30, 30, 40_001), torch.logspace(-20, 12, 101), -torch.logspace(-20, 12, 101)])
    exact, inputs = x.double().requires_grad_(True), x.clone().requires_grad_(True)
    true, got = torch.nn.functional.gelu(exact, approximate="tanh"), gelu(inputs)
    assert ((got - true).abs() <= 1e-6 * (0.1 + true.abs())).all()
    true.sum().backward()
    got.sum().backward()
    torch.testing.assert_close(inputs.grad.double(), exact.grad, rtol=1e-6, atol=2e-6)
    lost = gelu(torch.tensor([float("nan"), 1.0, float("inf")] * 5))
    assert torch.isnan(lost[0]) and torch.isfinite(lost[1]) and torch.isinf(lost[2])


@needs_compiler
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (2, 3, 5)])
def test_gelu_takes_any_shape(shape):
    x = torch.randn(shape)
    for values in (x, x.transpose(0, -1)):  # not contiguous
        expected = torch.nn.functional.gelu(values, approximate="tanh")
        torch.testing.assert_close(gelu(values), expected, rtol=1e-5, atol=1e-6)


def token_pack(seed):
    """Two rows of molecules with padding behind them, in which the seed decides what stands."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed)
    places = torch.tensor([[*range(9), *range(7), *[0] * 8], [*range(3), *range(8), *range(8), *[0] * 5]])
    used = torch.tensor([[slot < end for slot in range(24)] for end in (16, 19)])
    ids, labels = torch.from_numpy(rng.integers(0, 11, (2, 2, 24)))
    places = torch.where(used, places, torch.from_numpy(noise.integers(0, 16, (2, 24))))
    ids = torch.where(used, ids, torch.from_numpy(noise.integers(0, 11, (2, 24))))
    return TokenPack(ids, places, labels, used.float() / used.sum())


def trained(model, pack):
    logits = model(*pack.inputs)
    loss = token_cross_entropy(logits, *pack.targets)
    loss.backward()
    return logits.detach()[pack.weight > 0], loss.detach(), gradients(model)


@needs_compiler
@pytest.mark.parametrize("options", VARIANTS)
def test_a_model_trains_the_same_with_kernels_and_padding_changes_no_bit(options):
    results = []
    for seed, kernels in ((1, False), (1, True), (2, True)):
        torch.manual_seed(0)
        model = ChemGPT(vocab_size=11, max_positions=16, hidden_features=24, num_layers=2, num_heads=3, **options)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        if kernels:
            assert use_transformer_kernels(model) == 2 * 2  # in every layer attention and an activation
        results.append(trained(model, token_pack(seed)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    for clean, dirty in zip(results[1], results[2]):
        assert torch.equal(clean, dirty)


@needs_compiler
def test_refuses_other_formats_and_shapes_than_its_own():
    inputs, mask, _ = case(1, 2, 6, 2, 8, 0)
    with pytest.raises(AssertionError, match="float32"):
        attention(*[part.double() for part in inputs], mask, 1.0)
    with pytest.raises(AssertionError, match="the mask is"):
        attention(*inputs, mask[:1], 1.0)


@pytest.mark.parametrize("compiler", [pytest.param(True, marks=needs_compiler), False])
def test_the_backend_takes_the_fastest_form_that_there_is(compiler, monkeypatch):
    if not compiler:
        native.library.cache_clear()
        monkeypatch.setattr(native, "find_compiler", lambda: None)
    model = ChemGPT(vocab_size=11, max_positions=16, hidden_features=8, num_layers=2, num_heads=2)
    TorchBackend().compile(model, token_cross_entropy, OptimizerConfig(), Batching(2), token_pack(0))
    native.library.cache_clear()
    assert all(layer.attention.kernel is (attention if compiler else fused_attention) for layer in model.layers)
    wide = ChemGPT(vocab_size=11, max_positions=16, hidden_features=8, num_layers=2, num_heads=2).double()
    TorchBackend().compile(wide, token_cross_entropy, OptimizerConfig(), Batching(2), token_pack(0))
    assert all(layer.attention.kernel is None and layer.mlp.activation.kernel is None for layer in wide.layers)


def test_fused_attention_takes_16_bits():
    inputs, mask, _ = case(3, 2, 20, 2, 8, 0)
    got = fused_attention(*[part.bfloat16() for part in inputs], mask, 0.5)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), plain(*inputs, mask, 0.5), rtol=0.05, atol=0.05)
    model = ChemGPT(vocab_size=11, max_positions=16, hidden_features=8, num_layers=3, num_heads=2)
    assert use_fused_attention(model) == 3
