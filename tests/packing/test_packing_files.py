"""Atomic files and folders: the old content or the new, never half of it, and nothing left behind."""

import os
import stat

import pytest

from packing import files
from packing.files import atomic_file, atomic_folder, remove_leftovers


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

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", second_fails)
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
