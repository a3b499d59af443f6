"""Forces, charges and units of files of the user's own."""

import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import load_dataset
from ipu_chem.tasks.graphs import load_store
from ipu_chem.units import HARTREE, KCAL_PER_MOL

POS = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
FORCES = np.array([[1.0, 2, 3], [-4, 5, -6], [0, 0, 0.5]])
COLUMNS = "Properties=species:S:1:pos:R:3:{key}:R:3"


def frame(comment, key="forces", forces=FORCES):
    rows = [
        f"{symbol} " + " ".join(f"{value:.8f}" for value in (*place, *force))
        for symbol, place, force in zip("OHH", POS, forces)
    ]
    return "\n".join(["3", f"{COLUMNS.format(key=key)} {comment}", *rows]) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(*frames, name="a.xyz"):
        (tmp_path / name).write_text("".join(frames))
        return tmp_path / name

    return write


@pytest.fixture
def load(tmp_path):
    def load(path, **options):
        return load_dataset("file", path, tmp_path / "cache", **options)

    return load


def test_forces_of_an_extxyz_file(write, load):
    path = write(frame("energy=-3.5"), frame("energy=-3.6", forces=2 * FORCES))
    store = load(path, target="energy", unit="eV")
    assert store.info["forces_of"] == "energy"
    np.testing.assert_array_equal(store["forces"][0], FORCES)
    np.testing.assert_array_equal(store["forces"][1], 2 * FORCES)
    assert "charge" not in store and "spin" not in store
    assert "forces" not in load(path), "no energy, no forces"


def test_forces_by_another_name(write, load, tmp_path):
    path = write(frame("dft=-3.5 dipole=1", key="REF_forces"))
    assert "forces" not in load(path, target="dft")
    store = load(path, target="dft, dipole", force_key="REF_forces")
    assert store.info["forces_of"] == "dft" and store["forces"][0][1].tolist() == [-4, 5, -6]
    data = DataConfig("file", path=str(path), cache=str(tmp_path), target="dft", unit="eV", force_key="REF_forces")
    assert load_store(data, 5.0)["forces"][0][1].tolist() == [-4, 5, -6]


def test_some_frames_have_forces(write, load):
    store = load(write(frame("energy=-3.5"), frame("energy=-3.5", key="velo")), target="energy")
    np.testing.assert_array_equal(store["forces"][0], FORCES)
    assert np.isnan(store["forces"][1]).all()


@pytest.mark.parametrize(
    "comment, charge, spin",
    [
        ("charge=0 spin=0", 0, 0),
        ("charge=-1 spin=1", -1, 1),
        ("charge=1.0 multiplicity=2", 1, 1),
        ("charge=0 multiplicity=3 spin=2", 0, 2),
    ],
)
def test_charge_and_spin(write, load, comment, charge, spin):
    store = load(write(frame(f"energy=1 {comment}")), target="energy")
    assert store["charge"].tolist() == [charge] and store["spin"].tolist() == [spin]


def test_charges_of_some_frames_only_are_not_kept(write, load):
    store = load(write(frame("energy=1 charge=0 spin=0"), frame("energy=1 charge=0")), target="energy")
    assert store["charge"].tolist() == [0, 0] and "spin" not in store


