"""Optuna's studies with early evaluations; needs the extra `search`, and says so where that is not installed."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'ipu-chem[search]'")

from ipu_chem.scaling.optuna_pruner import TrialReporter, estimate_at, estimate_pruner  # noqa: E402
from ipu_chem.train import train  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)
State = optuna.trial.TrialState
SAMPLERS = {
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
    "tpe": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=3),
    "grid": lambda: optuna.samplers.GridSampler({"x": [0.5, 0.1, 0.9, 0.3, 0.2, 0.8, 0.7, 0.05, 0.4, 0.6]}, seed=0),
}


def curve(x):
    """Losses of 50 steps that end in x, after a start that orders runs the other way round."""
    return [x + (2 - x) * math.exp(-step / 2) for step in range(50)]


def study_of(sampler, keep, budget=10):
    study = optuna.create_study(sampler=sampler, pruner=estimate_pruner(budget, keep, fraction=0.2))

    def objective(trial):
        reporter = TrialReporter(trial)
        for step, loss in enumerate(curve(trial.suggest_float("x", 0, 1)), 1):
            if reporter.on_step(step, 50, [loss]):
                raise optuna.TrialPruned
        return loss

    study.optimize(objective, n_trials=10)
    return study


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("keep", [2, 4])
def test_the_best_go_on_whatever_the_sampler(sampler, keep):
    study = study_of(SAMPLERS[sampler](), keep)
    by_estimate = sorted(study.trials, key=lambda trial: estimate_at(trial.intermediate_values, 10, 0.2))
    assert all(trial.state == State.COMPLETE for trial in by_estimate[:keep])
    assert all(trial.state == State.COMPLETE for trial in study.trials[:keep])  # nothing to compare with yet
    pruned = [trial for trial in study.trials if trial.state == State.PRUNED]
    assert pruned and all(trial.last_step == 10 for trial in pruned)
    for trial in pruned:  # behind as many that came before it
        own = estimate_at(trial.intermediate_values, 10, 0.2)
        before = study.trials[: trial.number]
        assert sum(estimate_at(one.intermediate_values, 10, 0.2) < own for one in before) >= keep


@pytest.mark.parametrize("direction, first", [("minimize", 1), ("maximize", 1), ("minimize", 0), ("maximize", 0)])
def test_direction_and_first_step_are_the_study_s(direction, first):
    """The same runs as losses and as scores, counted from 1 or 0: the same trials go on."""
    sign = -1 if direction == "maximize" else 1
    study = optuna.create_study(direction=direction, pruner=estimate_pruner(10, 2, fraction=0.2))
    stopped = {}
    for x in (0.5, 0.1, 0.9, 0.05, 0.7):
        trial = study.ask()
        for step, loss in enumerate(curve(x), first):
            trial.report(sign * loss, step)
            if trial.should_prune():
                stopped[x] = step
                break
        study.tell(trial, state=State.PRUNED if x in stopped else None, values=None if x in stopped else sign * x)
    assert stopped == {0.9: 9 + first, 0.7: 9 + first}
    assert study.best_value == sign * 0.05


def test_reporter_reports_scores_to_a_study_that_maximizes():
    study = optuna.create_study(direction="maximize", pruner=estimate_pruner(10, 2))
    trial = study.ask()
    TrialReporter(trial).on_step(2, 50, [3.0, 2.0])
    assert study.trials[0].intermediate_values == {1: -3.0, 2: -2.0}


def test_a_trial_that_diverges_is_pruned_at_once():
    study = optuna.create_study(pruner=estimate_pruner(10, 2))
    trial = study.ask()
    trial.report(1.0, 1)
    assert not trial.should_prune()
    trial.report(float("nan"), 2)
    assert trial.should_prune()


def test_estimate_counts_steps_up_to_the_budget():
    reported = {2: 4.0, 4: 2.0, 6: 1.0, 8: 100.0}
    assert estimate_at(reported, 6, 1.0) == pytest.approx((4 + 4 + 2 + 2 + 1 + 1) / 6)
    assert estimate_at(reported, 7, 0.01) == 100.0
    assert estimate_at(reported, 9) is None and estimate_at({}, 1) is None
    assert estimate_at({1: 1.0, 2: math.inf}, 2) == math.inf


def test_a_real_run_reports_every_step_and_stops(options, make_config, tmp_path):
    options["batching"]["device_iterations"] = 2
    study = optuna.create_study(pruner=estimate_pruner(4, 2))

    def objective(trial):
        options["out"] = str(tmp_path / f"{trial.number}")
        options["optimizer"] = {"learning_rate": [1e-3, 1e-2, 3.0][trial.number]}
        reporter = TrialReporter(trial)
        result = train(make_config(options), callbacks=[reporter])
        if reporter.pruned:
            raise optuna.TrialPruned
        return next(iter(result["metrics"].values()))

    study.optimize(objective, n_trials=3)
    assert [trial.state for trial in study.trials] == [State.COMPLETE, State.COMPLETE, State.PRUNED]
    steps = sorted(study.trials[0].intermediate_values)
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] > 8
    assert study.trials[2].last_step == 4


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_several_objectives_are_pruned_by_the_first(direction):
    study = optuna.create_study(directions=[direction, "minimize"], pruner=estimate_pruner(10, 2, fraction=0.2))
    stopped = {}
    for x in (0.5, 0.1, 0.9, 0.05, 0.7):
        trial = study.ask()
        reporter = TrialReporter(trial)
        for step, loss in enumerate(curve(x), 1):
            if reporter.on_step(step, 50, [loss]):
                stopped[x] = step
                break
        assert reporter.pruned == (x in stopped)
        values = None if reporter.pruned else [x if direction == "minimize" else -x, 1 - x]
        study.tell(trial, state=State.PRUNED if reporter.pruned else None, values=values)
    assert stopped == {0.9: 10, 0.7: 10}
    assert all(len(trial.values) == 2 for trial in study.trials if trial.state == State.COMPLETE)
    diverges = TrialReporter(study.ask())
    assert not diverges.on_step(1, 50, [1.0]) and diverges.on_step(2, 50, [math.nan]) and diverges.pruned


def test_several_objectives_need_a_pruner_that_can_judge_them():
    study = optuna.create_study(directions=["minimize", "minimize"], pruner=optuna.pruners.MedianPruner())
    with pytest.raises(ValueError, match=r"several objectives, .* give it pruner=estimate_pruner"):
        TrialReporter(study.ask())


WORKER = """
import sys

