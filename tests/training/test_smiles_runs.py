"""Runs on SMILES: trained, resumed, written, embedded, exported, built on; other representations are refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from support import CHAINS

from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.data.corpora import encode_smiles
from ipu_chem.embedding import embed
from ipu_chem.generation.sampling import generate
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.train import evaluate, train
from ipu_chem.trained_run import TrainedRun


@pytest.fixture
def smiles_options(text_options):
    text_options["data"]["representation"] = "smiles"
    return text_options


@pytest.fixture
def folder(smiles_options):
    train(from_dict(smiles_options))
    return Path(smiles_options["out"])


def test_a_run_says_its_representation_and_perplexity(folder, capsys):
    run = json.loads((folder / "run.json").read_text())
    assert run["representation"] == "smiles"
    found = run["results"]["test"]
    assert found["perplexity"] == pytest.approx(np.exp(found["nats_per_token"]))
    assert evaluate(folder, "test") == pytest.approx(found, rel=1e-6)
    assert load_language_model(folder).tokenizer.representation.name == "smiles"


def test_what_it_writes_is_counted(folder, tmp_path, capsys):
    words = [
        "generate",
        str(folder),
        "--count=40",
        f"--output={tmp_path / 'm.csv'}",
        "--workers=1",
        "--accelerator=cpu",
    ]
    assert main([*words, "--prefix=C(", "--seed=1"]) in (0, 1)
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and all(row["text"].startswith("C(") for row in rows)
    for row in rows:
        valid = Chem.MolFromSmiles(row["text"]) is not None
        assert bool(row["smiles"]) == valid and (row["reason"] == "") == valid
    refused = sum(row["reason"] != "" for row in rows)
    assert refused > 4 and f"{refused} RDKit cannot parse the SMILES" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"prefix \[Xe\]: token '\[Xe\]' is not in the vocabulary; begin with"):
        language = load_language_model(folder)
        generate(language.model, language.tokenizer, 1, prefix="[Xe]", progress=False)


def test_embeddings_read_smiles_as_the_model_does(folder):
    language = load_language_model(folder)
    same = embed(language.model, language.tokenizer, ["OCC", "CCO", "[C][C][O]"])
    assert np.array_equal(same.values[0], same.values[1])
    assert [one.reason for one in same.failures] == ["looks like SELFIES; give SMILES"]
    other = embed(language.model, language.tokenizer, ["OCC", "CCO"], notation="text").values
    assert np.array_equal(other[1], same.values[0]) and not np.allclose(other[0], other[1])
    with pytest.raises(ValueError, match="notation=selfies: the model reads SMILES; give .* notation=text"):
        embed(language.model, language.tokenizer, ["[C]"], notation="selfies")


def test_labels_on_top_of_it(folder, smiles_options, tmp_path):
    rows = [f"{smiles},{len(smiles)}" for smiles in CHAINS]
    (tmp_path / "labels.csv").write_text("\n".join(["smiles,size", *rows]) + "\n")
    data = {**smiles_options["data"], "path": str(tmp_path / "labels.csv"), "target": "size"}
    training = {**smiles_options["training"], "start_from": str(folder)}
    options = {**smiles_options, "data": data, "training": training, "out": str(tmp_path / "labels")}
    selfies = from_dict({**options, "data": {**data, "representation": "selfies"}})
    with pytest.raises(
        ValueError, match="is of smiles, and data.representation is selfies: set data.represent.*=smiles"
    ):
        train(selfies)
    train(from_dict(options))
    run = TrainedRun.load(tmp_path / "labels")
    assert run.task.tokenizer.representation.name == run.manner.representation == "smiles"
    np.testing.assert_allclose(run.predict(["OCC"]), run.predict(["CCO"]))


def test_a_vocabulary_of_another_representation_is_refused_before_the_corpus_is_read(folder, smiles_options, tmp_path):
    other = {
        **smiles_options["data"],
        "representation": "selfies",
        "tokenizer": str(folder),
        "cache": str(tmp_path / "no"),
    }
    with pytest.raises(ValueError, match="the vocabulary of .* is of smiles, and data.representation is selfies"):
        train(from_dict({**smiles_options, "data": other, "out": str(tmp_path / "other")}))
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match=r"representation='smils' \(did you mean 'smiles'\?\)"):
        train(from_dict({**smiles_options, "data": {**other, "representation": "smils"}, "out": str(tmp_path / "x")}))


def test_a_stopped_run_goes_on_in_its_representation(folder, smiles_options, capsys):
    words = ["train", "--resume", str(folder), "--training.epochs", "4"]
    assert main(words) == 0
    state = load_language_model(folder).info
    assert state["tokenizer"]["representation"] == "smiles"
    assert main([*words, "--data.representation", "selfies"]) == 1
    assert "data.representation" in capsys.readouterr().err


@pytest.mark.parametrize("representation", ["smiles", "selfies"])
def test_the_export_has_the_same_distribution(text_options, tmp_path, representation):
    """Of every next token, what transformers draws from and what `generate` does, and seeds of its own only."""
    transformers = pytest.importorskip("transformers")
    text_options["data"]["representation"] = representation
    train(from_dict(text_options))
    run = TrainedRun.load(text_options["out"])
    folder = run.export(tmp_path / "out", "huggingface")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "56 train" in card and "| test | " in card
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    mine, how = run.task.tokenizer, theirs.generation_config
    ends = [mine.bos_id, mine.eos_id, mine.pad_id]
    assert [how.bos_token_id, how.eos_token_id, how.pad_token_id] == ends
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == ends
    text = encode_smiles("CCOC", representation=representation)[1]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == mine.encode(text).tolist()
    model, cache = run.model.model.double().float(), None
    for place in range(ids.shape[1]):
        with torch.no_grad():
            found = theirs(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            expected = model(ids[:, : place + 1], torch.arange(place + 1)[None])[:, -1]
        cache = found.past_key_values
        torch.testing.assert_close(found.logits[:, -1], expected, rtol=1e-5, atol=1e-5)
    torch.manual_seed(0)
    made = theirs.generate(num_return_sequences=400, return_dict_in_generate=True, output_scores=True)
    first = torch.softmax(made.scores[0][0].double(), 0)
    assert first[mine.never_written()].sum() == 0
    with torch.no_grad():
        logits = model(torch.tensor([[mine.bos_id]]), torch.zeros(1, 1, dtype=torch.int64))[0, 0].double()
    logits[mine.never_written()] = -torch.inf
    torch.testing.assert_close(first, torch.softmax(logits, 0), rtol=1e-4, atol=1e-7)
    texts = tokenizer.batch_decode(made.sequences, skip_special_tokens=True)
    ours = generate(model, mine, 400, seed=3, progress=False).texts
    mean, spread = np.mean([len(one) for one in ours]), np.std([len(one) for one in ours])
    assert abs(np.mean([len(one) for one in texts]) - mean) < 4 * spread / np.sqrt(200)
    assert abs(len(set(texts)) - len(set(ours))) < 60
