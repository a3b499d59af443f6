"""The report: one file that needs no other, about the run it stands in."""

import base64
import csv
import json
import re
import sys
from pathlib import Path

import pytest

from ipu_chem.json_file import read_json, write_json
from ipu_chem.reports.report import write_report
from ipu_chem.train import train


def test_a_report_holds_plots_figures_and_config(options, make_config):
    pytest.importorskip("matplotlib")
    options["training"]["report"] = True
    result = train(make_config(options))
    page = Path(result["report"]).read_text(encoding="utf-8")
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    assert len(pictures) == 4, "learning curve, parity, errors by distance, packing"
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert not re.search(r"(src|href)=['\"]?(http|/|\.)", page), "the page must not point outside itself"
    run = json.loads((Path(options["out"]) / "run.json").read_text())
    mae = run["results"]["test"]["mae_mmff94_energy_kcal_per_mol"]
    assert f"{mae:.4g}" in page and "hidden_features: 8" in page and run["data"]["fingerprint"] in page


def test_names_as_people_write_them(options, make_config, tmp_path):
    """Several targets, blanks and slashes in their names, commas and "#" in those of molecules, a label missing."""
    pytest.importorskip("matplotlib")
    table = tmp_path / "own.csv"
    chains = ["C" * length for length in range(1, 13)]
    rows = "".join(f'{smiles},"{i}, {smiles}C#N",{i / 3},{i if i % 3 else ""}\n' for i, smiles in enumerate(chains))
    table.write_text("smiles,name,log S,k/kT\n" + rows)
    options["data"].update(name="file", path=str(table), target="log S,k/kT", unit="mol/l", extensive=False, limit=0)
    options["data"].update(validation=3, test=3)
    options["training"].update(report=True, epochs=1)
    page = Path(train(make_config(options))["report"]).read_text(encoding="utf-8")
    assert len(re.findall(r"src='data:image/png;base64,", page)) == 5, "learning curve, 2 parities, distances, packing"
    with open(Path(options["out"]) / "predictions_test.csv", encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 3 and {"log S_label", "k/kT_prediction"} <= set(written[0])
    for row in written:
        number, smiles = row["name"].split(", ")
        assert smiles == chains[int(number)] + "C#N" and float(row["log S_label"]) == pytest.approx(int(number) / 3)


def test_a_report_of_an_unfinished_run_says_so(options, make_config):
    pytest.importorskip("matplotlib")
    train(make_config(options))
    folder = Path(options["out"])
    run = read_json(folder / "run.json", "")
    del run["results"], run["baseline"]
    write_json(folder / "run.json", run)
    assert "has not finished" in write_report(folder).read_text(encoding="utf-8")


def test_what_users_name_is_escaped(options, make_config):
    pytest.importorskip("matplotlib")
    train(make_config(options))
    folder = Path(options["out"])
    run = read_json(folder / "run.json", "")
    run["title"] = run["data"]["source"] = "<script>alert('&')</script>"
    write_json(folder / "run.json", run)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in page and page.count("&lt;script&gt;alert(") == 3, "title, heading and the table of the data"
    assert "prefers-color-scheme: dark" in page and page.count("<picture><source srcset='data:image/png") == 4


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_library_that_is_missing_is_named(missing, tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"needs matplotlib and jinja2: pip install 'ipu-chem\[plot\]'.*" + missing):
        write_report(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path)
