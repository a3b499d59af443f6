"""Embeddings of lists of molecules: what they are, and that neither company nor broken neighbors change them."""

import numpy as np
import pytest
import torch
from poptorch_helpers import installed_double

from ipu_chem.data.corpora import encode_smiles
from ipu_chem.data.files.table import Line
from ipu_chem.embedding import Embedder, EmbeddingOptions, embed, log_likelihoods
from ipu_chem.models.pooling import POOLINGS

CHAIN = "C" * 60  # 62 tokens


def by_itself(model, tokenizer, smiles, kind="mean"):
    """What one would write without packs."""
    ids = torch.from_numpy(tokenizer.encode(encode_smiles(smiles)[1]).astype(np.int64))[None]
    features = model.features(ids, torch.arange(ids.shape[1])[None])[0]
    symbols = features[1:-1]
    read = {"mean": symbols.mean(0), "max": symbols.amax(0), "last": symbols[-1], "sum": symbols.sum(0)}
    return {**read, "eos": features[-1]}[kind]


@pytest.mark.parametrize("kind", POOLINGS)
def test_embeddings_are_those_of_each_molecule_by_itself(chemgpt, tokenizer, smiles, kind):
    chemgpt.double()
    result = embed(chemgpt, tokenizer, smiles[:60], kind, chunk=25, micro_batch_size=3)
    assert result.values.dtype == np.float64 and not result.failures
    expected = torch.stack([by_itself(chemgpt, tokenizer, one, kind) for one in smiles[:60]]).detach()
    np.testing.assert_allclose(result.values, expected.numpy(), rtol=1e-10, atol=1e-10)
    # No two molecules are mistaken for one another.
    assert len(np.unique(result.values.round(8), axis=0)) == len({encode_smiles(one)[0] for one in smiles[:60]})


def test_log_likelihoods_are_those_of_each_molecule_by_itself(chemgpt, tokenizer, smiles):
    chemgpt.double()
    result = log_likelihoods(chemgpt, tokenizer, [*smiles[:40], "C1CC"], chunk=25, micro_batch_size=3)
    for one, nats in zip(smiles[:40], result.values):
        ids = torch.from_numpy(tokenizer.encode(encode_smiles(one)[1]).astype(np.int64))[None]
        logits = chemgpt(ids, torch.arange(ids.shape[1])[None])[0, :-1]
        expected = torch.log_softmax(logits, 1).gather(1, ids[0, 1:, None]).sum()
        assert nats == pytest.approx([float(expected.detach())], rel=1e-10)
    assert np.isnan(result.values[40]).all() and [failure.line for failure in result.failures] == [41]
    with pytest.raises(ValueError, match="leave pooling"):
        EmbeddingOptions(likelihoods=True, pooling="sum")


def test_a_broken_molecule_costs_its_own_row_and_no_other(chemgpt, tokenizer):
    chemgpt.double()
    rows = ["CCO", "C1CC", "", None, "[C][C][O]", "C[Pt]C", "CCN", float("nan")]
    result = embed(chemgpt, tokenizer, rows)
    good = embed(chemgpt, tokenizer, ["CCO", "CCN"]).values
    np.testing.assert_allclose(result.values[[0, 6]], good, rtol=1e-12)
    assert np.isnan(result.values[[1, 2, 3, 4, 5, 7]]).all()
    assert [failure.line for failure in result.failures] == [2, 3, 4, 5, 6, 8]
    reasons = [failure.reason for failure in result.failures]
    words = ["parse", "no SMILES", "no text", "looks like SELFIES", "is not in the vocabulary", "no text"]
    assert all(word in reason for word, reason in zip(words, reasons)), reasons
    assert result.failures[0].smiles == "C1CC"


def test_selfies_and_their_smiles_have_one_embedding(chemgpt, tokenizer, smiles):
    chemgpt.double()
    selfies = [encode_smiles(one)[1] for one in smiles[:20]]
    both = [
        embed(chemgpt, tokenizer, smiles[:20]),
        embed(chemgpt, tokenizer, [*selfies, "CCO", " "], notation="selfies"),
    ]
    np.testing.assert_allclose(both[0].values, both[1].values[:20], rtol=1e-12)
    assert [failure.line for failure in both[1].failures] == [21, 22]
    assert "SMILES" in both[1].failures[0].reason


def test_rows_grow_with_the_molecules_up_to_the_model_s(chemgpt, tokenizer):
    chemgpt.double()
    texts = ["CCO", "C" * 150, "CCN"]
    result = embed(chemgpt, tokenizer, texts, chunk=1)
    expected = torch.stack([by_itself(chemgpt, tokenizer, one) for one in texts]).detach()
    np.testing.assert_allclose(result.values, expected.numpy(), rtol=1e-10, atol=1e-10)
    with pytest.raises(
        ValueError, match=r"line 2 \(C+\) has 172 tokens, the limit is 160: the model reads 160; --long drop"
    ):
        embed(chemgpt, tokenizer, ["C", "C" * 170])
    with pytest.raises(ValueError, match="has 62 tokens, the limit is 20: --tokens 62 would hold it"):
        embed(chemgpt, tokenizer, [CHAIN], tokens=20)


