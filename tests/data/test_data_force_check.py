"""Forces against energies: right ones, gradients, mixed units, and frames that say nothing."""

import numpy as np
import pytest

from ipu_chem.cli import main
from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.datasets.info import target_info
from ipu_chem.data.force_check import check_energy_forces, report
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL
from packing.store import Store

SQUARE = np.array([[0.0, 0, 0], [1.2, 0, 0], [1.2, 1.2, 0], [0, 1.2, 0.3]])


def turn(random):
    """A rotation."""
    matrix, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def springs(pos):
    """Energy and forces of springs between all atoms, as long as they are in `SQUARE`."""
    apart = pos[:, None] - pos[None]
    length = np.sqrt((apart**2).sum(-1))
    stretch = length - np.sqrt(((SQUARE[:, None] - SQUARE[None]) ** 2).sum(-1))
    length[np.diag_indices(4)] = 1
    return 5 * (stretch**2).sum(), -20 * ((stretch / length)[..., None] * apart).sum(1)


def store_of(count=60, size=0.03, energy_factor=1.0, force_factor=1.0, turned=False, shuffle=False):
    random = np.random.default_rng(0)
    frames = [SQUARE + random.normal(0, size, (4, 3)) for _ in range(count)]
    values = [springs(frame) for frame in frames]
    order = random.permutation(count) if shuffle else np.arange(count)
    molecules = []
    for index, frame in enumerate(frames):
        energy, forces = values[index][0], values[order[index]][1]
        matrix = turn(random) if turned else np.eye(3)
        y = np.array([energy * energy_factor])
        molecules.append(Molecule(np.array([6, 7, 8, 8]), frame @ matrix, y, "", forces @ matrix * force_factor))
    return molecules_to_store(molecules, {"targets": [target_info("energy", "eV", True)], "forces_of": "energy"})


@pytest.mark.parametrize("turned", [False, True])
def test_right_forces(turned):
    found = check_energy_forces(store_of(turned=turned))
    assert found.pairs >= 30 and abs(found.ratio - 1) < 0.03 and found.correlation > 0.99 and found.net < 1e-6
    assert report(found, "eV") == [
        f"forces agree with energies: ratio {found.ratio:.4g}, correlation {found.correlation:.4f}, "
        f"{found.pairs} pairs of frames within 0.2 Å"
    ]


def test_gradients_are_no_forces():
    with pytest.raises(ValueError, match=r"forces look like gradients \(ratio -(0.9|1).*change their sign"):
        report(check_energy_forces(store_of(force_factor=-1)), "eV")


@pytest.mark.parametrize(
    "energy_factor, force_factor, words",
    [
        (1 / KCAL_PER_MOL, 1, "as energies in kcal/mol and forces in eV/Å do .23.06."),
        (1, 1 / KCAL_PER_MOL, "as energies in eV and forces in kcal/mol/Å do .0.04336."),
        (1, 1 / HARTREE, "as energies in eV and forces in Hartree/Å do .27.21."),
        (1, BOHR / HARTREE, "as energies in eV and forces in Hartree/bohr do .51.42."),
        (1, BOHR, "as energies in eV and forces in eV/bohr do .1.89."),
        (1, 7, "energies change 0.14.* times as much as forces give .*; bring both to one unit.$"),
        (1, -1 / KCAL_PER_MOL, "0.04336.; bring both to one unit, and they look like gradients: change their sign"),
    ],
)
def test_mixed_units(energy_factor, force_factor, words):
    store = store_of(energy_factor=energy_factor, force_factor=force_factor)
    with pytest.raises(ValueError, match=words):
        report(check_energy_forces(store), "eV")


def test_forces_of_other_frames():
    with pytest.raises(ValueError, match="forces do not give the changes of energies"):
        report(check_energy_forces(store_of(shuffle=True)), "eV")


def test_too_few_near_frames():
    for store in (store_of(6), store_of(12, size=0.3)):
        found = check_energy_forces(store)
        assert found.pairs < 10 and np.isnan(found.ratio)
        assert report(found, "eV") == [
            f"forces not checked: {found.pairs} pairs of frames within 0.5 Å, 10 would be enough",
        ]
    twice = store_of(12, size=0.3)
    twice = twice.take(np.repeat(np.arange(12), 2))
    assert check_energy_forces(twice).pairs == 0, "copies of a frame say nothing"


def test_forces_that_add_up_to_something():
    store = store_of()
    store.fields["forces"] = store.fields["forces"] + 0.1
    found = check_energy_forces(store)
    assert found.net > 0.01 and "forces on a molecule add up to" in report(found, "eV")[0]


