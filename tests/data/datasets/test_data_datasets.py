import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.cache import cache_folder
from ipu_chem.data.datasets import DATASETS, Dataset, load_dataset
from ipu_chem.data.molecule import Molecule, decode_text, decode_texts, molecules_to_store
from ipu_chem.data.neighbors import radius_edges

ROOT = Path(__file__).resolve().parents[3]
SMALL = dict(limit=60, min_element_count=2, workers=2, progress=False)


def test_nci3d_says_what_it_is(nci3d_small):
    info = nci3d_small.info
    assert info["name"] == "nci3d" and info["lines"] == 60
    assert info["targets"] == [{"name": "mmff94_energy", "unit": "kcal/mol", "extensive": True}]
    assert len(nci3d_small) + info["failures"]["count"] == 60
    assert len(info["failures"]["list"]) == info["failures"]["count"] == sum(info["failures"]["by_reason"].values())
    assert all(reason for _, _, reason in info["failures"]["list"])
    assert {"source", "licence", "citation", "level", "reference_energies"} <= set(info)


def test_nci3d_is_molecules_with_energies(nci3d_small):
    from rdkit import Chem
    from rdkit.Chem import ChemicalForceFields
    from rdkit.Geometry import Point3D

    assert len(nci3d_small) > 40 and nci3d_small["y"].dtype == np.float64
    np.testing.assert_array_equal(nci3d_small["id"], [int(name) for name in decode_texts(nci3d_small, "name")])
    for item in range(0, len(nci3d_small), 10):
        mol = Chem.AddHs(Chem.MolFromSmiles(decode_text(nci3d_small, "smiles", item)))
        # The canonical SMILES orders atoms anew, so only what does not depend on order is compared.
        assert sorted(nci3d_small["z"][item]) == sorted(atom.GetAtomicNum() for atom in mol.GetAtoms())
    # The first line keeps its order: its label is the MMFF94 energy of the stored coordinates.
    mol = Chem.AddHs(Chem.MolFromSmiles("CC1=CC(=O)C=CC1=O"))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, xyz in enumerate(nci3d_small["pos"][0].tolist()):
        conformer.SetAtomPosition(atom, Point3D(*xyz))
    mol.AddConformer(conformer)
    properties = ChemicalForceFields.MMFFGetMoleculeProperties(mol)
    energy = ChemicalForceFields.MMFFGetMoleculeForceField(mol, properties).CalcEnergy()
    assert nci3d_small["y"][0, 0] == pytest.approx(energy, abs=1e-4)  # float32 coordinates


