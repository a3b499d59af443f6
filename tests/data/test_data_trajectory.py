"""Frames of .npz files as people have them."""

import numpy as np
import pytest

from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.trajectory import read_frames
from ipu_chem.units import BOHR, HARTREE

POS = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
USUAL = dict(
    z=np.array([8, 1, 1]), R=np.stack([POS, 1.01 * POS]), E=np.array([-76.4, -76.3]), F=np.full((2, 3, 3), 0.5)
)


@pytest.fixture
def write(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "a.npz", **{**USUAL, **arrays})
        return tmp_path / "a.npz"

    return write


@pytest.mark.parametrize(
    "z", [["O", "H", "H"], [b"O", b"H", b"H"], ["o", "D", "h"], ["8", "1", "1"], np.array([8.0, 1, 1])]
)
def test_symbols_and_numbers(write, z):
    assert read_frames(write(z=np.array(z))).z.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    "arrays, sentence",
    [
        (dict(z=np.array([264, 1, 1])), "a.npz: z: '264' is no atomic number; elements are whole numbers from 1"),
        (dict(z=np.array([6.5, 1, 1])), "a.npz: z: '6.5' is no atomic number"),
        (dict(z=np.array([-1, 1, 1])), "'-1' is no atomic number"),
        (dict(z=np.array(["Xx", "H", "H"])), "z: 'Xx' is no element"),
        (dict(z=np.array([8, "H", None], object)), "z holds Python objects; write it as an array of numbers or texts"),
        (dict(E=np.array(["a", "b"])), r"E <U1 \[2\] and R \[2, 3, 3\] do not belong together"),
        (dict(lattice=8 * np.eye(3)), "a.npz has a periodic cell"),
        (dict(cell=8 * np.eye(3)), "a.npz has a periodic cell; .*write the file without lattice, or with pbc=False"),
        (dict(pbc=np.array([True, False, False])), "a.npz has a periodic cell"),
        (dict(r_unit="feet"), "a.npz: 'feet' is no unit of length"),
        (dict(E=np.array([1, np.inf])), "the energy of frame 1 is not finite"),
        (dict(F=np.array([USUAL["F"][0], np.full((3, 3), np.nan)])), "the forces of frame 1 are not finite"),
        (dict(R=np.array([np.full((3, 3), np.inf), POS])), "the positions of frame 0 are not finite"),
        (dict(R=POS), r"E float64 \[2\] and R \[1, 3, 3\] do not belong together"),
        (dict(z=np.array([[8, 1, 1], [8, 1, 1]])), "holds no frames of one molecule"),
    ],
)
def test_refused(write, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_frames(write(**arrays))


def test_a_cell_that_is_not_periodic(write):
    for arrays in (dict(lattice=np.zeros((3, 3))), dict(lattice=8 * np.eye(3), pbc=np.array([False] * 3))):
        assert len(read_frames(write(**arrays)).energy) == 2


@pytest.mark.parametrize("length, energy", [("r_unit", "e_unit"), ("_distance_unit", "energy_unit")])
def test_units_that_are_stated(write, tmp_path, length, energy):
    path = write(**{length: "Bohr", energy: "Hartree"})
    frames = read_frames(path)
    np.testing.assert_array_equal(frames.pos[0], POS * BOHR)
    np.testing.assert_array_equal(frames.forces, USUAL["F"] / BOHR)
    store = load_dataset("file", path, tmp_path / "cache", target="energy", unit="eV")
    np.testing.assert_allclose(store["y"][:, 0], USUAL["E"] * HARTREE, rtol=1e-14)
    np.testing.assert_allclose(store["forces"][0], USUAL["F"][0] * HARTREE / BOHR, rtol=1e-6)
    stated = load_dataset("file", path, tmp_path / "cache", target="energy")
    assert stated.info["targets"][0]["unit"] == "Hartree" and stated["y"][0, 0] == -76.4
    with pytest.raises(ValueError, match="states Bohr as its unit of length, not --data.length_unit nm; leave"):
        load_dataset("file", path, tmp_path / "cache", target="energy", length_unit="nm")


def test_the_unit_that_is_not_stated(write, tmp_path, capsys):
    path = write(R=USUAL["R"] / BOHR)
    load_dataset("file", path, tmp_path / "one", target="energy")
    assert "a.npz: the shortest distances" in capsys.readouterr().err
    store = load_dataset("file", path, tmp_path / "two", target="energy", length_unit="bohr", charge=0, multiplicity=1)
    np.testing.assert_allclose(store["pos"][0], POS, atol=1e-6)
    assert store["charge"].tolist() == [0, 0] and store["spin"].tolist() == [0, 0]


def test_frames_to_predict_simulate_and_relax(write, capsys):
    from ipu_chem.data.structures import read_structures

    one, other = read_structures(write(R=USUAL["R"] / BOHR), length_unit="bohr", charge=0, multiplicity=1)
    np.testing.assert_allclose(other.positions, 1.01 * POS)
    assert one.info == {"name": "a_0", "charge": 0, "spin": 0} and one.numbers.tolist() == [8, 1, 1]
    with pytest.raises(ValueError, match=r"a_1 \(a.npz frame 1\): atoms 0 .O. and 1 .H. are 0.000 Å apart"):
        read_structures(write(R=np.stack([POS, 0 * POS])))
