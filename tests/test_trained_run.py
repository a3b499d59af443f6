"""A finished run in memory: predictions in real units, the same as those of files, splits and simulations."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support import CHAINS

from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.prediction.predict import predict_file
from ipu_chem.simulation.batch import evaluate_many
from ipu_chem.train import evaluate
from ipu_chem.trained_run import TrainedRun

WATER = Molecule(np.array([8, 1, 1], np.uint8), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), name="water")
METHANE = Molecule(
    np.array([6, 1, 1, 1, 1], np.uint8),
    0.63 * np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]], np.float64),
    name="methane",
)


def test_molecules_stores_and_atoms_are_predicted_alike(make_run):
    from ipu_chem.data.structures import to_atoms

    run = TrainedRun.load(make_run())
    found = run.predict([WATER, METHANE, WATER])
    assert found.shape == (3, 1) and found.dtype == np.float64
    assert found[0] == pytest.approx(found[2], rel=1e-9) and found[0] != pytest.approx(found[1], rel=1e-3)
    np.testing.assert_array_equal(run.predict(molecules_to_store([WATER, METHANE, WATER])), found)
    np.testing.assert_array_equal(run.predict([to_atoms(one) for one in (WATER, METHANE, WATER)]), found)
    energies = run.energies_forces([WATER, METHANE, WATER])
    np.testing.assert_allclose(energies.energies, found[:, 0], rtol=1e-7)
    assert energies.forces[1].shape == (5, 3) and energies.forces_std is None
    assert evaluate_many(run.folder, [METHANE]).energies[0] == pytest.approx(found[1, 0], rel=1e-7)
    assert run.predict([]).shape == (0, 1)


def test_what_the_readme_shows_runs(make_run, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "ipu_chem" / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(source, "README.md", "exec"), names)
    assert names["values"].shape == (1, 1) and names["found"].forces[0].shape == (9, 3)
    assert names["found"].energies[0] == pytest.approx(names["values"][0, 0], rel=1e-7)
    assert (tmp_path / "ethanol" / "model.safetensors").is_file()


def test_a_run_is_compiled_without_a_loss(make_run, monkeypatch):
    losses, compile = [], TorchBackend.compile
    monkeypatch.setattr(TorchBackend, "compile", lambda self, *args: losses.append(args[1:3]) or compile(self, *args))
    run = TrainedRun.load(make_run())
    run.predict([WATER])
    run.energies_forces([WATER])
    assert losses == [(None, None)] * 2


def test_the_model_is_there_and_loading_draws_no_numbers(make_run):
    folder, before = make_run(), torch.get_rng_state()
    run = TrainedRun.load(folder)
    model = run.model
    assert torch.equal(torch.get_rng_state(), before) and model is run.model and model is not run.new_model()
    weights = model.state_dict()
    assert not model.training and all(torch.equal(weights[name], value) for name, value in run.weights.items())
    assert run.config.model.name == "painn" and run.task.targets[0].name == "energy"


def test_what_a_run_cannot_take_is_named(make_run):
    run = TrainedRun.load(make_run())
    strange = WATER._replace(z=np.array([16, 1, 1], np.uint8))
    big = Molecule(np.full(60, 6, np.uint8), np.arange(180).reshape(60, 3) * 1.0)
    with pytest.raises(ValueError, match="molecule 1: it holds S, which no training molecule had"):
        run.predict([WATER, strange])
    prepared = run.prepare([strange, WATER])
    assert prepared.items.tolist() == [1] and sorted(prepared.reasons) == [0]
    np.testing.assert_allclose(run.predict(prepared), run.predict([WATER]), rtol=1e-9)
    assert run.task.budget["nodes"] < 60  # larger packs are made for larger molecules
    np.testing.assert_allclose(run.predict([big, WATER])[1], run.predict([WATER])[0], rtol=1e-5)
    np.testing.assert_allclose(run.predict([WATER, big])[1], run.predict([big])[0], rtol=1e-5)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        TrainedRun.load(run.folder / "nothing")


@pytest.mark.parametrize("target", ["size", "oxygen"])
def test_labels_of_text_are_those_of_files(text_run, tmp_path, target):
    run = TrainedRun.load(text_run(target=target))
    found = run.predict(CHAINS)
    predict_file(run.folder, tmp_path / "chains.csv", tmp_path / "out.csv", workers=1)
    with open(tmp_path / "out.csv", newline="") as file:
        written = [float(row[target]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found[:, 0], written, rtol=1e-6)
    assert evaluate(run.folder, "test") == run.evaluate("test")
    with pytest.raises(ValueError, match="has no molecules in a split 'tets'; it has train, validation, test"):
        run.evaluate("tets")
    with pytest.raises(ValueError, match=r"molecule 1 \(C1CC\)"):
        run.predict(["CCO", "C1CC"])
    with pytest.raises(ValueError, match="molecule 0: token .* not in the vocabulary"):
        run.predict(["C[Pt]C"])
    with pytest.raises(ValueError, match="on text, which knows no positions and no forces"):
        run.energies_forces([WATER])


def test_a_language_model_predicts_no_labels(text_run):
    run = TrainedRun.load(text_run())
    with pytest.raises(ValueError, match="learned no labels; `ipu-chem generate` writes molecules"):
        run.predict(CHAINS)
    assert run.loaded_task().store.fingerprint() == run.state["fingerprint"]
