"""Predictions from files: right units, every line accounted for."""

import csv
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.prediction.predict import predict_file
from ipu_chem.train import train


@pytest.fixture
def run(options, make_config):
    train(make_config(options))
    return Path(options["out"])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_smiles_are_predicted_and_failures_listed(run, tmp_path):
    source = tmp_path / "in.smi"
    source.write_text(
        "CCO ethanol\nC1CC notclosed\nCC(=O)O\nC[Pt]C platinum\n" + "C" * 60 + " long\n[Na+].[Cl-] salt\n"
    )
    done, refused = predict_file(run, source, tmp_path / "out.csv", workers=1)
    table = rows(tmp_path / "out.csv")
    assert done == 2 and [entry.line for entry in refused] and len(table) == 6
    assert [row["line"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    good = [row for row in table if not row["reason"]]
    assert [row["name"] for row in good] == ["ethanol", "3"]
    assert all(np.isfinite(float(row["mmff94_energy (kcal/mol)"])) for row in good)
    reasons = {row["line"]: row["reason"] for row in table}
    assert "pars" in reasons["2"] and "do not fit the run's packs" in reasons["5"] and "fragment" in reasons["6"]


def test_predictions_do_not_depend_on_company(run, tmp_path):
    together, alone = tmp_path / "many.smi", tmp_path / "one.smi"
    together.write_text("CCO\nCCCN\nc1ccccc1\nCC(C)O\n")
    alone.write_text("CCCN\n")
    predict_file(run, together, tmp_path / "many.csv", workers=1)
    predict_file(run, alone, tmp_path / "one.csv", workers=1)
    column = "mmff94_energy (kcal/mol)"
    assert float(rows(tmp_path / "many.csv")[1][column]) == pytest.approx(
        float(rows(tmp_path / "one.csv")[0][column]), rel=1e-5
    )


def test_xyz_frames_are_predicted(run, tmp_path):
    source = tmp_path / "water.xyz"
    source.write_text("3\n\nC 0 0 0\nO 1.2 0 0\nO -1.2 0 0\n" * 2)
    done, refused = predict_file(run, source, tmp_path / "out.csv")
    first, second = rows(tmp_path / "out.csv")
    assert done == 2 and not refused
    assert first["mmff94_energy (kcal/mol)"] == second["mmff94_energy (kcal/mol)"] != ""


def test_strict_stops_at_the_first_failure(run, tmp_path):
    source = tmp_path / "in.smi"
    source.write_text("CCO\nC1CC\n")
    with pytest.raises(ValueError, match="line 2"):
        predict_file(run, source, tmp_path / "out.csv", strict=True, workers=1)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name, content, words", [("in.smi", "", "is empty"), ("in.pdb", "x", "in.pdb")])
def test_useless_files_are_refused(run, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        predict_file(run, tmp_path / name, tmp_path / "out.csv")


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "in.smi").write_text("CCO\n")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        predict_file(tmp_path, tmp_path / "in.smi", tmp_path / "out.csv")
