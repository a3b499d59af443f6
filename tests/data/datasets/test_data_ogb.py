import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ogb_folders import made_up, needs_ogb, write
from support import CHAINS

from ipu_chem.config import DataConfig
from ipu_chem.data.corpora.labels import load_labeled_dataset
from ipu_chem.data.datasets import DATASETS, load_dataset, ogb
from ipu_chem.data.molecule import decode_texts
from ipu_chem.tasks.splits import split_items

pytestmark = needs_ogb
ROOT = Path(__file__).resolve().parents[3]
COUNTS = {  # molecules of the parts, and the first labels
    "ogbg-molesol": ([902, 113, 113], [-0.77, -3.3, -2.06]),
    "ogbg-molfreesolv": ([513, 64, 65], [-11.01, -4.87, 1.83]),
    "ogbg-molbace": ([1210, 151, 152], [1, 1, 1]),
    "ogbg-molbbbp": ([1631, 204, 204], [1, 1, 1]),
    "ogbg-molhiv": ([32901, 4113, 4113], [0, 0, 0]),
}


def test_a_raw_folder_is_molecules_labels_and_parts(tmp_path):
    smiles = ["CCO", "C1CC", "CCN ", "[Na+].[Cl-]", "c1ccccc1", "CO", "CCF"]
    parts = {"train": [0, 1, 2], "valid": [3, 4], "test": [5, 6]}
    made_up(tmp_path / "ogbg_molbbbp", smiles, [1, 0, "", 0, 1, "nan", 0], parts)
    store = load_dataset("ogbg-molbbbp", tmp_path, tmp_path / "cache", progress=False)
    assert decode_texts(store, "smiles") == ["CCO", "CCN", "c1ccccc1", "CO", "CCF"]
    assert decode_texts(store, "name") == ["mol_0", "name, 2", "name, 4", "name, 5", "name, 6"]
    np.testing.assert_array_equal(store["y"][:, 0], [1, np.nan, 1, np.nan, 0])
    assert store["official"].tolist() == [0, 0, 3, 1, 1]
    assert store.info["targets"] == [{"name": "p_np", "unit": "", "extensive": False, "kind": "binary"}]
    listed = store.info["failures"]["list"]
    assert [one[:2] for one in listed] == [[3, "C1CC"], [5, "[Na+].[Cl-]"]] and "fragments" in listed[1][2]
    assert store.info["notes"] == ["no 3D structure of 1 of 3 train, 1 of 2 valid molecules; figures are of the others"]
    assert store.info["licence"].startswith("MIT") and "2020" in store.info["citation"][0]
    few = load_dataset("ogbg-molbbbp", tmp_path / "ogbg_molbbbp", tmp_path / "cache", limit=3, progress=False)
    assert decode_texts(few, "smiles") == ["CCO", "CCN"]


def test_as_text_nothing_is_left_out_that_can_be_written(tmp_path):
    smiles = ["CCO", "C1CC", "CCN ", "[Na+].[Cl-]", "CCO", "CO", "CCF"]
    parts = {"train": [0, 1, 2], "valid": [3, 4], "test": [5, 6]}
    made_up(tmp_path / "raw", smiles, [1, 0, 1, 0, 0, "nan", 0], parts)
    store = load_labeled_dataset("ogbg-molbbbp", str(tmp_path / "raw"), str(tmp_path / "cache"), workers=1)
    assert decode_texts(store, "smiles") == ["CCO", "CCN", "[Cl-].[Na+]", "CCO", "CCF"]
    assert store["y"][:, 0].tolist() == [1, 1, 0, 0, 0] and store["official"].tolist() == [0, 0, 3, 3, 1]
    assert store.info["left out"] == {"without label": 1, "no SELFIES": 1} and store.info["name"] == "ogbg-molbbbp"


