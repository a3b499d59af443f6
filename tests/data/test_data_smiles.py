import gzip

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import ChemicalForceFields
from rdkit.Geometry import Point3D

from ipu_chem.data.files.layout import TableOptions
from ipu_chem.data.files.table import Failure, Line, read_smiles_file
from ipu_chem.data.molecule import check_molecule
from ipu_chem.data.smiles import count_atoms, embed_many, embed_smiles

DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "C", "O", "[NH4+]"] * 4


def mmff94(smiles, pos):
    """Energy (kcal/mol) and largest force of given coordinates, by RDKit alone."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, xyz in enumerate(pos.tolist()):
        conformer.SetAtomPosition(atom, Point3D(*xyz))
    mol.AddConformer(conformer)
    field = ChemicalForceFields.MMFFGetMoleculeForceField(mol, ChemicalForceFields.MMFFGetMoleculeProperties(mol))
    return field.CalcEnergy(), np.abs(field.CalcGrad()).max()


def test_label_is_the_energy_of_a_minimum():
    embedding = embed_smiles(DRUGS[0], seed=3, name="aspirin", line=12)
    check_molecule(embedding.molecule)
    assert embedding.molecule.name == "aspirin" and embedding.line == 12
    assert np.bincount(embedding.molecule.z)[[1, 6, 8]].tolist() == [8, 9, 4]
    energy, force = mmff94(DRUGS[0], embedding.molecule.pos)
    assert embedding.molecule.y == pytest.approx([energy], abs=1e-9)
    assert force < 0.1
    assert embedding.smiles == Chem.CanonSmiles(DRUGS[0])


def test_seed_decides():
    one, same, other = (embed_smiles(DRUGS[2], seed).molecule for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.pos, same.pos)
    assert not np.allclose(one.pos, other.pos)


def test_workers_do_not_change_the_result():
    alone, _ = embed_many(DRUGS, seed=5, workers=1, progress=False)
    together, failures = embed_many(DRUGS, seed=5, workers=2, progress=False)
    assert failures == [] and len(alone) == len(together) == 24
    for one, two in zip(alone, together):
        assert one.line == two.line and one.smiles == two.smiles and one.molecule.name == two.molecule.name
        np.testing.assert_array_equal(one.molecule.pos, two.molecule.pos)
        np.testing.assert_array_equal(one.molecule.y, two.molecule.y)


FAULTY = {
    "C1CC": "RDKit cannot parse",
    "c1ccc1(": "RDKit cannot parse",
    "": "no SMILES",
    "CC(=O)[O-].[Na+]": "several fragments (2)",
    "[He]": "no MMFF94 parameters",
    "C[As](C)C": "no MMFF94 parameters",
    "CCCCCCCC": "more than 20 atoms",
    "C1C[C@@H]2C[C@@H]1CC2": "no 3D embedding in 30 attempts",  # norbornane bridged trans
}


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_listed_with_their_reason(workers, capfd):
    lines = [*FAULTY, *["C"] * 12]
    embeddings, failures = embed_many(lines, workers=workers, progress=False, max_atoms=20)
    assert [embedding.line for embedding in embeddings] == list(range(len(FAULTY) + 1, len(lines) + 1))
    assert [(failure.line, failure.smiles) for failure in failures] == list(enumerate(FAULTY, start=1))
    for failure, reason in zip(failures, FAULTY.values()):
        assert reason in failure.reason
    assert capfd.readouterr().err == ""  # RDKit's own log is silent


def test_strict_stops():
    with pytest.raises(ValueError, match=r"line 7 \(C1CC\): RDKit cannot parse"):
        embed_many([Line(5, "C", "a"), Line(7, "C1CC", "b")], strict=True, progress=False)


def test_read_smi(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("SMILES name\nCCO\tethanol, dry\n\n# a comment\nC\n", encoding="utf-8")
    expected = [Line(2, "CCO", "ethanol, dry"), Line(5, "C")]
    assert read_smiles_file(path) == expected
    with gzip.open(tmp_path / "a.smi.gz", "wt") as file:
        file.write(path.read_text())
    assert read_smiles_file(tmp_path / "a.smi.gz") == expected


def test_read_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('mol_id,Smiles,x\nm1,"CCO",1\nm2,,2\n,C,3\n', encoding="utf-8")
    assert read_smiles_file(path) == [Line(2, "CCO", "m1"), Failure(3, "", "no SMILES", "m2"), Line(4, "C")]
    path.write_text("structure,y\nCCO,1\n")
    assert read_smiles_file(path, TableOptions("structure")) == [Line(2, "CCO")]
    with pytest.raises(ValueError, match="no column named smiles; .* one of: structure, y"):
        read_smiles_file(path)
    with pytest.raises(ValueError, match="no column 'struct'; .* one of: structure, y"):
        read_smiles_file(path, TableOptions("struct"))


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("empty.smi", b"", "is empty"),
        ("blank.smi", b"\n# nothing\n", "holds no SMILES"),
        ("header.csv", b"smiles,name\n", "holds no SMILES"),
        ("a.dat", b"CCO\n", "SMILES are read from .csv, .tsv, .smi, .txt files"),
        ("binary.smi", b"\xff\xfe\x00", "cannot be read .it is no text in utf-16"),
        ("notgzip.smi.gz", b"CCO\n", "cannot be read .*is it what its name says"),
    ],
)
def test_bad_files(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.* {sentence}"):
        read_smiles_file(tmp_path / name)


def test_missing_file_and_column_of_smi(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_smiles_file(tmp_path / "none.smi")
    (tmp_path / "a.smi").write_text("C\n")
    with pytest.raises(ValueError, match="is for tables; a .smi file has no columns"):
        read_smiles_file(tmp_path / "a.smi", TableOptions("smiles"))


def test_real_corpora(shared_data):
    assert len(read_smiles_file(shared_data / "smiles" / "zinc250k.smi.gz")) > 240_000
    moses = read_smiles_file(shared_data / "smiles" / "moses_test.csv.gz")
    assert moses[0].smiles == "CC1C2CCC(C2)C1CN(CCO)C(=O)c1ccc(Cl)cc1" and moses[0].line == 2


def test_molecules_of_thousands_of_atoms_are_refused_before_they_are_embedded(monkeypatch):
    from rdkit.Chem import rdDistGeom

    monkeypatch.setattr(rdDistGeom, "EmbedMolecule", lambda *_: pytest.fail("it would take minutes"))
    lines = ["C" * 167, "C" * 40_000, ".".join(["C" * 300, "O"])]
    embeddings, failures = embed_many(lines, workers=1, progress=False)
    assert not embeddings and failures[0].reason == failures[1].reason == "more than 500 atoms with hydrogens"
    with pytest.raises(ValueError, match="more than 500 atoms with hydrogens"):
        embed_smiles(lines[2], fragments="largest")


def test_atoms_are_counted_as_embeddings_have_them():
    lines = ["CCO", "c1ccccc1[N+](=O)[O-]", "[nH]1cccc1", "[CH3:1][OH:2]", "N[C@@H](C)C(=O)O", "C[2H]"]
    entries = [Line(number, smiles) for number, smiles in enumerate(lines, start=1)]
    counts, failures = count_atoms(entries, workers=1, progress=False)
    assert not failures
    for smiles, (atoms, heavy) in zip(lines, counts.tolist()):
        with_hydrogens = Chem.AddHs(Chem.MolFromSmiles(smiles.replace(":1", "").replace(":2", "")))
        assert (atoms, heavy) == (with_hydrogens.GetNumAtoms(), with_hydrogens.GetNumHeavyAtoms()), smiles


def test_what_cannot_be_embedded_is_not_counted():
    smiles = ["C1CC", "C.C", "C" * 200, "C", "C[As](C)C", "[I-]", "II", "[H][H]", "CC"]
    lines = [*(Line(number, text) for number, text in enumerate(smiles, 1)), Failure(10, "", "no SMILES")]
    counts, failures = count_atoms(lines, workers=1, progress=False)
    embeddings, others = embed_many(lines, workers=1, progress=False)
    assert failures == others and {1, 2, 3, 5, 10} <= {failure.line for failure in failures}
    assert counts[:, 0].tolist() == [len(embedding.molecule.z) for embedding in embeddings]
