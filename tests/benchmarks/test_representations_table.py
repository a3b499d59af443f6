"""Comparison of representations: intervals, and runs that differ in representation and seed alone."""

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.representations import QUICK, candidates_of, mean_and_interval, shown
from ipu_chem.config import from_dict, to_dict


def test_intervals_are_those_of_student():
    assert mean_and_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)), rel=1e-6)
    assert shown([1.0, 1.0]) == "1.0000 ± 0.0000" and shown([1.0], 2) == "1.00"


def test_runs_differ_in_representation_and_seed_alone(tmp_path):
    made = candidates_of(QUICK, ["selfies", "smiles"], 2, tmp_path / "nowhere", tmp_path / "out", 1e-3)
    configs = [to_dict(from_dict(one.config)) for one in made]
    assert {(one["data"]["representation"], one["training"]["seed"]) for one in configs} == {
        ("selfies", 0),
        ("selfies", 1),
        ("smiles", 0),
        ("smiles", 1),
    }
    for config in configs:
        config["data"]["representation"] = config["training"]["seed"] = config["out"] = None
    assert all(config == configs[0] for config in configs) and configs[0]["data"]["name"] == "nci"
