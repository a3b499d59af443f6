"""A search that halves by intervals, over runs that are there: what it leaves out, says and reports."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from ipu_chem.config import RunConfig, to_dict
from ipu_chem.scaling.candidates import Candidate, Progress
from ipu_chem.scaling.search import SearchOptions, search
from ipu_chem.scaling.search_report import table, write_result
from ipu_chem.scaling.search_result import analyze

STEPS = 160
OPTIONS = SearchOptions(budget=0.1, halving=2, keep=4, finish_all=True, estimator="tail")


def finished_runs(folder, count=8):
    """Runs whose losses fall alike, two of them to nearly the same end; their metric is a tenth of that."""
    candidates = []
    for place in range(count):
        rng = np.random.default_rng(place)
        level = [1.0, 1.02, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0][place]
        losses = level * np.arange(1, STEPS + 1) ** -0.3 * (1 + rng.normal(0, 0.01, STEPS))
        rate = 1e-3 * (1 + place)
        config = {**to_dict(RunConfig()), "out": str(folder / f"learning_rate={rate:g}")}
        config["training"]["epochs"] = 8
        config["optimizer"]["learning_rate"] = rate
        candidate = Candidate(f"learning_rate={rate:g}", 0, config)
        candidate.folder.mkdir(parents=True)
        rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
        (candidate.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        reached = Progress("finished", STEPS, STEPS, 10.0, {"mae": float(losses[-16:].mean()) / 10})
        (candidate.folder / "candidate.json").write_text(json.dumps({**asdict(reached), "config": config}))
        candidates.append(candidate)
    return candidates


def test_who_cannot_win_goes_before_the_fraction_asks_for_it(tmp_path):
    runs = finished_runs(tmp_path)
    by_rank = search(runs, SearchOptions(**{**asdict(OPTIONS), "confidence": 0.0}), progress=False)
    found = search(runs, OPTIONS, progress=False)
    assert len(by_rank.kept) == 4 and found.kept == [runs[0].name, runs[1].name]
    assert [one.budget for one in found.evaluations] == [0.1, 0.2, 0.4, 0.8]
    result, ranked = analyze(found, OPTIONS), analyze(by_rank, OPTIONS)
    assert result.chosen.saving > ranked.chosen.saving and result.assessment.regret == 0
    gone = {row.name: row.gone for row in result.rows}
    assert gone[runs[0].name] == "" and gone[runs[7].name].startswith("at 10%: ")
    assert any("cannot win: 1" in reason or "cannot win: 0" in reason for reason in gone.values())
    printed = "\n".join(table(result))
    assert (
        "left out:" in printed and "of such searches, over other candidates of the same kind (90%): regret" in printed
    )
    assert "held fixed:" in printed and "varied:\n  optimizer.learning_rate: 0.001, 0.002" in printed
    assert result.uncertain.saving[0] <= result.chosen.saving <= result.uncertain.saving[1] + 0.05
    low, high = result.rows[0].low, result.rows[0].high
    assert low < result.rows[0].estimate < high and f"[{low:.4g}, {high:.4g}]" in printed
    write_result(tmp_path, result, OPTIONS)
    saved = json.loads((tmp_path / "search.json").read_text())
    assert saved["rows"][-1]["gone"] and saved["held"]["options"]["schedule.name"] == "cosine"
    assert saved["evaluations"][0]["spreads"][runs[0].name] > 0


@pytest.mark.parametrize("estimator", ["multi_power", "collapse"])
def test_estimators_of_all_candidates_choose_the_same_whether_or_not_others_were_trained(tmp_path, estimator):
    options = SearchOptions(**{**asdict(OPTIONS), "estimator": estimator, "keep": 2})
    runs = finished_runs(tmp_path)
    whole = search(runs, options, progress=False)
    for one in runs:  # as if what was left out had never gone on
        last = max(early.budget for early in whole.evaluations if one.name in early.estimates)
        if one.name not in whole.kept:
            end = math.ceil(last * STEPS)
            lines = (one.folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:end]
            (one.folder / "metrics.jsonl").write_text("".join(lines))
            reached = Progress("stopped", end, STEPS, 1.0, {})
            (one.folder / "candidate.json").write_text(json.dumps({**asdict(reached), "config": one.config}))
    options = SearchOptions(**{**asdict(options), "finish_all": False})
    again = search(runs, options, progress=False)
    assert again.kept == whole.kept == [runs[0].name, runs[1].name] and again.evaluations == whole.evaluations
    assert {row.name for row in analyze(again, options).rows if row.final is not None} == set(whole.kept)


def test_confidence_is_a_fraction():
    with pytest.raises(ValueError, match="confidence=1: give a fraction such as 0.9, or 0"):
        SearchOptions(confidence=1)
