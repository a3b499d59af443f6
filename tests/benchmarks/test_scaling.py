"""The scaling benchmark: a worker trains, counts what it trained on, and does so again to the bit."""

import sys
import time

import numpy as np
import pytest

from benchmarks import scaling


def test_a_worker_measures_training(monkeypatch):
    monkeypatch.setattr(scaling, "MICRO_BATCH", 2)
    runs = [scaling.work(2, 3, "cpu", False, time.time()) for _ in range(2)]
    assert len(runs[0]["losses"]) == 3 and np.isfinite(runs[0]["losses"]).all()
    assert len(set(runs[0]["losses"])) == 3  # the weights move
    assert runs[0]["losses"] == runs[1]["losses"]
    assert runs[0]["samples"] == runs[1]["samples"] > 3 * 4  # more than one molecule to a pack
    assert runs[0]["cpu"] > 0 and 0 < runs[0]["first"] < 60


def test_throughput_is_compared_per_second_of_either_kind():
    alone = {"samples": 100, "seconds": 10.0, "cpu": 8.0}
    two = {"samples": 200, "seconds": 12.5, "cpu": 20.0}
    assert scaling._ratio(two, alone, "seconds") == pytest.approx(1.6)
    assert scaling._ratio(two, alone, "cpu") == pytest.approx(0.8)


def test_replicas_that_cannot_be_shared_out_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--processes", "2", "3"])
    with pytest.raises(SystemExit):
        scaling.main()
    assert "every number must divide the last" in capsys.readouterr().err
