"""Whole runs through torch.compile: compiled once for training and once for all evaluations, and what is reported."""

import json
from pathlib import Path

import pytest

from ipu_chem.train import train
from ipu_chem.training.logging import read_rows


def rows(folder):
    return [row for row in read_rows(folder) if row["kind"] == "validation"]


def test_a_compiled_run_captures_two_graphs_and_learns_the_same(options, make_config, tmp_path, capsys):
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    options["torch"].update(compile=True, compile_backend="eager")
    train(make_config(options))
    # Three epochs with validation, then the validation and the test split.
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert "of them its call and compilation" in capsys.readouterr().out
    compiled = Path(options["out"])
    options["torch"].update(compile=False)
    options["out"] = str(tmp_path / "plain")
    train(make_config(options))
    assert len(rows(compiled)) == 3
    for one, two in zip(rows(compiled), rows(options["out"])):
        name = "mae_mmff94_energy_kcal_per_mol"
        assert (one["loss"], one[name]) == pytest.approx((two["loss"], two[name]), rel=1e-5)
    dynamo.reset()


def test_time_to_the_first_step_is_reported(options, make_config, capsys):
    options["training"]["epochs"] = 1
    train(make_config(options))
    seconds = json.loads((Path(options["out"]) / "run.json").read_text())["seconds"]
    assert 0 < seconds["first call"] < seconds["to first step"]
    assert f"first step after {seconds['to first step']:.1f} s" in capsys.readouterr().out
