"""Locks of folders: who holds one is named, and nobody who is gone holds any."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipu_chem import locks
from ipu_chem.locks import LOCK, FolderInUse, in_turn, locked

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from ipu_chem.locks import in_turn, locked
with locked(sys.argv[1]) if sys.argv[2] == "run" else in_turn(sys.argv[1], "preparing"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Start a process that holds a folder."""
    started = []

    def start(path, manner="run"):
        command, environment = [sys.executable, "-c", HOLD, str(path), manner], dict(os.environ, PYTHONPATH=str(ROOT))
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path, hold):
    folder = tmp_path / "run"
    process = hold(folder)
    began = time.monotonic()
    with pytest.raises(FolderInUse) as refused, locked(folder):
        pass
    said = str(refused.value)
    assert time.monotonic() - began < 1 and "\n" not in said
    assert f"in use by process {process.pid} on {locks.host_name()} since 20" in said and "run" in said
    assert f"stop it with `kill {process.pid}`, or choose another --out" in said
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / LOCK).is_file()
    with locked(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert not (folder / LOCK).exists()


def test_a_folder_in_which_nothing_was_written_goes(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "new"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=f"{folder} cannot be written .*; choose another --out"), locked(folder):
            pass


@pytest.mark.parametrize("flock", [True, False])
def test_another_host_holds_a_folder_as_long_as_it_touches_the_lock(tmp_path, monkeypatch, capsys, flock):
    if not flock:
        without_flock(monkeypatch)
    path = tmp_path / (LOCK if flock else LOCK + ".held")
    there = {"host": "elsewhere", "pid": os.getpid(), "since": "then", "command": "ipu-chem train", "boot": "other"}
    path.write_text(json.dumps(there))
    with pytest.raises(FolderInUse, match=r"on elsewhere since then .* stop it there .* free \d+ s from now"):
        with locked(tmp_path):
            pass
    os.utime(path, (time.time() - 120, time.time() - 120))
    with locked(tmp_path):
        assert json.loads(path.read_text())["host"] == locks.host_name()
    assert not path.exists()
    assert flock or "has no locks (flock)" in capsys.readouterr().err


def test_without_flock_a_file_is_the_lock(tmp_path, monkeypatch):
    without_flock(monkeypatch)
    with locked(tmp_path):
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    there = {"host": locks.host_name(), "pid": int(gone.stdout), "since": "then", "command": "", "boot": ""}
    (tmp_path / (LOCK + ".held")).write_text(json.dumps(there))
    with locked(tmp_path):
        pass


def without_flock(monkeypatch):
    def flock(*_):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def test_a_lock_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_TOUCHED_EVERY", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_after_the_other(tmp_path, hold, capsys):
    process = hold(tmp_path / "parts" / "lock", "turn")
    import threading

    threading.Timer(0.2, process.kill).start()
    with in_turn(tmp_path / "parts" / "lock", "preparing"):
        assert process.wait() == -signal.SIGKILL
    assert capsys.readouterr().err == "waiting for another process that is preparing\n"
    assert not (tmp_path / "parts" / "lock").exists()
