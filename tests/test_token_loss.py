"""The language model's loss: torch's cross entropy, deaf where nothing is to be predicted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy


def random_case(rng, packs, slots, symbols, dtype):
    """Logits, labels and weights, about a third of which are 0."""
    logits = torch.from_numpy(rng.normal(size=(packs, slots, symbols)) * 5).to(dtype)
    labels = torch.from_numpy(rng.integers(0, symbols, (packs, slots)))
    weight = rng.uniform(0.01, 1, (packs, slots)) * (rng.random((packs, slots)) < 0.7)
    return logits.requires_grad_(), labels, torch.from_numpy(weight).to(dtype)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    packs=st.integers(1, 3),
    slots=st.integers(1, 9),
    symbols=st.integers(1, 40),
    labels_dtype=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
)
def test_is_torchs_weighted(seed, packs, slots, symbols, labels_dtype):
    rng = np.random.default_rng(seed)
    logits, labels, weight = random_case(rng, packs, slots, symbols, torch.float64)
    ours = token_cross_entropy(logits, labels.to(labels_dtype), weight)
    rows = functional.cross_entropy(logits.reshape(-1, symbols), labels.reshape(-1), reduction="none")
    theirs = (weight.reshape(-1) * rows).sum()
    assert ours.dtype == torch.float64
    slopes = [torch.autograd.grad(value, logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    garbage=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]),
    label=st.sampled_from([-1, -100, 5, 2**31 - 1, -(2**31)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_without_weight_neither_label_nor_logits_count(seed, garbage, label, dtype):
    rng = np.random.default_rng(seed)
    logits, labels, weight = random_case(rng, 2, 6, 5, dtype)
    silent = weight == 0
    dirty_logits = torch.where(silent[..., None], torch.full((), garbage, dtype=dtype), logits.detach())
    dirty_logits.requires_grad_()
    dirty_labels = torch.where(silent, torch.full((), label), labels)
    results = [
        (value.detach(), *torch.autograd.grad(value, source))
        for value, source in (
            (token_cross_entropy(logits, labels, weight), logits),
            (token_cross_entropy(dirty_logits, dirty_labels, weight), dirty_logits),
        )
    ]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert torch.all(results[0][1][silent] == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_is_taken_in_float32_and_survives_large_logits(dtype):
    logits = torch.tensor([[[60000.0, 0.0, -60000.0], [0.0, 0.0, 0.0]]], dtype=dtype)
    loss = token_cross_entropy(logits, torch.tensor([[1, 2]]), torch.tensor([[0.25, 0.5]]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(0.25 * 60000 + 0.5 * math.log(3), rel=1e-3)


def test_gives_the_share_of_even_logits_whatever_their_level():
    loss = token_cross_entropy(torch.full((1, 4, 684), 7.0), torch.zeros((1, 4)).int(), torch.full((1, 4), 0.25))
    assert float(loss) == pytest.approx(math.log(684), rel=1e-6)


def test_a_pack_knows_its_inputs_and_targets():
    ids, places, labels, weight = (torch.full((1, 2), value) for value in (1, 2, 3, 4.0))
    pack = TokenPack(ids, places, labels, weight)
    assert pack.inputs == (ids, places) and pack.targets == (labels, weight) == (pack[-2], pack[-1])
