"""Sampling: shares as the articles define them, draws that follow them, rows that equal the model's own account."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.generation.chance import draw, token_probabilities, uniforms
from ipu_chem.generation.molecules import decode_many
from ipu_chem.generation.sampling import encode_prefix, generate
from ipu_chem.models.chemgpt import ChemGPT

LETTERS = ["[C]", "[=C]", "[O]", "[N]", "[Branch1]", "[Ring1]", "[=Branch1]", "[F]"]
NONE = torch.zeros(0, dtype=torch.int64)


def tokenizer() -> Tokenizer:
    """Twelve ids: PAD, BOS, EOS, UNK and the letters."""
    return Tokenizer.build(LETTERS, robust_alphabet=False)


def random_model(vocab_size=12, max_positions=24, seed=0) -> ChemGPT:
    """A model whose next token depends on all before it."""
    torch.manual_seed(seed)
    model = ChemGPT(
        size="", vocab_size=vocab_size, max_positions=max_positions, hidden_features=32, num_layers=2, num_heads=2
    )
    for parameter in model.parameters():
        parameter.data += 0.25 * torch.randn_like(parameter)
    return model


def fixed_model(logits, max_positions=64) -> ChemGPT:
    """A model with the same logits [V] after every symbol."""
    model = ChemGPT(
        size="",
        vocab_size=len(logits),
        max_positions=max_positions,
        hidden_features=4,
        num_layers=1,
        num_heads=1,
        tie_embeddings=False,
    )
    with torch.no_grad():
        model.head.ln_f.weight.zero_()
        model.head.ln_f.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        model.head.weight.zero_()
        model.head.weight[:, 0] = torch.tensor(logits, dtype=torch.float32)
    return model


def nats_of(model, ids) -> float:
    """The model's own log-likelihood of a molecule in one pass."""
    ids = torch.as_tensor(np.asarray(ids, np.int64))[None]
    with torch.no_grad():
        logits = model(ids, torch.arange(ids.shape[1])[None])[0].double()
    return float(torch.log_softmax(logits[:-1], 1).gather(1, ids[0, 1:, None]).sum())


def shares_by_hand(logits, temperature, top_k, top_p, banned):
    """Symbol by symbol, from the most to the least likely."""
    weights = {i: math.exp(x / temperature) for i, x in enumerate(logits) if i not in banned}
    ranked = sorted(weights, key=lambda i: -weights[i])[: top_k or None]
    total, kept, sum_kept = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        kept.append(i)
        sum_kept += weights[i]
        if sum_kept >= top_p * total:
            break
    return [weights[i] / sum_kept if i in kept else 0.0 for i in range(len(logits))]


@settings(max_examples=100)
@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 10), min_size=4, max_size=9, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, 10),
    top_p=st.sampled_from([0.05, 0.333, 0.61, 0.957, 1.0]),
    banned=st.lists(st.integers(0, 3), max_size=3, unique=True),
)
def test_shares_are_those_of_the_definitions(logits, temperature, top_k, top_p, banned):
    rows = torch.tensor([logits, logits[::-1]], dtype=torch.float64)
    found = token_probabilities(rows, temperature, top_k, top_p, torch.tensor(banned, dtype=torch.int64))
    for row, given_logits in zip(found, (logits, logits[::-1])):
        assert row.tolist() == pytest.approx(shares_by_hand(given_logits, temperature, top_k, top_p, banned), abs=1e-9)


