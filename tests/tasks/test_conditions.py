"""Properties that a language model is given: bins and their tokens, losses without them, molecules that follow them."""

import math

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import Crippen
from support import CHAINS

from ipu_chem.backends.options import Batching
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.cli import parse
from ipu_chem.commands import generate as command
from ipu_chem.config import from_dict
from ipu_chem.data.conditions import computed
from ipu_chem.data.representations.conditions import bin_tokens, leading_ids, properties_of, put_conditions
from ipu_chem.data.representations.saved import tokenizer_from_dict, tokenizer_from_huggingface
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.embedding import embed, log_likelihoods
from ipu_chem.generation.molecules import decode_many
from ipu_chem.generation.sampling import generate
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.tasks.registry import load_task, task_of
from ipu_chem.trained_run import TrainedRun
from packing import Budget, make_plan

LOGP = ["[logp:~1.5]", "[logp:1.5~3]", "[logp:3~]", "[logp:?]"]


def tokenizer() -> Tokenizer:
    return Tokenizer.build(["[C]", "[O]"], robust_alphabet=False).with_properties([*LOGP, "[n:~2]", "[n:2~]", "[n:?]"])


def test_bins_hold_equally_many_and_say_their_bounds():
    values = np.array([*range(1, 13), math.nan, math.inf])
    assert bin_tokens("n", values, 3) == ["[n:~4.66667]", "[n:4.66667~8.33333]", "[n:8.33333~]", "[n:?]"]
    assert bin_tokens("n", np.array([0, 0, 0, 0, 1.0]), 4) == ["[n:~1]", "[n:1~]", "[n:?]"]
    assert bin_tokens("n", np.array([0.0] * 20 + [1, 2, 3, 4]), 3) == ["[n:~1]", "[n:1~]", "[n:?]"]
    for values, name, message in (
        (np.array([2.0, 2.0]), "n", "all molecules have the value 2"),
        (np.array([math.nan]), "n", "no molecule has a value"),
        (np.array([1.0, 2.0]), "a b", "without blanks"),
    ):
        with pytest.raises(ValueError, match=message):
            bin_tokens(name, values, 4)


def test_values_go_into_their_bins():
    logp, n = properties_of(tokenizer().symbols)
    names = [tokenizer().symbols[index] for index in logp.ids_of(np.array([-5, 1.49, 1.5, 2.9, 3.0, 99, math.nan]))]
    assert names == [LOGP[0], LOGP[0], LOGP[1], LOGP[1], LOGP[2], LOGP[2], LOGP[3]]
    assert logp.bounds(2) == (1.5, 3.0) and logp.bounds(3) == (3.0, math.inf) and n.bounds(0) == (-math.inf, 2.0)
    with pytest.raises(ValueError, match="has not all tokens of the property logp"):
        properties_of(LOGP[:3])


def test_molecules_begin_with_properties_that_are_not_known():
    text = tokenizer()
    plain = Tokenizer.build(["[C]", "[O]"], robust_alphabet=False)
    unknown = [text.symbols.index("[logp:?]"), text.symbols.index("[n:?]")]
    assert text.encode("[C][O]").tolist() == [text.bos_id, *unknown, *plain.encode("[C][O]")[1:]]
    assert text.decode(text.encode("[C][O]")) == "[C][O]"
    assert text.fingerprint() != plain.fingerprint()
    assert plain.leading.tolist() == [plain.bos_id]
    again = tokenizer_from_dict(text.to_dict())
    assert again.fingerprint() == text.fingerprint() and again.leading.tolist() == text.leading.tolist()
    stated = leading_ids(text.bos_id, text.properties, {"n": 7})
    assert [text.symbols[index] for index in stated] == ["[BOS]", "[logp:?]", "[n:2~]"]
    ids = text.encode_many(["[C]", "[O][C]"])
    values = np.array(ids.values)
    put_conditions(values, ids.offsets, text.properties, np.array([[2.0, math.nan], [math.nan, 0.0]]))
    assert [text.symbols[index] for index in values] == (
        ["[BOS]", "[logp:1.5~3]", "[n:?]", "[C]", "[EOS]", "[BOS]", "[logp:?]", "[n:~2]", "[O]", "[C]", "[EOS]"]
    )
    with pytest.raises(ValueError, match="knows no property qed, it was trained with logp, n"):
        leading_ids(text.bos_id, text.properties, {"qed": 1.0})
    with pytest.raises(ValueError, match="trained without any"):
        leading_ids(text.bos_id, (), {"qed": 1.0})


