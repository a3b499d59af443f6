"""Distances from the training molecules in what a model has learned: measured, kept, and said before anything moves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.data.molecule import Molecule
from ipu_chem.models.schnet import SchNet
from ipu_chem.prediction.calibration import calibrate
from ipu_chem.prediction.predict import predict_file
from ipu_chem.reports.report import write_report
from ipu_chem.tasks.latents import has_latents, keep_domain, known_domain, latents_in_order
from ipu_chem.train import train
from ipu_chem.trained_run import TrainedRun
from ipu_chem.uncertainty.domain import FILE, domain_of, read_domain, write_domain


def test_distances_are_those_of_mahalanobis():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4, 4))
    train, validation = rng.normal(size=(4000, 4)) @ mixed + 3.0, rng.normal(size=(2000, 4)) @ mixed + 3.0
    domain = domain_of(train, validation, validation[:5])
    inverse = np.linalg.inv(np.cov(train.T))
    centered = validation - train.mean(0)
    expected = np.sqrt(np.einsum("ki,ij,kj->k", centered, inverse, centered) / 4)
    np.testing.assert_allclose(domain.distances(validation), expected, rtol=0.02)
    assert (domain.distances(validation) > domain.limit).sum() == 2 and len(domain.held_out) == 5
    assert domain.distances(train.mean(0)[None] + 20.0 * mixed[:1])[0] > domain.limit


@pytest.mark.parametrize("train", [np.ones((3, 2)), np.random.default_rng(0).normal(size=(3, 8))])
def test_few_molecules_and_features_that_do_not_vary_have_distances(train):
    domain = domain_of(train, train, np.zeros((0, train.shape[1])))
    assert np.isfinite(domain.distances(train + 1.0)).all() and len(domain.held_out) == 0
    assert (domain.distances(train + 100.0) > domain.limit).all()


def test_a_damaged_file_is_refused_and_none_is_no_error(tmp_path):
    assert known_domain(tmp_path, {}) is None
    made = domain_of(np.eye(3), np.eye(3), np.eye(3))
    path = write_domain(tmp_path, made)
    back = read_domain(tmp_path)
    assert np.array_equal(back.whitening, made.whitening) and back.limit == made.limit
    assert known_domain(tmp_path, {"progress": {"step": 7, "best": 1.0}}) is None  # of another checkpoint
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"domain.npz is damaged .*; `ipu-chem evaluate .* --calibrate` makes it anew"):
        read_domain(tmp_path)


@pytest.fixture
def run(options):
    options["data"].update(validation=12, test=6)
    train(from_dict(options))
    return Path(options["out"])


def test_a_run_keeps_its_domain_and_doubts_what_is_outside(run, tmp_path, capsys):
    trained = TrainedRun.load(run)
    domain = known_domain(run, trained.state)
    assert main(["evaluate", str(run), "--calibrate"]) == 0
    again = known_domain(run, trained.state)
    np.testing.assert_allclose(again.whitening, domain.whitening, rtol=1e-6)
    np.testing.assert_allclose(again.held_out, domain.held_out, rtol=1e-6)
    assert domain is not None and len(domain.held_out) == 6 and np.isfinite(domain.held_out).all()
    (tmp_path / "in.smi").write_text("CCO\nFC(F)(F)C(F)(F)C(F)(F)F\n")
    capsys.readouterr()
    predict_file(run, tmp_path / "in.smi", tmp_path / "out.csv", workers=1)
    narrow = domain._replace(limit=0.0)
    write_domain(run, narrow)
    predict_file(run, tmp_path / "in.smi", tmp_path / "again.csv", workers=1)
    said = capsys.readouterr().err
    assert "molecules are farther from the training molecules than 99.9 % of the validation molecules" in said
    assert "the first is line 1 (CCO)" in said
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_features_are_means_of_what_the_head_takes_with_and_without_packs(run):
    calibrate(TrainedRun.load(run))
    trained = TrainedRun.load(run)
    assert has_latents(trained.new_model()) and not has_latents(torch.nn.Linear(2, 2))
    task = trained.loaded_task()
    model = task.model()
    model.load_state_dict(trained.weights)
    together = latents_in_order(model, task.loader("validation"))
    store = task.store
    chosen = [(store["z"][item], store["pos"][item]) for item in task.items["validation"][:3]]
    alone = [trained.prepare([Molecule(z, pos)]).loader for z, pos in chosen]
    single = np.concatenate([latents_in_order(trained.new_model(), loader) for loader in alone])
    np.testing.assert_allclose(single, together[:3], rtol=1e-3, atol=1e-3)  # positions are in 16 bits
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_the_report_shows_errors_by_distance(run):
    pytest.importorskip("matplotlib", reason="figures were NOT drawn: matplotlib is not installed")
    pytest.importorskip("jinja2")
    words = "errors by distance from the training molecules"
    assert words in write_report(run).read_text(encoding="utf-8")
    (run / FILE).unlink()
    assert words not in write_report(run).read_text(encoding="utf-8")


def test_of_many_molecules_some_stand_for_all(run):
    task: Any = TrainedRun.load(run).loaded_task()
    every, some = keep_domain(task, run), keep_domain(task, run, most=4)
    assert len(every.held_out) == 6 and len(some.held_out) == 0
    assert np.isfinite(some.whitening).all() and not np.allclose(some.mean, every.mean)
    assert some.checkpoint == every.checkpoint == read_domain(run).checkpoint


def test_a_model_whose_head_takes_something_else_keeps_no_domain(run, capsys, monkeypatch):
    monkeypatch.setattr(SchNet, "forward", lambda self, graph: self.head(self.embedding.weight))
    task: Any = TrainedRun.load(run).loaded_task()
    (run / FILE).unlink()
    assert keep_domain(task, run) is None and not (run / FILE).exists()
    assert "keeps no distances from its training molecules: its model's head does not" in capsys.readouterr().err
