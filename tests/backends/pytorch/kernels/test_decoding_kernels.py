"""The native decode step equals the model, alone and in company, and its draws are those of the definitions."""

import math

import numpy as np
import pytest
import torch

from ipu_chem.backends.pytorch.kernels import native
from ipu_chem.backends.pytorch.kernels.decoding import NativeDecoder, PackedWeights, can_be_packed
from ipu_chem.generation.chance import draw, token_probabilities
from ipu_chem.models.chemgpt import ChemGPT

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C compiler here")

VARIANTS = {
    "published": {"scale_attention": False, "local_window": 20},
    "heads of 8": {"num_heads": 5},
    "rope": {"positions": "rope"},
    "rope-local-mup-untied": {"positions": "rope", "local_window": 3, "mup_base_width": 6, "tie_embeddings": False},
}
VOCABULARY, LONGEST = 23, 80


def model_of(dtype, features=40, num_heads=2, **options):
    torch.manual_seed(0)
    model = ChemGPT("", VOCABULARY, LONGEST, features, 4, num_heads, **options)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.to(dtype)


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids, torch.arange(ids.shape[1]).expand(len(ids), -1))


def decoded(model, ids, lag=0, slots=None):
    """Logits of molecules, each ``lag`` steps behind the one before it."""
    slots = np.arange(len(ids)) if slots is None else np.array(slots)
    decoder = NativeDecoder(PackedWeights(model), int(slots.max()) + 1)
    result = torch.full((*ids.shape, VOCABULARY), math.nan, dtype=model.head.weight.dtype)
    for step in range(ids.shape[1] + lag * (len(ids) - 1)):
        positions = step - lag * np.arange(len(ids))
        at = np.flatnonzero((positions >= 0) & (positions < ids.shape[1]))
        tokens = ids.numpy()[at, positions[at]]
        result[at, positions[at]] = decoder.step(slots[at], tokens, positions[at])
    return result


@pytest.mark.parametrize("features", [24, 40, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_forward_pass(variant, features):
    """To float64's rounding; molecules at positions of their own, the cache grows on the way."""
    options = dict(VARIANTS[variant])
    if options.get("num_heads"):
        options["num_heads"] = features // 8
    model = model_of(torch.float64, features, **options)
    ids = torch.randint(0, VOCABULARY, (3, LONGEST), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(decoded(model, ids, 5, [2, 0, 6]), logits_of(model, ids), rtol=1e-11, atol=1e-11)


def test_float32_is_as_good_as_torchs():
    ids = torch.randint(0, VOCABULARY, (8, 48), generator=torch.Generator().manual_seed(2))
    exact = logits_of(model_of(torch.float64, 128), ids)
    model = model_of(torch.float32, 128)
    ours, theirs = (
        (one.double() - exact).square().mean().sqrt() for one in (decoded(model, ids), logits_of(model, ids))
    )
    assert 0 < float(ours) < 1.3 * float(theirs)


def test_company_changes_no_bit():
    model = model_of(torch.float32)
    ids = torch.randint(0, VOCABULARY, (11, 30), generator=torch.Generator().manual_seed(3))
    together = decoded(model, ids, lag=1)
    for molecule in (0, 4, 10):
        assert torch.equal(decoded(model, ids[molecule : molecule + 1], slots=[1])[0], together[molecule])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_kept_can_be_restored(dtype):
    model, ids = model_of(dtype), torch.randint(0, VOCABULARY, (1, 70), generator=torch.Generator().manual_seed(4))
    weights, tokens = PackedWeights(model), ids.numpy()[0]
    first, second = NativeDecoder(weights, 2), NativeDecoder(weights, 3)
    kept = torch.empty((80, weights.per_place), dtype=dtype)
    rows = 79 - np.arange(70)
    for place in range(70):
        at = np.array([place])
        expected = first.step(np.array([1]), tokens[at], at).clone()
        first.keep(np.array([1]), at, rows[at], kept)
    second.restore(2, rows[:69], kept)
    assert torch.equal(second.step(np.array([2]), tokens[[69]], np.array([69])), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("banned", [[], [0, 5, 22]])
def test_draws_are_those_of_the_definitions(temperature, banned):
    model = model_of(torch.float32)
    decoder = NativeDecoder(PackedWeights(model), 50)
    random = np.random.default_rng(0)
    logits = decoder.step(np.arange(50), random.integers(0, VOCABULARY, 50), np.zeros(50, np.int64)).double()
    allowed, uniform = np.ones(VOCABULARY), random.random(50)
    allowed[banned] = 0.0
    uniform[:2] = 0.0, 1.0 - 2.0**-53
    given, entries = np.where(np.arange(50) % 7 == 3, 5, -1), np.where(np.arange(50) == 9, 1, -1)
    nats, ends = np.full((2, 2, VOCABULARY), math.nan)
    tokens, likelihoods = decoder.draw(temperature, allowed, uniform, given, entries, nats, ends)
    shares = token_probabilities(logits, temperature, 0, 1.0, torch.tensor(banned, dtype=torch.int64))
    expected = np.where(given < 0, draw(shares, torch.from_numpy(uniform)).numpy(), given)
    assert tokens.tolist() == expected.tolist() and len(set(tokens.tolist())) > 5
    exact = torch.log_softmax(logits, 1)
    np.testing.assert_allclose(likelihoods, exact.numpy()[np.arange(50), tokens], atol=1e-12)
    np.testing.assert_allclose(nats[1], exact[9], atol=1e-12)
    np.testing.assert_allclose(ends[1] / ends[1, -1], shares[9].cumsum(0), atol=1e-12)
    assert np.isnan(nats[0]).all() and np.isnan(ends[0]).all()


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e9])
def test_weights_that_would_hide_an_overflow_are_left_to_torch(number):
    model = model_of(torch.float32)
    assert can_be_packed(model) and not can_be_packed(model.half())
    model = model_of(torch.float32)
    model.layers[1].attention.k_proj.weight.data[0, 0] = number
    assert not can_be_packed(model)