def test_shares_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.3, 0.2]]))
    for options, expected in (
        ((1.0, 0, 1.0), [0.1, 0.4, 0.3, 0.2]),
        ((0.5, 0, 1.0), [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
        ((1.0, 2, 1.0), [0, 4 / 7, 3 / 7, 0]),
        ((1.0, 0, 0.69), [0, 4 / 7, 3 / 7, 0]),
        ((1.0, 0, 0.71), [0, 4 / 9, 3 / 9, 2 / 9]),
        ((1.0, 2, 0.5), [0, 1, 0, 0]),  # of two, the likelier has 4/7
        ((1.0, 0, 0.01), [0, 1, 0, 0]),
    ):
        assert token_probabilities(logits, *options, NONE)[0].tolist() == pytest.approx(expected, abs=1e-6)
    even = token_probabilities(torch.zeros(1, 4), 1.0, 2, 1.0, NONE)
    cold = token_probabilities(torch.tensor([[1.0, 3.0, 2.0]]), 1e-308, 2, 1.0, NONE)  # 3 / 1e-308 is infinite
    assert cold.tolist() == [[0.0, 1.0, 0.0]]
    assert even[0].tolist() == [0.5, 0.5, 0.0, 0.0]  # of equals exactly k stay


def test_draws_follow_the_shares():
    shares = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    uniform = torch.arange(1000, dtype=torch.float64) / 1000
    found = draw(shares.expand(1000, 6), uniform)
    assert torch.bincount(found, minlength=6).tolist() == [0, 250, 0, 500, 250, 0]
    ends = draw(shares.expand(2, 6), torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64))
    assert ends.tolist() == [1, 4]


def test_uniform_numbers_of_a_molecule_are_its_own():
    some = np.stack([uniforms(3, molecule, 7) for molecule in range(3)])
    np.testing.assert_array_equal(some[1], uniforms(3, 1, 9)[:7])
    assert not (some[1] == uniforms(4, 1, 7)).any() and len(np.unique(some)) == 21


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 4}, {"top_p": 0.7}])
def test_symbols_come_as_often_as_their_shares(options):
    shares = [0.05, 0.05, 0.2, 0.05, 0.3, 0.15, 0.08, 0.05, 0.03, 0.02, 0.01, 0.01]
    model = fixed_model(np.log(shares))
    text = tokenizer()
    samples = generate(model, text, 1500, seed=1, progress=False, **options)
    assert samples.finished.all()
    arguments = [options.get(name, default) for name, default in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0))]
    expected = np.array(shares_by_hand(np.log(shares), *arguments, banned=(0, 1, 3)))
    ids = np.concatenate([text.encode(selfies)[1:] if selfies else [text.eos_id] for selfies in samples.texts])
    found = np.bincount(ids, minlength=12) / len(ids)
    assert (np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(ids)) + 1e-12).all()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}, {"prefix": "[C][=C]"}, {"native": False}]
)
def test_log_likelihoods_are_the_models_own(options):
    """Of the whole molecule at temperature 1, whatever it was drawn at; the end counts where it was reached."""
    model, text = random_model(), tokenizer()
    samples = generate(model, text, 40, batch=16, seed=5, progress=False, **options)
    assert 0 < samples.finished.sum() < 40
    for selfies, finished, nats in zip(*samples):
        ids = text.encode(selfies) if selfies else np.array([text.bos_id, text.eos_id])
        assert nats == pytest.approx(nats_of(model, ids if finished else ids[:-1]), abs=1e-4)
        assert finished or len(ids) - 1 == model.max_positions


def test_one_symbol_left_is_the_likeliest_one():
    model, text = random_model(seed=3), tokenizer()
    samples = generate(model, text, 2, top_k=1, progress=False)
    ids = [text.bos_id]
    while len(ids) < model.max_positions and (len(ids) == 1 or ids[-1] != text.eos_id):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.arange(len(ids))[None])[0, -1]
        logits[[text.pad_id, text.bos_id, text.unk_id]] = -math.inf
        ids.append(int(logits.argmax()))
    assert samples.texts == [text.decode(ids)] * 2 and len(ids) > 4


def test_the_seed_decides_and_the_batch_does_not():
    model, text = random_model(max_positions=16), tokenizer()
    whole = generate(model, text, 16, batch=64, seed=9, progress=False)
    assert len(set(whole.texts)) > 8
    for count, batch in ((3, 1), (16, 7), (11, 4)):
        part = generate(model, text, count, batch=batch, seed=9, progress=False)
        assert part.texts == whole.texts[:count] and (part.finished == whole.finished[:count]).all()
        assert part.log_likelihoods == pytest.approx(whole.log_likelihoods[:count], abs=1e-4)
    assert generate(model, text, 16, seed=10, progress=False).texts != whole.texts


def test_special_symbols_and_empty_rows_of_the_table_are_never_drawn():
    text = tokenizer()
    logits = np.zeros(16)
    logits[[text.pad_id, text.bos_id, text.unk_id, 12, 13, 14, 15]] = 50.0
    samples = generate(fixed_model(logits), text, 50, progress=False)
    lengths = [len(text.encode(selfies)) for selfies in samples.texts if selfies]
    assert np.mean(lengths) > 5  # 8 of 9 draws are letters
    assert not any(special in selfies for selfies in samples.texts for special in text.special)


def test_pieces_of_symbols_are_never_drawn():
    """Those that the published vocabulary has besides symbols: joined, they need not be any."""
    text = ChemGPTTokenizer(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "[C]", "[O]", "##C]", "[Bran"])
    logits = np.zeros(9)
    logits[7:] = 50.0
    samples = generate(fixed_model(logits), text, 30, progress=False)
    assert set("".join(samples.texts)) == set("[C][O]")


