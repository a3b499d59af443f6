"""Runs that begin with an earlier run's weights: they predict the same at first, and say what does not fit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import model_values

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.tasks.registry import load_task
from ipu_chem.train import train

Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])


SIZES = {"hidden_features": 8, "num_filters": 8, "num_interactions": 1, "num_gaussians": 8, "num_radial": 6}


def with_options(options, **changes):
    if "name" in changes.get("model", {}):  # each model has sizes of its own
        options = {**options, "model": model_values(changes["model"]["name"], **SIZES)}
    return {**options, **{key: {**options.get(key, {}), **value} if isinstance(value, dict) else value
                          for key, value in changes.items()}}  # fmt: skip


@pytest.fixture
def frames(tmp_path):
    """Options of a run on 40 frames of something like ethanol, with forces."""
    rng = np.random.default_rng(0)
    pos = rng.normal(0, 1.0, (9, 3)) * 2.5 + rng.normal(0, 0.05, (40, 9, 3))
    arrays = {"nuclear_charges": Z, "coords": pos, "energies": 50 * np.abs(pos[:, 0, 0]) - 97000}
    np.savez(tmp_path / "rmd17_ethanol.npz", forces=10 * rng.normal(size=pos.shape), **arrays)
    return {
        "data": {"name": "rmd17", "path": str(tmp_path), "cache": str(tmp_path / "cache"), "validation": 8, "test": 8},
        "model": model_values("schnet", **SIZES),
        "pack": {"nodes": 45, "positions": "float32"},
        "optimizer": {"learning_rate": 0.03},
        "training": {"epochs": 3, "progress": False, "report": False},
        "accelerator": "cpu",
        "torch": {"threads": 1},
        "out": str(tmp_path / "first"),
    }


def predictions(task, weights=None):
    """Energies of the test split in real units, with the weights that the run begins with unless others are given."""
    model = task.model().eval()
    if weights is not None:
        model.load_state_dict(weights)
    evaluator = task.evaluator("test")
    result = np.zeros((len(evaluator.loader.items), 1))
    for batch, positions in evaluator.loader.evaluation():
        with torch.no_grad():
            said = model(*batch.inputs)
        said = said[0] if isinstance(said, tuple) else said
        result[positions] = said.double().numpy()[batch.graph_mask.numpy()]
    return task.labels.to_units(evaluator.loader.items, result)


@pytest.mark.parametrize("name", ["painn", "schnet"])
def test_a_run_on_forces_begins_with_what_a_run_on_energies_has_learned(frames, name, tmp_path):
    first = from_dict(with_options(frames, model={"name": name}))
    train(first)
    tensors, state = load_checkpoint(tmp_path / "first" / "checkpoints" / "best.safetensors")
    before = predictions(load_task(first, tmp_path / "first" / "plans", state), tensors["model"])
    second = with_options(
        frames, model={"name": name}, force_share=0.9, training={"start_from": frames["out"]}, out=str(tmp_path / "2")
    )
    config = from_dict(second)
    task = load_task(config)
    # Energies of -4,200 eV, of which a model says a few eV in float32.
    np.testing.assert_allclose(predictions(task), before, rtol=0, atol=2e-5)
    fresh = load_task(replace(config, training=replace(config.training, start_from="")))
    assert np.abs(predictions(fresh) - before).max() > 1e-3
    assert fresh.labels.standardizer.scale[0] != task.labels.standardizer.scale[0]

    train(config)
    shutil.rmtree(tmp_path / "first")  # it has done its part
    more = from_dict(with_options(second, training={"epochs": 5}))
    assert train(more, resume=True)["finished"]


def test_references_that_are_given_are_fitted_anew_in_the_same_unit(frames, tmp_path):
    train(from_dict(frames))
    with np.load(tmp_path / "rmd17_ethanol.npz") as arrays:
        shifted = dict(arrays)
    shifted["energies"] = shifted["energies"] - 500  # another level of theory
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "rmd17_ethanol.npz", **shifted)
    data = {"path": str(tmp_path / "other"), "references": "linear"}
    config = from_dict(with_options(frames, data=data, training={"start_from": frames["out"]}))
    _, state = load_checkpoint(tmp_path / "first" / "checkpoints" / "best.safetensors")
    loaded = load_task(config)
    assert loaded.labels.standardizer.scale.tolist() == state["standardizer"]["scale"]
    before = load_task(from_dict(frames), tmp_path / "first" / "plans", state)
    moved = predictions(loaded) - predictions(before, loaded.first_weights)
    np.testing.assert_allclose(moved, -500 * 0.0433641, rtol=1e-3)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"model": {"name": "painn"}}, "has model.name=schnet, this one painn"),
        ({"model": {"cutoff": 4.0}}, "has model.cutoff=5.0, this one 4.0"),
        (
            {"model": {"num_filters": 12}},
            r"interactions.0.filter_net.0.bias has shape \(8,\), this run's model \(12,\)",
        ),
        ({"model": {"num_interactions": 2}}, r"interactions.1.* has shape None"),
        ({"training": {"start_from": "nowhere"}}, "no checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(frames, change, sentence, tmp_path):
    train(from_dict(frames))
    second = with_options(frames, training={"start_from": frames["out"]}, out=str(tmp_path / "2"))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        train(from_dict(with_options(second, **change)))
    assert not (tmp_path / "2" / "checkpoints").exists()


def test_elements_and_units_that_the_earlier_run_does_not_know_are_refused(frames, tmp_path):
    train(from_dict(frames))
    lines = "2\nenergy={e}\n{a} 0 0 0\nH 0 0 {d}\n"
    for name, atom in (("known", "O"), ("new", "N")):
        rows = [lines.format(e=-k, a=atom, d=1 + k / 50) for k in range(1, 21)]
        (tmp_path / f"{name}.extxyz").write_text("".join(rows).replace("energy", 'pbc="F F F" energy'))
    data = {"name": "file", "target": "energy", "unit": "eV", "validation": 4, "test": 4, "cache": str(tmp_path / "c")}
    base = {**frames, "training": {**frames["training"], "start_from": frames["out"]}, "out": str(tmp_path / "2")}
    for file, more, sentence in (
        ("new", {}, "knows no N, which these data hold"),
        ("known", {"unit": "Ha"}, "differ in number, unit or extent .eV and Ha."),
        ("known", {"extensive": False}, "differ in number, unit or extent"),
    ):
        config = from_dict({**base, "data": {**data, "path": str(tmp_path / f"{file}.extxyz"), **more}})
        with pytest.raises(ValueError, match=sentence):
            load_task(config)
    allowed = {**base, "data": {**data, "path": str(tmp_path / "new.extxyz"), "references": "linear"}}
    assert load_task(from_dict(allowed)).labels.standardizer.elements == [1, 7]


def test_a_frozen_run_trains_the_head_alone_and_needs_something_to_freeze(frames, tmp_path):
    train(from_dict(with_options(frames, model={"name": "painn"})))
    second = with_options(
        frames, model={"name": "painn", "freeze": True}, force_share=0.9, out=str(tmp_path / "second")
    )
    with pytest.raises(ValueError, match="name an earlier run with training.start_from"):
        train(from_dict(second))
    train(from_dict(with_options(second, training={"start_from": str(tmp_path / "first")})))
    before, after = (
        load_checkpoint(tmp_path / run / "checkpoints" / f"{which}.safetensors")[0]["model"]
        for run, which in (("first", "best"), ("second", "last"))
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("head.") for name in changed)
    assert "head.2.weight" in changed