def test_molecules_without_forces_or_labels():
    store = store_of()
    store.fields["y"] = np.where(np.arange(60)[:, None] % 2 == 0, store.fields["y"], np.nan)
    some = check_energy_forces(store)
    assert 0 < some.pairs <= 30 and abs(some.ratio - 1) < 0.05
    del store.info["forces_of"]
    with pytest.raises(ValueError, match="no forces to check; name their energy with data.target"):
        check_energy_forces(store)


def npz(path, factor):
    store = store_of()
    pos = store.fields["pos"].reshape(60, 4, 3)
    forces = store.fields["forces"].reshape(60, 4, 3)
    np.savez(path, z=np.array([6, 7, 8, 8]), R=pos, E=store["y"][:, 0], F=forces * factor)


def test_the_command(tmp_path, capsys):
    def prepare(*flags):
        data = ["--name", "file", "--path", str(tmp_path / "a.npz"), "--target", "energy", "--unit", "eV"]
        code = main(["prepare", *data, "--cache", str(tmp_path / "cache"), *flags])
        return code, capsys.readouterr()

    npz(tmp_path / "a.npz", 1)
    code, said = prepare("--check-forces")
    assert code == 0 and "forces agree with energies: ratio" in said.out and "forces       of energy" in said.out
    code, said = prepare()
    assert code == 0 and "agree" not in said.out
    npz(tmp_path / "a.npz", -1)
    code, said = prepare("--check_forces")
    assert code == 1 and said.err.count("\n") == 1 and "ipu-chem: forces look like gradients" in said.err
    np.savez(tmp_path / "a.npz", z=np.array([6, 7, 8, 8]), R=SQUARE[None], E=np.zeros(1), F=np.zeros((1, 4, 3)))
    code, said = prepare("--check-forces")
    assert code == 0 and "forces not checked: 0 pairs of frames" in said.out


@pytest.mark.parametrize("molecule", ["aspirin", "benzene", "ethanol", "malonaldehyde", "toluene"])
def test_real_trajectories(shared_data, tmp_path, molecule):
    store = load_dataset("rmd17", shared_data / "md17", tmp_path, molecule=molecule)
    found = check_energy_forces(store)
    assert found.pairs > 100 and 0.9 < found.ratio < 1.05 and found.correlation > 0.97 and found.net < 1e-5
    assert "forces agree with energies" in report(found, "eV")[0]
    store.fields["forces"] = -np.asarray(store.fields["forces"])
    with pytest.raises(ValueError, match="forces look like gradients"):
        report(check_energy_forces(store), "eV")
    store.fields["forces"] = store.fields["forces"] / -KCAL_PER_MOL
    with pytest.raises(ValueError, match="as energies in eV and forces in kcal/mol/Å do"):
        report(check_energy_forces(store), "eV")


@pytest.mark.parametrize("temperature", ["300K", "mixedT"])
def test_real_frames_that_are_far_from_each_other(shared_data, tmp_path, temperature):
    path = shared_data / "forces" / f"3bpa_train_{temperature}.xyz.gz"
    store = load_dataset("file", path, tmp_path, target="energy", unit="eV")
    found = check_energy_forces(store)
    assert found.reach == 0.5 and found.pairs > 40 and 0.85 < found.ratio < 1.05 and found.correlation > 0.93
    assert "forces agree with energies" in report(found, "eV")[-1]
    for factor, words in ((-1, "look like gradients"), (BOHR / HARTREE, "eV and forces in Hartree/bohr do .51.42.")):
        wrong = check_energy_forces(store.join(_scaled(store, factor)))
        with pytest.raises(ValueError, match=words):
            report(wrong, "eV")


def _scaled(store, factor):
    forces = np.asarray(store.fields["forces"]) * factor
    return Store({"nodes": store.axes["nodes"]}, {"forces": forces}, {"forces": "nodes"})


def s66x8(shared_data):
    with np.load(shared_data / "forces" / "s66x8_wb97x.npz") as data:
        bounds = np.concatenate([[0], np.cumsum(data["N"], dtype=np.int64)])
        return molecules_to_store(
            [
                Molecule(data["Z"][start:stop], data["R"][start:stop], np.array([energy]), "", data["F"][start:stop])
                for start, stop, energy in zip(bounds[:-1], bounds[1:], data["E"])
            ],
            {"targets": [target_info("energy", "Hartree", True)], "forces_of": "energy"},
        )


def test_real_dimers(shared_data):
    store = s66x8(shared_data)
    found = check_energy_forces(store)
    assert found.pairs > 100 and 0.95 < found.ratio < 1.02 and found.correlation > 0.99
    assert "forces agree with energies" in report(found, "Hartree")[-1]
    store.fields["forces"] = store.fields["forces"] * BOHR
    with pytest.raises(ValueError, match="as energies in Hartree and forces in Hartree/bohr do .1.89."):
        report(check_energy_forces(store), "Hartree")
