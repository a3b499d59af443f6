"""`ipu-chem metrics`: table, CSV and picture of molecules of any origin, and what is refused."""

import csv
import gzip

import pytest

from ipu_chem.cli import main
from ipu_chem.generation import chemnet, guacamol
from ipu_chem.generation.metrics import MEANING
from ipu_chem.generation.published import COLUMNS, MODELS

GENERATED = "smiles,reason\nCCO,\nc1ccccc1CCO,\n,empty: no atom\nC1CC,\nc1ccc2ccccc2c1,\nCCCCN,\n"
KNOWN = ["OCC ethanol", "Cc1ccc2ccccc2c1", "NCCc1ccccc1", "CCCCCCO", "C1CC"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text(GENERATED, encoding="utf-8")
    with gzip.open(tmp_path / "known.smi.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(KNOWN))
    (tmp_path / "seen.csv").write_text("id;SMILES\na;OCC\nb;NCCCC\nc;CCCCCCN\n", encoding="utf-8")
    (tmp_path / "none.smi").write_text("C1CC\nnot\n", encoding="utf-8")
    return tmp_path


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def test_table_csv_and_picture(folder, capsys):
    words = ["metrics", "new.csv", "--reference", "known.smi.gz", "--train", "seen.csv", "--scaffolds", "seen.csv"]
    assert main([*words, "--output", "out/table.csv", "--plot", "out/table.png", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    found = table(folder / "out" / "table.csv")
    assert list(found)[: len(COLUMNS)] == list(COLUMNS)  # MOSES' order
    assert float(found["validity"]["value"]) == pytest.approx(4 / 6)  # of all rows, also of those without SMILES
    assert float(found["novelty"]["value"]) == pytest.approx(2 / 4)  # in whatever spelling
    assert 0 < float(found["Scaf"]["value"]) <= 1 and found["Scaf/TestSF"]["value"] == ""
    assert found["FCD"]["CharRNN"] == "0.0732" and found["FCD"]["CharRNN deviation"] == "0.0247"
    assert found["W1_logP"]["VAE"] == "" and found["SNN"]["meaning"] == MEANING["SNN"]
    assert "compared with 5 molecules of known.smi.gz" in printed and "0.0732±0.0247" in printed
    assert "1 of 5 reference molecules are not valid and left out" in printed
    assert "Scaf/TestSF is left out: one side has no scaffold" in printed
    assert "unique@1000 is left out: it needs 1,000 molecules; there are 6." in printed
    said = "FCD of 4 generated molecules: below 2,000" if chemnet.is_installed() else "pip install 'ipu-chem[metrics]'"
    assert said in printed
    assert (folder / "out" / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_published_rows_can_be_left_out(folder, capsys):
    assert main(["metrics", "new.csv", "--reference", "known.smi.gz", "--published", "false", "--output", "t.csv"]) == 0
    printed = capsys.readouterr().out
    assert "CharRNN" not in printed and MEANING["SNN"] in printed
    found = table(folder / "t.csv")
    assert list(found["SNN"]) == ["metric", "value", "meaning"] and "unique@1000" not in found
    assert "novelty" not in found and "KL_score" not in found and "SNN/TestSF" not in found  # no files for them


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none.smi", "--reference", "known.smi.gz"], "none.smi: none of its 2 rows holds a molecule"),
        (["new.csv", "--reference", "none.smi"], "none.smi: none of its 2 rows holds a molecule"),
        (
            ["new.csv", "--reference", "known.smi.gz", "--scaffolds", "none.smi"],
            "none.smi: none of its 2 rows",
        ),
        (["new.csv", "--reference", "known.smi.gz", "--train", "none.smi"], "none of its 2 rows holds a molecule"),
        (["new.csv", "--reference", "absent.smi"], "absent.smi"),
        (["new.csv", "--reference", "known.smi.gz", "--output", "new.csv"], "is a file that is read"),
        (["new.csv", "--reference", "known.smi.gz", "--output", "t.txt"], "ends in .csv"),
        (["new.csv", "--reference", "known.smi.gz", "--plot", "t.gif"], "ends in .png or .svg or .pdf"),
        (["new.csv", "--reference", "known.smi.gz", "--jobs", "0"], "jobs"),
    ],
)
def test_refusals(folder, capsys, words, sentence):
    before = sorted(path.name for path in folder.iterdir())
    assert main(["metrics", *words]) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_published_values_are_those_of_the_article():
    assert list(MODELS) == ["CharRNN", "VAE", "AAE", "JTN-VAE", "LatentGAN"]
    for model in MODELS.values():
        assert tuple(model) == COLUMNS and set(COLUMNS) <= set(MEANING)
        assert all(0 <= cell.value <= 1.1 and 0 <= cell.deviation < 0.3 for cell in model.values())
        assert model["FCD"].value < model["FCD/TestSF"].value and model["SNN"].value > model["SNN/TestSF"].value


def test_divergences_that_are_not_defined_are_left_out():
    assert guacamol.kl_divergences(["CCO", "OCC"], ["CCO", "CCN"], workers=1) == {}  # one molecule, written twice
    found = guacamol.kl_divergences(["CCO", "CCCO"], ["CCN", "CCCN", "CCCCN"], workers=1)
    assert "NumAromaticRings" in found and found["NumAromaticRings"] == pytest.approx(0.0, abs=1e-6)
    assert guacamol.kl_score(found) is None or len(found) == 10
    far = guacamol.kl_divergences(["CCO", "CCCO"], ["c1ccccc1", "Cc1ccccc1", "c1ccc2ccccc2c1C"], workers=1)
    assert "NumAromaticRings" not in far  # no generated value lies where the training molecules have theirs
    assert guacamol.fcd_score(0.0) == 1.0 and guacamol.fcd_score(5.0) == pytest.approx(0.36788, abs=1e-5)
