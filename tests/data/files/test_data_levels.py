"""Energies and forces of the level that was asked for, in extxyz files and ASE's data bases."""

import numpy as np
import pytest

from ipu_chem.data.datasets import load_dataset
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL

POS = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


@pytest.fixture
def write(tmp_path):
    def write(comment, **forces):
        """A frame of water; forces of a column are all one number."""
        layout = "".join(f":{key}:R:3" for key in forces)
        rows = [
            f"{symbol} " + " ".join(map(str, [*place, *(value for value in forces.values() for _ in range(3))]))
            for symbol, place in zip("OHH", POS)
        ]
        path = tmp_path / "a.extxyz"
        path.write_text("\n".join(["3", f"Properties=species:S:1:pos:R:3{layout} {comment}", *rows]) + "\n")
        return path

    return write


@pytest.fixture
def load(tmp_path):
    def load(path, **options):
        return load_dataset("file", path, tmp_path / "cache", **options)

    return load


@pytest.fixture
def base(tmp_path):
    """An ASE data base of one water with results of a calculator and more."""

    def base(results, metadata=None, pairs=None, **data):
        import ase
        import ase.db
        from ase.calculators.singlepoint import SinglePointCalculator

        water = ase.Atoms("OHH", POS)
        if results:
            water.calc = SinglePointCalculator(water, **results)
        path = tmp_path / "a.db"
        with ase.db.connect(str(path)) as written:
            written.metadata = metadata or {}
            written.write(water, data=data, **(pairs or {}))
        return path

    return base


def full(value):
    return np.full((3, 3), float(value))


@pytest.mark.parametrize(
    "energy, column",
    [
        ("energy", "forces"),
        ("energy", "force"),
        ("Energy", "Forces"),
        ("dft_energy", "dft_forces"),
        ("REF_energy", "REF_forces"),
        ("mace_energy", "MACE_force"),
        ("energy_ccsd", "forces_ccsd"),
        ("DFTenergy", "dft_forces"),
        ("E", "F"),
        ("E_dft", "F_dft"),
        ("total_energy", "forces"),
        ("U0", "forces"),
    ],
)
def test_pairs_by_name(write, load, energy, column, capsys):
    store = load(write(f"{energy}=-3.5", **{column: 2}), target=energy)
    assert store.info["forces_of"] == energy and store["forces"][0][0].tolist() == [2, 2, 2]
    assert "no forces" not in capsys.readouterr().err


def test_the_level_that_was_asked_for(write, load):
    path = write("energy=-1 dft_energy=-2 REF_energy=-3 gap_energy=4", forces=1, dft_forces=2, REF_forces=3)
    for value, name in enumerate(("energy", "dft_energy", "REF_energy"), start=1):
        store = load(path, target=name)
        assert store["y"].tolist() == [[-value]] and store["forces"][0].tolist() == full(value).tolist()
    both = load(path, target="gap_energy, dft_energy")
    assert both.info["forces_of"] == "dft_energy" and both["forces"][0].tolist() == full(2).tolist()


@pytest.mark.parametrize("energy", ["gap_energy", "homo_energy", "zpve_energy", "dft_energy"])
def test_no_forces_of_another_energy(write, load, energy, capsys):
    path = write(f"energy=-1 {energy}=4", forces=1)
    store = load(path, target=energy)
    assert "forces" not in store and "forces_of" not in store.info
    said = capsys.readouterr().err
    assert f"no forces are taken for {energy}: the file has forces" in said and "--data.force_key forces takes" in said
    assert load(path, target=energy, force_key="forces").info["forces_of"] == energy


