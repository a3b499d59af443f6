"""Places that cannot be written are refused, with the option."""

import pytest

from ipu_chem.outputs import check_file, check_folder, data_of


def test_files_in_the_way_and_folders_that_are_not_there(tmp_path):
    (tmp_path / "file").write_text("x")
    assert check_folder("--out", tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert check_file("--output", tmp_path / "new" / "a.csv", (".csv",)) == tmp_path / "new" / "a.csv"
    for check, path, words in (
        (check_folder, tmp_path / "file", "is a file: give a folder"),
        (check_folder, tmp_path / "file" / "run", "file is no folder: give another place"),
        (check_folder, "", "--option is empty: give a folder"),
        (check_file, tmp_path, "give a file, not a folder"),
        (check_file, tmp_path / "file" / "a.csv", "file is no folder"),
    ):
        with pytest.raises(ValueError, match=words):
            check("--option", path)


def test_inputs_are_not_written_over_and_suffixes_hold(tmp_path):
    (tmp_path / "in.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    with pytest.raises(ValueError, match="is a file that is read"):
        check_file("--output", tmp_path / "link.csv", inputs=[tmp_path / "in.csv"])
    with pytest.raises(ValueError, match=r"ends in \.csv or \.smi"):
        check_file("--output", tmp_path / "a.txt", (".csv", ".smi"))


def test_data_of_runs_are_found_and_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("run", "data: {path: mine.csv}"),
        ("other", "data: {name: qm9}"),
        ("bad", "a: ["),
        ("list", "- 1"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "mine.csv").write_text("x")
    found = data_of(["run", "other", "bad", "list", "absent"])
    with pytest.raises(ValueError, match=r"--output mine.csv is a file that is read, or that a run was trained on"):
        check_file("--output", "mine.csv", inputs=found)
