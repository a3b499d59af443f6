"""Runs of language models: from SMILES to nats, resumed to the bit, used and continued from their folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.tasks.language_model import load_language_model, load_tokenizer
from ipu_chem.tasks.registry import load_task
from ipu_chem.train import evaluate, train
from ipu_chem.training.logging import read_rows
from ipu_chem.training.trainer import Trainer


def test_nats_are_those_of_the_molecules_one_by_one(text_options):
    result = train(from_dict(text_options))
    folder = Path(text_options["out"])
    language = load_language_model(folder)
    tensors, state = load_checkpoint(folder / "checkpoints" / "best.safetensors")
    task = load_task(from_dict(state["config"]), folder / "plans", state)
    items, total, tokens = task.items["test"], 0.0, 0
    for item in items:
        ids = torch.from_numpy(task.ids[item].astype(np.int64))
        assert ids[0] == language.tokenizer.bos_id and ids[-1] == language.tokenizer.eos_id
        with torch.no_grad():
            logits = language.model(ids[None, :-1], torch.arange(len(ids) - 1)[None])[0]
        total += float(functional.cross_entropy(logits, ids[1:], reduction="sum"))
        tokens += len(ids) - 1
    found, atoms = result["results"]["test"], int(task.store.fields["heavy_atoms"][items].sum())
    assert found["nats_per_token"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["nats_per_molecule"] == pytest.approx(total / len(items), rel=1e-5)
    assert found["nats_per_heavy_atom"] == pytest.approx(total / atoms, rel=1e-5)
    assert evaluate(folder, "test") == pytest.approx(found, rel=1e-6)
    run = json.loads((folder / "run.json").read_text())
    assert run["kind"] == "text" and "filters" not in run and run["bigram"]["test"].keys() == found.keys()


def test_it_learns_more_than_counting_symbols(text_options):
    text_options["training"]["epochs"] = 40
    train(from_dict(text_options))
    run = json.loads((Path(text_options["out"]) / "run.json").read_text())
    model, *counted = (run[key]["test"]["nats_per_heavy_atom"] for key in ("results", "bigram", "baseline"))
    assert model < 0.8 * min(counted)


def test_a_stopped_run_goes_on_to_the_same_weights(text_options, tmp_path, monkeypatch):
    text_options["schedule"] = {"name": "cosine", "warmup_steps": 2}
    train(from_dict({**text_options, "out": str(tmp_path / "whole")}))
    original = Trainer._train_epoch

    def stop_in_the_second(self, *args):
        if self.progress.epoch == 1:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(from_dict(text_options))
    monkeypatch.setattr(Trainer, "_train_epoch", original)
    train(from_dict(text_options), resume=True)
    one, other = (
        load_checkpoint(Path(out) / "checkpoints" / "last.safetensors")[0]
        for out in (tmp_path / "whole", tmp_path / "run")
    )
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert len([row for row in read_rows(tmp_path / "run") if row["kind"] == "validation"]) == 3


def test_training_goes_on_from_another_run(text_options, tmp_path):
    train(from_dict(text_options))
    start = Path(text_options["out"])
    other = {**text_options, "out": str(tmp_path / "other"), "optimizer": {"learning_rate": 1e-9}}
    other["training"] = {**text_options["training"], "epochs": 1, "start_from": str(start)}
    train(from_dict(other))
    ours, theirs = load_language_model(tmp_path / "other"), load_language_model(start)
    assert ours.tokenizer.symbols == theirs.tokenizer.symbols
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=0, atol=1e-6)
    other["model"] = {**other["model"], "num_layers": 2}
    with pytest.raises(ValueError, match=r"start_from=.*layers\.1.* has shape None"):
        train(from_dict({**other, "out": str(tmp_path / "deeper")}))


def test_a_vocabulary_that_is_not_that_of_the_weights_is_refused(text_options, tmp_path):
    train(from_dict(text_options))
    Tokenizer.build(["[C]", "[O]", "[N]", "[F]", "[=O]"]).save(tmp_path / "vocabulary.json")
    other = {**text_options, "out": str(tmp_path / "other")}
    other["data"] = {**text_options["data"], "tokenizer": str(tmp_path / "vocabulary.json")}
    other["training"] = {**text_options["training"], "start_from": text_options["out"]}
    with pytest.raises(ValueError, match="another vocabulary"):
        train(from_dict(other))
    assert load_tokenizer(text_options["out"]).symbols == load_language_model(text_options["out"]).tokenizer.symbols


@pytest.mark.parametrize("long", ["drop", "truncate"])
def test_molecules_longer_than_a_row(text_options, long):
    text_options["pack"] = {"tokens": 8}
    with pytest.raises(ValueError, match=r"pack\.tokens=8; set pack\.tokens=11 or more.*data\.long"):
        load_task(from_dict(text_options))
    config = from_dict(text_options)
    task = load_task(replace(config, data=replace(config.data, long=long)))
    ends = task.ids.values[task.ids.offsets[1:] - 1]
    given = len(Path(text_options["data"]["path"]).read_text().splitlines())
    over = given - len(task.store) if long == "drop" else int((ends != task.tokenizer.eos_id).sum())
    assert task.ids.lengths.max() == 8 and over > 0
    assert task.cut == {"dropped": over if long == "drop" else 0, "truncated": 0 if long == "drop" else over}
    assert len(task.ids) == len(task.store)


def test_the_report_draws_molecules_and_shows_the_baselines(text_options):
    pytest.importorskip("matplotlib")
    text_options["training"].update(report=True, samples=40, epochs=20)
    result = train(from_dict(text_options))
    folder = Path(text_options["out"])
    page = " ".join(Path(result["report"]).read_text(encoding="utf-8").split())
    run = json.loads((folder / "run.json").read_text())
    assert run["samples"]["count"] == 40 and "unique" in run["samples"]["metrics"]
    assert "<svg" in page and "bigram" in page and "validity says nothing" in " ".join(page.split())
    assert f"{run['results']['test']['nats_per_heavy_atom']:.4g}" in page
    assert len((folder / "generated.csv").read_text().splitlines()) == 41
    assert "W1_logP" in page and "properties of generated and of known molecules" in page
    assert "unique@1000 is left out" in page and "CharRNN" not in page  # which was trained on MOSES
    table = (folder / "generated_metrics.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "metric,value,meaning" and len(table) == 1 + len(run["samples"]["metrics"])


def test_predicting_labels_with_it_is_refused_and_says_what_to_use(text_options, tmp_path, capsys):
    train(from_dict(text_options))
    (tmp_path / "some.smi").write_text("CCO\n")
    assert main(["predict", text_options["out"], str(tmp_path / "some.smi")]) == 1
    assert "ipu-chem generate" in capsys.readouterr().err
