"""The folder of a simulation: damaged files are named, and those of others are kept."""

import pytest

from ipu_chem.simulation.records import COLUMNS, Records


@pytest.fixture
def folder(tmp_path):
    records = Records(tmp_path / "md", "extxyz", resume=False)
    for step in range(3):
        records.frame([[0.5 * step] * len(COLUMNS)], {0: f"1\n\nH {step} 0 0\n"}, {"step": step})
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


def test_each_copy_has_a_trajectory_and_rows(tmp_path):
    records = Records(tmp_path / "md", "extxyz", resume=False, copies=11)
    for step in range(3):
        rows = [[copy, *[0.5 * step] * len(COLUMNS)] for copy in range(11 - step)]
        records.frame(rows, {copy: f"frame {step} of {copy}\n" for copy in range(11 - step)}, {"step": step})
        if step == 1:
            records.keep()
    assert (tmp_path / "md" / "copy_09.extxyz").read_text() == "frame 0 of 9\nframe 1 of 9\n", "the third one waits"
    table = records.table()
    assert table["copy"].tolist() == [*range(11), *range(10), *range(9)] and table["total_eV"].max() == 1.0
    with open(tmp_path / "md" / "copy_03.extxyz", "a") as file:
        file.write("half a fr")
    again = Records(tmp_path / "md", "extxyz", resume=True, copies=11)
    assert again.state["step"] == 2
    assert (tmp_path / "md" / "copy_03.extxyz").read_text() == "frame 0 of 3\nframe 1 of 3\nframe 2 of 3\n"
    with pytest.raises(ValueError, match="or of other copies"):
        Records(tmp_path / "md", "extxyz", resume=True, copies=10)


@pytest.mark.parametrize("name", ["log.csv", "trajectory.extxyz"])
def test_files_of_others_are_kept(tmp_path, name):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(ValueError, match=f"{name} is there, and is of no simulation: choose another --out"):
        Records(tmp_path, "extxyz", resume=False)
    assert (tmp_path / name).read_text() == "mine\n"
