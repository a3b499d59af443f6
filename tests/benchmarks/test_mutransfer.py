"""Learning rates across widths: both parametrizations begin with one model, and figures are those of the runs."""

import gzip
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))
from support import CHAINS

from benchmarks import mutransfer
from benchmarks.mutransfer import MUP, STANDARD, Setting, best_of, candidates_of, losses_of, shift
from ipu_chem.config import from_dict
from ipu_chem.models.registry import build_language_model
from ipu_chem.options import differences
from ipu_chem.scaling.candidates import Progress

TINY = Setting((32, 64), (-8, -7, -6), 48, 16, 1)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder of data with small molecules in place of MOSES."""
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "shared" / "data" / "smiles" / "moses_test.csv.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as file:
        file.write("SMILES,SPLIT\n" + "".join(f"{smiles},test\n" for smiles in CHAINS))
    return tmp_path / "shared"


@pytest.mark.slow
def test_it_trains_once_and_writes_what_it_prints(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mutransfer, "QUICK", TINY)
    command = ["--quick", "--shared", str(shared), "--out", str(tmp_path / "out")]
    assert mutransfer.main(command) == 0
    printed = capsys.readouterr().out
    runs = sorted((tmp_path / "out").glob("*/*/candidate.json"))
    assert len(runs) == 9 and "9 runs on 48 molecules of moses" in printed
    values = json.loads((tmp_path / "out" / "mutransfer.json").read_text())
    assert values["losses"][STANDARD]["32"] == values["losses"][MUP]["32"]
    for name, lines in values["losses"].items():
        for width, line in lines.items():
            folder, base = ("mup", ",mup_base_width=32") if (name, width) == (MUP, "64") else ("standard", "")
            for exponent, loss in zip(TINY.exponents, line):
                run = (
                    tmp_path / "out" / folder / f"hidden_features={width}{base},learning_rate={2.0**exponent:g},seed=0"
                )
                found = json.loads((run / "run.json").read_text())["results"]["validation"]["nats_per_token"]
                assert loss == pytest.approx(found, rel=1e-6) and f"{loss:.4f}" in printed
    assert (tmp_path / "out" / "mutransfer.png").read_bytes().startswith(b"\x89PNG")
    written = [run.stat().st_mtime_ns for run in runs]
    assert mutransfer.main(command) == 0
    assert [run.stat().st_mtime_ns for run in runs] == written
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == table


def test_at_the_base_width_both_parametrizations_are_one_model(tmp_path):
    """That is why it is trained once; and heads are as wide in all runs."""
    setting = Setting()._replace(exponents=(-8,))
    for candidate in candidates_of(setting, Path("nowhere"), 1, tmp_path):
        config, models = from_dict(candidate.config), []
        is_first = config.model.hidden_features == setting.widths[0]
        for base in (0, setting.widths[0]):
            torch.manual_seed(0)
            sizes = replace(config.model, mup_base_width=base).arguments()
            models.append(build_language_model(config.model.name, 30, 128, **sizes).model)
        for model in models:
            assert config.model.hidden_features == 32 * model.config()["num_heads"]
            assert all(layer.attention.scale == pytest.approx(32**-0.5) for layer in model.layers)
        plain, scaled = (model.state_dict() for model in models)
        assert all(torch.equal(value, scaled[name]) for name, value in plain.items()) == is_first
        plain, scaled = (model.learning_rate_multipliers() for model in models)
        assert (plain == scaled) == is_first


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    """All runs of two seeds."""
    return candidates_of(TINY, Path("nowhere"), 2, tmp_path_factory.mktemp("runs"))


def test_runs_differ_in_what_is_compared_and_nothing_else(candidates):
    assert len(candidates) == 3 * 3 * 2
    changed = {key for one in candidates for key, _, _ in differences(candidates[0].config, one.config)}
    varied = {"model.hidden_features", "model.mup_base_width", "optimizer.learning_rate", "training.seed"}
    assert changed == {*varied, "out"}
    widths = [one.config["model"]["hidden_features"] for one in candidates]
    assert widths == sorted(widths, reverse=True)


def test_losses_are_means_over_seeds_and_infinite_where_one_diverged(candidates):
    reached = []
    for one in candidates:
        base, rate = one.config["model"]["mup_base_width"], one.config["optimizer"]["learning_rate"]
        if base and one.seed and rate == 2.0 ** TINY.exponents[-1]:
            reached.append(Progress("diverged", 1, 6, 1.0, {}))
        else:
            reached.append(Progress("finished", 6, 6, 1.0, {"nats_per_token": base + one.seed + rate}))
    losses = losses_of(TINY, candidates, reached)
    plain = [rate + 0.5 for rate in TINY.rates]
    assert losses[STANDARD] == {32: plain, 64: plain}
    assert losses[MUP] == {32: plain, 64: [plain[0] + 32, plain[1] + 32, math.inf]}


def test_vertices_are_those_of_parabolas():
    exponents = (-9, -8, -7, -6)
    line = [math.exp(0.1 + 0.03 * (exponent + 7.7) ** 2) for exponent in exponents]
    best = best_of(line, exponents)
    assert (best.index, best.is_inside) == (1, True) and best.vertex == pytest.approx(-7.7)
    assert best_of([*line[:2], math.inf, math.inf], exponents) == (1, -8.0, False)
    assert best_of(line[::-1][2:], exponents[:2]) == (0, -9.0, False)
    assert best_of([1.0, 1.0, 1.0, 2.0], exponents) == (0, -9.0, False)
    wide = best_of([math.exp(0.03 * (exponent + 8.1) ** 2) for exponent in exponents], exponents)
    assert shift({64: best, 128: best, 256: wide}, (64, 128, 256)) == pytest.approx(-0.4)
    with pytest.raises(ValueError, match="all runs of one width diverged"):
        best_of([math.inf, math.nan], exponents[:2])
