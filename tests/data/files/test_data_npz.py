"""Molecules of .npz files under the names that programs give their arrays."""

import numpy as np
import pytest

from ipu_chem.data.files.structures import Wanted, read_labeled, read_molecules
from ipu_chem.units import BOHR, HARTREE

HF = [[0, 0, 0], [0, 0, 0.92]]
WATER = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
Z, E = np.array([[1, 9, 0], [8, 1, 1]]), np.array([-1.0, -2.0])
R = np.array([[*HF, [0, 0, 0]], WATER])
F = np.where(Z[:, :, None] > 0, 0.5, 0.0) * np.ones(3)


@pytest.fixture
def write(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    return write


@pytest.mark.parametrize(
    "arrays",
    [
        dict(z=Z, R=R, E=E, F=F),
        dict(Z=Z, R=R, N=np.array([2, 3]), E=E[:, None], F=F),
        dict(charges=Z, positions=R, num_atoms=np.array([2, 3]), energy=E, forces=F),
        dict(species=np.where(Z > 0, Z, -1), coordinates=R, energies=E, forces=F),
        dict(atomic_numbers=Z.astype(float), coord=np.where(Z[:, :, None] > 0, R, np.nan), energy=E, force=F),
        dict(species=np.array([["H", "F", ""], ["O", "H", "H"]]), coordinates=R, energies=E, F=F),
        dict(species=np.array([[b"H", b"F", b""], [b"O", b"H", b"H"]]), xyz=R, energies=E, F=F),
    ],
)
def test_molecules_padded_by_zeros(write, arrays):
    one, other = read_molecules(write(**arrays), "energy")
    assert (one.name, one.z.tolist(), one.pos.tolist(), one.y.tolist()) == ("a_0", [1, 9], HF, [-1])
    assert (other.name, other.z.tolist(), other.pos.tolist(), other.y.tolist()) == ("a_1", [8, 1, 1], WATER, [-2])
    assert one.forces.tolist() == [[0.5] * 3] * 2 and other.forces.tolist() == [[0.5] * 3] * 3


def test_any_number_of_a_molecule_may_be_a_label(write):
    found = read_labeled(write(Z=Z, R=R, T=E, gap=E + 1, D=np.zeros((2, 3))), Wanted(["T", "gap"]))
    assert [one.y.tolist() for one in found.molecules] == [[-1, 0], [-2, -1]] and not found.forces_of
    with pytest.raises(ValueError, match=r"a.npz frame 0 has no 'energy'; it has T\."):
        read_molecules(write(Z=Z, R=R, T=E), "energy")


@pytest.mark.parametrize(
    "said, charges, spins",
    [
        (dict(Q=np.array([0.0, 1.0])), [0, 1], [None, None]),
        (dict(charge=-1), [-1, -1], [None, None]),
        (dict(total_charge=np.array([1, 0]), multiplicity=np.array([2, 3])), [1, 0], [1, 2]),
    ],
)
def test_charges_and_multiplicities(write, said, charges, spins):
    found = read_molecules(write(z=Z, R=R, E=E, **said))
    assert [one.charge for one in found] == charges and [one.spin for one in found] == spins


@pytest.mark.parametrize(
    "units, energy, force, length",
    [
        (dict(units="atomic"), HARTREE, HARTREE / BOHR, BOHR),
        (dict(unit_energy=np.bytes_("Hartree")), HARTREE, HARTREE, 1),
        (dict(e_unit="Ha", f_unit="eV/Ang"), HARTREE, 1, 1),
        (dict(forces_unit="Eh/a0"), 1, HARTREE / BOHR, 1),
        (dict(r_unit="nm"), 1, 0.1, 10),
    ],
)
def test_units_of_energies_forces_and_positions(write, units, energy, force, length):
    path = write(z=Z, R=R / length, E=E, F=F, **units)
    one = read_labeled(path, Wanted(["energy"], unit="eV")).molecules[0]
    np.testing.assert_allclose(one.pos, HF, rtol=1e-12)
    np.testing.assert_allclose([one.y[0], one.forces[0, 0]], [-energy, 0.5 * force], rtol=1e-9)


@pytest.mark.parametrize(
    "arrays, sentence",
    [
        (dict(z=Z, R=R[:1], E=E), r"z \[2, 3\] and R \[1, 3, 3\] do not belong together; they are \[n\] or"),
        (dict(z=np.array([[1, 0, 9], [8, 1, 1]]), R=R), "frame 0: z: '0' is no atomic number"),
        (dict(z=Z, R=R + 1), "frame 0: atoms that z calls 0 have positions; padding has zeros, and ghost atoms"),
        (dict(z=Z, R=R, N=np.array([2, 2])), "frame 1: z has 3 atoms before its padding, but the file says 2; pad"),
        (dict(z=Z, R=R, E=E, box=9 * np.eye(3)), "a.npz has a periodic cell"),
        (dict(z=Z, R=R, E=E[:1]), r"E float64 \[1\] and R \[2, 3, 3\] do not belong together"),
        (dict(z=Z, R=R, E=E, F=F, f_unit="eV"), "states 'eV' as its unit of forces, .* such as eV/Å or Hartree/bohr"),
        (dict(z=Z, R=R, E=E, charge=0.5), "frame 0: charge=0.5 is no whole number"),
        (dict(coord=R, energy=E), "holds no atomic numbers .z, Z, nuclear_charges.* it has coord, energy"),
        (dict(z=Z, R=R.reshape(2, -1)), r"R \[2, 9\] do not belong together"),
    ],
)
def test_refused(write, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_labeled(write(**arrays), Wanted(["energy"] if "E" in arrays else [], unit="eV"))


def test_forces_in_a_unit_need_that_of_their_energy(write):
    with pytest.raises(
        ValueError, match=r"states Ha/bohr as its unit of forces, but none of energy; give it: --unit eV"
    ):
        read_molecules(write(z=Z, R=R, E=E, F=F, f_unit="Ha/bohr"), "energy")
