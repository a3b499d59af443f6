"""Runs at full size: how many epochs fit, what is started and what goes on, and the table; the training is a run's."""

import json

import pytest

from benchmarks import full_size
from benchmarks.full_size import RUNS, Schedule, command_of, data_options, results_of, row, schedule_of
from ipu_chem.cli import main
from ipu_chem.commands.recipes import path_of
from ipu_chem.config import from_dict
from ipu_chem.yaml_file import read_yaml


def test_epochs_fill_the_time_and_less_than_one_is_a_trial():
    assert schedule_of(100.0, 110_000, 150, 2) == Schedule(14, 110_000, 200.0, False)  # 0.9 * 9,000 s * 200 / 110,000
    trial = schedule_of(100.0, 110_000, 1, 2)
    assert trial.is_trial and trial.epochs == 1 and trial.molecules == 10_800
    assert schedule_of(1e-3, 110_000, 1, 1).molecules == 100


@pytest.mark.parametrize("name", list(RUNS))
def test_recipes_are_there_and_take_the_options(name, tmp_path):
    values = read_yaml(path_of("config", RUNS[name].recipe))
    for key, value in {**RUNS[name].options, **data_options(name, tmp_path)}.items():
        section, _, option = key.partition(".")
        values[section][option] = value
    config = from_dict(values)
    if name.startswith("qm9"):
        assert config.data.train == 110_000 and config.batching.replication_factor == 2
        assert config.data.train + config.data.validation + config.data.test <= 118_716  # of the smaller copy
    else:
        assert config.force_share > 0 and vars(config.data)["molecule"] in name


def test_a_run_is_started_and_one_with_a_checkpoint_goes_on(tmp_path):
    schedule = Schedule(120, 110_000, 1000.0, False)
    words = command_of(RUNS["qm9-painn"], tmp_path / "run", {"data.path": "x"}, schedule, 2)
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert ["--training.epochs", "120"] == words[words.index("--training.epochs") :][:2] and "--resume" not in words
    assert words[words.index("--training.evaluate_every") + 1] == "2" and "--data.train" not in words
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.safetensors").touch()
    words = command_of(RUNS["qm9-painn"], tmp_path / "run", {}, schedule, 1)
    assert words[1:] == ["-m", "ipu_chem", "train", "--resume", str(tmp_path / "run")]
    trial = command_of(RUNS["qm9-painn"], tmp_path / "other", {}, Schedule(1, 300, 9.0, True), 1)
    assert trial[trial.index("--data.train") + 1] == "300"


def test_the_table_has_errors_beside_published_ones(tmp_path):
    assert results_of(tmp_path) is None and "not finished" in row("ethanol-painn", tmp_path, "stopped")[-1]
    found = {"mae_energy_meV": 2.11, "rmse_energy_meV": 3.0, "mae_forces_meV_per_A": 11.72}
    (tmp_path / "run.json").write_text(json.dumps({"results": {"test": found}}))
    assert row("ethanol-painn", tmp_path, "note") == ["ethanol-painn", "2.11", "2.7", "11.7", "10", "note"]
    (tmp_path / "run.json").write_text(json.dumps({"results": {"test": {"mae_e_el_meV": 13.456}}}))
    assert row("qm9-schnet", tmp_path, "note")[1:5] == ["13.5", "14", "-", "-"]


def test_steps_of_a_recipe_are_measured_and_a_finished_run_is_only_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(full_size, "_LEAST_SECONDS", 0.1)
    found = full_size.step_rate("nci3d_demo", {"data.limit": 60})()
    assert found["rate"] > 0 and 30 <= found["molecules"] < 60
    folder = tmp_path / "out" / "qm9-schnet"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"results": {"test": {"mae_e_el_meV": 13.5}}}))
    assert full_size.main(["--out", str(tmp_path / "out"), "--only", "qm9-schnet"]) == 0
    assert "| qm9-schnet | 13.5" in capsys.readouterr().out


def test_both_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert "qm9_u0_schnet" in said and "qm9_u0_painn" in said and "qm9_mu_painn" in said
