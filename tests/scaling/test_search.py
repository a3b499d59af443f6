"""Searches: every candidate a little, the best to the end, nothing twice, and runs as if they had never stopped."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from ipu_chem import parallel
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.cli import main
from ipu_chem.scaling.candidates import Progress, budget_steps, make_candidates, read_progress
from ipu_chem.scaling.estimators import estimate_of
from ipu_chem.scaling.search import SearchOptions, check_search, search
from ipu_chem.scaling.worker import train_candidate
from ipu_chem.train import train
from ipu_chem.training.logging import read_rows

GRID = {"optimizer.learning_rate": [0.001, 0.003, 0.01, 0.03, 1e30]}  # the last one diverges


def weights(folder):
    return load_checkpoint(folder / "checkpoints" / "last.safetensors")[0]["model"]


def assert_as_in_one_piece(candidate, make_config, tmp_path):
    whole = make_config({**candidate.config, "out": str(tmp_path / "whole")})
    train(whole)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(candidate.folder)[name]), name


@pytest.mark.slow
def test_a_search_from_the_command_line(options, make_config, tmp_path, capsys):
    options["training"]["epochs"] = 5
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    out = tmp_path / "search"
    command = ["search", "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml", "--out", str(out)]
    command += ["--jobs", "2", "--keep", "2", "--fraction", "0.5", "--estimator", "tail"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "5 runs, 20% of each; the best 2 go on" in printed
    assert "needs 3 finished candidates and there are 2" in printed  # one sentence, no calibration
    result = json.loads((out / "search.json").read_text())
    assert sorted(row["status"] for row in result["rows"]) == ["diverged", "finished", "finished", "stopped", "stopped"]
    by_name = {row["name"]: row for row in result["rows"]}
    assert by_name["learning_rate=1e+30"]["status"] == "diverged" and by_name["learning_rate=1e+30"]["estimate"] is None
    waiting, *_ = [row for row in result["rows"] if row["status"] == "stopped"]
    total = waiting["total"]
    assert waiting["steps"] == budget_steps(total, 0.2) < total and waiting["final"] is None
    assert all(row["estimate"] <= waiting["estimate"] for row in result["rows"] if row["status"] == "finished")
    spent = sum(row["steps"] for row in result["rows"])
    assert result["steps"]["spent"] == spent and result["steps"]["saving"] == pytest.approx(1 - spent / (5 * total))

    # All to the end: what has finished is left alone, what has stopped goes on.
    finished = {name: (out / name / "candidate.json").read_bytes() for name in by_name}
    assert main([*command, "--finish_all", "true"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "search.json").read_text())
    for row in by_name.values():
        same = finished[row["name"]] == (out / row["name"] / "candidate.json").read_bytes()
        assert same == (row["status"] != "stopped")
    assert result["calibration"]["points"] == 4 and result["calibration"]["diverged"] == 1
    assert result["assessment"]["candidates"] == 5 and "R2" in printed and "Spearman" in printed
    would = f"the search without --finish_all would have taken {spent:,} of {5 * total:,} steps"
    assert would in printed and result["chosen"]["spent"] == spent < result["steps"]["spent"]
    assert (out / "search.png").stat().st_size > 5000
    with open(out / "search.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in result["rows"]]
    assert float(rows[0]["final"]) <= float(rows[1]["final"]) and rows[-1]["final"] == "inf"
    stopped = next(one for one in make_candidates(options, GRID, out) if one.name == waiting["name"])
    assert_as_in_one_piece(stopped, make_config, tmp_path)
    # The estimate is of the first steps alone, although the run has gone on.
    losses = [row["loss"] for row in read_rows(stopped.folder) if row["kind"] == "train"]
    budget = budget_steps(total, 0.2)
    half = losses[budget - round(0.5 * budget) : budget]
    estimate = estimate_of(stopped, read_progress(stopped), 0.2, fraction=0.5)
    assert estimate.value == pytest.approx(sum(half) / len(half))
    assert waiting["estimate"] == pytest.approx(estimate.value)

    options["loss"] = "mae"
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(options))
    assert main(command) == 1
    assert "was trained with loss='auto', and the search asks for 'mae': give another --out" in capsys.readouterr().err


# As `ipu-chem`, and hears SIGINT, which processes in the background of a shell are started deaf to.
COMMAND_LINE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ipu_chem import parallel
from ipu_chem.cli import main
from ipu_chem.locks import LOCK, locked
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def stop_when(command, script, number, reached):
    """Start a search in processes of its own and send it a signal as soon as that is so; its status."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script), *command], env=environment) as process:
        deadline = time.monotonic() + 300
        while not reached():
            assert process.poll() is None and time.monotonic() < deadline, "over before it could be stopped"
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(60)


