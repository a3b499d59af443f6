"""Runs that learn moments: what is refused and when, the scale of labels, and a run from molecules to predictions."""

from typing import NamedTuple

import numpy as np
import pytest

from ipu_chem.config import from_dict
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.metrics import Target
from ipu_chem.tasks.early import check_run
from ipu_chem.tasks.moments import check_moment_labels, fit_moments
from ipu_chem.train import train
from ipu_chem.trained_run import TrainedRun
from ipu_chem.units import is_area, is_dipole


def config(readout="dipole", name="schnet", **options):
    sizes = {"hidden_features": 16, "num_interactions": 2, "cutoff": 4.0, "readout": readout}
    return from_dict({"model": {"name": name, **sizes}, "accelerator": "cpu", **options})


def store(labels=((1.5,), (2.0,)), **target):
    target = {"name": "mu", "unit": "D", "extensive": False, **target}
    molecules = [
        Molecule(np.array([8, 1, 1], np.uint8), np.eye(3), np.array(label, np.float64), f"w{i}")
        for i, label in enumerate(labels)
    ]
    return molecules_to_store(molecules, {"targets": [target]})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"force_share": 0.9}, "model.readout=dipole predicts no energy, .* set --force_share 0, or leave"),
        ({"data": {"references": "linear"}}, "no references of elements: leave data.references=linear out"),
        ({"readout": "dipole_vectors"}, "model.readout='dipole_vectors': choose 'sum', 'mean', 'dipole' or 'extent'"),
        ({"name": "spookynet", "readout": "extent"}, "model.readout='extent': choose 'sum' or 'mean'"),
    ],
)
def test_options_that_do_not_go_with_a_moment_are_refused_at_once(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        check_run(config(**options, out=str(tmp_path / "run")))


@pytest.mark.parametrize(
    "readout, target, labels, words",
    [
        ("dipole", {"name": "u0", "unit": "eV"}, [[1.0]], "predicts dipole moments, in D or e.Å; u0 is in eV: choose"),
        ("dipole", {"name": "r2", "unit": "a0^2"}, [[1.0]], "r2 is in a0.2: choose another target with --data.target"),
        ("extent", {}, [[1.0]], "predicts extents of electrons, in a0.2 or Å.2; mu is in D"),
        ("dipole_vectors", {"unit": "", "kind": "binary"}, [[1.0]], "mu is a class: choose another target"),
        ("dipole", {"name": "mu_x"}, [[1.0], [-0.25]], "molecule 1 has mu_x=-0.25: give lengths, not components"),
        ("dipole", {}, [[1.0]], ""),
        ("dipole", {"unit": ""}, [[0.0]], ""),
        ("extent", {"unit": "bohr^2"}, [[0.5]], ""),
        ("sum", {"unit": "eV"}, [[-0.5]], ""),
    ],
)
def test_labels_that_are_no_moments_are_refused(readout, target, labels, words):
    made = store(labels, **target)
    entry = made.info["targets"][0]
    targets = [Target(entry["name"], entry["unit"], entry["extensive"], entry.get("kind") == "binary")]
    if words:
        with pytest.raises(ValueError, match=words):
            check_moment_labels(config(readout), targets, made)
    else:
        check_moment_labels(config(readout), targets, made)


def test_units_of_moments_are_known_as_people_write_them():
    assert all(map(is_dipole, ("D", "Debye", "e*Å", "e a0", "e·bohr", "a.u.")))
    assert not any(map(is_dipole, ("eV", "", "Ha", "e", "a0^2")))
    assert all(map(is_area, ("a0^2", "bohr**2", "Å²", "Å^2", "au")))
    assert not any(map(is_area, ("a0^3", "D", "eV", "2", "")))


def test_labels_are_scaled_alone():
    made = store([[3.0], [4.0], [100.0]])
    fitted = fit_moments(made, np.array([0, 1]))
    assert fitted.scale[0] == pytest.approx(np.sqrt(12.5)) and fitted.references == ["none"]
    assert not fitted.shift.any() and not fitted.shift_per_atom.any() and not fitted.element_values.any()
    assert fit_moments(store([[0.0], [0.0]]), np.array([0, 1])).scale[0] == 1


class Item(NamedTuple):
    z: np.ndarray
    pos: np.ndarray
    y: float


class Rods:
    """Dipoles of charges of 0.4 e at the ends of rods of O, C and H, which no mean over atoms can follow."""

    targets, units, extensive = ["mu"], ["D"], False

    def __init__(self, count: int = 60) -> None:
        rng, self.items = np.random.default_rng(0), []
        for _ in range(count):
            carbons = int(rng.integers(1, 6))
            x = 1.3 * np.arange(carbons + 2)
            pos = np.stack([x, np.zeros_like(x), np.zeros_like(x)], 1) + rng.normal(size=3)
            self.items.append(Item(np.array([8] + [6] * carbons + [1]), pos, 4.8 * 0.4 * x[-1]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


@pytest.mark.parametrize("name, readout", [("schnet", "dipole"), ("painn", "dipole"), ("painn", "dipole_vectors")])
def test_a_run_learns_dipoles_that_grow_with_their_length(name, readout, tmp_path):
    data = {"name": f"{Rods.__module__}:Rods", "cache": str(tmp_path / "cache"), "validation": 10, "test": 10}
    options = {
        "data": data,
        "pack": {"nodes": 16},
        "optimizer": {"learning_rate": 0.005},
        "training": {"epochs": 40, "progress": False, "report": False},
        "torch": {"threads": 1},
        "out": str(tmp_path / "run"),
    }
    train(config(readout, name, **options))
    run = TrainedRun.load(tmp_path / "run")
    items = Rods().items
    ase = pytest.importorskip("ase")
    structures = [ase.Atoms(item.z, item.pos) for item in items]
    predicted = run.predict(structures)[:, 0]
    labels = np.array([item.y for item in items])
    assert np.abs(predicted - labels).mean() < 0.15 * labels.std()
    moved = [ase.Atoms(item.z, item.pos + [7.0, -3.0, 1.0]) for item in items]
    np.testing.assert_allclose(run.predict(moved)[:, 0], predicted, rtol=1e-4)
    with pytest.raises(ValueError, match="learned mu; forces are derivatives of one energy"):
        run.force_field()
