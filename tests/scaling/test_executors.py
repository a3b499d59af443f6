"""Engines that train candidates and encode corpora: the same results on each, and a sentence about what cannot work."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
from shared_search import ROOT, command_of, start, trained, until

from ipu_chem.claims import holder_of
from ipu_chem.executors import check_executor, opened
from ipu_chem.heartbeats import make, whoami
from ipu_chem.scaling.campaign import train_all
from ipu_chem.scaling.candidates import make_candidates
from ipu_chem.scaling.search import SearchOptions
from ipu_chem.scaling.study import StudyOptions
from ipu_chem.scaling.worker import job_of, train_candidate, train_elsewhere
from ipu_chem.training.logging import read_rows

GRID = {"optimizer.learning_rate": [0.001, 1e30]}
INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("submitit", "distributed")}


@pytest.fixture
def options(options):
    options["training"].update(epochs=5, evaluate_every=5, checkpoint_every=5)
    return options


ENGINES = {"submitit:local,timeout_min=5": "submitit", "dask": "distributed", "executors_here:Dying": ""}


@pytest.mark.slow
@pytest.mark.parametrize("word", ENGINES)
def test_every_engine_trains_the_same(options, tmp_path, monkeypatch, word):
    if ENGINES[word] and not INSTALLED[ENGINES[word]]:
        pytest.skip(f"{ENGINES[word]} was NOT tested: it is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.chdir(tmp_path)
    here, there = (make_candidates(options, GRID, Path(name)) for name in ("here", "there"))  # relative folders
    alone = [train_candidate(one, 1.0, 1) for one in here]
    seen = []
    with opened(word, 2, tmp_path) as engine:
        found = train_all(there, 1.0, progress=False, finished=lambda done: seen.append(sorted(done)), engine=engine)
    assert [replace(one, seconds=0, per_step=None) for one in found] == [
        replace(one, seconds=0, per_step=None) for one in alone
    ]
    assert [one.status for one in found] == ["finished", "diverged"] and len(seen[-1]) == 2
    for one, other in zip(here, there):
        assert losses(one.folder) == losses(other.folder) and losses(one.folder)
        assert [path.name for path in other.folder.glob(".claim.*")] == [".claim.1.free"]
    assert not list(tmp_path.glob("there/.work.*"))


def losses(folder):
    return [(row["step"], row["loss"]) for row in read_rows(folder) if row["kind"] == "train"]


@pytest.mark.slow
def test_ctrl_c_reaches_workers_elsewhere(options, tmp_path):
    command = command_of(tmp_path, options, "--executor", "concurrent.futures:ThreadPoolExecutor", grid=GRID)
    out = tmp_path / "out"
    process = start(tmp_path, [*command, str(out)])
    until(lambda: any(trained(out).values()), process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert not list(out.glob(".work.*")) and not [p for p in out.glob("*/.claim.*") if p.suffix != ".free"]
    assert list(out.glob("*/checkpoints/last.safetensors"))


def test_an_engine_that_takes_nothing_is_asked_again_and_named(options, tmp_path, monkeypatch):
    candidates = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("ipu_chem.scaling.campaign._AGAIN", 0.1)
    with opened("executors_here:Busy", 1, tmp_path) as engine:
        with pytest.raises(ValueError, match=r"takes no work, asked 3 times \(RuntimeError: sbatch: .*timed out\)"):
            train_all(candidates, 1.0, progress=False, engine=engine)
        assert engine.pool.asked == 3 and not list((tmp_path / "search").glob(".work.*"))


def process_number(_):
    """Of the process that runs this."""
    import os

    return os.getpid()


def test_a_process_that_dies_while_it_has_no_work_is_replaced(tmp_path):
    with opened("processes", 1, tmp_path) as engine:
        first = engine.pool.submit(process_number, 0).result(60)
        os.kill(first, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{first}").exists() or "\nState:\tZ" in Path(f"/proc/{first}/status").read_text())
        time.sleep(0.5)  # until the pool has seen it
        assert engine.pool.submit(process_number, 0).result(60) != first


@pytest.mark.slow
def test_a_worker_whose_engine_is_interrupted_writes_a_checkpoint(options, tmp_path):
    """As Ctrl-C of a terminal does, which reaches all processes that were started there."""
    options["training"].update(epochs=2000, checkpoint_every=2000, evaluate_every=2000)
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    at_work = tmp_path / "search" / ".work.1"
    make(at_work, whoami())
    script = "import json, sys; from ipu_chem.scaling.worker import train_elsewhere as t; t(json.loads(sys.argv[1]))"
    words = [sys.executable, "-c", script, json.dumps(job_of(candidate, 1.0, 1, at_work))]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    until(lambda: any(trained(tmp_path / "search").values()), process)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert (candidate.folder / "checkpoints/last.safetensors").is_file()
    assert holder_of(candidate.folder) is None


def test_a_worker_that_dies_again_and_again_is_named_and_the_others_are_trained(options, tmp_path, monkeypatch):
    candidates = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    candidates[0].folder.parent.mkdir()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with opened("executors_here:Dead", 1, tmp_path) as engine:
        with pytest.raises(ValueError, match=r"learning_rate=0.003: its worker failed 3 times \(.*worker is gone\)"):
            train_all(candidates, 1.0, progress=False, engine=engine)


def killed_once(candidate, budget, threads):
    """In the place of training: the first time its process is killed."""
    import os

    from ipu_chem.scaling.worker import train_candidate

    candidate.folder.mkdir(parents=True, exist_ok=True)
    mark = candidate.folder / "killed"
    if candidate.seed == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return train_candidate(candidate, budget, threads)


@pytest.mark.slow
def test_a_process_that_dies_takes_no_other_candidate_with_it(options, tmp_path, monkeypatch):
    candidates = make_candidates(options, {"training.seed": [0, 1, 2]}, tmp_path / "search")
    monkeypatch.setattr("ipu_chem.scaling.campaign.train_candidate", killed_once)
    reached = train_all(candidates, 1.0, jobs=2, progress=False)
    assert [one.status for one in reached] == ["finished"] * 3
    assert [path.parent.name for path in (tmp_path / "search").glob("*/killed")] == ["base,seed=1"]
    assert [path.name for path in sorted((tmp_path / "search").glob("*/.claim.*"))] == [".claim.1.free"] * 3


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("slurm", "choose processes, submitit, dask, dask:ADDRESS or module:factory"),
        ("no_such_module:factory", "No module named 'no_such_module'; give a module that Python finds"),
        ("executors_here:nothing", "executors_here has no nothing"),
        ("executors_here:GRID.x", "executors_here has no GRID.x"),
        ("executors_here:__doc__", "__doc__ cannot be called"),
        ("processes:3", "processes takes no options; give executor=processes and jobs=3"),
        (".executors_here:x", ".executors_here cannot be imported .TypeError"),
    ],
)
@pytest.mark.parametrize("options_of", [SearchOptions, StudyOptions])
def test_engines_that_there_are_none_of_are_refused_with_the_options(monkeypatch, options_of, word, words):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(ValueError, match=words):
        options_of(executor=word)


def test_what_a_factory_returns_is_checked(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for word, words in (
        ("no_executor", "has no submit and no shutdown"),
        ("needs_more", "gives no executor .TypeError"),
    ):
        with pytest.raises(ValueError, match=words), opened(f"executors_here:{word}", 1, tmp_path):
            pass


@pytest.mark.parametrize(("word", "library"), [("submitit:local", "submitit"), ("dask", "distributed")])
def test_a_library_that_is_missing_is_named(monkeypatch, word, library):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(ValueError, match=rf"executor={word} needs .*{library}: pip install 'ipu-chem\[cluster\]'"):
        check_executor(word)


@pytest.mark.skipif(not INSTALLED["submitit"], reason="submitit was NOT tested: it is not installed")
def test_options_of_submitit(tmp_path):
    with pytest.raises(ValueError, match="'pbs' is neither local, slurm nor NAME=VALUE"):
        check_executor("submitit:pbs")
    with pytest.raises(ValueError, match=r"'\[' is no value of slurm_exclude"):
        check_executor("submitit:slurm_exclude=[")
    with pytest.raises(ValueError, match="submitit refuses it"), opened("submitit:local,colour=3", 1, tmp_path):
        pass
    with opened("submitit:local,timeout_min=3", 3, tmp_path) as engine:
        assert (engine.at_once, engine.here) == (3, False)


@pytest.mark.skipif(not INSTALLED["distributed"], reason="dask was NOT tested: it is not installed")
def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ipu_chem.executors._ANSWERS_WITHIN", 1)
    with pytest.raises(ValueError, match="no scheduler of dask answers there .*`dask scheduler`"):
        with opened("dask:tcp://127.0.0.1:9", 1, tmp_path):
            pass


def test_workers_of_another_version_or_without_the_folder_are_refused(options, tmp_path):
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    job = job_of(candidate, 1.0, 1, tmp_path / "search" / ".work.1")
    assert "give an --out on a file system that all workers share" in train_elsewhere(job)["refused"]
    refused = train_elsewhere({**job, "version": "0.0.0"})["refused"]
    assert "and 0.0.0 is needed: install the same version everywhere" in refused
