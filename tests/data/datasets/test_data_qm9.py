import gzip
import itertools
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple, Tuple

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ipu_chem.data.datasets import load_dataset, qm9
from ipu_chem.data.molecule import decode_texts

# Any molecules will do for the reader; these are in no particular order, as gdb9.sdf's are.
SMILES = "C N O C#C C#N C=O CC CO CC#C CC#N CC=O NC=O CCC CCO C1CC1 C1CO1 CC(C)=O c1ccccc1 CC(=O)N FC(F)F".split()


class Layout(NamedTuple):
    """PyG's raw files, and what is in them."""

    root: Path
    count: int
    skipped: Tuple[int, ...]  # positions from 1 listed as uncharacterized


def write_skip_list(path, skipped):
    head = "\n\nList of molecules among the 133885\nand more.\n\n\n====\n#   Index   GDB17 SMILES\n====\n"
    rows = "".join(f"{index:8d}    NC(=N)C#N    NC(=N)C#N    6.036217\n" for index in skipped)
    path.write_text(head + rows + "====\n")


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """The first molecules of QM9."""
    source, count, skipped = shared_data / "qm9" / "pyg_raw", 400, (3, 58, 399)
    root = tmp_path_factory.mktemp("qm9")
    (root / "raw").mkdir()
    with gzip.open(source / "gdb9.sdf.gz", "rt") as file:
        records = file.read().split("$$$$\n", count)[:count]
    (root / "raw" / "gdb9.sdf").write_text("".join(record + "$$$$\n" for record in records))
    with gzip.open(source / "gdb9.sdf.csv.gz", "rt") as file:
        (root / "raw" / "gdb9.sdf.csv").write_text("".join(itertools.islice(file, count + 1)))
    write_skip_list(root / "raw" / "uncharacterized.txt", skipped)
    return Layout(root, count, skipped)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of the same form with other molecules and random labels, so that no download is needed."""
    root = tmp_path_factory.mktemp("made")
    (root / "raw").mkdir()
    random = np.random.default_rng(0)
    columns = "A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom".split()
    rows, records = [",".join(["mol_id", *columns])], []
    for index, smiles in enumerate(SMILES, start=1):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        mol.SetProp("_Name", f"gdb_{index}")
        records.append(Chem.MolToMolBlock(mol) + "$$$$\n")
        rows.append(",".join([f"gdb_{index}", *(f"{value:.6f}" for value in random.normal(0, 100, 19))]))
    (root / "raw" / "gdb9.sdf").write_text("".join(records))
    (root / "raw" / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    write_skip_list(root / "raw" / "uncharacterized.txt", (3, 7))
    return Layout(root, len(SMILES), (3, 7))


@pytest.fixture(params=["made", "real"])
def layout(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def real_store(real, tmp_path_factory):
    return load_dataset("qm9", real.root, cache=tmp_path_factory.mktemp("cache"))


def test_it_is_pygs_qm9(layout, tmp_path):
    from torch_geometric.datasets import QM9

    store = load_dataset("qm9", layout.root, cache=tmp_path)
    theirs = QM9(str(layout.root))
    assert len(store) == len(theirs) == layout.count - len(layout.skipped)
    names = decode_texts(store, "name")
    for item, data in enumerate(theirs):
        assert names[item] == data.name == f"gdb_{store['id'][item]}"
        np.testing.assert_array_equal(store["z"][item], data.z.numpy())
        np.testing.assert_array_equal(store["pos"][item], data.pos.numpy())
    # PyG converts float32, we float64: they agree to float32's precision.
    np.testing.assert_allclose(store["y"], np.concatenate([data.y.numpy() for data in theirs]), rtol=3e-7)


def test_info(layout, tmp_path):
    store = load_dataset("qm9", layout.root, cache=tmp_path)
    names = [target["name"] for target in store.info["targets"]]
    assert names == (
        "mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom A B C".split()
    )
    assert store.info["targets"][7] == {"name": "u0", "unit": "eV", "extensive": True}
    assert store.info["targets"][4] == {"name": "gap", "unit": "eV", "extensive": False}
    assert store.info["failures"]["count"] == len(layout.skipped)
    assert [position for position, _, _ in store.info["failures"]["list"]] == list(layout.skipped)


def test_atom_references_are_pygs(made, tmp_path):
    from torch_geometric.datasets.qm9 import atomrefs

    store = load_dataset("qm9", made.root, cache=tmp_path)
    names = [target["name"] for target in store.info["targets"]]
    assert set(store.info["reference_energies"]) == {names[column] for column in atomrefs}
    for column, values in atomrefs.items():
        ours = store.info["reference_energies"][names[column]]
        assert [ours[z] for z in ("1", "6", "7", "8", "9")] == values


def test_atom_references_give_atomisation_energies(real_store):
    """u0 less the free atoms is u0_atom: labels, units and references agree with each other."""
    store = real_store
    y, z = store["y"], store["z"]
    names = [target["name"] for target in store.info["targets"]]
    for name in ("u0", "u298", "h298", "g298"):
        reference = {int(key): value for key, value in store.info["reference_energies"][name].items()}
        atoms = np.array([sum(reference[element] for element in z[item].tolist()) for item in range(len(store))])
        difference = y[:, names.index(name)] - atoms - y[:, names.index(f"{name}_atom")]
        assert np.abs(difference).max() < 2e-3


def test_options(made, tmp_path):
    some = load_dataset("qm9", made.root, cache=tmp_path, targets=("gap", "u0"), limit=8)
    assert [target["name"] for target in some.info["targets"]] == ["gap", "u0"]
    assert some["y"].shape == (6, 2) and some["id"].tolist() == [1, 2, 4, 5, 6, 8]
    assert list(some.info["reference_energies"]) == ["u0"]
    whole = load_dataset("qm9", made.root, cache=tmp_path)
    np.testing.assert_array_equal(some["y"], whole["y"][:6][:, [4, 7]])
    kept = load_dataset("qm9", made.root, cache=tmp_path, targets="u0", keep_uncharacterized=True)
    assert len(kept) == made.count and kept.info["failures"]["count"] == 0
    for wrong in ("U0", ("u0", "u0"), ()):
        with pytest.raises(ValueError, match="this copy has mu, alpha"):
            load_dataset("qm9", made.root, cache=tmp_path, targets=wrong)


def test_units(real_store):
    """Methane as published, in Hartree, kcal/mol and GHz."""
    published = {"gap": 0.5048 * 27.211386246, "u0": -40.47893 * 27.211386246, "alpha": 13.21, "A": 157.7118}
    published["u0_atom"] = -395.999594594 * 0.04336414
    names = [target["name"] for target in real_store.info["targets"]]
    for name, value in published.items():
        assert real_store["y"][0, names.index(name)] == pytest.approx(value, rel=1e-12)


def test_gzipped_and_npz_layouts_agree(shared_data, tmp_path, real_store):
    """The same molecules from another collection of the same data: coordinates, energies, gaps, dipoles."""
    whole = load_dataset("qm9", shared_data / "qm9", cache=tmp_path)
    sdf = load_dataset("qm9", shared_data / "qm9" / "pyg_raw", cache=tmp_path)
    assert len(whole) == 118_729 and len(sdf) == 23_897
    np.testing.assert_array_equal(sdf["z"][30], real_store["z"][29])
    row = {int(number): index for index, number in enumerate(whole["id"])}
    rows = np.array([row[int(number)] for number in sdf["id"]])
    same = whole.take(rows)
    np.testing.assert_array_equal(same.fields["z"], sdf.fields["z"])
    np.testing.assert_allclose(same.fields["pos"], sdf.fields["pos"], atol=1.01e-4)
    np.testing.assert_array_equal(same["y"][:, :19], sdf["y"])
    electronic = sdf["y"][:, 7] - sdf["y"][:, 6]
    known = np.isfinite(same["y"][:, 19])
    assert known.sum() == 23_897 - 8
    np.testing.assert_allclose(same["y"][known, 19], electronic[known], rtol=0, atol=1e-4 * 27.3)
    gaps = whole["y"][:, 4]
    assert np.isfinite(gaps).sum() > 85_000 and np.isnan(gaps).any()
    only = load_dataset("qm9", shared_data / "qm9", cache=tmp_path, targets="u0")
    assert len(only) == 23_897 and only.info["failures"]["count"] == 118_744 - 23_897


@pytest.mark.parametrize("missing", ["gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"])
def test_missing_files_are_named(made, tmp_path, missing):
    for file in (made.root / "raw").iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=f"lacks {missing}; fetch .* by hand"):
        load_dataset("qm9", tmp_path, cache=tmp_path / "cache")


def test_files_that_do_not_belong_together(made, tmp_path):
    for file in (made.root / "raw").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = (tmp_path / "gdb9.sdf.csv").read_text().splitlines()
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join(table[:10] + table[11:]) + "\n")
    with pytest.raises(ValueError, match="row gdb_11 where .* has gdb_10; they do not belong together"):
        load_dataset("qm9", tmp_path, cache=tmp_path / "cache")
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join([*table, table[-1]]) + "\n")
    with pytest.raises(ValueError, match="20 records, .* 21 rows; one of them is cut"):
        load_dataset("qm9", tmp_path, cache=tmp_path / "cache")
    (tmp_path / "gdb9.sdf.csv").write_text("mol_id,u0\n")
    with pytest.raises(ValueError, match="lacks the columns A, B, C, alpha"):
        load_dataset("qm9", tmp_path, cache=tmp_path / "cache")


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*none; fetch gdb9.sdf"):
        load_dataset("qm9", tmp_path / "none", cache=tmp_path)


def test_published_targets():
    assert len(qm9.TARGETS) == 19 and len({target.name for target in qm9.TARGETS}) == 19


def test_download(made, tmp_path, monkeypatch):
    monkeypatch.setattr(qm9, "_ARCHIVE", "http://127.0.0.1:9/qm9.zip")
    monkeypatch.setattr(qm9, "_SKIP", "http://127.0.0.1:9/skip.txt")  # the checksum of the published one is known
    with pytest.raises(ValueError, match=r"qm9: http.*qm9.zip cannot be downloaded.*put it at .*/qm9.zip, or pass"):
        load_dataset("qm9", cache=tmp_path)
    with zipfile.ZipFile(tmp_path / "qm9.zip", "w") as archive:  # fetched by hand, and put there
        for name in ("gdb9.sdf", "gdb9.sdf.csv"):
            archive.write(made.root / "raw" / name, name)
    shutil.copy(made.root / "raw" / "uncharacterized.txt", tmp_path)
    assert len(load_dataset("qm9", cache=tmp_path)) == made.count - len(made.skipped)
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "qm9-raw", "what was unpacked is not kept twice"
