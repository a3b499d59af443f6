"""Searches that processes share by their folder alone: the same report, each run once, whoever is killed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
from shared_search import ROOT, command_of, report, start, trained, until

import ipu_chem
from ipu_chem import heartbeats
from ipu_chem.claims import claimed, holder_of
from ipu_chem.cli import main
from ipu_chem.scaling import worker
from ipu_chem.scaling.candidates import make_candidates, read_progress
from ipu_chem.scaling.members import OWNER
from ipu_chem.scaling.worker import NotHere, train_candidate


@pytest.fixture
def options(options):
    options["training"].update(epochs=5, evaluate_every=5, checkpoint_every=5)
    return options


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_find_what_one_does(options, tmp_path):
    command = command_of(tmp_path, options)
    assert main([*command, str(tmp_path / "alone")]) == 0
    out = tmp_path / "shared"
    first = start(tmp_path, [*command, str(out)])
    others = [start(tmp_path, [*command, str(out)]) for _ in range(2)]
    until(lambda: any(holder_of(folder) for folder in out.glob("micro*")), first)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    said = [process.communicate(timeout=300)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0], said
    assert report(out) == report(tmp_path / "alone")
    steps = trained(out)
    assert steps == trained(tmp_path / "alone") and len(steps) == 6
    assert any("other processes are at work" in text for text in said)
    left = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert len([name for name in left if name.startswith(".member")]) <= 1  # of the killed one
    assert not [path for path in out.glob("*/.claim.*") if path.suffix != ".free"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_stopped_leaves_its_candidates_to_others(options, tmp_path, number):
    command = command_of(tmp_path, options)
    out = tmp_path / "shared"
    process = start(tmp_path, [*command, str(out)])
    until(lambda: trained(out) and any(trained(out).values()), process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped" in said
    assert not [path for path in out.glob("*/.claim.*") if path.suffix != ".free"] and not list(out.glob(".member.*"))
    assert main([*command, str(out)]) == 0
    assert all(steps == list(range(1, len(steps) + 1)) for steps in trained(out).values() if len(steps) > 1)


def test_a_slow_process_whose_candidate_was_taken_stops_before_it_writes(options, tmp_path, monkeypatch):
    (candidate,) = make_candidates(options, {"optimizer.learning_rate": [0.003]}, tmp_path / "search")
    path, taken = candidate.folder / ".claim.1", []

    class Slept:
        """Stands for a process that does not run for a minute after its third step, while another takes over."""

        asked = 0

        def is_set(self):
            self.asked += 1
            if self.asked == 4:
                old = heartbeats.clock(candidate.folder) - heartbeats.STALE_HERE - 1
                os.utime(path, (old, old))
                claim = claimed(candidate.folder)
                taken.append((claim, claim.__enter__()))
                taken.append((candidate.folder / "metrics.jsonl").read_bytes())
            return False

    monkeypatch.setattr("ipu_chem.parallel._stop", Slept())
    monkeypatch.setattr("ipu_chem.claims._CHECKED_EVERY", 0.0)
    with pytest.raises(NotHere, match="taken over by another process while this one did not run"):
        train_candidate(candidate, 1.0, 1)
    (context, claim), before = taken
    assert (candidate.folder / "metrics.jsonl").read_bytes() == before and read_progress(candidate) is None
    assert not (candidate.folder / "checkpoints").exists()
    claim.check()
    with pytest.raises(NotHere, match="is in use by process"):
        train_candidate(candidate, 1.0, 1)
    context.__exit__(None, None, None)
    monkeypatch.setattr("ipu_chem.parallel._stop", None)
    assert train_candidate(candidate, 1.0, 1).status == "finished"
    calls = []
    monkeypatch.setattr(worker, "_train", lambda *arguments: calls.append(arguments))
    assert train_candidate(candidate, 1.0, 1) == read_progress(candidate) and not calls  # by another, a moment ago


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--keep", "3"], r"with --keep=3, and this command has 2: give the same options and version everywhere"),
        (["--optimizer.max_grad_norm", "3.5"], r"with config.optimizer.max_grad_norm=3.5, and this command has"),
        (["version"], r"with version='0.0.0', and this command has"),
    ],
)
def test_processes_that_ask_for_other_things_are_refused_while_one_is_at_work(
    options, tmp_path, monkeypatch, capsys, change, words
):
    out = tmp_path / "search"
    command = command_of(tmp_path, options)
    said = {}

    def second(candidates, options, progress=True):
        """In the place of training: the same command comes again, without what was changed."""
        monkeypatch.setattr("ipu_chem.__version__", version)
        said["status"] = main([*command, str(out)])
        raise ValueError("first")

    version = ipu_chem.__version__
    if change == ["version"]:
        monkeypatch.setattr("ipu_chem.__version__", "0.0.0")
        change = []
    monkeypatch.setattr("ipu_chem.scaling.search.search", second)
    assert main([*command, str(out), *change]) == 1
    err = capsys.readouterr().err
    assert said["status"] == 1 and re.search(words, err), err
    assert f"{out} is in use by process {os.getpid()} on " in err
    assert not out.exists()  # nothing was trained


def test_a_folder_of_another_command_is_refused(options, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.json").write_text("{}")
    assert main([*command_of(tmp_path, options), str(out)]) == 1
    assert f"{out} is the folder of an `ipu-chem scale`: choose another --out" in capsys.readouterr().err
    (out / "plan.json").unlink()
    (out / OWNER).write_text('{"command": "scale"}')
    assert main([*command_of(tmp_path, options), str(out)]) == 1
    assert "is the folder of an `ipu-chem scale`" in capsys.readouterr().err


FULL = """
import resource, signal, sys
from ipu_chem.cli import main
from ipu_chem.scaling import campaign, worker

def train(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    return worker.train_candidate(*arguments)

class Here:
    class pool:
        def submit(function, *arguments):
            from concurrent.futures import Future
            future = Future()
            try:
                future.set_result(train(*arguments))
            except BaseException as error:
                future.set_exception(error)
            return future
    here, at_once, threads = True, 1, 1
    def stop():
        pass

if __name__ == "__main__":
    import contextlib, ipu_chem.scaling.search as search
    search.opened = lambda *_: contextlib.nullcontext(Here)
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_with_a_full_disk_says_so_and_another_goes_on(options, tmp_path):
    command = command_of(tmp_path, options, grid={"optimizer.learning_rate": [0.001, 0.003]})
    out = tmp_path / "search"
    (tmp_path / "full.py").write_text(FULL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = subprocess.run(
        [sys.executable, str(tmp_path / "full.py"), *command, str(out)], env=environment, capture_output=True, text=True
    )
    assert full.returncode == 1 and "could not be written" in full.stderr
    # The latter of arrays in the cache, where no test before has written them: numpy knows no other reason.
    assert "File too large" in full.stderr or "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr and not [one for one in out.glob("*/.claim.*") if one.suffix != ".free"]
    assert main([*command, str(out)]) == 0
    assert len(report(out)["rows"]) == 2