def test_hugging_faces_files_say_the_same(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = tokenizer()
    text.save_huggingface(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("[C][O]")["input_ids"] == text.encode("[C][O]").tolist()
    assert loaded.decode(text.encode("[C][O]"), skip_special_tokens=True).replace(" ", "") == "[C][O]"
    again = tokenizer_from_huggingface(tmp_path)
    assert again.fingerprint() == text.fingerprint() and again.properties[0].edges.tolist() == [1.5, 3.0]


def test_what_is_told_is_not_predicted():
    text = tokenizer()
    ids = text.encode_many(["[C][O]", "[O]", "[C][C][C]"])
    budget = Budget(tokens=16)
    loader = TokenLoader(ids, make_plan(ids.lengths, budget), budget, Batching(2), text.vocab_size, stated=2)
    batch, _ = next(loader.epoch(0, 0))
    labels = batch.labels[batch.weight > 0].tolist()
    assert sorted(labels) == sorted(np.concatenate([text.encode(one)[3:] for one in ("[C][O]", "[O]", "[C][C][C]")]))
    assert float(batch.weight.sum()) == pytest.approx(1.0)


def test_properties_are_those_of_rdkit():
    found = computed([*CHAINS[:5], "no"], ["weight", "logp"], workers=1)
    assert found[:5, 1].tolist() == [Crippen.MolLogP(Chem.MolFromSmiles(smiles)) for smiles in CHAINS[:5]]
    assert np.isnan(found[5]).all()


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """Options of a run on small molecules, of which it is given how many oxygens and what logP they have."""
    folder = tmp_path_factory.mktemp("conditions")
    rows = [f"{one},{'' if place % 7 == 0 else one.count('O')}\n" for place, one in enumerate(CHAINS)]
    (folder / "chains.csv").write_text("smiles,oxygens\n" + "".join(rows))

    def make(**data):
        known = {"name": "file", "path": str(folder / "chains.csv"), "cache": str(folder / "cache"), "workers": 1}
        options = {
            "data": {**known, "validation": 8, "test": 8, "condition": "oxygens,logp", "condition_bins": 3, **data},
            "model": {"name": "chemgpt", "hidden_features": 64, "num_layers": 2},
            "optimizer": {"learning_rate": 0.005},
            "batching": {"micro_batch_size": 2},
            "training": {"epochs": 60, "progress": False, "report": False, "samples": 0},
            "accelerator": "cpu",
            "torch": {"threads": 1, "kernels": False},
            "out": str(folder / "run"),
        }
        return from_dict(options)

    return make


@pytest.fixture(scope="module")
def stated_run(make_config):
    from ipu_chem.train import train

    train(make_config())
    return make_config().out


def test_molecules_follow_what_they_are_told(stated_run):
    language = load_language_model(stated_run)
    text = language.tokenizer
    assert [one.name for one in text.properties] == ["oxygens", "logp"]
    found = {}
    for logp in (0, 3):
        start = leading_ids(text.bos_id, text.properties, {"logp": logp})
        samples = generate(language.model, text, 60, progress=False, starts=[start] * 60)
        smiles = [one.smiles for one in decode_many(samples.texts, workers=1)]
        found[logp] = np.nanmean(computed(smiles, ["logp"], workers=1))
        for one, nats in list(zip(samples.texts, samples.log_likelihoods))[:5] if samples.finished.all() else ():
            ids = np.concatenate([start, text.encode(one)[len(start) :]])
            tokens = torch.from_numpy(ids)[None]
            with torch.no_grad():
                logits = language.model(tokens, torch.arange(len(ids))[None])[0].double()
            own = torch.log_softmax(logits[2:-1], 1).gather(1, tokens[0, 3:, None]).sum()
            assert nats == pytest.approx(float(own), abs=1e-3)
    assert found[3] - found[0] > 0.6  # of all molecules the standard deviation is 0.9


def test_vectors_and_log_likelihoods_are_of_the_molecules_alone(stated_run):
    model, text, _ = load_language_model(stated_run)
    samples = generate(model, text, 20, seed=3, progress=False)
    found = log_likelihoods(model, text, samples.texts, notation="selfies")
    np.testing.assert_allclose(found.values[:, 0], samples.log_likelihoods, rtol=1e-4)
    ids = torch.from_numpy(text.encode(samples.texts[0]).astype(np.int64))[None]
    x, *context = model.embedding(ids, torch.arange(ids.shape[1])[None])
    for layer in model.layers:
        x = layer(x, *context)
    own = model.head.ln_f(x)[0, len(text.leading) : -1].detach().numpy()
    for kind, expected in (("mean", own.mean(0)), ("max", own.max(0)), ("sum", own.sum(0)), ("last", own[-1])):
        vector = embed(model, text, samples.texts[:1], pooling=kind, notation="selfies").values[0]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)


def test_a_run_tells_the_same_again(stated_run, make_config):
    """Loaded from its checkpoint: the same bins and tokens, whose losses count the molecules' own tokens alone."""
    run = TrainedRun.load(stated_run)
    task, fresh = run.loaded_task(), load_task(make_config())
    np.testing.assert_array_equal(task.ids.values, fresh.ids.values)
    unknown = {one.unknown for one in task.tokenizer.properties}
    train = [set(task.ids[item][1:3].tolist()) & unknown for item in task.items["train"].tolist()]
    held_out = [task.ids[item][2] in unknown for item in task.items["test"].tolist()]
    assert 0.05 < np.mean([bool(one) for one in train]) < 0.6 and not any(held_out)  # 1 in 7 missing, 1 in 10 hidden
    output = task.outputs[0].on("test", task.items["test"])
    assert output.counts["tokens"] == int((task.ids.lengths[task.items["test"]] - 3).sum())
    baselines = output.baselines()
    assert 1 < baselines["baseline"]["nats_per_token"] < 2.5  # of 8 different tokens, not of those of properties


def test_the_command_asks_for_properties(stated_run, tmp_path, capsys):
    words = ["generate", stated_run, "--count", "30", "--condition.oxygens", "1", "--condition.logp=-1", "--seed", "3"]
    options = parse([*words, "--output", str(tmp_path / "m.csv"), "--workers", "1", "--accelerator", "cpu"])[1][0]
    assert options.conditions == {"oxygens": 1.0, "logp": -1.0}
    assert command.run(options) == 0
    printed = capsys.readouterr().out
    assert "logp " in printed and "from -inf to" in printed
    again = parse(["generate", stated_run, "--condition", "oxygens=1", "--condition.logp", "-1"])[1][0]
    assert again.conditions == options.conditions
    for word, message in (("logp", "give a name and a number"), ("logp=1,logp=2", "given twice")):
        with pytest.raises(ValueError, match=message):
            parse(["generate", stated_run, "--condition", word])[1][0].conditions  # noqa: B018


def test_a_property_that_is_never_hidden_is_announced(make_config, capsys):
    load_task(make_config(condition_hidden=0.0))
    assert "logp: known of all training molecules" in capsys.readouterr().out


def test_refusals(stated_run, make_config):
    with pytest.raises(ValueError, match="set data.condition=oxygens,logp"):
        load_task(make_config(tokenizer=stated_run, condition="logp"))
    with pytest.raises(ValueError, match="RDKit computes logp"):
        load_task(make_config(name="nci", path="", condition="activity", limit=50))
    with pytest.raises(ValueError, match="activity"):
        load_task(make_config(condition="activity"))
    with pytest.raises(ValueError, match="only a language model is given"):
        task_of(make_config(target="oxygens"))
    with pytest.raises(ValueError, match="logp is named twice"):
        make_config(condition="logp,logp")
