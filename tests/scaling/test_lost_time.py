"""Seconds of runs that were killed are counted when they go on."""

import os
import time

import pytest

from ipu_chem.scaling.lost_time import finish, start


def written(folder, name, at):
    (folder / name).write_text("x")
    os.utime(folder / name, (at, at))


def test_a_part_that_was_killed_counts_up_to_its_last_line(tmp_path):
    counted = tmp_path / "candidate.json"
    assert start(tmp_path, counted) == 0
    now = time.time()
    written(tmp_path, "metrics.jsonl", now + 40)
    written(tmp_path, "log.txt", now + 10)
    assert start(tmp_path, counted) == pytest.approx(40, abs=2)
    written(tmp_path, "metrics.jsonl", now + 15)
    assert start(tmp_path, counted) == pytest.approx(55, abs=4)  # killed again
    finish(tmp_path)
    assert start(tmp_path, counted) == 0


def test_what_is_in_the_candidate_s_file_does_not_count_twice(tmp_path):
    counted = tmp_path / "candidate.json"
    start(tmp_path, counted)
    now = time.time()
    written(tmp_path, "metrics.jsonl", now + 40)
    written(tmp_path, "candidate.json", now + 41)  # killed before `finish`
    assert start(tmp_path, counted) == 0


def test_a_damaged_file_costs_the_seconds_and_not_the_run(tmp_path):
    start(tmp_path, tmp_path / "candidate.json")
    (tmp_path / "started.json").write_text("{")
    assert start(tmp_path, tmp_path / "candidate.json") == 0


@pytest.mark.parametrize("hours", [-5, 5])
def test_clocks_of_machines_do_not_make_seconds(tmp_path, monkeypatch, hours):
    """A part that was killed on a machine whose clock is hours from that of the file system took what it took."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
    counted = tmp_path / "candidate.json"
    assert start(tmp_path, counted) == 0
    written(tmp_path, "metrics.jsonl", (tmp_path / "started.json").stat().st_mtime + 40)
    assert start(tmp_path, counted) == pytest.approx(40, abs=0.1)
    assert start(tmp_path, counted) == pytest.approx(40 + 40, abs=2)  # as if its last line were of the second part
