"""Scaling studies: runs at held steps become points, once each; what points say, and what they cannot."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.append(str(Path(__file__).resolve().parent.parent))

from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.models.registry import parameters_without_embeddings
from ipu_chem.scaling import study as module
from ipu_chem.scaling.candidates import Progress
from ipu_chem.scaling.points import EPOCHS_HELD, STEPS_HELD, Point, check_comparable, read_points
from ipu_chem.scaling.regimes import lines_of, regimes_of
from ipu_chem.scaling.study import StudyOptions, make_plan, point_of
from ipu_chem.scaling.study_report import analyze, lines, write_study
from ipu_chem.tasks.registry import load_task

GRID = {"model.hidden_features": [8, 16], "data.train": [12, 48], "training.seed": [0]}


@pytest.fixture
def base(text_options):
    """Options of a language model on small molecules, of which a run takes a second."""
    del text_options["out"]
    text_options["model"]["hidden_features"] = 8
    return {**text_options, "batching": {"micro_batch_size": 1}, "training": {"epochs": 4}}


def command(tmp_path, base, *more, grid=GRID):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return ["scale", "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml"] + [
        *("--out", str(tmp_path / "study")),
        *more,
    ]


@pytest.mark.slow
def test_a_study_from_the_command_line(base, tmp_path, capsys):
    out = tmp_path / "study"
    assert main(command(tmp_path, base)) == 0
    printed = capsys.readouterr().out
    assert "4 runs; steps held" in printed and "needs runs of 3 sizes and there are 2" in printed
    points = read_points(out / "points.json")
    check_comparable(points)
    by_grid = {(one.parameters, one.molecules): one for one in points}
    for width in (8, 16):
        for train in (12, 48):
            values = {**base, "model": {**base["model"], "hidden_features": width}, "data": {**base["data"]}}
            values["data"]["train"] = train
            task = load_task(from_dict(values))
            # Attention: 4 F^2 + F; feed-forward: 8 F^2 + 5 F; three normalizations.
            parameters = 12 * width**2 + 12 * width
            assert parameters_without_embeddings(task.model()) == parameters
            point = by_grid[parameters, train]
            assert point.tokens == task.ids.lengths[task.items["train"]].sum()
            run = json.loads((out / f"hidden_features={width},train={train},seed=0" / "candidate.json").read_text())
            epochs = run["config"]["training"]["epochs"]
            assert point.flops == pytest.approx(6 * parameters * point.tokens * epochs)
            assert point.loss_name == "nats_per_heavy_atom" and point.loss == run["metrics"]["nats_per_heavy_atom"]
            assert point.steps == run["step"] and point.rule == STEPS_HELD and point.tokenizer
    steps = {one.steps for one in points}
    assert max(steps) <= 1.05 * min(steps)  # four times the data, and as many steps
    saved = json.loads((out / "study.json").read_text())
    assert len(saved["points"]) == 4 and len(saved["regimes"]) == 4 and saved["data"] is None and saved["notes"]
    assert len((out / "points.csv").read_text().splitlines()) == 5
    assert (out / "loss_over_parameters.png").stat().st_size > 5000 and (out / "frontier.png").is_file()

    # Again: nothing trains, and a further seed trains alone.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/candidate.json")}
    assert len(before) == 4
    assert main(command(tmp_path, base)) == 0
    assert main(command(tmp_path, base, grid={**GRID, "training.seed": [0, 1]})) == 0
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/candidate.json")}
    assert len(after) == 8 and all(after[path] == time for path, time in before.items())
    assert sorted(one.seed for one in read_points(out / "points.json")) == [0] * 4 + [1] * 4


@pytest.mark.slow
def test_points_are_written_as_runs_finish(base, tmp_path, monkeypatch):
    seen = []

    def counted(path, points):
        seen.append(len(points))
        if len(seen) == 1:
            raise KeyboardInterrupt
        write(path, points)

    write = module.write_points
    monkeypatch.setattr(module, "write_points", counted)
    arguments = command(tmp_path, base, "--steps", "8", grid={**GRID, "data.train": [48]})
    assert main(arguments) == 130  # as by Ctrl-C
    assert main(arguments) == 0 and seen == [1, 1, 2]
    assert len(read_points(tmp_path / "study" / "points.json")) == 2


def test_whole_epochs_that_are_too_coarse_are_refused_before_anything_trains(base, tmp_path):
    out = tmp_path / "study"
    with pytest.raises(ValueError, match=r"in whole epochs .* give --steps \d+, or --rule epochs"):
        make_plan(base, GRID, out, StudyOptions(steps=1))
    assert not out.exists()
    plan = make_plan(base, GRID, out, StudyOptions(rule="epochs"))
    assert {one.epochs for one in plan.amounts} == {4} and plan.rule == EPOCHS_HELD
    assert {(one.evaluate_every, one.evaluate_calls) for one in plan.amounts} == {(1, 0)}
    assert "runs on more data take more steps" in plan.lines()[-1]
    base["training"]["early_stopping"] = 3
    assert make_plan(base, GRID, out, StudyOptions(rule="epochs")).rule == "converged: no better in 3 evaluations"
    held = make_plan(base, GRID, out, StudyOptions(evaluations=3))
    for one, amount in zip(held.candidates[:2], held.amounts):  # as often, however many epochs that are
        training = one.config["training"]
        assert training["evaluate_calls"] == math.ceil(amount.steps / 3) and training["epochs"] == amount.epochs
    assert all(one.config["training"]["early_stopping"] == 0 for one in held.candidates)
    assert (
        len({one.config["pack"]["tokens"] for one in held.candidates}) == 1
        and held.candidates[0].config["pack"]["tokens"]
    )


@pytest.mark.parametrize(
    "grid, options, words",
    [
        ({"optimizer.learning_rate": [0.1]}, {}, "varies options of the model, data.train and training.seed"),
        ({"data.train": [0.5, 20]}, {}, "fractions and numbers"),
        (
            {"model.name": ["chemgpt", "painn"]},
            {},
            "is of one model; make one study for each, then `ipu-chem scale --com",
        ),
        ({"model.num_heads": [1, 2]}, {}, "model.num_heads=1 and 2 make models of equally many parameters, N=864"),
        ({"out": ["a", "b"]}, {}, "varies options of the model"),
        ({"data.train": [0, 56]}, {}, "give the same 56 training molecules"),
        ({"data.train": [20]}, {"rule": "time"}, "choose steps or epochs"),
        ({"data.train": [20]}, {"rule": "epochs", "steps": 5}, "steps for rule=steps only"),
    ],
)
def test_studies_that_cannot_work_are_refused(base, tmp_path, grid, options, words):
    with pytest.raises(ValueError, match=words):
        make_plan(base, grid, tmp_path / "study", StudyOptions(**options))


def test_graphs_share_the_pack_of_the_most_data(tmp_path):
    data = {"name": "nci3d", "cache": str(tmp_path), "limit": 60, "validation": 0.2, "test": 0.1, "references": "none"}
    base = {"data": data, "model": {"cutoff": 4.0}, "batching": {"micro_batch_size": 1}, "training": {"epochs": 12}}
    grid = {"model.hidden_features": [8, 16], "data.train": [15, 30]}
    plan = make_plan(base, grid, tmp_path / "study", StudyOptions())
    shapes = {tuple(one.config["pack"][name] for name in ("nodes", "edges", "graphs")) for one in plan.candidates}
    assert len(shapes) == 1 and min(min(shape) for shape in shapes) > 0
    assert [one.molecules for one in plan.amounts] == [15, 30] and " atoms: " in plan.lines()[1]
    assert all(10 * one.molecules < one.tokens for one in plan.amounts)  # atoms, with hydrogens
    described = load_task(from_dict(plan.candidates[0].config)).describe()
    assert described["atoms"]["train"] == plan.amounts[0].tokens


def test_a_study_holds_molecules_out(base, tmp_path):
    base["data"]["validation"] = 0
    with pytest.raises(ValueError, match="set data.validation"):
        make_plan(base, GRID, tmp_path / "study", StudyOptions())


def made_up(sizes=6, amounts=6, seeds=3, noise=0.003):
    """L = 0.3 + 40 N^-0.4 + 90 D^-0.45 at held steps."""
    generator = np.random.default_rng(0)
    return [
        Point(n, d, d // 30, 6.0 * n * 500 * 2048, 500, seed, loss, "nats_per_heavy_atom", STEPS_HELD, "v1")
        for n in (1000 * 4 ** np.arange(sizes)).tolist()
        for d in (5000 * 4 ** np.arange(amounts)).tolist()
        for seed in range(seeds)
        for loss in [(0.3 + 40 * n**-0.4 + 90 * d**-0.45) * math.exp(noise * generator.normal())]
    ]


def test_laws_and_regimes_of_points_whose_law_is_known(tmp_path):
    study = analyze(made_up())
    assert not study.notes
    assert study.joint.size_exponent.value == pytest.approx(0.4, rel=0.02)
    assert study.joint.data_exponent.value == pytest.approx(0.45, rel=0.02)
    assert study.joint.floor.value == pytest.approx(0.3, rel=0.05)
    by_place = {(one.parameters, one.tokens): one for one in study.regimes}
    assert by_place[1000, 5000 * 4**5].limited_by == "model" and by_place[1000 * 4**5, 5000].limited_by == "data"
    paths = write_study(tmp_path, study)
    assert {"surface.png", "breaks_over_tokens.png", "breaks_over_parameters.png"} < {path.name for path in paths}
    assert all(path.stat().st_size > 200 for path in paths) and read_points(tmp_path / "points.json") == study.points
    saved = json.loads((tmp_path / "study.json").read_text())
    assert saved["joint"]["size_exponent"]["value"] == study.joint.size_exponent.value
    text = "\n".join(lines(study))
    assert "held-out check, intervals of 95%" in text and "EXTRAPOLATED, not measured" in text
    assert len(saved["checks"]) == 14 and saved["gains"] and saved["held"] is None
    assert "limited by" in text and "(p of a break " in text and "a = " in text


def test_breaks_are_where_data_begin_to_limit_the_loss():
    """Sizes help until data limit, later the more of them there are."""
    generator = np.random.default_rng(1)
    turn = {d: 3e4 * 8**index for index, d in enumerate((10_000, 80_000))}
    points = [
        Point(n, d, d // 30, 1e12 * n, 500, seed, loss, "nats_per_heavy_atom", STEPS_HELD, "v1")
        for n in (1000 * 3 ** np.arange(8)).tolist()
        for d in turn
        for seed in range(2)
        for loss in [9 * (n**-2.0 + turn[d] ** -2.0) ** 0.1 * math.exp(0.002 * generator.normal())]
    ]
    found, reasons = lines_of(points)
    assert [(one.over, one.held) for one in found] == [("parameters", 10_000), ("parameters", 80_000)]
    assert len(reasons) == 1 and "breaks over D" in reasons[0]  # the same for every size, and said once
    for line in found:
        assert "broken" in line.law.name and turn[line.held] == pytest.approx(line.law.breaks.value, rel=0.3)
        below, above = line.law.ranges
        assert below.exponent.holds(0.2) and below.limited and not above.limited
        words = line.lines()
        assert "break at N" in words[0] and words[1].endswith("N limits the loss")
        assert words[2].endswith("limited by D, not by N")
    by_place = {(one.parameters, one.tokens): one.limited_by for one in regimes_of(points)}
    assert by_place[1000, 80_000] == "model" and by_place[1000 * 3**7, 10_000] == "data"
    # Without more data to be had there, nothing helps beyond the noise between seeds.
    flat = [replace(one, loss=2 * math.exp(0.01 * generator.normal())) for one in points]
    assert sum(one.limited_by == "neither" for one in regimes_of(flat)) >= 13  # of 16


def test_exponents_are_those_of_the_most_data_and_of_the_largest_size():
    points = [replace(one, loss=3 * one.parameters**-0.17 * one.tokens**-0.26) for one in made_up(3, 3)]
    study = analyze(points)
    assert study.width.beta.value == pytest.approx(0.17) and study.data.beta.value == pytest.approx(0.26)
    assert all(one.size_exponent == pytest.approx(0.17) and one.limited_by == "data" for one in study.regimes)
    reasons = [note.split(":")[0] for note in study.notes]
    assert reasons[:2] == ["breaks over N", "breaks over D"] and reasons[-1] == "no predictions beyond the runs"
    assert all(reason.startswith("held-out check") for reason in reasons[2:-1]) and len(reasons) == 7


def test_mixed_steps_make_no_law(tmp_path):
    points = made_up(3, 3)
    check_comparable([replace(one, steps=500 + index % 20) for index, one in enumerate(points)])
    mixed = [replace(one, steps=500 if one.tokens == 5000 else 560) for one in points]
    study = analyze(mixed)
    assert len(study.notes) == 1 and "have 500 and 560" in study.notes[0]
    assert study.data is None and not study.regimes
    assert {path.name for path in write_study(tmp_path, study)} >= {"points.csv", "study.json", "points.json"}
    epochs = analyze([replace(one, rule=EPOCHS_HELD) for one in mixed])
    assert epochs.data is not None and "more data and more steps together" in lines(epochs)[1]


def test_what_diverged_is_left_out_and_named(tmp_path):
    points = made_up(3, 3)
    points[0] = replace(points[0], loss=math.inf, steps=3)
    study = analyze(points)
    assert "1 of 27 runs diverged" in study.notes[0] and len(study.fitted) == len(points) - 3
    assert "N=1,000, D=5,000 diverged and is left out" in study.notes[1]
    assert study.data is not None and any("every combination" in note for note in study.notes)
    with pytest.raises(ValueError, match="2 sizes and 2 amounts"):
        regimes_of(made_up(3, 1))
    nothing = analyze([points[0]])
    assert lines(nothing) and write_study(tmp_path, nothing)


def test_a_metric_that_runs_do_not_have_is_named(base, tmp_path):
    plan = make_plan(base, {"model.hidden_features": [8]}, tmp_path / "study", StudyOptions(steps=4))
    (candidate,) = plan.candidates
    candidate.folder.mkdir(parents=True)
    run = {"tokens": {"train": 100}, "splits": {"train": 9}, "parameters without embeddings": 7}
    (candidate.folder / "run.json").write_text(json.dumps(run))
    reached = Progress("finished", 2, 4, 1.0, {"nats_per_token": 1.0})
    with pytest.raises(ValueError, match="--metric perplexity: the runs have nats_per_token"):
        point_of(candidate, reached, STEPS_HELD, "perplexity")
    epochs = candidate.config["training"]["epochs"]
    assert point_of(candidate, reached, STEPS_HELD).flops == pytest.approx(6 * 7 * 100 * epochs / 2)
    classes = point_of(candidate, replace(reached, metrics={"rocauc": 0.75}), STEPS_HELD, "rocauc")
    assert (classes.loss_name, classes.loss) == ("1 - rocauc", 0.25)  # a law is of what falls
    diverged = point_of(candidate, replace(reached, status="diverged", metrics={}), STEPS_HELD)
    assert diverged.diverged and diverged.loss_name == "nats_per_heavy_atom"
