"""Whole runs: training learns, stops and resumes without a trace, and refuses what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from support import StopAt

from ipu_chem.checkpoint import load_checkpoint, random_state, save_checkpoint
from ipu_chem.locks import FolderInUse, locked
from ipu_chem.train import evaluate, train
from ipu_chem.training.callbacks import Callback
from ipu_chem.training.logging import read_rows
from ipu_chem.training.trainer import Trainer


def last(folder):
    return load_checkpoint(Path(folder) / "checkpoints" / "last.safetensors")


def assert_same_state(first, second):
    """Weights, optimizer, averages and progress equal bit for bit."""
    for group in ("model", "optimizer", "ema"):
        assert set(first[0].get(group, {})) == set(second[0].get(group, {}))
        for name, value in first[0].get(group, {}).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[0][group][name])), f"{group}/{name}"
    assert first[1]["progress"] == second[1]["progress"]
    assert first[1]["schedule"] == second[1]["schedule"]


def test_a_run_learns_and_leaves_everything_behind(options, make_config):
    options["training"]["epochs"] = 60
    options["optimizer"] = {"learning_rate": 0.01, "max_grad_norm": 1.0}
    options["model"].update(hidden_features=32, num_filters=32, num_interactions=2, num_gaussians=20)
    result = train(make_config(options))
    folder = Path(options["out"])
    rows = read_rows(folder)
    losses = [row["loss"] for row in rows if row["kind"] == "validation"]
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    assert result["finished"] and set(result["results"]) == {"validation", "test"}
    run = json.loads((folder / "run.json").read_text())
    assert set(run["splits"]) == {"train", "validation", "test"}
    assert run["results"]["test"].keys() == {"mae_mmff94_energy_kcal_per_mol", "rmse_mmff94_energy_kcal_per_mol"}
    assert make_config(yaml.safe_load((folder / "config.yaml").read_text())) == make_config(options)
    best = min(row["mae_mmff94_energy_kcal_per_mol"] for row in rows if row["kind"] == "validation")
    assert result["metrics"]["mae_mmff94_energy_kcal_per_mol"] == best
    # The stored best weights are the ones that were measured.
    assert evaluate(folder, "validation")["mae_mmff94_energy_kcal_per_mol"] == pytest.approx(best, rel=1e-6)
    table = np.genfromtxt(folder / "predictions_test.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    error = np.abs(table["mmff94_energy_label"] - table["mmff94_energy_prediction"]).mean()
    assert error == pytest.approx(run["results"]["test"]["mae_mmff94_energy_kcal_per_mol"], rel=1e-6)


@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9}])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_run_cut_in_two_equals_one_piece(options, make_config, tmp_path, extra, schedule):
    options["schedule"] = {"name": schedule, "plateau_patience": 1, "warmup_steps": 2}
    options["training"].update(extra, epochs=4)
    train(make_config(options))
    whole = last(options["out"])
    # The same run, killed by an exception in the middle of the second epoch.
    options["out"] = str(tmp_path / "cut")
    options["training"]["checkpoint_every"] = 1
    from ipu_chem.backends.pytorch.backend import TorchBackend

    calls = []
    original = TorchBackend.train_step

    def interrupted(self, batch, learning_rate):
        calls.append(learning_rate)
        if len(calls) == 9:
            raise MemoryError("cut")
        return original(self, batch, learning_rate)

    TorchBackend.train_step = interrupted
    try:
        with pytest.raises(MemoryError):
            train(make_config(options))
    finally:
        TorchBackend.train_step = original
    assert last(options["out"])[1]["progress"]["step"] == 8
    result = train(make_config(options), resume=True)
    assert result["finished"]
    assert_same_state(whole, last(options["out"]))
    steps = [row["step"] for row in read_rows(options["out"]) if row["kind"] == "train"]
    assert steps == sorted(set(steps)), "a step was logged twice or out of order"


@pytest.mark.parametrize("stop", [7, 10])
def test_a_run_that_a_callback_stops_goes_on_as_if_it_had_not(options, make_config, tmp_path, stop):
    """Inside an epoch and at the end of one, whose evaluation and averages then come after the break."""
    options["schedule"] = {"name": "cosine", "warmup_steps": 2}
    options["training"].update(ema_decay=0.9, epochs=4)
    seen = []

    class Follow(Callback):
        def on_step(self, step, total, losses):
            seen.append((step, total, *losses))
            return False

    train(make_config(options), callbacks=[Follow()])
    whole = last(options["out"])
    steps = whole[1]["progress"]["step"]
    assert [row[:2] for row in seen] == [(step, steps) for step in range(1, steps + 1)] and steps % 4 == 0
    if stop == 10:
        stop = steps // 4 * 2
    assert [row["loss"] for row in read_rows(options["out"]) if row["kind"] == "train"] == [row[2] for row in seen]
    options["out"] = str(tmp_path / "stopped")
    result = train(make_config(options), callbacks=[StopAt(stop)])
    assert (result["finished"], result["stopped_by"], result["step"]) == (False, 0, stop)
    assert last(options["out"])[1]["progress"]["step"] == stop
    assert train(make_config(options), resume=True)["finished"]
    assert_same_state(whole, last(options["out"]))
    rows = [row for row in read_rows(options["out"]) if row["kind"] == "train"]
    assert [(row["step"], row["loss"]) for row in rows] == [(row[0], row[2]) for row in seen]


def test_a_run_has_one_process(options, make_config):
    options["training"]["epochs"] = 1
    with locked(options["out"]):
        for resume in (False, True):
            with pytest.raises(FolderInUse, match=f"run is in use by process {os.getpid()} on "):
                train(make_config(options), resume)
    assert not Path(options["out"]).exists()


def test_a_run_without_a_checkpoint_is_begun_again_as_the_error_says(options, make_config, capsys):
    from ipu_chem.cli import main

    options["training"]["epochs"] = 1
    train(make_config(options))
    for path in (Path(options["out"]) / "checkpoints").iterdir():
        path.unlink()
    assert main(["train", "--resume", options["out"]]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stopped before the first one: start it again with `ipu-chem train --config" in said
    assert main(said.split("`")[1].split()[1:]) == 0
    assert last(options["out"])[1]["progress"]["epoch"] == 1


def test_seconds_of_all_starts_are_kept(options, make_config):
    seconds = []
    for stop, resume in ((2, False), (4, True), (None, True), (None, True)):
        train(make_config(options), resume, [StopAt(stop)] if stop else [])
        seconds.append(json.loads((Path(options["out"]) / "run.json").read_text())["seconds"])
    first, second, third, nothing_left = (one["to first step"] for one in seconds)
    assert first <= second < third == nothing_left


def start(options, tmp_path, *flags):
    """Start `ipu-chem train` in a process of its own."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "ipu_chem", "train", "--config", str(config), *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_step(folder, step, process):
    """Wait until a checkpoint of that step or later exists."""
    path = Path(folder) / "checkpoints" / "last.safetensors"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.is_file() and load_checkpoint(path)[1]["progress"]["step"] >= step:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def test_kill_9_and_resume_is_bit_identical(options, tmp_path):
    options["training"].update(epochs=80, checkpoint_every=1)
    whole = start(options, tmp_path)
    assert whole.wait(300) == 0, whole.stdout.read()
    reference = last(options["out"])

    options["out"] = str(tmp_path / "killed")
    process = start(options, tmp_path)
    wait_for_step(options["out"], 30, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert last(options["out"])[1]["progress"]["step"] < reference[1]["progress"]["step"]
    # What a kill in the middle of writing leaves; most kills fall between two writes.
    (Path(options["out"]) / "checkpoints" / ".last.safetensors.half.tmp").write_bytes(b"half")
    resumed = start(options, tmp_path, "--resume", options["out"])
    assert resumed.wait(300) == 0, resumed.stdout.read()
    assert_same_state(reference, last(options["out"]))
    assert not list(Path(options["out"]).rglob("*.tmp"))


def test_resume_brings_random_numbers_back(options, make_config):
    """SchNet draws none while training, so the state is moved on by hand: a resumed run must start from it."""
    train(make_config(options))
    path = Path(options["out"]) / "checkpoints" / "last.safetensors"
    tensors, state = load_checkpoint(path)
    torch.manual_seed(987)
    torch.rand(11)
    tensors["random"] = random_state()
    save_checkpoint(path, tensors, state)
    options["training"]["epochs"] = 4
    train(make_config(options), resume=True)
    after = last(options["out"])[0]["random"]
    assert all(torch.equal(after[name], value) for name, value in tensors["random"].items())


def test_averaged_weights_follow_the_formula(options, make_config, tmp_path):
    """Two steps a call: the average moves once a call, by the decay of both steps."""
    options["pack"] = {**options.get("pack", {}), "algorithm": "column_generation"}  # an even number of packs
    options["batching"] = {"micro_batch_size": 1, "device_iterations": 2}
    options["training"].update(ema_decay=0.5, checkpoint_every=1)
    folder = Path(options["out"]) / "checkpoints"
    seen = []
    with patch.object(Trainer, "save", autospec=True, side_effect=lambda trainer: seen.append(snapshot(trainer))):
        train(make_config(options))
    assert len(seen) > 5 and not folder.joinpath("last.safetensors").exists()
    for (before, _, _), (average, weights, step) in zip(seen, seen[1:]):
        decay = min(0.5, (1 + step) / (10 + step)) ** 2
        if step == seen[0][2]:
            continue
        for name, value in weights.items():
            expected = decay * before[name] + (1 - decay) * value
            torch.testing.assert_close(average[name], expected, rtol=1e-5, atol=1e-7)


def snapshot(trainer):
    """(averaged weights, weights, step), copied."""
    averages = {name: value.clone() for name, value in trainer.averages.items()}
    return averages, trainer.backend.state_dict(weights_only=True)["model"], trainer.progress.step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_and_a_hint(options, tmp_path, number):
    options["training"].update(epochs=100000, checkpoint_every=0)
    process = start(options, tmp_path)
    wait_for_step(options["out"], 10, process)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, output
    assert f"ipu-chem train --resume {options['out']}" in output
    step = last(options["out"])[1]["progress"]["step"]
    assert f"stopped after step {step}" in output


def test_early_stopping_counts_evaluations_without_progress(options, make_config):
    options["training"].update(epochs=50, early_stopping=3)
    options["optimizer"] = {"learning_rate": 1e-30}
    options["schedule"] = {"name": "constant"}
    result = train(make_config(options))
    assert result["finished"] and result["epoch"] == 4


def test_resuming_a_finished_run_changes_nothing(options, make_config):
    train(make_config(options))
    before = last(options["out"])
    result = train(make_config(options), resume=True)
    assert result["finished"]
    assert_same_state(before, last(options["out"]))


def test_more_epochs_continue_a_finished_run(options, make_config):
    train(make_config(options))
    options["training"]["epochs"] = 5
    assert train(make_config(options), resume=True)["epoch"] == 5


def test_a_run_from_before_an_option_was_there_resumes(options, make_config):
    train(make_config(options))
    path = Path(options["out"]) / "checkpoints" / "last.safetensors"
    tensors, state = load_checkpoint(path)
    del state["config"]["model"]["table_points"], state["config"]["precision"], state["config"]["training"]["prefetch"]
    save_checkpoint(path, tensors, state)
    options["training"]["epochs"] = 4
    assert train(make_config(options), resume=True)["epoch"] == 4


def test_a_second_run_in_the_same_folder_is_refused(options, make_config):
    train(make_config(options))
    with pytest.raises(ValueError, match="holds a run already; continue it with"):
        train(make_config(options))


@pytest.mark.parametrize(
    "section, key, value",
    [("model", "hidden_features", 12), ("optimizer", "learning_rate", 0.5), ("data", "limit", 50)],
)
def test_resuming_with_another_config_is_refused(options, make_config, section, key, value):
    train(make_config(options))
    options.setdefault(section, {})[key] = value
    with pytest.raises(ValueError, match=f"checkpoint was made with {section}.{key}="):
        train(make_config(options), resume=True)


def test_a_run_goes_on_only_with_the_molecules_it_was_trained_on(options, make_config, tmp_path):
    helium = tmp_path / "helium.xyz"
    helium.write_text("".join(f"2\nenergy={x} name=he{x}\nHe 0 0 0\nHe 0 0 {2 + x / 10}\n" for x in range(12)))
    options["data"].update(name="file", path=str(helium), target="energy", unit="meV", limit=0)
    result = train(make_config(options))
    assert "mae_energy_meV" in result["results"]["test"]
    helium.write_text(helium.read_text().replace("energy=7", "energy=70"))
    for again in (lambda: train(make_config(options), resume=True), lambda: evaluate(Path(options["out"]))):
        with pytest.raises(ValueError, match="molecules are not those that the run was trained on"):
            again()


def test_a_molecule_larger_than_the_pack_is_named(options, make_config):
    options["pack"] = {"nodes": 20}
    with pytest.raises(ValueError, match=r"molecule '\d+' \(item \d+\) has \d+ nodes, more than pack.nodes=20; set"):
        train(make_config(options))
    assert not Path(options["out"]).exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"loss": "cosine"}, "choose one of auto, mse, mae, huber, bce"),
        ({"accelerator": "ipu"}, "needs PopTorch"),
        ({"model": {"name": "schnat"}}, "choose one of schnet"),
        ({"data": {"name": "nci3"}}, "did you mean 'nci3d'"),
        ({"data": {"target": "mmff_energy"}}, "did you mean mmff94_energy"),
        ({"training": {"loggers": ["mlflow"]}}, "unknown logger 'mlflow'"),
        ({"batching": {"device_iterations": 500}}, "batching.device_iterations"),
    ],
)
def test_nonsense_is_refused_before_training(options, make_config, change, words):
    for section, values in change.items():
        options[section] = {**options.get(section, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(ValueError, match=words):
        train(make_config(options))
    assert not (Path(options["out"]) / "checkpoints").exists()


def test_a_diverging_run_says_so(options, make_config):
    options["optimizer"] = {"name": "sgd", "learning_rate": 1e30}
    options["training"]["epochs"] = 20
    with pytest.raises(FloatingPointError, match="lower optimizer.learning_rate"):
        train(make_config(options))


def test_schedule_and_replicas_do_not_depend_on_how_a_step_is_cut(options, make_config, tmp_path):
    curves = []
    for number, batching in enumerate([(4, 1, 1), (1, 2, 2), (2, 1, 2)]):
        names = ("micro_batch_size", "gradient_accumulation", "replication_factor")
        options["batching"] = dict(zip(names, batching))
        options["out"] = str(tmp_path / f"cut{number}")
        train(make_config(options))
        curves.append([row["loss"] for row in read_rows(options["out"]) if row["kind"] == "train"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["micro_batch_size", "gradient_accumulation", "device_iterations"])
def test_calls_that_no_machine_holds_are_refused_before_anything_is_read(options, make_config, name):
    options["batching"] = {name: 10**12}
    options["data"]["cache"] = "/nowhere/that/is"  # it would be found missing
    message = rf"batching.{name}=1000000000000: a call takes \d,[\d,]+ packs, \d[\d,]+ bytes at the least"
    with pytest.raises(ValueError, match=message):
        train(make_config(options))
