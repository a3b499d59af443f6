"""Runs that learn classes, of graphs and of text: learned, measured, predicted, reported, and what is refused."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ogb_folders import made_up, needs_ogb
from support import CHAINS

from ipu_chem.config import from_dict
from ipu_chem.data.datasets import ogb
from ipu_chem.doctor.check import check_config
from ipu_chem.prediction.predict import predict_file
from ipu_chem.tasks.registry import load_task
from ipu_chem.train import evaluate, train


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=["schnet", "chemgpt"])
def class_options(request, options, text_options, tmp_path):
    """Options of a run that learns whether there is nitrogen in 72 small molecules, of a graph or of a text model."""
    rows = [["smiles", "nitrogen", "long", "weight"]]
    rows += [[one, int("N" in one), int(len(one) > 5) if i % 3 else "", len(one)] for i, one in enumerate(CHAINS)]
    with open(tmp_path / "classes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    made = options if request.param == "schnet" else text_options
    made["data"] = {"name": "file", "path": str(tmp_path / "classes.csv"), "target": "nitrogen", "kind": "binary"}
    made["data"].update(cache=str(tmp_path / "cache"), validation=24, test=16, split_seed=10, workers=1)
    made["model"]["name"] = request.param
    made["optimizer"] = {"learning_rate": 0.01}
    made["training"]["epochs"] = 60
    return made


def test_a_class_is_learned_measured_predicted_and_reported(class_options, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    class_options["training"]["report"] = True
    result = train(from_dict(class_options))
    folder = Path(class_options["out"])
    run = json.loads((folder / "run.json").read_text())
    assert set(run["results"]["test"]) == {"rocauc_nitrogen", "ap_nitrogen"}
    assert run["results"]["test"]["rocauc_nitrogen"] > 0.95 and run["results"]["validation"]["rocauc_nitrogen"] > 0.95
    share = np.mean([float(row["nitrogen_label"]) for row in rows_of(folder / "predictions_test.csv")])
    assert run["baseline"]["test"] == pytest.approx({"rocauc_nitrogen": 0.5, "ap_nitrogen": share})
    printed = capsys.readouterr().out
    assert re.search(r"test: rocauc_nitrogen \S+ \(constant baseline 0\.5\)", printed)
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert len(re.findall("src='data:image/png;base64,", page)) == 3 and "rocauc_nitrogen" in page
    assert evaluate(folder, "test") == pytest.approx(run["results"]["test"], rel=1e-6)

    written = rows_of(folder / "predictions_test.csv")
    probability = np.array([float(row["nitrogen_probability"]) for row in written])
    label = np.array([float(row["nitrogen_label"]) for row in written])
    assert ((0 < probability) & (probability < 1)).all() and set(label) == {0.0, 1.0}
    (tmp_path / "new.smi").write_text("CCCN amine\nCCCO alcohol\nC1CC broken\n")
    predict_file(folder, tmp_path / "new.smi", tmp_path / "out.csv", workers=1)
    amine, alcohol, broken = rows_of(tmp_path / "out.csv")
    assert 1 > float(amine["nitrogen (probability)"]) > float(alcohol["nitrogen (probability)"]) > 0
    assert not broken["nitrogen (probability)"] and "parse" in broken["reason"]


def test_several_classes_some_missing(class_options):
    class_options["data"].update(target="nitrogen,long")
    class_options["training"]["epochs"] = 1
    task = load_task(from_dict(class_options))
    assert task.labels.standardizer.scale.tolist() == [1, 1] and task.labels.standardizer.references == ["none", "none"]
    probabilities = task.labels.to_units(np.arange(3), np.array([[0.0, np.log(3)], [-1e4, 1e4], [-np.log(9), 0.0]]))
    np.testing.assert_allclose(probabilities, [[0.5, 0.75], [0, 1], [0.1, 0.5]], rtol=1e-12)
    known = task.labels.known.y
    assert np.isnan(known).any() and np.array_equal(task.labels.standardized(), known, equal_nan=True)
    report = check_config(from_dict(class_options))
    assert report.findings == () and "log1p" in report.operators, report.text()
    results = train(from_dict(class_options))["results"]["test"]
    assert set(results) == {f"{kind}{name}" for kind in ("rocauc", "ap") for name in ("_nitrogen", "_long", "")}
    assert results["rocauc"] == pytest.approx((results["rocauc_nitrogen"] + results["rocauc_long"]) / 2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"data": {"target": "nitrogen,weight"}},
            "classes.csv line 2: weight is 3, but a class is 0 or 1; .*leave data.kind out to learn numbers",
        ),
        ({"loss": "mse"}, "loss=mse is for labels that are numbers, and these are classes; leave it at auto"),
        ({"data": {"kind": "number"}, "loss": "bce"}, r"loss=bce is for labels that are classes \(0 and 1\)"),
        ({"data": {"kind": "class"}}, "data.kind='class': choose number or binary"),
        ({"data": {"unit": "eV"}}, "data.unit=eV: nitrogen are classes, which have no unit"),
        ({"data": {"train": 1}}, r"the train molecules \(1\) are all of one class of nitrogen; a ROC-AUC needs both"),
        ({"data": {"validation": 1}}, r"the validation molecules \(1\) are all of one class of nitrogen"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(class_options, changed, words):
    for part, values in changed.items():
        class_options[part] = {**class_options.get(part, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(ValueError, match=words):
        train(from_dict(class_options))
    assert not Path(class_options["out"]).exists()


def test_classes_and_numbers_are_not_learned_together(options, make_config):
    from ipu_chem.metrics import Target
    from ipu_chem.tasks.labels import check_classes

    with pytest.raises(ValueError, match="active are classes and energy numbers; a run learns one kind, choose with"):
        check_classes([Target("energy", "eV"), Target("active", "", False, True)], np.zeros((2, 2)), {})
    with pytest.raises(ValueError, match="nci3d knows what its labels are; data.unit, data.extensive and data.kind"):
        load_task(make_config({**options, "data": {**options["data"], "kind": "binary"}}))


@needs_ogb
@pytest.mark.parametrize("model", ["schnet", "chemgpt"])
def test_a_set_by_name_is_learned_by_graphs_and_by_text(options, text_options, tmp_path, model, monkeypatch, capsys):
    made_up(tmp_path / "raw")
    published = {"rocauc_p_np": {"somebody": 0.6}}
    monkeypatch.setitem(ogb.SETS, "ogbg-molbbbp", ogb.SETS["ogbg-molbbbp"]._replace(published=published))
    made = options if model == "schnet" else text_options
    made["data"] = {"name": "ogbg-molbbbp", "path": str(tmp_path / "raw"), "cache": str(tmp_path / "cache")}
    made["data"].update(split="official", workers=1)
    made["model"]["name"] = model
    made["optimizer"] = {"learning_rate": 0.01}
    made["training"]["epochs"] = 60
    result = train(from_dict(made))["results"]
    assert result["test"]["rocauc_p_np"] > 0.85
    run = json.loads((Path(made["out"]) / "run.json").read_text())
    assert run["splits"] == {"train": 48, "validation": 12, "test": 12} and run["data"]["licence"] == "MIT (OGB)"
    printed = capsys.readouterr().out
    assert printed.count("somebody 0.6") == 1 and "; somebody 0.6)" in printed, "beside the test alone"
