"""The metrics files: complete rows, nothing twice after a resume, loggers refused in time."""

import csv
import math

import pytest

from ipu_chem.training.logging import MetricsLog, check_loggers, read_rows


def test_rows_reach_both_files(tmp_path):
    log = MetricsLog(tmp_path, ["loss", "mae_x_meV"])
    log.on_metrics("train", 1, 0, {"loss": 0.5})
    log.on_metrics("validation", 1, 1, {"mae_x_meV": math.nan, "seconds": 2.0})
    assert read_rows(tmp_path)[1] == {"kind": "validation", "step": 1, "epoch": 1, "mae_x_meV": None, "seconds": 2.0}
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"kind": "train", "step": "1", "epoch": "0", "loss": "0.5", "mae_x_meV": ""}
    assert rows[1]["loss"] == ""


def test_a_resume_drops_later_rows_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path, ["loss"])
    for step in range(1, 6):
        log.on_metrics("train", step, 0, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')  # the kill came here
    log = MetricsLog(tmp_path, ["loss"], resume_step=3)
    log.on_metrics("train", 4, 0, {"loss": 40.0})
    assert [row["loss"] for row in read_rows(tmp_path)] == [1.0, 2.0, 3.0, 40.0]
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == ["1.0", "2.0", "3.0", "40.0"]


def test_tensorboard_gets_the_rows(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path, ["loss"], extra=["tensorboard"])
    log.on_metrics("train", 7, 0, {"loss": 0.25})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("train/loss")
    assert (event.step, event.value) == (7, 0.25)


def test_unknown_and_missing_loggers_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown logger 'mlflow'; choose from tensorboard, wandb"):
        check_loggers(["mlflow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed: pip install 'ipu-chem\[log\]'"):
        check_loggers(["wandb"])


def test_a_damaged_line_costs_itself_alone_and_is_named(tmp_path, capsys):
    log = MetricsLog(tmp_path, ["loss"])
    for step in (1, 2, 3):
        log.on_metrics("train", step, 1, {"loss": float(step)})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_bytes("\n".join([lines[0], lines[1].replace('"', "\0")]).encode() + b"\n\xff\n")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(lines[2] + "\nnull\n")
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 3]
    assert "metrics.jsonl, line 2: 3 damaged line(s) left out" in capsys.readouterr().err
