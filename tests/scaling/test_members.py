"""Processes that join others in the folder of a search."""

import threading
import time

import pytest

from ipu_chem import heartbeats
from ipu_chem.config import RunConfig
from ipu_chem.scaling.members import joined


def join(folder, keep=2):
    return joined(folder, "search", {"keep": keep, "jobs": 1}, {"training.seed": [0, 1]}, RunConfig())


def test_others_are_counted_and_have_to_ask_for_the_same(tmp_path):
    folder = tmp_path / "out"
    with join(folder) as first, join(folder) as second:
        assert (first, second) == (0, 1)
        with pytest.raises(ValueError, match=r"with --keep=2, and this command has 3"), join(folder, keep=3):
            pass
    with join(folder, keep=3) as others:
        assert others == 0


def test_one_that_has_just_ended_asks_for_nothing(tmp_path, monkeypatch):
    """Its file went between two questions about it: nobody is refused for options that nobody has."""
    path = tmp_path / ".member.other"
    heartbeats.make(path, {**heartbeats.whoami(), "asked": {"command": "search"}})
    is_live = heartbeats.is_live

    def then_gone(one, now=None):
        found = is_live(one, now)
        one.unlink()
        return found

    monkeypatch.setattr(heartbeats, "is_live", then_gone)
    with join(tmp_path) as others:
        assert others == 0


def test_one_that_is_just_being_written_is_waited_for(tmp_path):
    """Where the file system has no links, a file is empty for an instant."""
    with join(tmp_path):
        (path,) = tmp_path.glob(".member.*")
        content = path.read_text()
        path.write_text("")

        def write():
            time.sleep(0.2)
            path.write_text(content)

        thread = threading.Thread(target=write)
        thread.start()
        with join(tmp_path) as others:
            assert others == 1
        thread.join()