def test_molecules_begin_with_the_prefix():
    model, text = random_model(max_positions=40), tokenizer()
    phenol = Chem.MolFromSmarts("[#8]~[#6]1~[#6]~[#6]~[#6]~[#6]~[#6]~1")
    samples = generate(model, text, 40, prefix="Oc1ccccc1", progress=False)
    assert len(set(samples.texts)) > 10
    for selfies, molecule in zip(samples.texts, decode_many(samples.texts, workers=1)):
        assert selfies.startswith("[O][C][=C][C][=C][C][=C][Ring1][=Branch1]")
        assert Chem.MolFromSmiles(molecule.smiles).HasSubstructMatch(phenol)
    np.testing.assert_array_equal(encode_prefix(text, "[C][O]"), text.encode("[C][O]")[:-1])
    np.testing.assert_array_equal(encode_prefix(text, "CO"), text.encode("[C][O]")[:-1])
    assert encode_prefix(text, "").tolist() == [text.bos_id]


def test_every_molecule_has_a_start_of_its_own():
    model, text = random_model(), tokenizer()
    begins = ["", "[C][O]", "[N]", "[C][=C][O]", "[C][O]"] * 4
    starts = [encode_prefix(text, selfies) for selfies in begins]
    samples = generate(model, text, 20, starts=starts, batch=7, seed=2, progress=False)
    assert all(selfies.startswith(begin) for selfies, begin in zip(samples.texts, begins))
    for begin in ("", "[C][O]"):
        same = generate(model, text, 20, prefix=begin, seed=2, progress=False)
        for index in [index for index in range(20) if begins[index] == begin]:
            assert samples.texts[index] == same.texts[index]
            assert samples.log_likelihoods[index] == pytest.approx(same.log_likelihoods[index], abs=1e-4)


def test_banned_symbols_are_not_drawn():
    text = tokenizer()
    logits = np.zeros(12)
    logits[text.symbols.index("[F]")] = 5.0
    start = encode_prefix(text, "[F]")
    samples = generate(fixed_model(logits), text, 50, banned={"[F]", "[O]"}, starts=[start] * 50, progress=False)
    assert {selfies.count("[F]") for selfies in samples.texts} == {1} and "[O]" not in "".join(samples.texts)


def test_a_full_row_is_not_finished():
    text = tokenizer()
    endless = np.zeros(12)
    endless[text.eos_id] = -100.0
    samples = generate(fixed_model(endless), text, 5, max_length=9, progress=False)
    assert not samples.finished.any()
    assert [len(text.encode(selfies)) for selfies in samples.texts] == [8 + 2] * 5  # encode adds the end
    assert samples.log_likelihoods == pytest.approx([-8 * math.log(11)] * 5, abs=1e-5)


def test_the_models_mode_comes_back():
    model = random_model().train()
    generate(model, tokenizer(), 2, progress=False)
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: it is above 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"batch": 0}, "batch=0"),
        ({"count": 0}, "count=0"),
        ({"seed": -1}, "seed=-1"),
        ({"jobs": 0}, "jobs=0"),
        ({"max_length": 25}, "2 to 24 tokens"),
        ({"max_length": 1}, "2 to 24 tokens"),
        ({"prefix": "[C]" * 23}, "the prefix has 23 tokens, but a sequence of 24"),
        ({"prefix": "[C][Si]"}, r"\[Si\]"),
        ({"prefix": "C[Si](C)C"}, r"prefix C\[Si\]\(C\)C.*\[Si\]"),
        ({"prefix": "C1CC("}, "neither SELFIES nor SMILES"),
        ({"banned": "[C]"}, "a list of tokens"),
        ({"banned": ["[C]", "[Si]"]}, r"banned token \[Si\] is not in the vocabulary"),
        ({"banned": [*LETTERS, "[EOS]"]}, "there is none to draw"),
        ({"starts": [np.array([1])]}, "1 starts for 2 molecules"),
        ({"starts": [np.array([1])] * 2, "prefix": "[C]"}, "give one of them"),
        ({"starts": [np.array([1]), np.array([1, 12])]}, r"starts\[1\] holds no ids of the tokenizer"),
        ({"starts": [np.array([1]), np.zeros(0, np.int64)]}, r"starts\[1\] holds no ids"),
        ({"starts": [np.array([1, 2, 4])] * 2}, r"starts\[0\] holds the token that ends"),
        ({"starts": [np.full(24, 4)] * 2}, r"starts\[0\] has 24 tokens, but a sequence of 24"),
    ],
)
def test_bad_input_is_told_in_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        generate(random_model(), tokenizer(), **{"count": 2, "progress": False, **options})


def test_a_prefix_of_unknown_symbols_is_refused_also_where_they_are_mapped():
    mapping = Tokenizer.build(LETTERS, robust_alphabet=False, unknown="map")
    with pytest.raises(ValueError, match="the vocabulary lacks one of the tokens"):
        generate(random_model(), mapping, 1, prefix="[C][Si]", progress=False)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="12 tokens and the model 9"):
        generate(random_model(vocab_size=9), tokenizer(), 1, progress=False)


def test_a_diverged_model_is_named():
    model = random_model()
    model.head.ln_f.bias.data[0] = math.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        generate(model, tokenizer(), 2, progress=False)
