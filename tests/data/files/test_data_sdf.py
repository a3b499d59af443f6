"""Records of SDF files that are drawings, lack hydrogens, or are written in another way."""

import numpy as np
import pytest

from ipu_chem.data.files.structures import read_molecules

Chem = pytest.importorskip("rdkit.Chem")


def block(smiles, *, flat=False, header=None, drop=(), name="mol", energy="-1.5"):
    """A record; ``drop`` are the elements whose hydrogens go."""
    from rdkit.Chem import rdDepictor, rdDistGeom

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if flat:
        rdDepictor.Compute2DCoords(mol)
    else:
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    Chem.Kekulize(mol, clearAromaticFlags=True)
    kept = Chem.RWMol(mol)
    for atom in reversed(list(mol.GetAtoms())):
        if atom.GetAtomicNum() == 1 and atom.GetNeighbors() and atom.GetNeighbors()[0].GetSymbol() in drop:
            kept.RemoveAtom(atom.GetIdx())
    kept.SetProp("_Name", name)
    lines = Chem.MolToMolBlock(kept).split("\n")
    lines[1] = lines[1] if header is None else header
    # Radicals of RDKit's own making on atoms that lost a hydrogen are not what people's files have.
    lines = [line for line in lines if not (drop and line.startswith("M  RAD"))]
    return "\n".join(lines) + f">  <E>\n{energy}\n\n$$$$\n"


@pytest.fixture
def read(tmp_path):
    def read(text, target="E"):
        path = tmp_path / "a.sdf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_molecules(path, target)

    return read


@pytest.mark.parametrize(
    "smiles, drop, missing", [("CCO", "C", 5), ("CC(=O)O", "C", 3), ("CN", "N", 2), ("c1ccccc1O", "C", 5)]
)
def test_some_hydrogens_are_missing(read, smiles, drop, missing):
    with pytest.raises(ValueError, match=rf"mol \(a.sdf record 2\) lacks {missing} hydrogens that its valences need"):
        read(block("CCO") + block(smiles, drop=drop))


@pytest.mark.parametrize(
    "smiles",
    ["O=C=O", "N#N", "C[N+](C)(C)C", "CC(=O)[O-]", "[CH3]", "C[N+](=O)[O-]", "CS(=O)(=O)C", "FS(F)(F)(F)(F)F", "[Na+]"]
    + ["[NH3+]CC(=O)[O-]", "c1ccccc1", "O", "FC(F)(F)F", "[H][H]", "C#C", "BrI", "CP(=O)(O)O"],
)
def test_molecules_that_lack_none(read, smiles):
    (molecule,) = read(block(smiles))
    assert molecule.y.tolist() == [-1.5]


def test_valences_of_records_that_state_none(read):
    atoms = "".join(f"{x:10.4f}{0:10.4f}{z:10.4f} {s}   0  0\n" for s, x, z in (("O", 0, 0), ("H", 1, 0), ("H", 0, 1)))
    assert len(read(f"w\n\n\n  3  0  0  0  0  0  0  0  0  0999 V2000\n{atoms}M  END\n$$$$\n", None)) == 1
    # A zwitterion without charges: N with four bonds, O with one.
    text = block("[NH3+]CC(=O)[O-]")
    text = "\n".join(line for line in text.split("\n") if not line.startswith("M  CHG"))
    assert len(read(text)) == 1


@pytest.mark.parametrize("header", ["", "  ChemDraw01012400", "     RDKit          3D", "     RDKit          2D"])
@pytest.mark.parametrize("smiles", ["CCO", "CN", "c1ccccc1", "O"])
def test_drawings_whatever_they_say(read, header, smiles):
    with pytest.raises(ValueError, match=r"mol \(a.sdf record 1\) is a 2D drawing; write 3D coordinates"):
        read(block(smiles, flat=True, header=header))


@pytest.mark.parametrize("smiles", ["ClC(Cl)=C(Cl)Cl", "FS(F)(F)(F)(F)F", "O=S(=O)(Cl)Cl", "O=C=S", "OO"])
def test_drawings_without_much_to_tell_them_by(read, smiles):
    with pytest.raises(ValueError, match="is a 2D drawing"):
        read(block(smiles, flat=True, header="     RDKit          3D"))


@pytest.mark.parametrize("smiles", ["O=C=O", "O", "C=C", "c1ccccc1", "N#CC#N"])
def test_planar_molecules_are_no_drawings(read, smiles):
    text = block(smiles, header="")
    pos = read(text)[0].pos
    flat = pos - pos.mean(0)
    flat = flat @ np.linalg.svd(flat)[2].T  # into the plane of x and y
    lines = text.split("\n")
    for place, (x, y, z) in enumerate(flat, start=4):
        assert abs(z) < 0.1
        lines[place] = f"{x:10.4f}{y:10.4f}{0:10.4f}" + lines[place][30:]
    assert len(read("\n".join(lines))) == 1


def test_names_encodings_and_fortran(read, capsys):
    text = block("CCO", name="café", energy="-1.5D-03")
    for coding in ("utf-8", "latin-1"):
        (molecule,) = read(text.encode(coding))
        assert molecule.name == "café" and molecule.y.tolist() == [-0.0015]
    assert capsys.readouterr().err == ""
    (molecule,) = read(block("O").replace(" H  ", " D  "))
    assert molecule.z.tolist() == [8, 1, 1]
    assert "a.sdf: 2 atoms are D or T and are read as hydrogen" in capsys.readouterr().err


def test_charges_and_radicals(read):
    found = read(block("CCO") + block("CC(=O)[O-]") + block("[NH4+]"))
    assert [(one.charge, one.spin) for one in found] == [(0, None), (-1, None), (1, None)]
    assert [(one.charge, one.spin) for one in read(block("CCO"))] == [(None, None)]
    assert [(one.charge, one.spin) for one in read(block("CCO") + block("[CH3]"))] == [(None, 0), (None, 1)]


def test_charge_and_multiplicity_as_properties(read):
    said = ">  <charge>\n1\n\n>  <multiplicity>\n2\n\n$$$$"
    (molecule,) = read(block("CCO").replace("$$$$", said))
    assert (molecule.charge, molecule.spin) == (1, 1)
    with pytest.raises(ValueError, match="its property says a charge of 1, its atoms have -1; correct one of them"):
        read(block("CC(=O)[O-]").replace("$$$$", said))


def test_an_empty_property_is_a_missing_label(read):
    assert np.isnan(read(block("CCO", energy=""))[0].y).all()


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            block("CCO").replace("$$$$", ">  <E>\n2\n\n$$$$"),
            "states E more than once, with different values; leave one",
        ),
        (block("CCO", energy="-1_0"), "E='-1_0' is not a number"),
        (block("CCO").encode("utf-16"), "a.sdf is text in UTF-16; write it in UTF-8"),
        (block("CCO") + block("CCO")[:-6], r"record 2 \(line 27\) is cut: the file ends without its line"),
        (block("CCO") + "hello\n", r"record 2 \(line 27\) cannot be parsed"),
        (block("CCO", energy="high"), "E='high' is not a number"),
        (block("CCO", energy="inf"), "E is infinite"),
        (block("CCO", energy="-1,5"), "E='-1,5' is not a number"),
        (block("CCO").replace("> <E>", ">  <F>").replace(">  <E>", ">  <F>"), "has no 'E'; it has F"),
    ],
)
def test_refused_with_the_record(read, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(text)