def test_a_damaged_data_set_is_prepared_again(tmp_path, capsys):
    options = dict(cache=tmp_path, limit=10, min_element_count=1, workers=1, progress=False)
    before = load_dataset("nci3d", **options).fingerprint()
    (file,) = tmp_path.glob("nci3d-*/pos.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert load_dataset("nci3d", **options).fingerprint() == before
    said = capsys.readouterr().out
    assert said.count("preparing again, because") == 1 and "the checksum of its array pos does not match" in said
    assert [path.name for path in tmp_path.iterdir()] == [file.parent.name]


def test_nci3d_leaves_out_and_lists(tmp_path):
    store = load_dataset("nci3d", cache=tmp_path, limit=60, max_atoms=24, min_element_count=5, progress=False)
    reasons = store.info["failures"]["by_reason"]
    assert any("more than 24 atoms" in reason for reason in reasons)
    assert any("in fewer than 5 molecules" in reason for reason in reasons)
    assert store.sizes()["nodes"].max() <= 24
    z = store["z"]
    for element in np.unique(z.values):
        assert sum(element in z[item] for item in range(len(store))) >= 5
    assert len(store) + store.info["failures"]["count"] == 60
    lines = [line for line, _, _ in store.info["failures"]["list"]]
    assert lines == sorted(lines)


def test_cache_is_reused_and_says_so(nci3d_small, nci3d_cache, capsys):
    again = load_dataset("nci3d", cache=nci3d_cache, **{**SMALL, "workers": 1})
    assert again.fingerprint() == nci3d_small.fingerprint()
    assert capsys.readouterr().out.startswith(f"nci3d: {len(again)} molecules, prepared before, from {nci3d_cache}")
    assert len(list(nci3d_cache.iterdir())) == 1  # the number of workers is no part of the key


def test_cache_key_follows_options_and_input(tmp_path, monkeypatch):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    smiles = tmp_path / "first_5K.smi"
    smiles.write_text("C 1\nCC 2\nCCC 3\n")
    options = dict(path=smiles, min_element_count=1, progress=False)
    first = load_dataset("nci3d", **options)
    assert len(load_dataset("nci3d", limit=2, **options)) == 2
    smiles.write_text("C 1\nCC 2\nCCO 3\n")
    second = load_dataset("nci3d", **options)
    assert decode_text(first, "smiles", 2) == "CCC" and decode_text(second, "smiles", 2) == "CCO"
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_damaged_cache_is_prepared_again(tmp_path, capsys):
    smiles = tmp_path / "a.smi"
    smiles.write_text("C 1\nCC 2\n")
    options = dict(path=smiles, cache=tmp_path / "cache", min_element_count=1, progress=False)
    whole = load_dataset("nci3d", **options).fingerprint()
    (file,) = (tmp_path / "cache").glob("*/pos.npy")
    file.write_bytes(file.read_bytes()[:-4])
    assert load_dataset("nci3d", **options).fingerprint() == whole
    assert "preparing again, because" in capsys.readouterr().out


def test_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def stopped(path, cache):
        raise KeyboardInterrupt

    def unsaved(path, cache):
        helium = Molecule(np.array([2], np.uint8), np.zeros((1, 3)))
        return molecules_to_store([helium], {"failures": {"count": 0}, "what": object()})  # no JSON

    for prepare, error in ((stopped, KeyboardInterrupt), (unsaved, TypeError)):
        monkeypatch.setitem(DATASETS, "stub", Dataset(lambda path, cache: {}, prepare))
        with pytest.raises(error):
            load_dataset("stub", cache=tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_wrong_names_and_places(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'qm8' \(did you mean 'qm9'\?\); there are nci3d, qm9"):
        load_dataset("qm8", cache=tmp_path)
    with pytest.raises(ValueError, match=r"no option 'limits' \(did you mean 'limit'\?\); it has limit, max_atoms"):
        load_dataset("nci3d", cache=tmp_path, limits=3)
    with pytest.raises(ValueError, match="limit=0"):
        load_dataset("nci3d", cache=tmp_path, limit=0)
    with pytest.raises(ValueError, match="none of 1 molecules is left"):
        load_dataset("nci3d", cache=tmp_path, limit=1, progress=False)
    with pytest.raises(ValueError, match="there is no file .*none.smi; nci3d needs first_5K.smi"):
        load_dataset("nci3d", path=tmp_path / "none.smi", cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache folder .* cannot be made"):
        load_dataset("nci3d", cache=tmp_path / "file" / "cache")
    assert cache_folder(tmp_path / "new").is_dir()


def test_edges_of_a_stored_data_set(nci3d_small):
    edges = radius_edges(nci3d_small.fields["pos"], nci3d_small.axes["nodes"], 1.2)
    z = nci3d_small["z"]
    item = decode_texts(nci3d_small, "smiles").index("CC1=CC(=O)C=CC1=O")
    pairs = z[item][edges[item]]
    assert len(pairs) == 12 and set(pairs.sum(1)) == {7}  # six C-H bonds, both ways; C=O is 1.22 Å


def test_import_needs_numpy_alone():
    """`ipu-chem --help` and a machine without chemistry packages must not load them."""
    heavy = ["rdkit", "ase", "scipy", "torch", "torch_geometric"]
    modules = ["files", "molecule", "neighbors", "smiles", "splits", "standardize", "datasets"]
    code = "import sys\n" + "".join(f"import ipu_chem.data.{module}\n" for module in modules)
    code += f"print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout == b"[]\n"