@pytest.mark.parametrize(
    "frames, options, sentence",
    [
        ([frame("energy=1 charge=0.5")], {}, "a.xyz frame 0 .line 1.: charge=0.5 is no whole number"),
        ([frame("energy=1 charge=high")], {}, "a.xyz frame 0 .line 1.: charge=high is no whole number"),
        ([frame("energy=1 charge=0 spin=1")], {}, r"10 electrons \(charge 0\), of which 1 .* the multiplicity less 1"),
        ([frame("energy=1 spin=1 multiplicity=1")], {}, "spin=1 and multiplicity=1; spin is the multiplicity less 1"),
        ([frame("energy=1"), frame("energy=nan name=second")], {}, "second has forces but no energy"),
        ([frame("energy=1", forces=np.where(FORCES > 4, np.nan, FORCES))], {}, "force on atom 1 is not finite"),
        ([frame("energy=1")], dict(force_key="f"), "has no forces called 'f'"),
        ([frame("energy=1")], dict(target=None, force_key="forces"), "are of an energy; name it with data.target"),
    ],
)
def test_bad_input(write, load, frames, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(write(*frames), **{"target": "energy", **options})


def test_smiles_have_no_forces(write, load):
    with pytest.raises(ValueError, match="data.force_key=f is for .xyz, .extxyz, .db, .npz files"):
        load(write("smiles,e\nC,1\n", name="a.csv"), target="e", force_key="f")


def test_ase_data_base(tmp_path, load):
    import ase
    import ase.db
    from ase.calculators.singlepoint import SinglePointCalculator

    water = ase.Atoms("OHH", POS)
    path = tmp_path / "waters.db"
    with ase.db.connect(str(path)) as base:
        water.calc = SinglePointCalculator(water, energy=-3.5, forces=FORCES)
        base.write(water, charge=1, multiplicity=2, name="cation")
        water.calc = SinglePointCalculator(water, energy=-3.6, forces=2 * FORCES)
        base.write(water, charge=-1, spin=1)
    store = load(path, target="energy")
    assert store["y"].tolist() == [[-3.5], [-3.6]] and store["charge"].tolist() == [1, -1]
    assert store["spin"].tolist() == [1, 1]
    np.testing.assert_array_equal(store["forces"][1], 2 * FORCES)
    with pytest.raises(ValueError, match="cation has no 'gap'|waters.db row 1 has no 'gap'"):
        load(path, target="gap")

    path = tmp_path / "schnetpack.db"  # labels as arrays in the data of a row
    with ase.db.connect(str(path)) as base:
        base.write(ase.Atoms("OHH", POS), data={"U": np.array([-3.5]), "F": FORCES})
    store = load(path, target="U", force_key="F")
    np.testing.assert_array_equal(store["forces"][0], FORCES)
    assert store["y"].tolist() == [[-3.5]] and "charge" not in store
    (tmp_path / "none.db").write_text("hello")
    with pytest.raises(ValueError, match="none.db is no ASE data base"):
        load(tmp_path / "none.db", target="energy")


def test_npz_of_sgdml(tmp_path, load):
    path = tmp_path / "water.npz"
    np.savez(path, z=np.array([8, 1, 1]), R=np.stack([POS, POS + 1]), E=np.array([[-3.5], [-3.6]]), F=[FORCES, -FORCES])
    store = load(path, target="E", unit="eV")
    assert store["y"].tolist() == [[-3.5], [-3.6]] and store.info["forces_of"] == "E"
    np.testing.assert_array_equal(store["forces"][1], -FORCES)
    assert len(load(path, target="energy", limit=1)) == 1
    assert "y" not in load(path) and "forces" not in load(path)
    with pytest.raises(ValueError, match="water.npz frame 0 has no 'dipole'; it has E, energy;"):
        load(path, target="dipole")


def test_units_that_cannot_be(write, load, capsys):
    def said(unit, energy, forces):
        frames = [frame(f"energy={energy + random.normal(0, 0.1)}", forces=forces * FORCES) for _ in range(20)]
        load(write(*frames), target="energy", unit=unit)
        return capsys.readouterr().out

    random = np.random.default_rng(0)
    total = -76.4  # Hartree
    assert "said to be" not in said("eV", total * HARTREE, 0.3)
    assert "said to be" not in said("Hartree", total, 0.3 / HARTREE)
    assert "said to be" not in said("kcal/mol", total * HARTREE / KCAL_PER_MOL, 0.3 / KCAL_PER_MOL)
    assert "said to be" not in said("", total, 100)
    output = said("eV", total * HARTREE / KCAL_PER_MOL, 0.3 / KCAL_PER_MOL)
    assert "energy is said to be in eV, but looks like total energies in kcal/mol" in output
    assert "forces are said to be in eV/Å and would be 22 eV/Å large" in output and "in kcal/mol/Å?" in output
    assert "looks like total energies in Hartree" in said("eV", total, 0.3)
    assert "looks like total energies in eV" in said("kcal/mol", total * HARTREE, 0.3)


def test_energies_that_spread_too_far(write, load, capsys):
    frames = [frame(f"energy={value}") for value in np.linspace(-10, 10, 20)]
    load(write(*frames), target="energy", unit="eV")
    assert "molecules of one composition differ by more than 1 eV per atom" in capsys.readouterr().out
    load(write(*frames), target="energy", unit="kcal/mol")
    assert "said to be" not in capsys.readouterr().out


def test_ions_are_no_sign_of_another_unit(write, load, capsys):
    frames = [frame(f"energy={-2067 + 13 * charge} charge={charge} spin={charge}") for charge in 15 * (0, 1)]
    load(write(*frames), target="energy", unit="eV")
    assert "said to be" not in capsys.readouterr().out
    frames = [one.replace("charge=1 spin=1", "charge=0 spin=2") for one in frames]
    load(write(*frames), target="energy", unit="eV")
    assert "said to be" not in capsys.readouterr().out


def test_real_files(shared_data, load, capsys):
    store = load(shared_data / "forces" / "3bpa_train_300K.xyz.gz", target="energy", unit="eV")
    assert len(store) == 500 and store.fields["forces"].shape == (500 * 27, 3)
    np.testing.assert_allclose(store["forces"][0][0], [0.17092934, 0.13274200, 0.79555789], rtol=1e-6)
    assert "said to be" not in capsys.readouterr().out
    path = shared_data / "md17" / "ethanol CCSD(T)" / "raw" / "ethanol_ccsd_t-train.npz"
    store = load(path, target="energy", unit="kcal/mol")
    assert store["y"][0, 0] == pytest.approx(-97089.0709, abs=1e-4)
    assert "said to be" not in capsys.readouterr().out
    load(path, target="energy", unit="eV")
    output = capsys.readouterr().out
    assert "looks like total energies in kcal/mol" in output and "are they in kcal/mol/Å?" in output
