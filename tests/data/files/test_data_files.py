import gzip

import numpy as np
import pytest

from ipu_chem.data.files.structures import read_molecules

XYZ = "3\nwater\nO 0 0 0.117\nH 0 0.757 -0.471\nH 0 -0.757 -0.471\n"
EXTXYZ = XYZ.replace("water", 'Properties=species:S:1:pos:R:3 energy=-76.4 dipole="0 0 1.85" name=first pbc="F F F"')


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.xyz", "a.XYZ", "a.extxyz", "a.xyz.gz"])
def test_plain_xyz(tmp_path, name):
    molecules = read_molecules(write(tmp_path / name, XYZ + XYZ.replace("O 0", "S 0")))
    assert [molecule.z.tolist() for molecule in molecules] == [[8, 1, 1], [16, 1, 1]]
    assert molecules[1].pos.dtype == np.float64 and molecules[1].pos[1].tolist() == [0, 0.757, -0.471]
    assert molecules[1].name == f"{name} frame 1" and molecules[1].y is None


def test_labels_of_extxyz(tmp_path):
    path = write(tmp_path / "a.extxyz", EXTXYZ)
    assert read_molecules(path, "energy")[0].y.tolist() == [-76.4]
    assert read_molecules(path, "dipole")[0].y.tolist() == [0, 0, 1.85]
    assert read_molecules(path)[0].name == "first"
    with pytest.raises(ValueError, match="a.extxyz frame 0 .line 1. has no 'U0'; it has .*energy"):
        read_molecules(path, "U0")
    with pytest.raises(ValueError, match="name='first' is not a number"):
        read_molecules(path, "name")


def test_periodic_cells_are_refused(tmp_path):
    lattice = EXTXYZ.replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9"')
    with pytest.raises(ValueError, match="a.xyz frame 1 .line 6. has a periodic cell; only free molecules"):
        read_molecules(write(tmp_path / "a.xyz", EXTXYZ + lattice))
    boxed = lattice.replace('Lattice="', 'pbc="F F F" Lattice="')
    assert len(read_molecules(write(tmp_path / "b.xyz", boxed))) == 1


@pytest.mark.parametrize(
    "text, sentence",
    [
        (XYZ + "3\ncut\nO 0 0 0\n", r"frame 1 \(line 6\) says 3 atoms, but the file ends after 1 of them"),
        (XYZ.replace("O 0", "Qq 0"), "line 3: 'Qq' is no element; write its symbol"),
        ("hello\n", "line 1: 'hello' stands where the number of atoms of frame 0 belongs"),
        (XYZ.replace("0.757 -0.471", "nan 0"), "atom 1 has a coordinate that is not finite"),
        (XYZ.replace("H 0 0.757 -0.471", "H 0 0 0.117"), r"atoms 0 \(O\) and 1 \(H\) are 0.000 Å apart"),
    ],
)
def test_broken_xyz(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=f"a.xyz.*{sentence}"):
        read_molecules(write(tmp_path / "a.xyz", text))


def sdf(smiles, hydrogens=True, embed=True, **properties):
    from rdkit import Chem
    from rdkit.Chem import rdDepictor, rdDistGeom

    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens or embed else mol
    if embed:
        rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    else:
        rdDepictor.Compute2DCoords(mol)
    mol = mol if hydrogens else Chem.RemoveHs(mol)
    mol.SetProp("_Name", properties.pop("name", ""))
    text = Chem.MolToMolBlock(mol)
    for key, value in properties.items():
        text += f"> <{key}>\n{value}\n\n"
    return text + "$$$$\n", mol.GetConformer().GetPositions()


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz"])
def test_sdf(tmp_path, name):
    ethanol, pos = sdf("CCO", name="ethanol", u0="-154.9")
    radical, _ = sdf("[CH3]", u0="-39.8")
    molecules = read_molecules(write(tmp_path / name, ethanol + radical), "u0")
    assert molecules[0].name == "ethanol" and molecules[1].name == f"{name} record 2"
    assert molecules[0].z.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1] and molecules[1].z.tolist() == [6, 1, 1, 1]
    np.testing.assert_allclose(molecules[0].pos, pos, atol=1e-4)
    assert [molecule.y.tolist() for molecule in molecules] == [[-154.9], [-39.8]]
    with pytest.raises(ValueError, match="ethanol .a.sdf.* record 1. has no 'gap'; it has u0"):
        read_molecules(tmp_path / name, "gap")


def test_sdf_refusals(tmp_path):
    with pytest.raises(ValueError, match="flat .a.sdf record 1. is a 2D drawing"):
        read_molecules(write(tmp_path / "a.sdf", sdf("CCO", embed=False, name="flat")[0]))
    with pytest.raises(ValueError, match="bare .b.sdf record 1. holds no hydrogens but has room for 6"):
        read_molecules(write(tmp_path / "b.sdf", sdf("CCO", hydrogens=False, name="bare")[0]))
    assert len(read_molecules(write(tmp_path / "c.sdf", sdf("FC(F)(F)F", hydrogens=False)[0]))[0].z) == 5
    text = sdf("CCO")[0]
    with pytest.raises(ValueError, match=r"record 2 \(line 24\) cannot be parsed"):
        read_molecules(write(tmp_path / "d.sdf", text + text.replace(" C  ", " ?? ", 1) + text))
    with pytest.raises(ValueError, match=r"record 1 \(line 1\) cannot be parsed"):
        read_molecules(write(tmp_path / "e.sdf", text[:200]))


def test_no_such_thing(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.xyz"):
        read_molecules(tmp_path / "none.xyz")
    for name in ("a.xyz", "a.sdf"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            read_molecules(write(tmp_path / name, ""))
    with pytest.raises(ValueError, match="a.pdb: molecules are read from .xyz, .extxyz, .sdf"):
        read_molecules(write(tmp_path / "a.pdb", "ATOM"))
    with pytest.raises(ValueError, match="SMILES have no coordinates"):
        read_molecules(write(tmp_path / "a.smi", "C"))


def test_real_xyz(shared_data):
    molecules = read_molecules(shared_data / "forces" / "3bpa_train_300K.xyz.gz", "energy")
    assert len(molecules) == 500 and {len(molecule.z) for molecule in molecules} == {27}
    assert molecules[0].y[0] == -17660.461737861464
    water = read_molecules(shared_data / "hydronet" / "lowest_w3_w30.xyz")
    assert [len(molecule.z) for molecule in water] == list(range(9, 91, 3))
