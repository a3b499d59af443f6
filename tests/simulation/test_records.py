"""The folder of a simulation: damaged files are named, and those of others are kept."""

import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ipu_chem.simulation.records import COLUMNS, Records


@pytest.fixture
def folder(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0.96, 0, 0]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=[[0.0, 0, 0], [0, 0, 0]])
    records = Records(tmp_path / "md", "extxyz", resume=False)
    for step in range(3):
        records.frame(atoms, dict.fromkeys(COLUMNS, 0.5 * step), {"step": step})
    records.keep()
    return tmp_path / "md"


def test_what_was_written_after_the_state_is_cut_off(folder):
    before = (folder / "log.csv").read_bytes()
    with open(folder / "log.csv", "ab") as file:
        file.write(b"half a li")
    assert Records(folder, "extxyz", resume=True).state["step"] == 2
    assert (folder / "log.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("log.csv", lambda content: content.replace(b"0.5", b"0.6", 1), "log.csv is damaged: its checksum"),
        ("log.csv", lambda content: content[:-5], "log.csv is gone or cut short"),
        ("trajectory.extxyz", lambda content: b"", "trajectory.extxyz is gone or cut short"),
        ("restart.npz", lambda content: content[:50], "restart.npz is damaged"),
    ],
)
def test_a_damaged_file_is_named(folder, name, change, words):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=f"{words}.* begin it again with another --out"):
        Records(folder, "extxyz", resume=True)


@pytest.mark.parametrize("name", ["log.csv", "trajectory.extxyz"])
def test_files_of_others_are_kept(tmp_path, name):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(ValueError, match=f"{name} is there, and is of no simulation: choose another --out"):
        Records(tmp_path, "extxyz", resume=False)
    assert (tmp_path / name).read_text() == "mine\n"
