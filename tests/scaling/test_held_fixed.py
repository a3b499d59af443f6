"""Held fixed: what runs share and what differs, in words, from their options and their folders."""

import json

import pytest

from ipu_chem.config import from_dict, to_dict
from ipu_chem.scaling.held_fixed import facts_of, held_fixed

BASE = {
    "model": {"name": "chemgpt", "hidden_features": 64, "mup_base_width": 64},
    "data": {"name": "moses", "validation": 2000},
    "pack": {"tokens": 128},
    "optimizer": {"learning_rate": 6e-3},
    "batching": {"micro_batch_size": 8, "gradient_accumulation": 2},
}


def configs(*changes, base=BASE):
    found = []
    for change in changes:
        values = {**base, **{key: {**base.get(key, {}), **value} for key, value in change.items()}}
        found.append(to_dict(from_dict(values)))
    return found


def test_equal_options_are_fixed_and_others_varied():
    runs = configs({}, {"model": {"hidden_features": 128}, "training": {"seed": 1, "epochs": 7}})
    runs[1]["out"] = "elsewhere"
    held = held_fixed(runs, follows={"training.epochs": "data.train"})
    assert held.varied == [
        "model.hidden_features: 64, 128",
        "training.epochs: 100, 7 (follows data.train)",
        "training.seed: 0, 1",
    ]
    fixed = dict(line.split(": ", 1) for line in held.fixed)
    assert fixed["pack capacity"] == "128 tokens" and fixed["batch"] == "16 packs an optimizer step"
    assert "0.006 at width 64, transferred to other widths by maximal update" in fixed["learning rate"]
    assert fixed["held-out molecules"] == "2,000 validation and 0.1 test" and "hidden_features" not in fixed["model"]
    assert "training ends after" not in fixed and "seed" not in fixed  # epochs and seeds differ
    assert held.options["optimizer.learning_rate"] == 6e-3 and "out" not in held.options
    assert not set(held.options) & {"model.hidden_features", "training.epochs", "training.seed"}


def test_learning_rates_that_are_not_transferred_are_said_so():
    base = {"model": {"name": "painn"}, "pack": {"nodes": 45, "edges": 200}, "training": {"ema_decay": 0.99}}
    held = held_fixed(configs({}, {"model": {"hidden_features": 32}}, base=base))
    assert any("not transferred" in line for line in held.fixed)
    assert "pack capacity: 45 nodes, 200 edges" in held.fixed
    depth = configs({}, {"model": {"hidden_features": 128, "num_layers": 2}})
    assert any("not over num_layers" in line.replace("model.", "") for line in held_fixed(depth).fixed)
    assert "varied:\n  nothing" in "\n".join(held_fixed(configs({})).lines())
    with pytest.raises(ValueError, match="no runs"):
        held_fixed([])


def test_facts_are_what_all_folders_say(tmp_path):
    said = {"splits": {"train": 9, "validation": 2000, "test": 5}, "vocabulary": "27 tokens", "tokenizer": "abc"}
    for name, tokenizer in (("a", "abc"), ("b", "abc"), ("c", "xyz")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({**said, "tokenizer": tokenizer}))
    folders = [tmp_path / name for name in "ab"] + [tmp_path / "not there"]
    facts = facts_of(folders)
    assert facts == {"held-out molecules": "2,000 validation and 5 test", "vocabulary": "27 tokens, fingerprint abc"}
    assert "held-out molecules: 2,000 validation and 5 test" in held_fixed(configs({}), facts).fixed
    differing = held_fixed(configs({}), facts_of([*folders, tmp_path / "c"]))
    assert "vocabulary: not the same in all runs" in differing.varied
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="delete the folder"):
        facts_of(folders)
