"""Atomic files and folders: the old content or the new, never half of it, and nothing left behind."""

import errno
import os
import pickle
import stat
import subprocess
import sys
import threading

import pytest

from packing import files
from packing.files import DiskFull, atomic_file, atomic_folder, host_name, read_folder, remove_leftovers


class Killed(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("error", [ValueError, OSError, Killed])
@pytest.mark.parametrize("exists", [True, False])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error, exists):
    path = tmp_path / "plan.npz"
    if exists:
        path.write_bytes(b"old")
    with pytest.raises(error):
        with atomic_file(path) as file:
            file.write(b"half of the new")
            file.flush()
            assert path.exists() == exists and (not exists or path.read_bytes() == b"old")
            raise error()
    assert [entry.name for entry in tmp_path.iterdir()] == (["plan.npz"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_failure_of_the_system_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "plan.npz"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        with atomic_file(path) as file:
            file.write(b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_success_replaces_the_file_makes_folders_and_keeps_the_usual_permissions(tmp_path):
    path = tmp_path / "a" / "b" / "report.txt"
    with atomic_file(str(path), "w") as file:
        file.write("Ångström\n")
    assert path.read_text(encoding="utf-8") == "Ångström\n"
    with atomic_file(path) as file:
        file.write(b"second")
    assert path.read_bytes() == b"second" and [entry.name for entry in path.parent.iterdir()] == ["report.txt"]
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_new_name_appears_only_after_the_content_is_on_disk(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, _n=name, _o=original: (order.append(_n), _o(*a))[1])
    with atomic_file(tmp_path / "x") as file:
        file.write(b"1")
    assert order == ["fsync", "replace", "fsync"], "content, rename, folder"


@pytest.mark.parametrize("exists", [True, False])
def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path, exists):
    path = tmp_path / "store"
    if exists:
        path.mkdir()
        (path / "old.npy").write_bytes(b"old")
    with pytest.raises(Killed):
        with atomic_folder(path) as folder:
            (folder / "new.npy").write_bytes(b"new")
            raise Killed()
    assert [entry.name for entry in tmp_path.iterdir()] == (["store"] if exists else [])
    assert not exists or [entry.name for entry in path.iterdir()] == ["old.npy"]


def test_a_folder_that_cannot_be_swapped_in_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "store"
    path.mkdir()
    (path / "old.npy").write_bytes(b"old")
    replace, calls = os.replace, []

    def third_fails(source, target):
        calls.append(source)
        if len(calls) == 3:  # the first finds a folder there, the second moves that aside
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(files.os, "replace", third_fails)
    with pytest.raises(OSError, match="Input/output"):
        with atomic_folder(path) as folder:
            (folder / "new.npy").write_bytes(b"new")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert [entry.name for entry in path.iterdir()] == ["old.npy"]


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "store") as folder:
            (folder / f"{content}.npy").write_bytes(b"1")
        assert [entry.name for entry in (tmp_path / "store").iterdir()] == [f"{content}.npy"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    usual = tmp_path / "usual"
    usual.mkdir()
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "deep" / ".store.abc.tmp").mkdir(parents=True)
    (tmp_path / "deep" / ".store.abc.tmp" / "half.npy").write_bytes(b"half")
    (tmp_path / ".last.safetensors.xyz.tmp").write_bytes(b"half")
    for name in ("last.safetensors", "notes.tmp", ".hidden"):
        (tmp_path / name).write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hidden", "deep", "last.safetensors", "notes.tmp"]


def dead_process():
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, text=True).stdout)


def test_the_next_writer_removes_what_killed_ones_left_and_nothing_of_living_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_cleaned", set())
    dead, host = dead_process(), host_name()
    gone = [f".a.npz.{dead}@{host}.abc.tmp", f".store.{dead}@{host}.abc.tmp", f".x.{os.getpid()}@{host}.abc.tmp"]
    kept = [f".a.npz.{os.getppid()}@{host}.abc.tmp", f".a.npz.{dead}@elsewhere.abc.tmp", ".other.tmp", "a.npz"]
    for name in gone + kept:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / gone[1]).unlink()
    (tmp_path / gone[1]).mkdir()
    with atomic_file(tmp_path / "mine") as file:
        assert f".mine.{os.getpid()}@{host}." in file.name
        with atomic_folder(tmp_path / "folder"):
            pass
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, os.path.basename(file.name), "folder"])


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_reader_sees_the_old_folder_or_the_new_one(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path, seen, ended = tmp_path / "store", [], threading.Event()

    def write(number):
        with atomic_folder(path) as folder:
            for name in "abc":
                (folder / name).write_text(str(number))

    def read():
        while not ended.is_set():
            seen.append(read_folder(path, lambda folder: tuple((folder / name).read_text() for name in "abc")))

    write(0)
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(error for error in [caught(read)] if error))
    reader.start()
    for number in range(1, 25):
        write(number)
    ended.set()
    reader.join()
    assert not errors and seen and all(len(set(one)) == 1 for one in seen)
    assert os.listdir(tmp_path) == ["store"]


def caught(function):
    try:
        function()
    except Exception as error:
        return error


def test_a_folder_between_two_renames_of_a_killed_writer_returns(tmp_path):
    aside = tmp_path / f".store.{dead_process()}@{host_name()}.abc.old"
    (aside / "store").mkdir(parents=True)
    (aside / "store" / "a").write_text("old")
    assert read_folder(tmp_path / "store", lambda folder: (folder / "a").read_text()) == "old"
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "absent", lambda folder: (folder / "a").read_text())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_with_its_free_space(tmp_path, number):
    with pytest.raises(
        DiskFull, match=r"deep/plan could not be written \(.*, [\d,.]+ MB free\); what was there"
    ) as error:
        with atomic_file(tmp_path / "deep" / "plan"):
            raise OSError(number, os.strerror(number))
    assert error.value.errno == number and str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(DiskFull, match="data could not be written"), atomic_folder(tmp_path / "data"):
        raise OSError("100 requested and 0 written")  # of numpy
    with pytest.raises(OSError, match="Input/output") as other, atomic_file(tmp_path / "plan"):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(other.value, DiskFull)