def test_the_official_parts_are_the_splits(tmp_path):
    parts = made_up(tmp_path)
    store = load_dataset("ogbg-molbbbp", tmp_path, tmp_path / "cache", progress=False)
    found = split_items(store, DataConfig("ogbg-molbbbp", split="official", validation=5, split_seed=3))
    for name, part in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert found[name].tolist() == sorted(parts[part]), name
    few = split_items(store, DataConfig("ogbg-molbbbp", split="official", train=4))
    assert len(few["train"]) == 4 and set(few["train"]) < set(parts["train"])
    assert few["validation"].tolist() == found["validation"].tolist()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: shutil.rmtree(raw / "mapping"), "holds no folder mapping/; unpack http.*bbbp.zip there"),
        (lambda raw: (raw / "raw/graph-label.csv.gz").unlink(), "lacks raw/graph-label.csv.gz; unpack http"),
        (lambda raw: write(raw / "raw/graph-label.csv.gz", [[1]]), "has 72 SMILES and 1 labels; they do not belong"),
        (lambda raw: write(raw / "raw/graph-label.csv.gz", [["a"]]), "graph-label.csv.gz is no table of numbers"),
        (lambda raw: write(raw / "raw/graph-label.csv.gz", [[1, 0]]), "has 2 labels a molecule, ogbg-molbbbp has 1"),
        (lambda raw: write(raw / "raw/graph-label.csv.gz", [["inf"]] * 72), "the label of molecule 0 is infinite"),
        (
            lambda raw: write(raw / "split/scaffold/test.csv.gz", [[72]]),
            "test.csv.gz names molecules other than 0",
        ),
        (lambda raw: write(raw / "split/scaffold/test.csv.gz", [[1.5]]), "names molecules other than 0 to 71"),
        (lambda raw: write(raw / "split/scaffold/test.csv.gz", [[i] for i in range(72)]), "is in a split already"),
        (lambda raw: write(raw / "mapping/mol.csv.gz", [["p_np", "mol_id"]]), "has no column named smiles"),
        (
            lambda raw: (raw / "mapping/mol.csv.gz").write_bytes(b"nonsense"),
            "mol.csv.gz cannot be read .*; fetch it",
        ),
    ],
)
def test_damaged_folders(tmp_path, spoil, words):
    made_up(tmp_path / "raw")
    spoil(tmp_path / "raw")
    with pytest.raises(ValueError, match=words):
        load_dataset("ogbg-molbbbp", tmp_path / "raw", tmp_path / "cache", progress=False)


def test_download(tmp_path, monkeypatch):
    url = "http://127.0.0.1:9/ogb/bace.zip"
    monkeypatch.setattr(
        ogb, "_meta", lambda name: {"download_name": "bace", "url": url, "num tasks": "1", "split": "scaffold"}
    )
    with pytest.raises(ValueError, match="ogbg-molbace: http.*/bace.zip cannot be downloaded.*/ogbg-molbace.zip"):
        load_dataset("ogbg-molbace", cache=tmp_path / "cache")
    made_up(tmp_path / "bace", CHAINS[:4], [1, 0, 0, 1], {"train": [0, 1], "valid": [2], "test": [3]}, "Class")
    with zipfile.ZipFile(tmp_path / "cache" / "ogbg-molbace.zip", "w") as archive:
        for file in (tmp_path / "bace").rglob("*.gz"):
            archive.write(file, file.relative_to(tmp_path))
    store = load_dataset("ogbg-molbace", cache=tmp_path / "cache", progress=False)  # fetched by hand, and put there
    assert store["official"].tolist() == [0, 0, 3, 1]


@pytest.mark.parametrize("name", list(COUNTS))
def test_the_published_sets(shared_data, tmp_path, name):
    read = DATASETS[name].table(shared_data / "ogb", tmp_path)
    parts, labels = COUNTS[name]
    assert [int((read.fields["official"] == part).sum()) for part in (ogb.TRAIN, ogb.VALIDATION, ogb.TEST)] == parts
    assert read.y[:3, 0].tolist() == labels and len(read.y) == sum(parts) and np.isfinite(read.y).all()
    if name == "ogbg-molhiv":
        of_part = [int(read.y[read.fields["official"] == part].sum()) for part in (0, 3, 1)]
        assert of_part == [1232, 81, 130]
    assert DATASETS[name].has_classes == set(np.unique(read.y)).issubset({0.0, 1.0})


