"""Claims of folders: one process at a time, nobody who is gone holds any, and whoever slept sees that it lost."""

import errno
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ipu_chem import claims, heartbeats
from ipu_chem.claims import Claimed, ClaimLost, claimed, holder_of
from ipu_chem.heartbeats import clock, is_live, make, whoami

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from ipu_chem.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def numbers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_at_a_time_and_numbers_rise(tmp_path):
    folder = tmp_path / "candidate"
    assert holder_of(folder) is None
    with claimed(folder) as claim:
        claim.check()
        assert holder_of(folder) == folder / ".claim.1"
        assert (folder / ".claim.1").stat().st_mode & 0o444 == 0o444  # for other users who share it
        with pytest.raises(Claimed, match=f"in use by process {os.getpid()} on {heartbeats.host_name()}, since 20"):
            with claimed(folder):
                pass
    assert numbers(folder) == [".claim.1.free"] and holder_of(folder) is None
    with claimed(folder):
        assert numbers(folder) == [".claim.2"]
    assert numbers(folder) == [".claim.2.free"]


def test_of_many_that_start_at_once_one_has_it(tmp_path):
    inside, most, done = [], [], []

    def work():
        while len(done) < 40:
            try:
                with claimed(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
                    done.append(1)
            except Claimed:
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) >= 40 and set(most) == {1}
    assert len(numbers(tmp_path)) == 1 and int(numbers(tmp_path)[0].split(".")[2]) >= len(done)


def test_a_killed_process_frees_its_folder_at_once(tmp_path):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Claimed, match=f"process {process.pid}"), claimed(tmp_path):
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # gone, and not waited for: a zombie holds nothing
        began = time.monotonic()
        with claimed(tmp_path):
            assert time.monotonic() - began < 5
            assert numbers(tmp_path) == [".claim.2"]


def test_another_machine_holds_it_as_long_as_it_touches_its_claim(tmp_path):
    path = tmp_path / ".claim.7"
    make(path, {**whoami(), "host": "elsewhere", "pid": 1})
    with pytest.raises(Claimed, match="process 1 on elsewhere"), claimed(tmp_path):
        pass
    old = clock(tmp_path) - heartbeats.STALE - 1
    os.utime(path, (old, old))
    with claimed(tmp_path):
        assert numbers(tmp_path) == [".claim.8"]


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_of_machines_do_not_count(tmp_path, monkeypatch, hours):
    """A claim that was just touched is live, and an old one is not, whatever time this machine believes it is."""
    path = tmp_path / ".claim.1"
    make(path, {**whoami(), "host": "elsewhere"})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
    assert is_live(path)
    os.utime(path, (now - 61, now - 61))
    assert not is_live(path)


def test_a_process_that_is_seen_to_run_here_may_be_slow(tmp_path):
    """For want of cores or memory it may not touch its claim for a minute, and works on all the same."""
    with claimed(tmp_path) as slow:
        old = clock(tmp_path) - heartbeats.STALE - 1
        os.utime(slow.path, (old, old))
        with pytest.raises(Claimed), claimed(tmp_path):
            pass
        slow.check()


def test_a_slow_process_sees_that_its_claim_was_taken(tmp_path, monkeypatch):
    with claimed(tmp_path) as slow:
        old = clock(tmp_path) - heartbeats.STALE_HERE - 1
        os.utime(slow.path, (old, old))  # as if it had been stopped for a minute
        with claimed(tmp_path) as other:
            slow.check(always=False)  # asked within the last second
            with pytest.raises(ClaimLost, match="taken over by another process while this one did not run"):
                slow.check()
            slow.release()  # and takes nothing from the other one
            other.check()
        assert numbers(tmp_path) == [".claim.2.free"]
        monkeypatch.setattr(claims, "_CHECKED_EVERY", 0.0)
        with pytest.raises(ClaimLost):
            slow.check(always=False)


def test_a_number_that_was_given_back_is_not_made_again(tmp_path, monkeypatch):
    """A process slept between reading the numbers and making its own, while others had come and gone."""
    read = claims._entries
    with claimed(tmp_path):
        pass
    seen = [read(tmp_path)]  # .claim.1.free
    with claimed(tmp_path):
        pass  # now .claim.2.free
    monkeypatch.setattr(claims, "_entries", lambda folder: seen.pop() if seen else read(folder))
    with claimed(tmp_path):
        assert numbers(tmp_path) == [".claim.3"]


def test_without_links_a_file_is_made_by_one_alone(tmp_path, monkeypatch):
    def link(*_):
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", link)
    with claimed(tmp_path):
        with pytest.raises(Claimed), claimed(tmp_path):
            pass
    assert numbers(tmp_path) == [".claim.1.free"]


def test_a_claim_is_touched_and_a_removed_folder_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeats, "TOUCHED_EVERY", 0.01)
    folder = tmp_path / "candidate"
    with claimed(folder) as claim:
        os.utime(claim.path, (0, 0))
        deadline = time.monotonic() + 20
        while claim.path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        claim.path.unlink()
        with pytest.raises(ClaimLost):
            claim.check()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_claim_that_cannot_be_read_is_not_taken(tmp_path, monkeypatch, number):
    """Too many open files, or a server that does not answer, say nothing of who is at work."""
    path = tmp_path / ".claim.7"
    make(path, {**whoami(), "host": "elsewhere"})

    def unreadable(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(heartbeats, "_touched", unreadable)
    with pytest.raises(Claimed), claimed(tmp_path):
        pass
    monkeypatch.setattr(os, "scandir", unreadable)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))), claimed(tmp_path):
        pass
    monkeypatch.undo()
    assert numbers(tmp_path) == [".claim.7"]


def test_a_claim_that_cannot_be_made_sure_of_is_lost(tmp_path, monkeypatch):
    def unreadable(*_):
        raise OSError(errno.EIO, "Input/output error")

    with claimed(tmp_path) as claim:
        monkeypatch.setattr(os, "scandir", unreadable)
        with pytest.raises(ClaimLost):
            claim.check()
        monkeypatch.undo()
        claim.check()


def test_on_a_full_disk_without_links_no_empty_claim_stays(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    synced = [os.fsync]

    def fsync(number):
        synced.append(number)
        if len(synced) == 3:  # of the file in its place; the one beside it had room
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="could not be written"), claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    with claimed(tmp_path):
        assert numbers(tmp_path) == [".claim.1"]