import optuna
from ipu_chem.scaling.optuna_pruner import TrialReporter, estimate_pruner

path = sys.argv[1]
if path.endswith(".log"):
    journal = optuna.storages.journal
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(path))
else:
    storage = optuna.storages.RDBStorage("sqlite:///" + path, engine_kwargs={"connect_args": {"timeout": 100}})
sampler = optuna.samplers.RandomSampler(seed=int(sys.argv[2]))
study = optuna.load_study(
    study_name="one", storage=storage, sampler=sampler, pruner=estimate_pruner(6, 2, fraction=0.2)
)


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    reporter = TrialReporter(trial)
    for step in range(1, 13):
        if reporter.on_step(step, 12, [x + 1 / step]):
            raise optuna.TrialPruned
    return -x


study.optimize(objective, n_trials=6)
"""


@pytest.mark.parametrize("storage", ["study.log", "study.db"])
def test_two_processes_prune_each_other_s_trials(storage, tmp_path):
    if storage.endswith(".log") and not hasattr(optuna.storages, "journal"):
        pytest.skip("this Optuna has no storages.journal")
    path = str(tmp_path / storage)
    if storage.endswith(".log"):
        made = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    else:
        made = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(study_name="one", storage=made, direction="maximize")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WORKER, path]
    workers = [subprocess.Popen([*command, str(seed)], env=environment, stderr=subprocess.PIPE) for seed in (0, 1)]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors.decode()
    assert len(study.trials) == 12 and {trial.state for trial in study.trials} == {State.COMPLETE, State.PRUNED}
    estimates = {one.number: estimate_at(one.intermediate_values, 6, 0.2, sign=-1) for one in study.trials}
    best = sorted(study.trials, key=lambda one: estimates[one.number])
    assert [one.state for one in best[:2]] == [State.COMPLETE] * 2  # whatever the order they came in
    # At the budget, or later, when the other process has found better ones.
    assert all(one.last_step >= 6 for one in study.trials if one.state == State.PRUNED)
    assert study.best_trial.number == best[0].number


@pytest.mark.parametrize("values", [{"budget_steps": 0}, {"budget_steps": 5, "keep": 1}])
def test_what_is_no_early_evaluation_is_refused(values):
    with pytest.raises(ValueError, match="budget_steps=.* keep="):
        estimate_pruner(**values)
