"""Runs that tune a language model: adapters, new symbols, classes and targets of which some are missing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import CHAINS

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.tasks.language_model import load_language_model
from ipu_chem.tasks.registry import load_task
from ipu_chem.train import evaluate, train
from ipu_chem.trained_run import TrainedRun
from ipu_chem.training.trainer import Trainer

METAL = "C[Pt]C"


def rows_of_table():
    """A fraction of heteroatoms, two classes of which a third is missing, and one that only some molecules have."""
    for number, text in enumerate(CHAINS):
        hetero = sum(letter not in "Cl" for letter in text) / len(text)
        yield [text, hetero, int("O" in text), "" if number % 3 == 2 else int("F" in text)]


@pytest.fixture
def tuned(text_options, tmp_path):
    """Options of a run that starts from a small language model."""
    text_options["model"].update(hidden_features=16, num_layers=2)
    text_options["training"]["epochs"] = 1
    train(from_dict({**text_options, "out": str(tmp_path / "language")}))
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([["smiles", "hetero", "alcohol", "fluorine"], *rows_of_table(), [METAL, 0.3, 0, 0]])
    data = {**text_options["data"], "path": str(tmp_path / "table.csv"), "target": "hetero", "extensive": False}
    training = {**text_options["training"], "epochs": 3, "start_from": str(tmp_path / "language")}
    model = {"name": "chemgpt", "lora_rank": 2}
    return {**text_options, "data": data, "training": training, "model": model}


def test_adapters_are_trained_resumed_measured_and_exported(tuned, tmp_path, monkeypatch):
    whole = train(from_dict({**tuned, "out": str(tmp_path / "whole")}))
    original = Trainer._train_epoch

    def stop_in_the_second(self, *args):
        if self.progress.epoch == 1:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(from_dict(tuned))
    monkeypatch.setattr(Trainer, "_train_epoch", original)
    train(from_dict(tuned), resume=True)
    one, other = (
        load_checkpoint(tmp_path / out / "checkpoints" / "last.safetensors")[0]["model"] for out in ("whole", "run")
    )
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    language = load_language_model(tmp_path / "language").model.state_dict()
    assert torch.equal(one["layers.1.mlp.c_fc.base.weight"], language["layers.1.mlp.c_fc.weight"])
    assert one["layers.1.mlp.c_fc.lora_b"].abs().max() > 0
    (tmp_path / "language").rename(tmp_path / "elsewhere")  # what a run started from is not needed again
    assert evaluate(tmp_path / "run", "test") == pytest.approx(whole["results"]["test"], rel=1e-4)

    run = TrainedRun.load(tmp_path / "run")
    assert not any("lora" in name for name in run.model.state_dict())
    run.export(tmp_path / "out", "state_dict")
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["run"]["model"]["lora_rank"] == 0
    if hasattr(getattr(torch, "export", None), "save"):
        run.export(tmp_path / "program", "torch_export")
    assert np.isfinite(run.predict(["CCO", METAL])).all()


def test_new_symbols_get_embeddings_and_the_others_keep_theirs(tuned, tmp_path, capsys):
    tuned["model"] = {"name": "chemgpt"}
    task = load_task(from_dict(tuned))
    new = task.new_symbols  # some versions of RDKit write [CH3] at a metal
    assert f"symbols that are new to the vocabulary: {len(new)}, {', '.join(new)}; the emb" in capsys.readouterr().out
    assert new[-1] == "[Pt]" and new[:-1] in ([], ["[CH3]"]) and task.cut["unknown symbols"] == 0
    earlier = load_language_model(tmp_path / "language")
    count = earlier.tokenizer.vocab_size
    assert task.tokenizer.symbols == (*earlier.tokenizer.symbols, *new) and len(task.ids) == len(CHAINS) + 1
    table, old = task.model().state_dict()["embedding.wte.weight"], earlier.model.state_dict()["embedding.wte.weight"]
    assert torch.equal(table[:count], old) and 0.2 < table[-1].norm() / old.norm(dim=1).mean() < 5
    tuned["data"]["unknown"] = "drop"
    assert load_task(from_dict(tuned)).cut["unknown symbols"] == 1
    result = train(from_dict({**tuned, "data": {**tuned["data"], "unknown": "auto"}}))
    assert np.isfinite(list(result["results"]["test"].values())).all()
    assert json.loads(Path(tuned["out"], "run.json").read_text())["new symbols"] == new
    assert np.isfinite(TrainedRun.load(tuned["out"]).predict([METAL])).all()


def test_a_symbol_begins_as_it_is_without_stereochemistry(tuned, tmp_path, capsys):
    with open(tuned["data"]["path"], "a", newline="") as file:
        csv.writer(file).writerow(["C[C@H](O)N", 0.4, 1, 0])
    task = load_task(from_dict(tuned))
    assert "begin as those of the same atoms" in capsys.readouterr().out
    table, ids = task.model().state_dict()["embedding.wte.weight"], task.tokenizer
    new = next(symbol for symbol in task.new_symbols if "@" in symbol)
    assert torch.equal(table[ids.id_of(new)], table[ids.id_of("[C]")])


def test_a_language_model_goes_on_with_more_symbols(text_options, tuned, tmp_path):
    (tmp_path / "metals.smi").write_text("\n".join([*CHAINS, METAL]) + "\n")
    data = {**text_options["data"], "path": str(tmp_path / "metals.smi")}
    options = {**text_options, "data": data, "training": tuned["training"], "out": str(tmp_path / "more")}
    with pytest.raises(ValueError, match=r"\[Pt\].*not in the vocabulary"):
        train(from_dict(options))
    data["unknown"] = "extend"
    train(from_dict(options))
    assert load_language_model(tmp_path / "more").tokenizer.symbols[-1] == "[Pt]"


def test_several_classes_of_which_some_are_missing(tuned):
    tuned["data"].update(target="alcohol,fluorine", kind="binary")
    tuned["training"]["epochs"] = 30
    task = load_task(from_dict(tuned))
    assert np.isnan(task.store.fields["y"]).sum() == 24
    result = train(from_dict(tuned))
    metrics = result["results"]["validation"]
    assert metrics["rocauc_alcohol"] > 0.8 and metrics["rocauc_fluorine"] > 0.7
    probabilities = TrainedRun.load(tuned["out"]).predict(["CCO", "FCC"])
    assert probabilities.shape == (2, 2) and ((0 < probabilities) & (probabilities < 1)).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": {"name": "chemgpt", "lora_rank": 2, "freeze": True}}, "model.lora_rank=2 adapters too"),
        ({"model": {"name": "schnet", "lora_rank": 2}}, "adapters are for a chemgpt that learns labels"),
        ({"training": {"epochs": 1}}, "name their run with training.start_from"),
        ({"training": {"epochs": 1}, "data": {"unknown": "extend"}, "model": {}}, "name it with training.start_from"),
        ({"data": {"target": ""}}, "model.lora_rank=2: adapters are trained with a head"),
        ({"model": {"name": "chemgpt", "lora_rank": -1}}, "model.lora_rank=-1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(text_options, changed, words):
    data = {**text_options["data"], "target": "y", "extensive": False, **changed.get("data", {})}
    base = {"training": {"epochs": 1, "start_from": text_options["data"]["cache"]}, "model": {"lora_rank": 2}}
    chosen = {**base, **{name: value for name, value in changed.items() if name != "data"}}
    model = {"name": "chemgpt", **chosen["model"]}
    with pytest.raises(ValueError, match=words):
        config = from_dict({**text_options, **chosen, "model": model, "data": data})
        load_task(config)