@pytest.mark.parametrize("column", ["gradient", "gradients", "energy_gradient", "dft_grad"])
def test_gradients_are_taken_on_request_with_the_other_sign(write, load, column, capsys):
    path = write("energy=-1", **{column: 2})
    assert "forces" not in load(path, target="energy")
    assert f"or are gradients; --data.force_key {column} takes them" in capsys.readouterr().err
    assert load(path, target="energy", force_key=column)["forces"][0].tolist() == full(-2).tolist()
    assert f"{column} is by its name the gradient of energy; forces are its negative" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said, factor",
    [("kcal/mol/Å", KCAL_PER_MOL), ("Hartree/Bohr", HARTREE / BOHR), ("a.u.", HARTREE / BOHR), ("eV/nm", 0.1)],
)
def test_units_of_forces_alone(write, load, said, factor):
    store = load(write(f"energy=-1 forces_unit={said}", forces=1), target="energy", unit="eV")
    np.testing.assert_allclose(store["forces"][0], full(factor), rtol=1e-6)
    assert store["y"].tolist() == [[-1]]
    with pytest.raises(ValueError, match="as its unit of forces, but none of energy; give it: --data.unit eV"):
        load(write(f"energy=-1 forces_unit={said}", forces=1), target="energy")


def test_wider_names_where_there_is_no_energy(write, load):
    assert "forces" in load(write("total_energy=-1", forces=1), target="total_energy")
    assert "forces" not in load(write("total_energy=-1 energy=-2", forces=1), target="total_energy")


def test_a_choice_that_only_the_user_can_make(write, load):
    with pytest.raises(
        ValueError, match="forces of energy twice, forces and force; choose with --data.force_key forces"
    ):
        load(write("energy=-1", forces=1, force=2), target="energy")
    assert load(write("energy=-1", forces=1, force=2), target="energy", force_key="force")["forces"][0][0, 0] == 2
    with pytest.raises(ValueError, match="no forces called 'gradient' .--data.force_key.; its columns are REF_forces"):
        load(write("energy=-1", REF_forces=1), target="energy", force_key="gradient")


def test_a_run_on_forces_names_the_columns_and_the_option(write, tmp_path):
    from ipu_chem.config import DataConfig
    from ipu_chem.metrics import targets_of
    from ipu_chem.tasks.forces import check_forces
    from ipu_chem.tasks.graphs import load_store

    path = write("dft=-1", forces=1)
    data = DataConfig("file", path=str(path), cache=str(tmp_path), target="dft")
    with pytest.raises(
        ValueError,
        match="the data have none for dft, but forces of another name; name them with --data.force_key forces",
    ):
        check_forces(load_store(data, 5.0), targets_of([{"name": "dft", "unit": "", "extensive": True}]))
    path = write("gap_energy=-1", REF_forces=1)
    data = DataConfig("file", path=str(path), cache=str(tmp_path), target="gap_energy")
    store = load_store(data, 5.0)
    with pytest.raises(
        ValueError,
        match="but REF_forces of another name; name them with --data.force_key REF_forces, choose the energy",
    ):
        check_forces(store, targets_of(store.info["targets"]))


def test_levels_of_a_data_base(base, load):
    path = base({"energy": -1.5, "forces": full(1)}, dft_energy=-99.0, dft_forces=full(7))
    for name, energy, force in (("energy", -1.5, 1), ("dft_energy", -99, 7)):
        store = load(path, target=name)
        assert store["y"].tolist() == [[energy]] and store["forces"][0].tolist() == full(force).tolist()


def test_two_energies_of_one_name(base, load):
    path = base({"energy": -1.5, "forces": full(1)}, energy=np.array([-99.0]))
    with pytest.raises(
        ValueError, match="states energy more than once.*--data.target calculator.energy or data.energy"
    ):
        load(path, target="energy")
    assert load(path, target="calculator.energy")["forces"][0].tolist() == full(1).tolist()
    other = load(path, target="data.energy")
    assert other["y"].tolist() == [[-99]] and "forces" not in other


def test_two_charges(base, load):
    path = base({"energy": -1.5}, pairs={"charge": 1}, charge=0)
    with pytest.raises(ValueError, match="a.db row 1 states charge more than once"):
        load(path, target="energy")


def test_one_energy_in_two_places(base, load):
    path = base({"energy": -1.5, "forces": full(1)}, energy=np.array([-1.5]))
    store = load(path, target="energy")
    assert store["y"].tolist() == [[-1.5]] and store["forces"][0].tolist() == full(1).tolist()


