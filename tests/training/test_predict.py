"""Predictions from files: right units, every line accounted for."""

import csv
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.cli import main
from ipu_chem.data.files.layout import TableOptions
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
        "CCO ethanol\nC1CC notclosed\nCC(=O)O\nC[Pt]C platinum\n" + "C" * 26 + " long\n[Na+].[Cl-] salt\n"
    )
    done, refused = predict_file(run, source, tmp_path / "out.csv", workers=1)
    table = rows(tmp_path / "out.csv")
    assert done == 3 and [entry.line for entry in refused] == [2, 4, 6] and len(table) == 6
    assert [row["line"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    good = [row for row in table if not row["reason"]]
    assert [row["name"] for row in good] == ["ethanol", "3", "long"]  # larger than the run's packs, too
    assert [row["name"] for row in table] == ["ethanol", "notclosed", "3", "platinum", "long", "salt"]
    assert table[0]["smiles"] == "CCO" and table[3]["smiles"] == "C[Pt]C"
    assert all(np.isfinite(float(row["mmff94_energy (kcal/mol)"])) for row in good)
    reasons = {row["line"]: row["reason"] for row in table}
    assert "pars" in reasons["2"] and "MMFF94" in reasons["4"] and "fragment" in reasons["6"]


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


def test_every_row_is_there_with_its_cells_and_all_digits(run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text('id,smiles,reason\nfirst,CCO,"a, b"\nblank, ,c\nbroken,C1CC,d\n,CCN,e\n')
    done, refused = predict_file(run, source, tmp_path / "out.csv", workers=1, columns="all")
    table = rows(tmp_path / "out.csv")
    assert done == 2 and [(one.line, one.name) for one in refused] == [(3, "blank"), (4, "broken")]
    assert [row["name"] for row in table] == ["first", "blank", "broken", "5"]
    assert [row["input_smiles"] for row in table] == ["CCO", "", "C1CC", "CCN"]
    assert [row["input_reason"] for row in table] == ["a, b", "c", "d", "e"] and table[1]["reason"] == "no SMILES"
    assert [row["id"] for row in table] == ["first", "blank", "broken", ""]
    value = table[0]["mmff94_energy (kcal/mol)"]
    assert repr(float(value)) == value and len(value.lstrip("-").replace(".", "")) > 12
    with pytest.raises(ValueError, match="--columns some: give all"):
        predict_file(run, source, tmp_path / "out.csv", columns="some")


def test_several_runs_give_mean_and_spread(options, make_config, tmp_path):
    values = []
    (tmp_path / "in.smi").write_text("CCO\nCC(=O)O\n")
    for seed in range(2):
        options["training"].update(seed=seed, epochs=1)
        options["out"] = str(tmp_path / f"{seed}")
        train(make_config(options))
        predict_file(options["out"], tmp_path / "in.smi", tmp_path / "one.csv", workers=1)
        values.append([float(row["mmff94_energy (kcal/mol)"]) for row in rows(tmp_path / "one.csv")])
    predict_file([tmp_path / "0", tmp_path / "1"], tmp_path / "in.smi", tmp_path / "both.csv", workers=1)
    for place, row in enumerate(rows(tmp_path / "both.csv")):
        pair = [one[place] for one in values]
        assert float(row["mmff94_energy (kcal/mol)"]) == pytest.approx(np.mean(pair), rel=1e-6)
        assert float(row["mmff94_energy_std (kcal/mol)"]) == pytest.approx(np.std(pair), rel=1e-4) != 0
    predict_file([tmp_path / "0", tmp_path / "1"], tmp_path / "in.smi", tmp_path / "both.extxyz", workers=1)
    frames = (tmp_path / "both.extxyz").read_text()
    assert frames.count(":forces:R:3") == frames.count("forces_std:R:3") == 2
    assert main(["predict", str(tmp_path / "0"), str(tmp_path / "1"), str(tmp_path / "in.smi"), "--output",
                 str(tmp_path / "deep" / "er" / "o.csv")]) == 0  # fmt: skip
    assert len(rows(tmp_path / "deep" / "er" / "o.csv")) == 2


def test_ions_and_radicals_are_doubted_by_a_run_of_neutral_molecules(options, make_config, tmp_path, capsys):
    table = "".join(f"{'C' * n}{end},{n}\n" for n in range(2, 12) for end in ("O", "N"))
    (tmp_path / "a.csv").write_text(f"smiles,y\n{table}")
    options["data"] = {"name": "file", "path": str(tmp_path / "a.csv"), "target": "y", "cache": str(tmp_path / "cache")}
    options["training"]["epochs"] = 1
    train(make_config(options))
    (tmp_path / "in.smi").write_text(
        "CCO\n[NH4+] ammonium\nCC(=O)[O-] acetate\nC[N+](C)(C)CC(=O)[O-] zwitterion\nC[CH2] ethyl\nCF\n"
    )
    capsys.readouterr()
    done, refused = predict_file(options["out"], tmp_path / "in.smi", tmp_path / "o.csv", workers=1)
    said = capsys.readouterr().err
    assert (
        "2 of 6 molecules have a charge that no training molecule had (those had 0); the first is line 2 (ammonium)"
        in said
    )
    assert "1 of 6 molecules have a number of unpaired electrons" in said and "line 5 (ethyl) with 1" in said
    assert done == 5 and refused[0].reason == "it holds F, which no training molecule had"


def test_a_run_of_one_composition_doubts_others(options, make_config, tmp_path, capsys):
    random = np.random.default_rng(0)
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])

    def frame(symbols, energy):
        lines = [
            f"{one} {x:.4f} {y:.4f} {z:.4f}" for one, (x, y, z) in zip(symbols, water + random.normal(0, 0.05, (3, 3)))
        ]
        return "\n".join(["3", f"energy={energy}", *lines]) + "\n"

    (tmp_path / "a.extxyz").write_text("".join(frame("OHH", -11266.194 + step / 1000) for step in range(20)))
    data = {"name": "file", "path": str(tmp_path / "a.extxyz"), "target": "energy", "unit": "eV"}
    options["data"] = {**data, "cache": str(tmp_path / "cache")}
    options["training"]["epochs"] = 1
    train(make_config(options))
    (tmp_path / "in.extxyz").write_text(frame("OHH", 0) + frame("HOH", 0) + frame("OOH", 0))
    capsys.readouterr()
    done, _ = predict_file(options["out"], tmp_path / "in.extxyz", tmp_path / "o.csv")
    said = capsys.readouterr().err
    assert done == 3 and "1 of 3 molecules are no H2O, which all training molecules were; the first is line 3" in said
    value = rows(tmp_path / "o.csv")[0]["energy (eV)"]
    assert float(value) == pytest.approx(-11266.18, abs=0.05) and len(value) > 12


@pytest.mark.parametrize(
    "words", ["is a file that is read", "not a folder", "in.csv is no folder", "ends in .csv or .extxyz", "no file"]
)
def test_paths_are_checked_before_a_run_is_loaded(tmp_path, words):
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    cases = {
        "is a file that is read": [tmp_path / "link.csv", source, tmp_path / "folder.csv" / ".." / "in.csv"],
        "not a folder": [tmp_path / "folder.csv"],
        "in.csv is no folder": [source / "o.csv"],
        "ends in .csv or .extxyz": [tmp_path / "o.txt"],
        "no file": [tmp_path / "o.csv"],
    }
    for output in cases[words]:
        asked = tmp_path / "none.csv" if words == "no file" else source
        with pytest.raises(ValueError, match=words):
            predict_file(tmp_path / "no_run", asked, output)
    assert source.read_text() == "smiles\nCCO\n"


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("in.xyz", {"table": TableOptions(encoding="cp1252")}, "--encoding is for files of SMILES; leave it out"),
        ("in.xyz", {"smiles_column": "SMILES"}, "--smiles_column is for files of SMILES; leave it out"),
        ("in.csv", {"structures": {"length_unit": "", "charge": 0}}, "--charge is for files of structures; leave it"),
    ],
)
def test_options_of_another_kind_of_file_are_refused(tmp_path, name, options, words):
    (tmp_path / name).write_text("smiles\nCCO\n")
    with pytest.raises(ValueError, match=f"{name}: {words}"):
        predict_file(tmp_path / "no_run", tmp_path / name, tmp_path / "o.csv", **options)
