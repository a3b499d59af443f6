import csv
import gzip
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from ogb_folders import needs_ogb
from rdkit import Chem
from rdkit.Chem import AllChem

from ipu_chem.config import DataConfig
from ipu_chem.data.corpora.labels import load_labeled_dataset
from ipu_chem.data.datasets import load_dataset, pcqm4mv2
from ipu_chem.data.datasets.ogb import ogb_module
from ipu_chem.data.datasets.pcqm4mv2 import load_split
from ipu_chem.data.molecule import decode_texts
from ipu_chem.metrics import label_metrics, targets_of
from ipu_chem.tasks.graphs import load_store
from ipu_chem.tasks.splits import split_items

SMILES = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CF", "CCl", "CS"]
pytestmark = needs_ogb
PARTS = {
    "train": torch.arange(4),
    "valid": torch.tensor([4, 5]),
    "test-dev": torch.tensor([6]),
    "test-challenge": torch.zeros(0, dtype=int),
}


def made_up(folder, smiles=SMILES, parts=PARTS):
    """The published layout; row 6 is of a test part, without a gap."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    rows = [[i, one, "" if i == 6 else 5 + i / 10] for i, one in enumerate(smiles)]
    with gzip.open(folder / "raw" / "data.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["idx", "smiles", "homolumogap"], *rows])
    torch.save(parts, folder / "split_dict.pt")


def embedded(smiles, seed=7):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    return mol


def write_sdf(folder, smiles, kind="tar.gz"):
    text = "".join(f"{Chem.MolToMolBlock(embedded(one))}$$$$\n" for one in smiles)
    sdf = folder / "pcqm4m-v2-train.sdf"
    sdf.write_text(text)
    if kind == "tar.gz":
        with tarfile.open(f"{sdf}.tar.gz", "w:gz") as archive:
            archive.add(sdf, sdf.name)
    elif kind == "gz":
        (folder / f"{sdf.name}.gz").write_bytes(gzip.compress(text.encode()))
    if kind != "sdf":
        sdf.unlink()


@pytest.mark.parametrize("kind", ["tar.gz", "gz", "sdf"])
def test_published_geometries_and_embedded_ones(tmp_path, kind):
    made_up(tmp_path / "pcqm4m-v2")
    write_sdf(tmp_path, SMILES[:4], kind)
    store = load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)
    assert decode_texts(store, "name") == list("012345") and decode_texts(store, "smiles") == SMILES[:6]
    np.testing.assert_allclose(store["y"][:, 0], [5.0, 5.1, 5.2, 5.3, 5.4, 5.5])
    assert store["official"].tolist() == [0, 0, 0, 0, 1, 1]
    for row in range(4):
        np.testing.assert_allclose(store["pos"][row], embedded(SMILES[row]).GetConformer().GetPositions(), atol=1e-4)
    assert sorted(store["z"][4].tolist()) == [1, 1, 1, 6, 9]
    assert store.info["targets"] == [{"name": "homolumogap", "unit": "eV", "extensive": False}]
    assert "4 DFT, 2 ETKDGv3" in store.info["level"]
    first, second = store.info["notes"]
    assert "the test of split=official is the official validation split" in first
    assert "of the test molecules 0 have DFT's, of those that train 4" in second
    dft = load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", geometry="dft", progress=False)
    assert len(dft) == 4 and len(dft.info["notes"]) == 1
    etkdg = load_store(DataConfig("pcqm4mv2", path=str(tmp_path), cache=str(tmp_path / "cache"), geometry="etkdg"), 5.0)
    assert len(etkdg) == 6 and not np.allclose(etkdg["pos"][0], store["pos"][0], atol=0.01)
    few = load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", limit=3, progress=False)
    assert len(few) == 3 and "3 DFT" in few.info["level"]


def test_the_official_split_and_text(tmp_path):
    made_up(tmp_path)
    store = load_labeled_dataset("pcqm4mv2", str(tmp_path), str(tmp_path / "cache"), workers=1)
    assert len(store) == 6 and store.info["left out"] == {"without label": 1, "no SELFIES": 0}
    split = split_items(store, DataConfig("pcqm4mv2", split="official", validation=1))
    assert split["test"].tolist() == [4, 5] and len(split["train"]) == 3 and len(split["validation"]) == 1


def test_geometries_that_cannot_be_used(tmp_path):
    made_up(tmp_path)
    write_sdf(tmp_path, ["CCO", "CCC"], "sdf")
    with pytest.raises(ValueError, match="record 1 is no geometry of CCN, which data.csv.gz has in that row; they do"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)
    write_sdf(tmp_path, SMILES[:3], "sdf")
    text = (tmp_path / "pcqm4m-v2-train.sdf").read_text().split("$$$$\n")
    text[0] = text[0].replace("V2000", "V20x0")
    positions = text[1].splitlines()
    positions[5] = positions[4]  # two atoms in one place
    text[1] = "\n".join(positions) + "\n"
    (tmp_path / "pcqm4m-v2-train.sdf").write_text("$$$$\n".join(text))
    store = load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", geometry="dft", progress=False)
    reasons = {line: reason for line, _, reason in store.info["failures"]["list"]}
    assert decode_texts(store, "name") == ["2"] and set(reasons) == {2, 3} and "apart" in reasons[3]
    write_sdf(tmp_path, SMILES[:4], "tar.gz")
    (tmp_path / "pcqm4m-v2-train.sdf.tar.gz").write_bytes((tmp_path / "pcqm4m-v2-train.sdf.tar.gz").read_bytes()[:300])
    with pytest.raises(ValueError, match="tar.gz is cut or damaged after . records .*fetch it again"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)


def test_files_that_are_missing_or_something_else(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no raw/data.csv.gz, nor pcqm4m-v2/ in it; unpack http"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache")
    made_up(tmp_path)
    with pytest.raises(ValueError, match="holds no pcqm4m-v2-train.sdf.tar.gz; fetch http"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", geometry="dft")
    with pytest.raises(ValueError, match="pcqm4mv2 has no data.geometry='b3lyp'; choose one of auto, dft, etkdg"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", geometry="b3lyp")
    with pytest.raises(ValueError, match="data.geometry belongs to pcqm4mv2; qm9 has keep_uncharacterized"):
        load_store(DataConfig("qm9", geometry="dft"), 5.0)
    made_up(tmp_path, parts={"train": torch.arange(9), "valid": torch.arange(0)})
    with pytest.raises(ValueError, match="names row 8, but .*data.csv.gz has 7 rows; they do not belong together"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)
    made_up(tmp_path, parts={"train": torch.arange(3)})
    with pytest.raises(ValueError, match="split_dict.pt has no split 'valid'; it has train"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)
    monkeypatch.setattr(pcqm4mv2, "URL", "http://127.0.0.1:9/pcqm4m-v2.zip")
    with pytest.raises(ValueError, match="pcqm4mv2: http.*cannot be downloaded.*put it at .*/empty/pcqm4m-v2.zip"):
        load_dataset("pcqm4mv2", cache=tmp_path / "empty")


TENSORS = {"a": torch.tensor([0, 1]), "c": torch.arange(10)[2:8:2], "d": torch.zeros(0)}
ARRAYS = {**TENSORS, "a": np.arange(2), "b": np.array([2], np.int32)}


def refused(file):
    """The sentence that refuses a file, and the command that it ends with."""
    with pytest.raises(ValueError, match="beside tensors, which may run code; fetch it again, or, if you") as error:
        load_split(file)
    assert str(error.value).count("\n") == 0
    return str(error.value), str(error.value).split(": python ")[1]


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("arrays", [TENSORS, ARRAYS])
def test_arrays_of_torch_files(tmp_path, options, arrays):
    file = tmp_path / "arrays.pt"
    torch.save(arrays, file, **options)
    if arrays is ARRAYS and not hasattr(torch.serialization, "safe_globals"):
        words, command = refused(file)  # torch 2.0 cannot be shown that numpy's arrays are safe
        assert "numpy.core.multiarray._reconstruct" in words
        subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    found = load_split(file)
    assert list(found) == list(arrays) and found["c"].tolist() == [2, 4, 6] and len(found["d"]) == 0
    np.testing.assert_array_equal(found["a"], np.arange(2))


def test_torch_files_run_no_code(tmp_path):
    class Call:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"train": Call()}, tmp_path / "bad.pt", **options)
        assert "bad.pt asks for posix.mkdir beside tensors" in refused(tmp_path / "bad.pt")[0]
        assert not (tmp_path / "made").exists()
    torch.save([1, 2], tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="bad.pt is no file of tensors .*fetch it again"):
        load_split(tmp_path / "bad.pt")
    torch.save(TENSORS, tmp_path / "bad.pt")
    (tmp_path / "bad.pt").write_bytes((tmp_path / "bad.pt").read_bytes()[:-100])
    with pytest.raises(ValueError, match="bad.pt is no file of tensors .*fetch it again"):
        load_split(tmp_path / "bad.pt")


def test_a_split_of_something_else(tmp_path):
    made_up(tmp_path, parts={"train": torch.zeros(2), "valid": torch.zeros(0)})
    with pytest.raises(ValueError, match="split_dict.pt: train is no list of row numbers"):
        load_dataset("pcqm4mv2", tmp_path, tmp_path / "cache", progress=False)


def test_the_metric_of_the_challenge():
    random = np.random.default_rng(0)
    label, prediction = random.normal(5, 1, 99), random.normal(5, 1, 99)
    target = targets_of([{"name": "homolumogap", "unit": "eV", "extensive": False}])
    ours = label_metrics(prediction[:, None], label[:, None], target)["mae_homolumogap_meV"]
    assert ours == pytest.approx(1000 * np.abs(prediction - label).mean())
    lsc = ogb_module("the test", "ogb.lsc")
    theirs = lsc.PCQM4Mv2Evaluator().eval({"y_pred": torch.tensor(prediction), "y_true": torch.tensor(label)})["mae"]
    assert ours == pytest.approx(1000 * float(theirs), rel=1e-6)


def test_real_molecules(shared_data, tmp_path):
    store = load_dataset("pcqm4mv2", shared_data / "pcqm4mv2", tmp_path, progress=False)
    assert len(store) == 1999 and store["y"][:2, 0].tolist() == [3.0476751256, 4.410965516605]
    sizes = store.sizes()["nodes"]
    assert (sizes.min(), sizes.max()) == (11, 46) and sizes.mean() == pytest.approx(28.96, abs=0.005)
    assert [int((store["official"] == part).sum()) for part in (0, 1)] == [1599, 400]
    np.testing.assert_allclose(store["pos"][0][0], [6.4528, -1.5789, -1.2859], atol=1e-6)
    heavy = sum(int((store["z"][item] > 1).sum()) for item in (0, 1))
    assert heavy == 18 + 17