def test_units_that_a_data_base_states(base, load):
    metadata = {"_distance_unit": "Bohr", "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Bohr"}}
    path = base(None, metadata, energy=np.array([-2.0]), forces=full(1))
    store = load(path, target="energy", unit="eV")
    np.testing.assert_allclose(store["pos"][0], POS * 0.529177210903, rtol=1e-6)
    np.testing.assert_allclose(store["y"], [[-54.422772491976]], rtol=1e-12)
    np.testing.assert_allclose(store["forces"][0], full(51.42206747), rtol=1e-6)
    with pytest.raises(ValueError, match="states Bohr as its unit of length, not --data.length_unit nm"):
        load(path, target="energy", length_unit="nm")


def test_periodic_rows(tmp_path, load):
    import ase
    import ase.db

    with ase.db.connect(str(tmp_path / "p.db")) as written:
        written.write(ase.Atoms("He", cell=[9, 9, 9], pbc=[True, False, False]), energy_=1)
    with pytest.raises(ValueError, match="p.db row 1 has a periodic cell; .*atoms.pbc=False"):
        load(tmp_path / "p.db", target="energy_")


@pytest.mark.parametrize("key, what", [("e_unit=Hartree", "energy"), ("r_unit=Bohr", "length")])
def test_a_unit_that_some_frames_state(write, load, key, what):
    path = write(f"energy=-1 {key}")
    path.write_text(path.read_text() + path.read_text().replace(key, ""))
    with pytest.raises(
        ValueError, match=rf"frame 0 .line 1. states a unit of {what}, but .* frame 1 .line 6. does not"
    ):
        load(path, target="energy", unit="eV")


def test_units_that_frames_state(write, load):
    store = load(write("energy=-2 e_unit=Hartree length_unit=nm", forces=1), target="energy", unit="eV")
    np.testing.assert_allclose(store["pos"][0], POS * 10, rtol=1e-6)
    np.testing.assert_allclose(store["forces"][0], full(2.7211386), rtol=1e-6)
    assert store.info["targets"] == [{"name": "energy", "unit": "eV", "extensive": True}]
    stated = load(write("energy=-2 energy_unit=kcal/mol", forces=1), target="energy")
    assert stated.info["targets"][0]["unit"] == "kcal/mol" and stated["y"].tolist() == [[-2]]
    both = load(write("energy=-2 units=au", forces=1), target="energy", unit="eV")
    np.testing.assert_allclose(both["forces"][0], full(51.42206747), rtol=1e-6)
    assert load(write("energy=-2 unit=Hartree"), target="energy", unit="eV")["y"][0, 0] == pytest.approx(-54.42277249)
    with pytest.raises(ValueError, match="states 'furlong' as its unit of energy|'furlong' is no unit of length"):
        load(write("energy=-2 r_unit=furlong"), target="energy")
    with pytest.raises(ValueError, match="states 'furlong' as its unit of energy, which is not known"):
        load(write("energy=-2 e_unit=furlong"), target="energy")


@pytest.mark.parametrize(
    "stated, unit, wanted",
    [
        ("forces_unit=Hartree/bohr", "eV", 51.42206747),  # the energy's is the user's alone
        ("forces_unit=Hartree/bohr e_unit=Hartree", "Hartree", 1 / 0.529177210903),
    ],
)
def test_units_that_frames_state_of_forces(write, load, stated, unit, wanted):
    store = load(write(f"energy=-2 {stated}", forces=1), target="energy", unit=unit)
    np.testing.assert_allclose(store["forces"][0], full(wanted), rtol=1e-6)
    assert store["y"].tolist() == [[-2]]
    for word in ("eV", "kcal/mol"):
        with pytest.raises(
            ValueError, match=f"frame 0 .line 1. states '{word}' as its unit of forces, which is not known"
        ):
            load(write(f"energy=-2 forces_unit={word} r_unit=bohr", forces=1), target="energy", unit="eV")
