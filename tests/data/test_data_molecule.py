import numpy as np
import pytest
import torch

from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.molecule import (
    Molecule,
    check_molecule,
    decode_text,
    decode_texts,
    encode_texts,
    from_item,
    from_rdkit,
    molecules_to_store,
)
from packing.store import Store

WATER = Molecule(
    np.array([8, 1, 1], np.uint8),
    np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]]),
    np.array([-2079.5123456, 1.85]),
    "water",
)
HELIUM = Molecule(np.array([2], np.uint8), np.zeros((1, 3)), None, "hélium")


def test_good_molecules_pass():
    check_molecule(WATER)
    check_molecule(HELIUM)
    check_molecule(WATER._replace(forces=np.zeros((3, 3)), charge=1, spin=1))
    check_molecule(WATER._replace(forces=np.full((3, 3), np.nan), charge=-1))  # missing, and a spin that is not said
    check_molecule(HELIUM._replace(spin=1))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(pos=np.array([[0, 0, 0.117], [0, np.nan, 0], [0, 1, 1.0]])), "water: atom 1 .*not finite"),
        (dict(pos=np.array([[0, 0, 0.117], [np.inf, 0, 0], [0, 1, 1.0]])), "water: atom 1 .*not finite"),
        (dict(pos=np.array([[0, 0, 0], [0, 1, 0], [0, 1, 0.05]])), r"water: atoms 1 \(H\) and 2 \(H\) are 0.050 Å"),
        (dict(z=np.array([8, 0, 1], np.uint8)), "water: atom 1 has atomic number 0"),
        (dict(z=np.array([8, 1, 100], np.uint8)), "water: atom 2 has atomic number 100"),
        (dict(z=np.array([264, 1, 1])), "water: atom 0 has atomic number 264"),
        (dict(z=np.array([8.0, 1.0, 1.0])), "water: atomic numbers are integers"),
        (dict(z=np.array([8, 1], np.uint8)), r"water: z has shape \[2\] and pos \[3, 3\]"),
        (dict(z=np.zeros(0, np.uint8), pos=np.zeros((0, 3))), "water has no atoms"),
        (dict(y=np.zeros((1, 2))), "water: y has shape"),
        (dict(forces=np.zeros((2, 3))), r"water: forces have shape \[2, 3\], pos \[3, 3\]"),
        (dict(forces=np.array([[0, 0, 1], [0, np.nan, 0], [0, 0, 1]])), "water: the force on atom 1 is not finite"),
        (dict(forces=np.full((3, 3), np.inf)), "water: the force on atom 0 is not finite"),
        (dict(charge=11), "water has a charge of 11; .* no fewer than 0 electrons"),
        (dict(charge=-129), "water has a charge of -129; it is -128 to 127"),
        (dict(spin=-1), "water has a spin of -1; it is the number of unpaired electrons"),
        (dict(charge=0, spin=12), "water has a spin of 12"),
        (dict(charge=0, spin=1), r"water has 10 electrons \(charge 0\), of which 1 cannot be unpaired"),
        (dict(charge=1, spin=0), r"water has 9 electrons \(charge 1\), of which 0 cannot be unpaired"),
    ],
)
def test_faults_are_named(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_molecule(WATER._replace(**change))


def test_symbols_are_rdkits():
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    assert SYMBOLS[1:] == [table.GetElementSymbol(z) for z in range(1, 100)]


def test_store_round_trip(tmp_path):
    store = molecules_to_store([WATER, HELIUM], {"a": 1}, ["O", "[He]"], {"id": np.array([7, 9], np.int64)})
    store.save(tmp_path / "store")
    store = Store.open(tmp_path / "store", verify=True)
    assert len(store) == 2 and store.info == {"a": 1}
    assert store["z"][0].tolist() == [8, 1, 1] and store["z"][1].tolist() == [2]
    assert store.fields["z"].dtype == np.uint8 and store.fields["pos"].dtype == np.float32
    np.testing.assert_array_equal(store["pos"][0], WATER.pos.astype(np.float32))
    np.testing.assert_array_equal(store["y"], [[-2079.5123456, 1.85], [np.nan, np.nan]])
    assert store["id"].tolist() == [7, 9]
    assert decode_texts(store, "name") == ["water", "hélium"]
    assert decode_text(store, "smiles", 1) == "[He]"
    assert decode_texts(store.take(np.array([1])), "name") == ["hélium"]


def test_store_without_labels_and_texts():
    store = molecules_to_store([HELIUM])
    assert "y" not in store and "smiles" not in store and store.info == {}


def test_forces_and_electrons_in_a_store(tmp_path):
    forces = np.arange(9.0).reshape(3, 3)
    cation = WATER._replace(forces=forces, charge=1, spin=1)
    store = molecules_to_store([cation, HELIUM._replace(charge=0, spin=2)])
    store.save(tmp_path / "store")
    store = Store.open(tmp_path / "store", verify=True)
    assert store.fields["forces"].dtype == np.float32 and store.fields["forces"].shape == (4, 3)
    np.testing.assert_array_equal(store["forces"][0], forces)
    assert np.isnan(store["forces"][1]).all(), "helium has none"
    assert store["charge"].dtype == np.int8 and store["charge"].tolist() == [1, 0]
    assert store["spin"].dtype == np.uint8 and store["spin"].tolist() == [1, 2]
    partly = molecules_to_store([cation, HELIUM._replace(charge=0)])
    assert "charge" in partly and "spin" not in partly
    assert not {"forces", "charge", "spin"} & set(molecules_to_store([WATER, HELIUM._replace(charge=0)]).fields)
    with pytest.raises(ValueError, match="molecule 1: the force on atom 2 is not finite"):
        broken = forces.copy()
        broken[2, 1] = np.nan
        molecules_to_store([WATER, WATER._replace(forces=broken, name="")])
    with pytest.raises(ValueError, match="molecule 1 has 10 electrons"):
        molecules_to_store([WATER._replace(charge=0, spin=0), WATER._replace(charge=0, spin=3, name="")])
    with pytest.raises(ValueError, match=r"b: forces have shape \[1, 3\]"):
        molecules_to_store([WATER, WATER._replace(forces=forces[:1], name="b")])


def test_store_refuses():
    with pytest.raises(ValueError, match="no molecules"):
        molecules_to_store([])
    with pytest.raises(ValueError, match="b has 1 labels, water has 2"):
        molecules_to_store([WATER, WATER._replace(y=np.zeros(1), name="b")])
    broken = WATER.pos.copy()
    broken[2] = broken[0]
    with pytest.raises(ValueError, match=r"b: atoms 0 \(O\) and 2 \(H\) are 0.000 Å apart"):
        molecules_to_store([WATER, WATER._replace(pos=broken, name="b")])
    with pytest.raises(ValueError, match="molecule 1: atom 0 has atomic number 0"):
        molecules_to_store([WATER, HELIUM._replace(z=np.array([0], np.uint8), name="")])
    with pytest.raises(ValueError, match=r"molecule 1: z has shape \[2\]"):
        molecules_to_store([WATER, WATER._replace(z=WATER.z[:2], name="")])


def test_texts():
    values, offsets = encode_texts(["", "Å", "ab"])
    assert values.dtype == np.uint8 and offsets.tolist() == [0, 0, 2, 4]


def to_pyg(molecule):
    from torch_geometric.data import Data

    values = {"y": np.reshape(molecule.y, (1, -1)) if molecule.y is not None else None, "force": molecule.forces}
    tensors = {word: torch.as_tensor(value) for word, value in values.items() if value is not None}
    z, pos = torch.as_tensor(molecule.z.astype(np.int64)), torch.as_tensor(molecule.pos.astype(np.float32))
    return Data(z=z, pos=pos, name=molecule.name, **tensors)


def test_pyg_round_trip():
    data = to_pyg(WATER)
    assert data.y.shape == (1, 2) and data.pos.shape == (3, 3)
    back = from_item(data)
    assert back.name == "water" and back.z.dtype == np.uint8 and back.pos.dtype == np.float64
    np.testing.assert_array_equal(back.y, WATER.y)
    np.testing.assert_allclose(back.pos, WATER.pos, atol=1e-7)
    data.y = data.y.reshape(-1)
    np.testing.assert_array_equal(from_item(data).y, WATER.y)
    helium = from_item(to_pyg(HELIUM))
    assert helium.y is None and helium.forces is None
    np.testing.assert_array_equal(from_item(to_pyg(HELIUM._replace(forces=np.ones((1, 3))))).forces, np.ones((1, 3)))


def test_pyg_refuses():
    data = to_pyg(WATER)
    data.y = data.y.repeat(2, 1)
    with pytest.raises(ValueError, match=r"water: y has shape \[2, 2\]"):
        from_item(data)
    del data.z
    with pytest.raises(
        ValueError, match=r"mine: a molecule needs z \[n\] and pos \[n, 3\]; this Data has name, pos, y."
    ):
        from_item(data, "mine")


def test_rdkit():
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.AddHs(Chem.MolFromSmiles("CO"))
    with pytest.raises(ValueError, match="methanol has no 3D coordinates"):
        from_rdkit(mol, "methanol")
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    molecule = from_rdkit(mol, "methanol")
    assert sorted(molecule.z.tolist()) == [1, 1, 1, 1, 6, 8]
    assert 1.3 < np.linalg.norm(molecule.pos[0] - molecule.pos[1]) < 1.6