def test_molecules_that_are_too_long_are_dropped_or_lose_their_end(chemgpt, tokenizer):
    chemgpt.double()
    dropped = embed(chemgpt, tokenizer, ["CCO", CHAIN, "CCN"], tokens=20, long="drop")
    assert (dropped.dropped, dropped.truncated) == (1, 0) and np.isnan(dropped.values).all(1).tolist() == [0, 1, 0]
    assert dropped.failures[0].line == 2 and dropped.failures[0].reason == "dropped: 62 tokens, the limit is 20"
    cut = embed(chemgpt, tokenizer, ["CCO", CHAIN, "CCN"], tokens=20, long="truncate")
    assert (cut.dropped, cut.truncated, cut.failures) == (0, 1, [])
    shorter = by_itself(chemgpt, tokenizer, "C" * 18).detach().numpy()  # 20 tokens
    np.testing.assert_allclose(cut.values[1], shorter, rtol=1e-10)
    both = embed(chemgpt, tokenizer, [CHAIN, "C" * 18], "eos", tokens=20, long="truncate").values
    np.testing.assert_allclose(both[0], both[1], rtol=1e-10)


def test_processes_give_the_same(chemgpt, tokenizer, smiles):
    texts = [*smiles[:100], "C1CC", *smiles[100:150]]
    one, two = (embed(chemgpt, tokenizer, texts, chunk=64, workers=workers) for workers in (1, 2))
    assert np.array_equal(one.values, two.values, equal_nan=True) and one.failures == two.failures


def test_a_stream_is_read_no_further_than_it_is_embedded(chemgpt, tokenizer, smiles):
    taken = []

    def stream():
        for line, text in enumerate(smiles, start=1):
            taken.append(line)
            yield Line(line, text)

    with Embedder(chemgpt, tokenizer, EmbeddingOptions(chunk=10)) as embedder:
        chunks = embedder.chunks(stream())
        first = next(chunks)
        assert [entry.line for entry in first.entries] == list(range(1, 11)) and len(taken) == 10
        next(chunks)
        assert len(taken) == 20 and embedder.embedded == 20


def test_the_double_of_poptorch_gives_the_same(chemgpt, tokenizer, smiles):
    texts = [*smiles[:10], "C" * 150, *smiles[10:20]]  # the long one needs another program
    expected = embed(chemgpt, tokenizer, texts, chunk=5).values
    with installed_double():
        result = embed(chemgpt, tokenizer, texts, chunk=5, accelerator="ipu").values
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_marks_count_if_asked_for(chemgpt, tokenizer):
    chemgpt.double()
    result = embed(chemgpt, tokenizer, ["CCO"], special_tokens=True)
    ids = torch.from_numpy(tokenizer.encode("[C][C][O]").astype(np.int64))[None]
    features = chemgpt.features(ids, torch.arange(5)[None])[0]
    np.testing.assert_allclose(result.values[0], features.mean(0).detach().numpy(), rtol=1e-10)


def test_stereochemistry_can_be_left_out(chemgpt, tokenizer):
    left, right = "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"
    apart = embed(chemgpt, tokenizer, [left, right]).values
    alike = embed(chemgpt, tokenizer, [left, right], stereo=False).values
    assert np.array_equal(alike[0], alike[1]) and not np.array_equal(apart[0], apart[1])


def test_a_model_that_diverged_gives_no_vectors(chemgpt, tokenizer):
    chemgpt.head.ln_f.weight.data[0] = float("nan")
    result = embed(chemgpt, tokenizer, ["CCO"])
    assert result.failures[0].reason == "the model's numbers for it are not finite"


def test_the_model_is_left_as_it_was(chemgpt, tokenizer):
    chemgpt.train()
    before = {name: value.clone() for name, value in chemgpt.state_dict().items()}
    tokens, places = torch.tensor([[1, 5, 2]]), torch.tensor([[0, 1, 2]])
    expected = chemgpt(tokens, places)
    embed(chemgpt, tokenizer, ["CCO"])
    assert chemgpt.training and chemgpt.layers[0].training
    assert all(torch.equal(value, before[name]) for name, value in chemgpt.state_dict().items())
    logits = chemgpt(tokens, places)
    assert torch.equal(logits, expected)
    logits.sum().backward()  # and can be trained on
    assert chemgpt.head.weight is chemgpt.embedding.wte.weight and chemgpt.head.weight.grad.abs().sum() > 0


def test_embeddings_follow_the_model_s_weights(chemgpt, tokenizer):
    first = embed(chemgpt, tokenizer, ["CCO"]).values
    with Embedder(chemgpt, tokenizer) as embedder:
        chemgpt.head.ln_f.bias.data += 1.0
        (chunk,) = embedder.chunks([Line(1, "CCO")])
    np.testing.assert_allclose(chunk.values, first + 1.0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pooling": "median"}, "pooling='median': choose one of mean, max, sum, last, eos"),
        ({"long": "cut"}, "long='cut': choose one of error, drop, truncate"),
        ({"notation": "inchi"}, "notation='inchi': choose one of smiles, selfies"),
        ({"tokens": 2}, "tokens=2: a sequence holds 3 or more"),
        ({"tokens": 500}, "tokens=500: the model reads molecules of up to 160 tokens"),
        ({"chunk": 0}, "chunk=0: give 1 or more"),
        ({"accelerator": "tpu"}, "accelerator='tpu'"),
    ],
)
def test_bad_options_are_refused(chemgpt, tokenizer, options, words):
    with pytest.raises(ValueError, match=words):
        embed(chemgpt, tokenizer, ["CCO"], **options)


def test_a_single_text_and_a_foreign_tokenizer_are_refused(chemgpt, tokenizer):
    from ipu_chem.data.representations.tokenizer import Tokenizer

    with pytest.raises(ValueError, match="give a list of texts, even for one molecule"):
        embed(chemgpt, tokenizer, "CCO")
    larger = Tokenizer.build([*tokenizer.symbols[4:], "[Pt]", "[Au]"])
    with pytest.raises(ValueError, match=f"the tokenizer has {larger.vocab_size} tokens, the model"):
        embed(chemgpt, larger, ["CCO"])