def test_published_molecules_in_3d_and_as_text(shared_data, tmp_path):
    store = load_dataset("ogbg-molesol", shared_data / "ogb", tmp_path, limit=40, workers=2, progress=False)
    assert len(store) + store.info["failures"]["count"] == 40 and len(store) > 36
    text = load_labeled_dataset("ogbg-molesol", str(shared_data / "ogb"), str(tmp_path), workers=1)
    assert len(text) == 1128 and [int((text["official"] == part).sum()) for part in (0, 3, 1)] == [902, 113, 113]
    of_name = dict(zip(decode_texts(text, "smiles"), text["y"][:, 0]))
    assert all(of_name[one] == y for one, y in zip(decode_texts(store, "smiles"), store["y"][:, 0]))


def test_more_than_one_class_is_called_as_in_the_table(tmp_path):
    parts = {"train": [0, 1, 2], "valid": [3, 4], "test": [5]}
    made_up(tmp_path / "ogbg_molclintox", CHAINS[:6], list("010011"), parts)
    mapping = tmp_path / "ogbg_molclintox" / "mapping" / "mol.csv.gz"
    write(mapping, [["FDA_APPROVED", "CT, TOX", "smiles", "mol_id"], *([0, 1, one, one] for one in CHAINS[:6])])
    labels = [[i % 2, "" if i == 3 else 1 - i % 2] for i in range(6)]
    write(tmp_path / "ogbg_molclintox" / "raw" / "graph-label.csv.gz", labels)
    read = DATASETS["ogbg-molclintox"].table(tmp_path, tmp_path)
    assert [one["name"] for one in read.info["targets"]] == ["FDA_APPROVED", "CT TOX"]
    assert read.y[:3].tolist() == [[0, 1], [1, 0], [0, 1]] and np.isnan(read.y[3, 1])
    assert DATASETS["ogbg-molclintox"].has_classes


def test_pickles_beside_the_raw_files_are_not_read(tmp_path):
    made_up(tmp_path / "raw")
    for shortcut in (tmp_path / "raw/processed/data_processed", tmp_path / "raw/split/scaffold/split_dict.pt"):
        shortcut.parent.mkdir(exist_ok=True)
        shortcut.write_bytes(b"not read")
    with pytest.raises(ValueError, match="split_dict.pt may run code when it is read; delete it, the splits are in"):
        load_dataset("ogbg-molbbbp", tmp_path / "raw", tmp_path / "cache", progress=False)
    shortcut.unlink()
    assert len(DATASETS["ogbg-molbbbp"].table(tmp_path / "raw", tmp_path).y) == len(CHAINS)
    assert sorted(one.name for one in (tmp_path / "raw").iterdir()) == ["mapping", "processed", "raw", "split"]


def test_ogb_asks_nobody_whether_it_is_up_to_date():
    code = (
        "import socket, sys, threading\n"
        "def refuse(*_): raise SystemExit('the network was asked')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from ipu_chem.data.datasets.ogb import ogb_module\n"
        "ogb_module('it', 'ogb.graphproppred'), ogb_module('it', 'ogb.lsc')\n"
        "assert threading.active_count() == 1 and 'outdated' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_library_a_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ogb.graphproppred", None)
    ogb._meta.cache_clear()
    made_up(tmp_path)
    with pytest.raises(ValueError, match="ogbg-molbbbp is read by the library ogb: pip install 'ipu-chem.ogb.'"):
        load_dataset("ogbg-molbbbp", tmp_path, tmp_path / "cache")