def test_a_search_that_halves_and_is_stopped_twice_finds_what_one_in_one_piece_does(options, tmp_path, capsys):
    options["training"].update(epochs=5, evaluate_every=5, checkpoint_every=5)
    grid = {"batching.micro_batch_size": [1, 2], "optimizer.learning_rate": [0.001, 0.003, 1e30]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    (tmp_path / "search.py").write_text(COMMAND_LINE)
    command = ["search", "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml"]
    command += ["--jobs", "2", "--keep", "2", "--halving", "2", "--budget", "0.2", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    words = "6 runs, 20% of each; the best 3 go on to 40%; the best 2 go on to the end; about 50% of all steps saved"
    assert words in capsys.readouterr().out

    out = tmp_path / "search"
    candidates = make_candidates(options, grid, out)

    def there():
        """Candidates that have come to an evaluation, and what is written of them."""
        paths = {one.name: one.folder / "candidate.json" for one in candidates}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}

    def past_the_first_evaluation():
        found = [one for one in map(read_progress, candidates) if one is not None]
        return any(one.status == "stopped" and one.reaches(0.4) for one in found)

    assert stop_when([*command, str(out)], tmp_path / "search.py", signal.SIGINT, there) == 130
    first = there()
    assert stop_when([*command, str(out)], tmp_path / "search.py", signal.SIGKILL, past_the_first_evaluation) == -9
    second = there()
    assert main([*command, str(out)]) == 0
    results = [json.loads((folder / "search.json").read_text()) for folder in (out, tmp_path / "whole")]
    for name in ("rows", "evaluations", "kept", "steps", "chosen", "curves"):
        assert results[0][name] == results[1][name], name
    early, kept = results[0]["evaluations"], results[0]["kept"]
    assert [one["budget"] for one in early] == [0.2, 0.4] and len(kept) == 2
    rows = {row["name"]: row for row in results[0]["rows"]}
    assert len({row["total"] for row in rows.values()}) == 2  # a fraction of each run's own steps
    last = there()
    for name, row in rows.items():
        later = name in early[1]["estimates"]
        if row["status"] == "stopped":
            assert row["steps"] == budget_steps(row["total"], 0.4 if later else 0.2)
        if not later or row["status"] == "diverged":  # what had come to its end before a stop was left alone
            assert {first.get(name, last[name]), second[name]} == {last[name]}
    assert main([*command, str(out)]) == 0 and there() == last


class StopsLater:
    """An event that is set when it has been asked four times: before the run, and after each of its first steps."""

    asked = 0

    def is_set(self):
        self.asked += 1
        return self.asked > 3


def test_a_stopped_search_leaves_runs_that_go_on(options, make_config, tmp_path, monkeypatch):
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    monkeypatch.setattr(parallel, "_stop", StopsLater())
    with pytest.raises(KeyboardInterrupt):
        train_candidate(candidate, 0.5, 1)
    assert read_progress(candidate) is None and read_rows(candidate.folder)[-1]["step"] == 3
    with pytest.raises(KeyboardInterrupt):  # not even begun
        train_candidate(candidate, 0.5, 1)
    assert read_rows(candidate.folder)[-1]["step"] == 3
    monkeypatch.setattr(parallel, "_stop", None)
    reached = train_candidate(candidate, 0.5, 1)
    assert reached.status == "stopped" and reached.step == budget_steps(reached.total, 0.5)
    assert read_progress(candidate) == reached and reached.reaches(0.5) and not reached.reaches(1.0)
    end = train_candidate(candidate, 1.0, 1)
    assert end.status == "finished" and end.step == end.total and end.seconds > reached.seconds and end.metrics
    assert_as_in_one_piece(candidate, make_config, tmp_path)
    assert "packs:" in (candidate.folder / "log.txt").read_text()


def test_a_candidate_killed_before_its_file_was_written_is_not_trained_on(options, tmp_path):
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    written = candidate.folder / "candidate.json"
    reached = train_candidate(candidate, 0.5, 1)
    metrics, before = (candidate.folder / "metrics.jsonl").read_bytes(), written.read_bytes()
    written.unlink()
    again = train_candidate(candidate, 0.5, 1)
    assert again == dataclasses.replace(reached, seconds=again.seconds, per_step=None)
    assert (candidate.folder / "metrics.jsonl").read_bytes() == metrics
    end = train_candidate(candidate, 1.0, 1)
    written.write_bytes(before)
    again = train_candidate(candidate, 1.0, 1)
    assert again == dataclasses.replace(end, seconds=again.seconds, per_step=again.per_step)


def test_an_evaluation_at_the_end_of_an_epoch_finds_its_evaluation(options, tmp_path):
    options["training"]["epochs"] = 4
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    reached = train_candidate(candidate, 0.5, 1)
    seen = estimate_of(candidate, reached, 0.5, "validation")
    assert reached.status == "stopped" and seen.steps == reached.step == reached.total // 2
    assert 0 < reached.per_step * reached.step < 0.9 * reached.seconds  # without imports and molecules
    (metric, *_) = reached.metrics
    assert seen.value == read_rows(candidate.folder)[-1][metric]


def test_names_and_seeds_of_candidates(options, tmp_path):
    grid = {"optimizer.learning_rate": ["1e-3", 3e-3], "model.name": ["painn"], "training.seed": [0, 1]}
    made = make_candidates(options, grid, tmp_path)
    assert [one.folder.name for one in made][:2] == [
        "learning_rate=1e-3,name=painn,seed=0",
        "learning_rate=1e-3,name=painn,seed=1",
    ]
    assert {one.name for one in made} == {"learning_rate=1e-3,name=painn", "learning_rate=0.003,name=painn"}
    assert [one.config["optimizer"]["learning_rate"] for one in made] == [1e-3, 1e-3, 3e-3, 3e-3]
    assert [one.seed for one in made] == [0, 1, 0, 1]
    assert all(one.config["training"]["log_every"] == 1 and one.config["model"]["name"] == "painn" for one in made)
    both = make_candidates(options, {"data.name": ["nci3d"], "model.name": ["painn"]}, tmp_path)
    assert both[0].name == "data.name=nci3d,model.name=painn"


def test_progress_reaches_a_budget():
    assert Progress("stopped", 20, 100, 1.0, {}).reaches(0.2)
    assert not Progress("stopped", 20, 100, 1.0, {}).reaches(0.21)
    assert Progress("diverged", 3, 100, 1.0, {}).reaches(1.0) and Progress("finished", 90, 100, 1.0, {}).reaches(1.0)
    assert [budget_steps(total, 0.2) for total in (1, 10, 11, 100)] == [1, 2, 3, 20]


@pytest.mark.parametrize(
    "grid, words",
    [
        ({}, "grid is empty"),
        (
            {"optimizer.learning_rat": [1]},
            "unknown option optimizer.learning_rat; did you mean optimizer.learning_rate",
        ),
        ({"optimizer.learning_rate": 1e-3}, "learning_rate of the grid needs a list"),
        ({"optimizer.learning_rate": [-1.0]}, "candidate learning_rate=-1: "),
        ({"training.log_every": [1, 2]}, "training.log_every of the grid: it is set for every run alike, leave it out"),
        ({"out": ["a", "b"]}, "out of the grid: it is set for every run alike, leave it out of the grid"),
        ({"training.epochs": [2, 2]}, "two candidates of the grid are called epochs=2"),
    ],
)
def test_grids_that_cannot_work_are_refused_before_anything_trains(options, tmp_path, grid, words):
    with pytest.raises(ValueError, match=words):
        make_candidates(options, grid, tmp_path / "search")
    assert not (tmp_path / "search").exists()


RATES = {"optimizer.learning_rate": [0.001, 0.003]}


@pytest.mark.parametrize(
    "grid, section, values, asked, words",
    [
        (
            {"training.seed": [0, 1]},
            "training",
            {},
            {},
            "the grid has one candidate: give 2 or more values of an option",
        ),
        (RATES, "data", {"validation": 0}, {}, "learning_rate=0.001: a search needs held-out .*: set data.validation"),
        (
            RATES,
            "training",
            {"epochs": 10, "evaluate_every": 4},
            {"estimator": "validation"},
            "within the budget of 20% of 10 epochs, and the first one is after 4: set --training.evaluate_every to",
        ),
    ],
)
def test_searches_that_could_choose_nothing_are_refused_before_anything_trains(
    options, tmp_path, grid, section, values, asked, words
):
    options[section].update(values)
    candidates = make_candidates(options, grid, tmp_path / "search")
    with pytest.raises(ValueError, match=words):
        search(candidates, SearchOptions(**asked))
    assert not (tmp_path / "search").exists()


def test_an_evaluation_that_may_come_in_time_is_not_refused(options, tmp_path):
    options["training"].update(epochs=10, evaluate_every=2)
    check_search(make_candidates(options, RATES, tmp_path), SearchOptions(estimator="validation"))
    options["training"].update(evaluate_every=4, evaluate_calls=3)
    check_search(make_candidates(options, RATES, tmp_path), SearchOptions(estimator="validation"))
    options["training"].update(evaluate_every=4, evaluate_calls=0)
    check_search(make_candidates(options, RATES, tmp_path), SearchOptions())


def test_an_estimator_that_finds_no_evaluation_is_refused_by_the_first_run(options, tmp_path):
    options["training"].update(epochs=3, evaluate_every=1)  # 20% are within the first epoch
    candidates = make_candidates(options, {"optimizer.learning_rate": [0.001, 0.003, 0.01]}, tmp_path / "search")
    with pytest.raises(ValueError, match="there is no evaluation within the budget of"):
        search(candidates, SearchOptions(estimator="validation"), progress=False)
    assert len(list((tmp_path / "search").glob("*/candidate.json"))) == 1


@pytest.mark.parametrize(
    "values", [{"budget": 1.0}, {"fraction": 0.0}, {"keep": 1}, {"jobs": 0}, {"halving": 1}, {"halving": -2}]
)
def test_options_that_cannot_work_are_refused(values):
    with pytest.raises(ValueError, match="give"):
        SearchOptions(**values)
