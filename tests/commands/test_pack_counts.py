"""`ipu-chem pack` counts what a training on the same file packs: atoms, and every pair of neighbors once."""

import numpy as np
import pytest

from ipu_chem.cli import main
from ipu_chem.commands.pack import Options, _sizes
from ipu_chem.config import from_dict
from ipu_chem.data.files.text import holds_smiles
from ipu_chem.tasks.graphs import GraphTask

pytest.importorskip("rdkit", reason="writes and embeds molecules with RDKit")

SMILES = ["CCO", "c1ccccc1", "CC(C)O", "CCN", "C1CC1", "CC#N", "OCC(O)CO", "CCCCCC", "O", "CC=O", "CCOCC", "CCCl"]
FILES = ("mols.csv", "mols.extxyz", "mols.sdf")


@pytest.fixture
def file(request, tmp_path, monkeypatch):
    """The molecules as a table of SMILES, as frames and as records, each with a number to learn."""
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / request.param
    if path.suffix == ".csv":
        path.write_text("smiles,energy\n" + "".join(f"{one},{number}.5\n" for number, one in enumerate(SMILES)))
        return path
    from rdkit import Chem
    from rdkit.Chem import AllChem

    text = ""
    for number, one in enumerate(SMILES):
        mol = Chem.AddHs(Chem.MolFromSmiles(one))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        if path.suffix == ".sdf":
            text += f"{Chem.MolToMolBlock(mol)}> <energy>\n{number}.5\n\n$$$$\n"
        else:
            head, comment, *atoms = Chem.MolToXYZBlock(mol).rstrip("\n").split("\n")
            text += "\n".join([head, f"Properties=species:S:1:pos:R:3 energy={number}.5", *atoms]) + "\n"
    path.write_text(text)
    return path


def trained(path, cutoff, **pack):
    """A loaded task with all molecules in training."""
    options = {
        "data": {"name": "file", "path": str(path), "target": "energy", "validation": 2, "test": 1},
        "model": {"cutoff": cutoff},
        "pack": pack,
    }
    return GraphTask.load(from_dict(options))


@pytest.mark.parametrize("cutoff", [1.2, 3.0, 100.0])
@pytest.mark.parametrize("file", FILES, indirect=True)
def test_atoms_and_pairs_are_those_of_a_training(file, cutoff):
    task = trained(file, cutoff)
    _, sizes = _sizes(Options(nodes=[64], data="file", path=str(file), cutoff=cutoff, edges=10_000))
    assert len(sizes["nodes"]) == len(SMILES)
    for split, plan in task.plans.items():
        packed = dict(zip(plan.budget.measured, plan.sizes.T))
        for axis in ("nodes", "edges"):
            np.testing.assert_array_equal(sizes[axis][task.items[split]], packed[axis], err_msg=f"{axis} of {split}")


@pytest.mark.parametrize("file", FILES, indirect=True)
def test_a_pair_counts_once_and_no_atom_is_its_own_neighbor(file):
    _, sizes = _sizes(Options(nodes=[64], data="file", path=str(file), cutoff=100.0, edges=10_000))
    np.testing.assert_array_equal(sizes["edges"], sizes["nodes"] * (sizes["nodes"] - 1) // 2)
    source, target = np.asarray(trained(file, 100.0).store.fields["edge_index"]).T
    assert (source < target).all()


@pytest.mark.parametrize("file", FILES, indirect=True)
def test_neighbors_that_the_device_looks_for_are_the_most_of_any_atom(file):
    task = trained(file, 3.0, device_neighbors=-1)
    store = task.store
    atoms = np.repeat(store.ragged("z").offsets[:-1], np.diff(store.axes["edges"]))
    both = np.concatenate([atoms + column for column in np.asarray(store.fields["edge_index"]).T])
    assert task.neighbors == np.bincount(both).max()
    assert all(plan.budget.measured == ("nodes",) for plan in task.plans.values())


@pytest.mark.parametrize("file", FILES[:1], indirect=True)
def test_atoms_of_smiles_are_counted_as_a_training_embeds_them(file):
    assert holds_smiles(file)
    _, counted = _sizes(Options(nodes=[64], data="file", path=str(file)))
    assert list(counted) == ["nodes"]
    np.testing.assert_array_equal(counted["nodes"], trained(file, 3.0).store.sizes()["nodes"])


@pytest.mark.parametrize(
    "name", ["spl.csv", "iod.smi", "dups.csv", "chembl.csv", "utf16.csv", "space.csv", "charged.smi", "b012b.csv"]
)
def test_counts_of_files_as_people_have_them(shared, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    path = str(shared / "cases" / "files" / name)
    counted = _sizes(Options(nodes=[64], data="file", path=path))[1]
    embedded = _sizes(Options(nodes=[64], data="file", path=path, edges=10_000))[1]
    np.testing.assert_array_equal(counted["nodes"], embedded["nodes"])
    assert main(["pack", "--data", "file", "--path", path, "--nodes", "512"]) == 0
