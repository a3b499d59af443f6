"""A study of Optuna that two processes share by a journal: each trial is one process's, and runs are apart."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'ipu-chem[search]'")

ROOT = Path(__file__).resolve().parents[2]
# As in ipu_chem/scaling/README.md.
STUDY = """
import json, os, sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ipu_chem.config import from_dict
from ipu_chem.scaling.optuna_pruner import TrialReporter, estimate_pruner
from ipu_chem.train import train

folder, options = sys.argv[1], json.loads(sys.argv[2])

def objective(trial):
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    trial.set_user_attr("process", os.getpid())
    values = {**options, "optimizer": {"learning_rate": rate}, "out": f"{folder}/{trial.number}"}
    reporter = TrialReporter(trial)
    result = train(from_dict(values), callbacks=[reporter])
    if reporter.pruned:  # not trial.should_prune(): a run that came to its end counts
        raise optuna.TrialPruned
    return next(iter(result["metrics"].values()))

journal = JournalFileBackend(f"{folder}/study.log", lock_obj=JournalFileOpenLock(f"{folder}/study.log"))
study = optuna.create_study(
    study_name="rates", storage=JournalStorage(journal), load_if_exists=True, pruner=estimate_pruner(4, 2),
    sampler=optuna.samplers.RandomSampler(seed=os.getpid()),
)
study.optimize(objective, n_trials=3, catch=FloatingPointError)
"""


def test_the_readme_keeps_trials_that_came_to_their_end():
    from ipu_chem.scaling.optuna_pruner import TrialReporter, estimate_pruner

    words = STUDY[STUDY.index("    reporter = ") : STUDY.index("    return next")]
    assert words in (ROOT / "ipu_chem" / "scaling" / "README.md").read_text()
    study = optuna.create_study(pruner=estimate_pruner(4, 2))
    for loss in (0.1, 0.2, 0.9):  # the third is behind, and is known to be when it has finished
        trial = study.ask()
        reporter = TrialReporter(trial)
        for step in range(1, 5):
            assert not reporter.on_step(step, 4, [loss])
        assert not reporter.pruned and trial.should_prune() == (loss == 0.9)
        study.tell(trial, loss)


@pytest.mark.slow
def test_two_processes_share_a_study(options, tmp_path):
    from optuna.storages.journal import JournalFileBackend

    script = tmp_path / "study.py"
    script.write_text(STUDY)
    command = [sys.executable, str(script), str(tmp_path), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    trials = optuna.load_study(study_name="rates", storage=storage).trials
    assert [trial.number for trial in trials] == list(range(6))
    assert all(trial.state.is_finished() for trial in trials)
    pids = [trial.user_attrs["process"] for trial in trials]
    assert sorted(pids.count(process.pid) for process in processes) == [3, 3]
    for trial in trials:
        rows = [json.loads(row) for row in (tmp_path / str(trial.number) / "metrics.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in rows if row["kind"] == "train"]
        assert steps == list(range(1, len(steps) + 1)) and trial.last_step in (len(steps), len(steps) + 1)
