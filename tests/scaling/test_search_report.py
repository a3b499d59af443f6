"""Searches over runs that are there: what is chosen, what that costs, saves and misses, and the figure."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from figure_checks import check_figure
from matplotlib.colors import to_rgb

from ipu_chem.config import RunConfig, to_dict
from ipu_chem.reports.figures import save
from ipu_chem.scaling.candidates import Candidate, Progress
from ipu_chem.scaling.search import SearchOptions, search
from ipu_chem.scaling.search_figure import options_of, search_figure
from ipu_chem.scaling.search_report import table, write_result
from ipu_chem.scaling.search_result import analyze, predict
from ipu_chem.scaling.tpe import calibrate

SECONDS = 61.370333675650606
HALVING = SearchOptions(budget=0.125, halving=2, keep=2, fraction=0.01, confidence=0, estimator="tail")


def made_up(folder, losses, finals, steps=80, metric="mae"):
    """Finished runs: candidate -> losses at each eighth of its steps (None: diverged there), -> final metric.

    A candidate may have several lists, of seeds 0, 1, ..., and finals to match.
    """
    candidates = []
    for place, (name, one) in enumerate(losses.items()):
        for seed, eighths in enumerate(one if isinstance(one[0], list) else [one]):
            total = steps * (1 + place % 2)  # as of two batch sizes
            config = {**to_dict(RunConfig()), "out": str(folder / f"{name},seed={seed}")}
            config["training"]["epochs"] = 8
            candidate = Candidate(name, seed, config)
            candidate.folder.mkdir(parents=True)
            ended = None in eighths
            done = total // 8 * eighths.index(None) + 1 if ended else total
            rows = [(step, eighths[8 * (step - 1) // total]) for step in range(1, done + 1)]
            lines = [json.dumps({"kind": "train", "step": step, "loss": loss}) + "\n" for step, loss in rows]
            (candidate.folder / "metrics.jsonl").write_text("".join(lines))
            final = finals[name] if not isinstance(finals[name], list) else finals[name][seed]
            reached = Progress(
                "diverged" if ended else "finished",
                done,
                total,
                SECONDS,
                {} if ended else {metric: final},
                "inf" * ended,
            )
            (candidate.folder / "candidate.json").write_text(json.dumps({**asdict(reached), "config": config}))
            candidates.append(candidate)
    return candidates


def falling(start, *more):
    """Losses of the eighths: the first, second and fourth are evaluated."""
    return [start, *more, *[more[-1] if more else start] * (7 - len(more))]


def test_the_best_classifier_is_the_first_row(tmp_path):
    losses = {name: falling(start) for name, start in zip("abcd", (0.3, 0.4, 0.5, 0.6))}
    aucs = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}
    options = SearchOptions(budget=0.25, keep=2, finish_all=True, estimator="tail")
    result = analyze(search(made_up(tmp_path, losses, aucs, metric="rocauc"), options, progress=False), options)
    assert [row.name for row in result.rows] == list("abcd") and result.metric == "1 - rocauc"
    assert [row.final for row in result.rows] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert result.assessment.regret == 0 and result.assessment.spearman == pytest.approx(1)
    assert "final: 1 - rocauc of the validation molecules" in table(result)


def test_halving_chooses_step_by_step_and_says_what_it_would_have_saved(tmp_path):
    losses = {
        "rate=1": falling(5.0, 1.0),
        "rate=2": falling(4.0, 3.0, 3.0, 1.5),
        "rate=3": falling(3.0, 2.5, 2.0, 2.5),
        "rate=4": falling(2.0, 2.0),
        "rate=5": falling(1.0, 9.0),
        "rate=6": falling(1.5, None),  # diverges after the first evaluation
    }
    finals = dict(zip(losses, (0.5, 0.6, 0.9, 0.8, 3.0, None)))
    found = search(made_up(tmp_path, losses, finals), HALVING, progress=False)
    # The best half of 6, and of the 3 the best 2.
    assert [one.budget for one in found.evaluations] == [0.125, 0.25]
    assert found.evaluations[0].estimates == {
        "rate=1": 5,
        "rate=2": 4,
        "rate=3": 3,
        "rate=4": 2,
        "rate=5": 1,
        "rate=6": 1.5,
    }
    assert found.evaluations[1].estimates == {"rate=4": 2.0, "rate=5": 9.0, "rate=6": math.inf}
    assert found.kept == ["rate=4", "rate=5"]
    result = analyze(found, HALVING)
    assert result.assessment.regret == pytest.approx(0.8 - 0.5) and result.assessment.kept == 2
    assert result.calibration.points == 5  # by the estimates of the first evaluation
    # Three are left after 1/8 of 80, 160 and 80 steps; rate=6 has ended after 21; 4 and 5 go to the end.
    assert result.steps == (80 + 160 + 80 + 160 + 80 + 21, 3 * 240)
    assert result.chosen == (10 + 20 + 10 + 160 + 80 + 21, 3 * 240)
    printed = "\n".join(table(result))
    words = "would have taken 301 of 720 steps, 58% saved, and kept rate=4; rate=5; regret 0.3"
    assert f"the search without --finish_all {words}" in printed
    assert "cost: 581 of 720 steps, 19% saved" in printed and "ranking at 12.5%" in printed


def test_one_evaluation_says_the_same_of_its_choice(tmp_path):
    losses = {f"rate={place}": falling(place) for place in (3.0, 1.0, 2.0, 4.0)}
    finals = dict(zip(losses, (0.1, 0.4, 0.3, 0.6)))
    options = SearchOptions(budget=0.25, keep=2, estimator="tail")
    result = analyze(search(made_up(tmp_path, losses, finals), options, progress=False), options)
    assert result.kept == ["rate=1.0", "rate=2.0"] and result.assessment.regret == pytest.approx(0.2)
    assert result.steps == (480, 480) and result.chosen == (160 + 80 + 20 + 40, 480)
    path = write_result(tmp_path, result, options)[0]
    saved = json.loads(path.read_text())
    assert saved["chosen"] == {"spent": 300, "full": 480, "saving": pytest.approx(1 - 300 / 480)}
    assert saved["kept"] == result.kept and saved["assessment"]["regret"] == pytest.approx(0.2)


def test_seeds_of_a_candidate_go_on_together(tmp_path):
    losses = {
        "rate=1": [falling(1.0), falling(7.0)],  # the best and the worst run
        "rate=2": [falling(2.0), falling(3.0)],
        "rate=3": [falling(3.0, 2.0), falling(3.0, 2.0)],
        "rate=4": [falling(5.0), falling(4.0)],
        "rate=5": [falling(2.0), falling(2.0, None)],
    }
    finals = {name: [0.5, 0.7] for name in losses}
    found = search(made_up(tmp_path, losses, finals), HALVING, progress=False)
    assert list(found.evaluations[0].estimates.values()) == [4.0, 2.5, 3.0, 4.5, 2.0]
    assert set(found.evaluations[1].estimates) == {"rate=2", "rate=3", "rate=5"}
    assert found.kept == ["rate=3", "rate=2"]  # a seed of rate=5 diverged
    result = analyze(found, HALVING)
    assert {row.name: row.final for row in result.rows}["rate=5"] == math.inf
    assert [curve.name for curve in result.curves] == list(losses)


@pytest.mark.parametrize("finished", [True, False])
def test_a_seed_that_waits_leaves_its_candidate_without_a_final_value(tmp_path, finished):
    """As after a search with --finish_all that was stopped, or a seed that diverged at an evaluation."""
    losses = {f"rate={place}": [falling(place), falling(place)] for place in (1.0, 2.0, 3.0, 4.0)}
    if not finished:
        losses["rate=4.0"][0] = falling(4.0, None)
    candidates = made_up(tmp_path, losses, dict.fromkeys(losses, 0.5))
    path = candidates[-1].folder / "candidate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "stopped", "step": 20}))
    result = analyze(search(candidates, HALVING, progress=False), HALVING)
    (row,) = [row for row in result.rows if row.final is None]
    assert row.name == "rate=4.0" and row.status == ("stopped" if finished else "diverged")


def test_seconds_saved_are_those_of_steps(tmp_path):
    """38 s, of which imports and molecules took most, are not twice as many in runs of twice the steps."""
    losses = {f"rate={place}": falling(place) for place in (1.0, 2.0, 3.0, 4.0)}
    found = search(
        made_up(tmp_path, losses, dict.fromkeys(losses, 0.5)), SearchOptions(keep=2, estimator="tail"), progress=False
    )
    left = [replace(found.reached[0], status="stopped", step=20, seconds=5.0), *found.reached[1:]]
    result = analyze(replace(found, reached=left), SearchOptions(keep=2))
    (line,) = [line for line in table(result) if line.startswith("cost: ")]
    assert line.endswith("; 189 s")  # nobody measured its steps
    (path, *_) = write_result(tmp_path, result, SearchOptions(keep=2))
    seconds = json.loads(path.read_text())["seconds"]
    assert seconds == {"spent": pytest.approx(3 * SECONDS + 5), "full": None, "saving": None}
    left[0] = replace(left[0], per_step=0.1)
    result = analyze(replace(found, reached=left), SearchOptions(keep=2))
    assert result.seconds.full - result.seconds.spent == pytest.approx(60 * 0.1)
    assert any(line.endswith("; 189 s, 3% saved") for line in table(result))


def test_all_that_went_on_diverged(tmp_path):
    losses = {"rate=1": falling(1.0, None), "rate=2": falling(2.0, None), "rate=3": falling(3.0, None)}
    losses.update({f"rate={place}": falling(place) for place in (4, 5, 6)})
    found = search(made_up(tmp_path, losses, {name: 0.5 for name in losses}), HALVING, progress=False)
    assert found.kept == [] and len(found.evaluations) == 2
    result = analyze(found, HALVING)
    assert result.assessment.regret == math.inf and result.assessment.kept == 0
    assert "kept none, since all that went on diverged; regret inf" in "\n".join(table(result))
    assert write_result(tmp_path, result, HALVING)[-1].name == "search.png"


def test_all_candidates_diverged(tmp_path):
    losses = {f"rate={place}": [None] * 8 for place in range(3)}
    with pytest.raises(ValueError, match="all 3 candidates diverged: search lower learning rates"):
        search(made_up(tmp_path, losses, dict.fromkeys(losses)), HALVING, progress=False)


def test_the_figure(tmp_path):
    rng = np.random.default_rng(0)
    rates = [f"learning_rate={rate:g},name={name}" for rate in (3e-4, 1e-3, 3e-3) for name in ("painn", "schnet")]
    losses = {name: (9 - 4 * np.sort(rng.random(8))).tolist() for name in rates}
    losses["learning_rate=0.03,name=painn"] = falling(9.0, 80.0, None)
    finals = {name: one[-1] and one[-1] / 10 for name, one in losses.items()}
    found = search(made_up(tmp_path, losses, finals, steps=400), HALVING, progress=False)
    result = analyze(found, HALVING)
    for curve in result.curves:  # the estimates lie on the curves
        for one in found.evaluations:
            if curve.name in one.estimates and math.isfinite(one.estimates[curve.name]):
                place = curve.budgets.index(one.budget)
                assert curve.losses[place] == pytest.approx(one.estimates[curve.name], rel=1e-4)
        assert 20 < len(curve.budgets) <= 64 and curve.budgets == sorted(set(curve.budgets))
    figure = search_figure(result)
    check_figure(figure)
    left, right = figure.axes
    assert left.get_xscale() == left.get_yscale() == "log" and left.get_ylim()[1] < 10  # not up to what diverged
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["2 kept", "4 others", "1 diverged", "early evaluations"]
    diverged, others, kept = left.get_lines()[:1], left.get_lines()[1:5], left.get_lines()[5:7]
    assert [line.get_linestyle() for line in diverged] == [":"]
    shades = [to_rgb(line.get_color()) for line in [*others, *kept]]
    assert all(max(shade) == min(shade) for shade in shades[:4]) and all(blue > red for red, _, blue in shades[4:])
    marked = [line.get_xdata()[0] for line in left.get_lines()[7:]]
    assert marked == [12.5, 25.0]
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert (
        labels == ["0.0003", "0.001", "0.003", "kept"] and right.get_legend().get_title().get_text() == "learning rate"
    )
    shown = np.concatenate([group.get_offsets() for group in right.collections[:-1]])
    assert len(shown) == 6 and len(right.collections[-1].get_offsets()) == 2
    assert sorted(shown[:, 1]) == pytest.approx(sorted(final for final in finals.values() if final))
    title = right.get_title()
    assert f"R² = {result.calibration.r2:.3f}; Spearman" in title and "1 diverged" in title
    assert save(search_figure(result), tmp_path / "search.pdf").stat().st_size > 5000


def test_the_option_that_candidates_differ_in_most():
    names = [f"rate={rate},name={name},epochs={place}" for place in range(2) for rate in "312" for name in "ab"]
    option, values = options_of(names)
    assert option == "rate" and list(dict.fromkeys(values.values())) == ["1", "2", "3"] and set(values) == set(names)
    assert options_of(["rate=1e-3,name=b", "rate=1e-3,name=a"]) == (
        "name",
        {"rate=1e-3,name=a": "a", "rate=1e-3,name=b": "b"},
    )
    assert options_of(["base"]) is None and options_of([f"rate={place}" for place in range(9)]) is None


def test_a_line_predicts_nothing_that_it_cannot_know():
    few, many = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    line = calibrate(few, [0.1, 0.2, 0.3])
    assert predict(line, 2.5, few) == (pytest.approx(0.25), "")
    value, reason = predict(line, 4.0, few)
    assert value is None and "far outside those of the 3 candidates" in reason and "--keep" in reason
    line = calibrate(many, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert predict(line, 5.0, many) == (pytest.approx(0.5), "")
    value, doubt = predict(line, 6.5, many)
    assert value == pytest.approx(0.65) and doubt.startswith("? beside a prediction: the estimate lies outside")
    value, reason = predict(line, 8.0, many)
    assert value is None and "far outside those of the 5 candidates" in reason
    value, reason = predict(calibrate(many, [0.5, 0.4, 0.3, 0.2, 0.1]), 2.5, many)
    assert value is None and "a worse estimate means a better end" in reason
    value, reason = predict(calibrate(many, [0.1, 1.1, 2.1, 3.1, 4.1]), 0.5, many)
    assert value is None and "falls to 0 or below" in reason
    assert predict(line, math.inf, few) == (math.inf, "")
