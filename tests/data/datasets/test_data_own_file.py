import numpy as np
import pytest

from ipu_chem.config import DataConfig
from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.molecule import decode_texts
from ipu_chem.tasks.graphs import load_store

WATER = "3\nenergy={energy} charge=0 name=water{i}\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


@pytest.fixture
def xyz(tmp_path):
    path = tmp_path / "waters.xyz"
    path.write_text("".join(WATER.format(i=i, energy=round(-76.4 + i / 10, 1)) for i in range(4)))
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "solubility.csv"
    rows = "CCO,ethanol,1.1,16\nnot-a-smiles,x,0,0\nCC(=O)O,acetic acid,1.2,\nC,methane,,\n"
    path.write_text("smiles,name,logS,pKa\n" + rows)
    return path


def test_xyz_with_labels(xyz, tmp_path):
    store = load_dataset("file", xyz, tmp_path / "cache", target="energy", unit="Hartree")
    assert store.info["targets"] == [{"name": "energy", "unit": "Hartree", "extensive": True}]
    np.testing.assert_allclose(store["y"][:, 0], [-76.4, -76.3, -76.2, -76.1])
    assert decode_texts(store, "name") == [f"water{i}" for i in range(4)]
    assert "smiles" not in store


def test_csv_is_embedded_and_its_failures_are_listed(table, tmp_path):
    store = load_dataset("file", table, tmp_path, target="logS, pKa", extensive=False, progress=False)
    assert [target["name"] for target in store.info["targets"]] == ["logS", "pKa"]
    assert not any(target["extensive"] for target in store.info["targets"])
    np.testing.assert_array_equal(store["y"], [[1.1, 16], [1.2, np.nan], [np.nan, np.nan]])
    assert decode_texts(store, "smiles") == ["CCO", "CC(=O)O", "C"]
    assert store.info["failures"]["list"] == [[3, "not-a-smiles", "RDKit cannot parse the SMILES"]]


def test_a_changed_file_is_read_again(xyz, tmp_path):
    first = load_dataset("file", xyz, tmp_path / "cache", target="energy")
    xyz.write_text(xyz.read_text().replace("-76.3", "-77.3"))
    second = load_dataset("file", xyz, tmp_path / "cache", target="energy")
    assert first["y"][1, 0] == -76.3 and second["y"][1, 0] == -77.3


def test_the_seed_decides_the_conformers(table, tmp_path):
    first, again, other = (
        load_dataset("file", table, tmp_path / folder, target="logS", seed=seed, progress=False)
        for folder, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert first.fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(first["z"].values, other["z"].values)
    assert not np.allclose(first["pos"].values, other["pos"].values)


def test_a_run_takes_unit_and_kind_from_its_config(table, tmp_path, capsys):
    config = DataConfig("file", path=str(table), cache=str(tmp_path), target="logS", unit="log(mol/l)", extensive=False)
    store = load_store(config, cutoff=5.0)
    assert len(store) == 2  # methane has no logS
    assert store.info["targets"] == [{"name": "logS", "unit": "log(mol/l)", "extensive": False}]
    assert "1 molecules without a label" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, complaint",
    [
        (dict(path=""), "name it with data.path"),
        (dict(path="nowhere.csv"), "there is no file nowhere.csv"),
        (dict(target=""), "no labels to train on; name one with data.target"),
        (dict(target="logP"), r"has no column 'logP'; it has smiles, name, logS, pKa"),
        (dict(target="name"), "line 2: name is .*, no number"),
        (
            dict(name="nci3d", path="", target="", unit="eV"),
            "data.unit, data.extensive and data.kind are for",
        ),
    ],
)
def test_bad_input(table, tmp_path, changes, complaint):
    values = {"name": "file", "path": str(table), "cache": str(tmp_path), "target": "logS", **changes}
    with pytest.raises(ValueError, match=complaint):
        load_store(DataConfig(**values), cutoff=5.0)


def test_labels_are_not_needed_to_look_at_molecules(tmp_path, xyz):
    smi = tmp_path / "a.smi"
    smi.write_text("C methane\nCC ethane\n")
    for path, count in ((smi, 2), (xyz, 4)):
        store = load_dataset("file", path, tmp_path / "cache", progress=False)
        assert len(store) == count and "y" not in store and store.info["targets"] == []


def test_labels_that_are_not_there(tmp_path, xyz):
    smi = tmp_path / "a.smi"
    smi.write_text("C methane\n")
    with pytest.raises(ValueError, match="a.smi holds no labels, only SMILES"):
        load_dataset("file", smi, tmp_path, target="energy")
    with pytest.raises(ValueError, match="waters.xyz frame 0 .line 1. has no 'dipole'; it has charge, energy, name"):
        load_dataset("file", xyz, tmp_path, target="dipole")
    forces = tmp_path / "vector.xyz"
    forces.write_text('1\nmu="1 2 3" name=he\nHe 0 0 0\n')
    with pytest.raises(ValueError, match="he: mu is one number each for a molecule"):
        load_dataset("file", forces, tmp_path, target="mu")
