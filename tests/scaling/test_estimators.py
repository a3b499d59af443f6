"""Estimators at an early evaluation: which rows of a run they read, and what they need to be there."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from ipu_chem.config import RunConfig, to_dict
from ipu_chem.scaling.candidates import Candidate, Progress, read_progress
from ipu_chem.scaling.estimators import ESTIMATORS, Seen, estimate_of, estimates_of
from ipu_chem.scaling.search import SearchOptions, search
from ipu_chem.scaling.search_report import table
from ipu_chem.scaling.search_result import analyze
from ipu_chem.scaling.tse import tse, tse_e, tse_ema

STEPS, EPOCHS = 10, 8


def run(folder, name, losses, metrics, status="finished", ema_decay=0.0, loss="mae"):
    """A run of 8 epochs of 10 steps, evaluated after every epoch."""
    config = {**to_dict(RunConfig()), "out": str(folder / name)}
    config["training"].update(epochs=EPOCHS, ema_decay=ema_decay)
    config["loss"] = loss
    candidate = Candidate(name, 0, config)
    candidate.folder.mkdir(parents=True)
    rows = []
    for step, loss in enumerate(losses, 1):
        rows.append({"kind": "train", "step": step, "epoch": (step - 1) // STEPS, "loss": loss})
        if step % STEPS == 0 and metrics:
            rows.append({"kind": "validation", "step": step, "epoch": step // STEPS, "loss": loss, "seconds": 0.1})
            rows[-1].update({key: values[step // STEPS - 1] for key, values in metrics.items()})
    (candidate.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {key: min(values) for key, values in metrics.items()}
    reached = Progress(status, len(losses), STEPS * EPOCHS, 1.0, final)
    (candidate.folder / "candidate.json").write_text(json.dumps({**asdict(reached), "config": config}))
    return candidate, reached


LOSSES = np.random.default_rng(0).uniform(1, 2, STEPS * EPOCHS) / np.arange(1, STEPS * EPOCHS + 1) ** 0.3
METRICS = {"mae": [9.0, 7.0, 6.0, 5.5, 5.2, 5.1, 5.0, 4.9], "rmse": [12.0, 10.0, 9.0, 8.5, 8.2, 8.1, 8.0, 7.9]}


@pytest.mark.parametrize("budget, epochs", [(0.25, 2), (0.3, 2), (0.375, 3)])
def test_estimators_read_what_was_there_at_the_budget_and_nothing_later(tmp_path, budget, epochs):
    one, reached = run(tmp_path, "a", LOSSES.tolist(), METRICS)
    seen = LOSSES[: math.ceil(budget * 80)]
    assert estimate_of(one, reached, budget).value == pytest.approx(seen[-max(1, round(0.1 * len(seen))) :].mean())
    assert estimate_of(one, reached, budget, "validation").value == METRICS["mae"][epochs - 1]
    assert estimate_of(one, reached, budget, "validation", metric="rmse").value == METRICS["rmse"][epochs - 1]
    for name, function in (("tse", tse), ("tse_e", tse_e), ("tse_ema", tse_ema)):
        assert estimate_of(one, reached, budget, name).value == function(seen, STEPS, epochs).value
    with pytest.raises(ValueError, match=r"--metric auc: the runs have mae, rmse"):
        estimate_of(one, reached, budget, "validation", metric="auc")


def test_of_metrics_that_rise_the_rest_to_1_counts(tmp_path):
    """Lowest is best everywhere in a search."""
    one, reached = run(tmp_path, "a", LOSSES.tolist(), {"rocauc_p_np": [0.6, 0.7, 0.75, 0.8, 0.82, 0.84, 0.85, 0.9]})
    assert estimate_of(one, reached, 0.25, "validation").value == pytest.approx(0.3)
    assert estimate_of(one, reached, 1.0, "validation").value == pytest.approx(0.1)


def test_an_evaluation_that_is_there_twice_is_no_course(tmp_path):
    one, reached = run(tmp_path, "a", LOSSES[:STEPS].tolist(), METRICS, "stopped")
    path = one.folder / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    estimate = estimate_of(one, reached, 0.125, "validation")
    assert estimate.value == METRICS["mae"][0] and math.isnan(estimate.low)


def test_what_an_estimator_needs_is_said(tmp_path):
    one, reached = run(tmp_path, "a", LOSSES.tolist(), METRICS)
    with pytest.raises(
        ValueError, match="candidate a: there is no evaluation within the budget of 8 steps: set training.ev"
    ):
        estimate_of(one, reached, 0.1, "validation")
    with pytest.raises(
        ValueError, match="candidate a: tse_e adds up epochs, and the first one of 10 steps is not over"
    ):
        estimate_of(one, reached, 0.1, "tse_e")
    with pytest.raises(ValueError, match="estimator='mean': choose auto, tail, validation, annealed, multi_power"):
        SearchOptions(estimator="mean")
    with pytest.raises(ValueError, match="calibration='log': choose line or power"):
        SearchOptions(calibration="log")
    broken, early = run(tmp_path, "b", [*LOSSES[:9], math.nan], {}, "diverged")
    assert all(estimate_of(broken, early, 0.25, name).value == math.inf for name in ESTIMATORS)


def test_a_search_ranks_by_its_estimator_and_compares_all(tmp_path):
    """High rates have noisier losses and end lower: the averaged weights of an evaluation tell, the losses do not."""
    runs = []
    for place in range(6):
        metrics = {"mae": [10.0 - place + 8 / (1 + epoch) for epoch in range(EPOCHS)]}
        runs.append(run(tmp_path, f"rate={place}", (LOSSES + 0.1 * place).tolist(), metrics)[0])
    results = {}
    for name in ("tail", "validation"):
        options = SearchOptions(budget=0.25, keep=2, estimator=name, finish_all=True)
        results[name] = analyze(search(runs, options, progress=False), options)
    assert results["tail"].kept == ["rate=0", "rate=1"] and results["tail"].assessment.regret == pytest.approx(4)
    assert results["validation"].kept == ["rate=5", "rate=4"] and results["validation"].assessment.regret == 0
    compared = {one.estimator: one for one in results["tail"].compared}
    assert list(compared) == list(ESTIMATORS) and compared == {
        one.estimator: one for one in results["validation"].compared
    }
    assert compared["tail"].spearman == pytest.approx(-1) and compared["validation"].spearman == pytest.approx(1)
    assert compared["validation"].r2 == pytest.approx(1) and compared["validation"].regret == 0
    assert any(line.startswith("  validation  R2 1.000, Spearman 1.00") for line in table(results["tail"]))
    assert "estimate: validation at 25% of the steps" in table(results["validation"])


@pytest.mark.parametrize("loss, power", [("mae", 1), ("mse", 2), ("auto", 2)])
def test_annealed_takes_away_the_noise_that_averaged_weights_have_left(tmp_path, loss, power):
    """Averaged weights have lost two thirds of the noise of the training losses, in logarithms: ranks show the rest."""
    ends, noises = np.array([4.0, 5.0, 6.0, 7.0]), np.array([0.9, 0.5, 0.2, 0.0])
    runs, scaled = [], []
    for place, (end, noise) in enumerate(zip(ends, noises)):
        losses = np.full(STEPS * EPOCHS, (0.01 * end * np.exp(3 * noise)) ** power).tolist()
        values = end * np.exp(noise) * (1 + 0.1 * place * np.exp(-np.arange(EPOCHS)))
        values[1] = end * np.exp(noise)  # that is read
        for unit, own in ((1, runs), (1000, scaled)):
            metrics = {"mae": (unit * values).tolist()}
            own.append(run(tmp_path, f"{unit},rate={place}", losses, metrics, ema_decay=0.99, loss=loss))
    seen = [Seen.of(one, reached, 0.25) for one, reached in runs]
    estimates = estimates_of(seen, "annealed")
    found = np.array([one.value for one in estimates])
    np.testing.assert_allclose(found / found[0], ends / ends[0], rtol=1e-12)
    metrics = np.array([one.value for one in estimates_of(seen, "validation")])
    assert np.log(found).mean() == pytest.approx(np.log(metrics).mean())  # in the unit of the metric
    assert metrics.argmin() != found.argmin() == 0
    other = estimates_of([Seen.of(one, reached, 0.25) for one, reached in scaled], "annealed")
    for one, same in zip(estimates, other):  # whatever that is
        assert np.array([same.value, same.low, same.high, same.spread]) == pytest.approx(
            1000 * np.array([one.value, one.low, one.high, one.spread])
        )
    diverged = run(tmp_path, "rate=9", [*LOSSES[:9], math.nan], {}, "diverged", ema_decay=0.99, loss=loss)
    with_it = estimates_of([*seen, Seen.of(*diverged, 0.25)], "annealed")
    assert with_it[-1].value == math.inf and [one.value for one in with_it[:-1]] == pytest.approx(found.tolist())


def test_auto_takes_what_the_runs_allow(tmp_path):
    averaged = [run(tmp_path, f"a{place}", (LOSSES + place).tolist(), METRICS, ema_decay=0.99) for place in range(3)]
    plain = run(tmp_path, "b", LOSSES.tolist(), METRICS)
    unseen = run(tmp_path, "c", LOSSES.tolist(), {}, ema_decay=0.99)
    negative = run(tmp_path, "d", (LOSSES - 1).tolist(), METRICS, ema_decay=0.99)
    of_zero = run(tmp_path, "e", LOSSES.tolist(), {"mae": [0.0] * EPOCHS}, ema_decay=0.99)
    broken = run(tmp_path, "f", [*LOSSES[:9], math.nan], {}, "diverged")
    squared = run(tmp_path, "g", LOSSES.tolist(), METRICS, ema_decay=0.99, loss="mse")

    def name_of(*runs):
        return {one.name for one in estimates_of([Seen.of(*own, 0.25) for own in runs], "auto")}

    assert name_of(*averaged) == name_of(*averaged, broken) == {"annealed"}
    assert name_of(*averaged, plain) == name_of(*averaged, unseen) == {"multi_power"}
    assert name_of(*averaged, of_zero) == name_of(*averaged, negative) == {"validation"}
    assert name_of(*averaged, squared) == {"validation"}  # their training losses do not compare
    assert name_of(plain, squared) == name_of(plain, negative) == {"tail mean"}
    assert estimate_of(*broken, 0.25, "auto").value == math.inf
    behind = [Seen.of(*averaged[0], 0.1), *(Seen.of(*own, 0.25) for own in averaged[1:])]  # before its first evaluation
    assert [one.value for one in estimates_of(behind, "auto")][0] == math.inf
    assert {one.name for one in estimates_of(behind, "auto")} == {"annealed"}
    assert SearchOptions().estimator == "auto"
    with pytest.raises(ValueError, match="candidate e has a metric of 0 and a training loss of .*: take validation"):
        estimate_of(*of_zero, 0.25, "annealed")


def test_every_estimator_has_an_interval_that_narrows(tmp_path):
    """All runs fall alike but for a course of their own: what it may still change is less and less."""
    runs = []
    noise = np.random.default_rng(1).normal(0, 0.05, STEPS * EPOCHS)
    smooth = (1 + noise) * np.arange(1, STEPS * EPOCHS + 1) ** -0.3
    for place in range(6):
        metrics = {"mae": [(5.0 + place) * (epoch + 1) ** -(0.2 + 0.02 * place) for epoch in range(EPOCHS)]}
        losses = smooth * (1 + 0.1 * place) * np.arange(1, STEPS * EPOCHS + 1) ** (-0.02 * place)
        runs.append(run(tmp_path, f"rate={place}", losses.tolist(), metrics))
    for name in ESTIMATORS:
        wide = []
        for budget in (0.3, 0.6):
            found = estimates_of([Seen.of(one, reached, budget) for one, reached in runs], name)
            assert all(0 < one.low < one.value < one.high and one.spread > 0 for one in found), name
            wide.append(np.mean([one.spread / one.value for one in found]))
        assert wide[1] < wide[0], name
    alone = estimate_of(*runs[0], 0.3, "validation")
    assert alone.low < alone.value < alone.high
    assert math.isnan(estimate_of(*runs[0], 0.13, "validation").high)  # one evaluation says nothing of others


def test_whole_runs_teach_and_a_run_that_rises_is_named(tmp_path):
    shape = np.arange(1, 81) ** -0.3
    runs = [run(tmp_path, f"rate={place}", (shape * (1 + place)).tolist(), {}) for place in range(4)]
    rising = np.concatenate([shape[:15], np.linspace(shape[15], 3, 65)])
    runs.append(run(tmp_path, "rate=bad", rising.tolist(), {}))
    early = [Seen.of(one, reached, 0.4) for one, reached in runs]
    taught = estimates_of([*early, Seen.of(*runs[0], 1.0), Seen.of(*runs[1], 1.0)], "collapse")
    for place in range(4):
        end = shape[-8:].mean() * (1 + place)
        assert taught[place].value == pytest.approx(end, rel=0.02) and taught[place].low < end < taught[place].high
    untaught = estimates_of(early, "collapse")
    assert untaught[2].high / untaught[2].low > taught[2].high / taught[2].low
    assert [one.note != "" for one in untaught] == [False] * 4 + [True]
    assert untaught[4].note.startswith("rate=bad: its losses rise by")


def test_candidates_from_before_an_option_was_there_go_on(tmp_path):
    one, reached = run(tmp_path, "a", LOSSES.tolist(), METRICS)
    path = one.folder / "candidate.json"
    saved = json.loads(path.read_text())
    del saved["config"]["training"]["evaluate_calls"]
    path.write_text(json.dumps(saved))
    assert read_progress(one) == reached
    saved["config"]["training"]["evaluate_calls"] = 5
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="was trained with training.evaluate_calls=5, and the search asks for 0"):
        read_progress(one)
