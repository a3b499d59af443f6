"""Pooling: each molecule by itself, over the tokens that count, whatever padding holds."""

from typing import List

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poptorch_helpers import installed_double
from support import gradients
from text_cases import SLOTS, alone, one_pack, sequences, small_chemgpt, with_garbage

from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.models.pooling import POOLINGS, PooledChemGPT, pool

lengths_of_molecules = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def plain(tokens: torch.Tensor, kind: str, special: bool) -> torch.Tensor:
    """[n, F] of one molecule -> [F], as one would write it down."""
    if kind == "eos":
        return tokens[-1]
    counted = tokens if special and kind != "last" else tokens[1:-1]
    if len(counted) == 0:
        return torch.zeros_like(tokens[0])
    return {"mean": counted.mean(0), "sum": counted.sum(0), "max": counted.amax(0), "last": counted[-1]}[kind]


def ends_of(lengths: List[int], slots: int) -> torch.Tensor:
    """Ends of one pack with two molecule slots more than there are molecules."""
    ends = np.cumsum(lengths)
    return torch.from_numpy(np.append(ends, [ends[-1]] * 2))[None].to(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=lengths_of_molecules,
    free=st.integers(0, 5),
    kind=st.sampled_from(POOLINGS),
    special=st.booleans(),
)
def test_a_plain_loop_over_molecules_agrees(seed, lengths, free, kind, special):
    generator = torch.Generator().manual_seed(seed)
    # Few different values, so that maxima are tied.
    features = torch.randint(-3, 4, (1, sum(lengths) + free, 5), generator=generator).double().requires_grad_()
    pooled = pool(features, ends_of(lengths, sum(lengths) + free), kind, special)
    expected = [plain(part, kind, special) for part in features[0, : sum(lengths)].split(lengths)]
    torch.testing.assert_close(pooled[0, : len(lengths)], torch.stack(expected), rtol=1e-10, atol=1e-10)
    assert pooled.shape[1] == len(lengths) + 2 and torch.all(pooled[0, len(lengths) :] == 0)
    # What each molecule gives its tokens in derivatives adds up to what it got, ties or not.
    pooled.sum().backward()
    given_back = torch.stack([part.sum(0) for part in features.grad[0, : sum(lengths)].split(lengths)])
    marks = 0 if kind == "eos" or (special and kind != "last") else 2
    counts = torch.tensor([max(length - marks, 0) for length in lengths], dtype=torch.float64)
    counts = counts if kind == "sum" else counts.clamp(max=1)
    torch.testing.assert_close(given_back, counts[:, None].expand(-1, 5))
    assert torch.all(features.grad[0, sum(lengths) :] == 0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), lengths=lengths_of_molecules, kind=st.sampled_from(POOLINGS), special=st.booleans())
def test_pack_equals_its_molecules_one_by_one(seed, lengths, kind, special):
    ids, targets = sequences(lengths, seed), np.zeros((len(lengths), 1))
    pack, order = one_pack(ids, targets)
    model = PooledChemGPT(small_chemgpt(), kind, special)
    probe = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(lengths), 12)))

    together = model(*pack.inputs)[pack.graph_mask]
    (together * probe[order]).sum().backward()
    derivative = gradients(model)
    model.zero_grad()
    singles = [model(*alone(ids, targets, item, torch.ones(1)).inputs)[0, 0] for item in range(len(lengths))]
    (torch.stack(singles) * probe).sum().backward()
    torch.testing.assert_close(together, torch.stack(singles)[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(derivative, gradients(model), rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=9),
    kind=st.sampled_from(POOLINGS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_garbage_in_padding_changes_no_bit(seed, lengths, kind, dtype):
    ids = sequences([length for length in lengths if length] + [3], seed)
    pack, _ = one_pack(ids, np.zeros((len(ids), 1)))
    model = PooledChemGPT(small_chemgpt(dtype), kind)
    results = []
    for one in (pack, with_garbage(pack, np.random.default_rng(seed))):
        model.zero_grad()
        pooled = model(*one.inputs)
        pooled.square().sum().backward()
        results.append((pooled.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    # Features themselves may be anything there, NaN included.
    features = torch.randn(1, SLOTS, 3, dtype=dtype)
    dirty = features.clone()
    dirty[0, 10:] = float("nan")
    ends = torch.tensor([[6, 10, 10]])
    for special in (False, True):
        assert torch.equal(pool(features, ends, kind, special), pool(dirty, ends, kind, special))
    leaf = dirty.requires_grad_()
    pool(leaf, ends, kind).sum().backward()
    assert torch.isfinite(leaf.grad).all() and torch.all(leaf.grad[0, 10:] == 0)


def test_the_marks_of_begin_and_end_do_not_count_unless_asked_for():
    features = torch.tensor([9.0, 1.0, 3.0, 8.0, 7.0, 2.0, 6.0])[None, :, None]
    ends = torch.tensor([[4, 7, 7]])
    values = {kind: pool(features, ends, kind)[0, :, 0].tolist() for kind in POOLINGS}
    assert values == {"mean": [2, 2, 0], "max": [3, 2, 0], "sum": [4, 2, 0], "last": [3, 2, 0], "eos": [8, 6, 0]}
    values = {kind: pool(features, ends, kind, special_tokens=True)[0, :, 0].tolist() for kind in POOLINGS}
    assert values == {"mean": [5.25, 5, 0], "max": [9, 7, 0], "sum": [21, 15, 0], "last": [3, 2, 0], "eos": [8, 6, 0]}


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_every_operator_has_a_poptorch_handler_and_halves_are_close(kind, weights):
    pack, _ = one_pack(sequences([5, 9, 4, 12]), np.zeros((4, 1)))
    model = PooledChemGPT(small_chemgpt(torch.float32), kind)
    exact = model(*pack.inputs).detach()
    if weights == "float32":
        with installed_double():
            from poptorch.tracing import handled, operators  # noqa: TID251 (the double)

            names = operators(lambda: model(*pack.inputs))
            assert {"bmm", "where", "native_layer_norm"} <= names and "maximum" not in names
            assert [name for name in names if not handled(name)] == []
        return
    weights_to_half(model)
    with HalfOnCpu():
        half = model(*pack.inputs)
    assert half.dtype == torch.float32 and (half - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_what_is_pooled_is_the_model_s_own_features(positions):
    model = small_chemgpt(positions=positions, hidden_features=24, local_window=4)
    pack, order = one_pack(sequences([9, 5, 3]), np.zeros((3, 1)))
    features = model.features(*pack.inputs[:2])
    for kind in POOLINGS:
        pooled = PooledChemGPT(model, kind)
        assert set(pooled.state_dict()) == set(model.state_dict()) - {"head.weight"}
        assert torch.equal(pooled(*pack.inputs), pool(features, pack.ends, kind))


def test_learning_rates_are_those_of_the_model():
    model = small_chemgpt(mup_base_width=6)
    multipliers = PooledChemGPT(model).learning_rate_multipliers()
    expected = model.learning_rate_multipliers()
    assert multipliers == {name: expected[name] for name in multipliers} and min(multipliers.values()) == 0.5


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling='median': choose one of mean, max, sum, last, eos"):
        PooledChemGPT(small_chemgpt(), "median")
