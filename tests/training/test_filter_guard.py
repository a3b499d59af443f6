"""A run leaves its table of filters as soon as it is no longer exact, on every device, and stays without."""

import json
from pathlib import Path

import pytest
import torch
from poptorch_helpers import installed_double

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.train import evaluate, train
from ipu_chem.training import filter_guard


@pytest.fixture(autouse=True)
def poptorch():
    with installed_double() as module:
        yield module


def last(folder):
    return load_checkpoint(Path(folder) / "checkpoints" / "last.safetensors")


def run(options, make_config, tmp_path, name, resume=False, **model):
    config = {**options, "model": {**options["model"], **model}, "out": str(tmp_path / name)}
    return train(make_config(config), resume=resume)


def test_a_table_that_holds_is_kept_and_its_error_told(options, make_config, tmp_path, capsys):
    assert run(options, make_config, tmp_path, "table")["finished"]
    state = last(tmp_path / "table")[1]
    assert state["filters"] == "table" and 0 < state["filter_error"] <= 2e-6
    assert "filters: read from a table, off by" in capsys.readouterr().out
    assert "read from a table" in json.loads((tmp_path / "table" / "run.json").read_text())["filters"]


def test_table_and_exact_filters_train_the_same(options, make_config, tmp_path):
    results = [run(options, make_config, tmp_path, name, filter=name)["results"] for name in ("table", "exact")]
    for split, metrics in results[0].items():
        assert metrics == pytest.approx(results[1][split], rel=1e-3)
    table, exact = last(tmp_path / "table")[0]["model"], last(tmp_path / "exact")[0]["model"]
    for name in table:
        torch.testing.assert_close(table[name], exact[name], rtol=1e-3, atol=1e-5, msg=name)
    assert any(not torch.equal(table[name], exact[name]) for name in table)


def test_a_table_too_coarse_is_left_before_anything_is_trained(options, make_config, tmp_path, capsys):
    run(options, make_config, tmp_path, "coarse", filter="table", table_points=8)
    assert "filters: the table is off by" in capsys.readouterr().out
    assert last(tmp_path / "coarse")[1]["filters"] == "exact"
    run(options, make_config, tmp_path, "exact", filter="exact")
    coarse, exact = last(tmp_path / "coarse")[0]["model"], last(tmp_path / "exact")[0]["model"]
    assert all(torch.equal(coarse[name], exact[name]) for name in exact)


@pytest.mark.parametrize("accelerator", ["cpu", "ipu"])
def test_a_table_that_fails_on_the_way_is_left_there(options, make_config, tmp_path, monkeypatch, accelerator):
    options["accelerator"] = accelerator
    options["schedule"] = {"name": "constant"}
    true_error, seen = filter_guard.filter_error, []

    def error(model):
        seen.append(true_error(model))
        return seen[-1] if len(seen) < 3 else 1e-3  # fails after the second epoch

    monkeypatch.setattr(filter_guard, "filter_error", error)
    run(options, make_config, tmp_path, "left")
    assert len(seen) == 3 and max(seen) <= 2e-6  # and is not asked again
    tensors, state = last(tmp_path / "left")
    assert state["filters"] == "exact"
    run(options, make_config, tmp_path, "exact", filter="exact")
    for name, value in last(tmp_path / "exact")[0]["model"].items():
        torch.testing.assert_close(tensors["model"][name], value, rtol=1e-3, atol=1e-5, msg=name)

    # A longer run that goes on from there does so without a table.
    run({**options, "training": {**options["training"], "epochs": 4}}, make_config, tmp_path, "left", resume=True)
    assert last(tmp_path / "left")[1]["filters"] == "exact"
    assert "exact" in json.loads((tmp_path / "left" / "run.json").read_text())["filters"]
    assert evaluate(tmp_path / "left", "validation")
