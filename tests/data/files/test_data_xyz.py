"""Frames of xyz files as people have them: every one is read, or the line that forbids it is named."""

import gzip

import numpy as np
import pytest

from ipu_chem.data.files.structures import read_molecules
from ipu_chem.units import BOHR, HARTREE

H2 = "2\nenergy={energy}\nH 0 0 0\nH 0 0 0.74\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.xyz"):
        raw = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return tmp_path / name

    return write


@pytest.mark.parametrize("blanks", ["\n", "\n\n \t\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz"])
def test_blank_lines_between_frames(write, blanks, name):
    path = write(blanks.join(H2.format(energy=-i) for i in range(4)) + 2 * blanks, name)
    assert [one.y.tolist() for one in read_molecules(path, "energy")] == [[0], [-1], [-2], [-3]]


def test_lines_as_other_systems_end_them(write):
    text = H2.format(energy=-1) + H2.format(energy=-2)
    for end in ("\r\n", "\r"):
        assert len(read_molecules(write(text.replace("\n", end)), "energy")) == 2
    assert read_molecules(write(b"\xef\xbb\xbf" + text.encode()), "energy")[0].y.tolist() == [-1]


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            H2.replace("2\n", "3\n", 1) + H2,
            r"line 5: '2' is no atom with 4 columns; a.xyz frame 0 \(line 1\) says 3 atoms",
        ),
        (H2.replace("2\n", "1\n", 1) + H2, "line 4: 'H 0 0 0.74' stands where the number of atoms of frame 1 belongs"),
        (H2 + H2[:-11], r"frame 1 \(line 5\) says 2 atoms, but the file ends after 1 of them"),
        (H2 + H2[:-5], "line 8: 'H 0 0' is no atom with 4 columns"),
        (H2 + "3\n", r"frame 1 \(line 5\) says 3 atoms, but the file ends after 0"),
        (H2 + "the end\n", "line 5: 'the end' stands where the number of atoms of frame 1 belongs"),
        (H2 + "\n\n-2\n", "line 7: '-2' stands where"),
        (H2.replace("2\n", "999999999999999999\n", 1), "says 999,999,999,999,999,999 atoms, but the file ends after 2"),
        (H2.replace("2\n", "9" * 5000 + "\n", 1), "line 1: '9999.* stands where the number of atoms"),
        ("0\n\n" + H2, r"frame 0 \(line 1\) has no atoms; take it out"),
        (H2.replace("H 0 0 0\n", "Xx 0 0 0\n"), "line 3: 'Xx' is no element; .*ghost atoms and dummies"),
        (H2.replace("H 0 0 0\n", "Bq 0 0 0\n"), "line 3: 'Bq' is no element"),
        (H2.replace("H 0 0 0\n", "0 0 0 0\n"), "line 3: '0' is no atomic number; elements are whole numbers from 1"),
        (H2.replace("H 0 0 0\n", "6.5 0 0 0\n"), "line 3: '6.5' is no atomic number"),
        (H2.replace("H 0 0 0\n", "264 0 0 0\n"), "line 3: '264' is no atomic number"),
        (H2.replace("0.74", "0,74"), "line 4: '0,74' is no number; decimals stand behind a point"),
        (H2.replace("0.74", "O.74"), "line 4: 'O.74' is no number"),
        (H2.replace("0.74", "inf"), r"frame 0 \(line 1\): atom 1 has a coordinate that is not finite"),
        (H2.replace("{energy}", "inf"), r"frame 0 \(line 1\): energy is infinite"),
        (H2.replace("{energy}", "-Infinity"), "energy is infinite"),
        (H2.replace("energy=", 'pbc="T F F" energy='), r"frame 0 \(line 1\) has a periodic cell"),
        (H2.replace("energy=", 'Lattice="9 0 0 0 9 0 0 0 9" energy='), "has a periodic cell; .*write pbc=.F F F"),
        (H2 + "VEC1 9 0 0\n", r"frame 1 \(line 5\) has a periodic cell"),
        (H2.replace("energy=", "energy=-1 energy="), "states energy more than once, with different values; leave one"),
        (H2.replace("energy=", 'LATTICE="9 0 0 0 9 0 0 0 9" energy='), "has a periodic cell"),
        (H2.replace("energy=", 'cell="9 0 0 0 9 0 0 0 9" energy='), "has a periodic cell"),
        (H2.replace("{energy}", "True"), "energy=True is not a number"),
        (H2.replace("energy=", "charge=0 charge=1 energy="), "states charge more than once, with different values"),
        (H2.replace("energy=", "charge=0 total_charge=1 energy="), "total_charge=1, but it also states 0"),
        (H2.replace("energy=", "Properties=name:S:1:x:R:3 energy="), "names no columns species:S:1 and pos:R:3"),
        (
            H2.replace("energy=", "Properties=species:S:1:pos:R:3:forces:R:3 energy="),
            "line 3: .* no atom with 7 columns",
        ),
        (H2.encode("utf-16"), "a.xyz is text in UTF-16; write it in UTF-8"),
        ("\n\n", "a.xyz holds no frames"),
    ],
)
def test_refused_with_the_line(write, text, sentence):
    text = text if isinstance(text, bytes) else text.replace("{energy}", "-1")
    with pytest.raises(ValueError, match=sentence):
        read_molecules(write(text), "energy")


@pytest.mark.parametrize(
    "text, sentence",
    [
        (H2.replace("0.74", "0_74"), "line 4: '0_74' is no number"),
        (H2.replace("H 0 0 0\n", "1_1 0 0 0\n"), "line 3: '1_1' is no element"),
        (H2.replace("{energy}", "-1_0"), "energy='-1_0' is not a number"),
        (H2.replace("=", ": ").replace("{energy}", "-1_0"), "has no 'energy'"),
    ],
)
def test_underscores_in_numbers_are_no_digits(write, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_molecules(write(text.replace("{energy}", "-1")), "energy")


@pytest.mark.parametrize(
    "comment", ["energy=-1 Eh", "energy = -1 Hartree x=2", "energy: -1 (au) gnorm: 0.1", "energy -1 Ha"]
)
def test_the_unit_behind_an_energy(write, comment):
    path = write(f"2\n{comment}\nH 0 0 0\nH 0 0 0.74\n")
    assert read_molecules(path, "energy", unit="eV")[0].y.tolist() == [-HARTREE]


@pytest.mark.parametrize(
    "units, energy, bond",
    [
        ('units="eV, Angstrom"', -1, 0.74),
        ("units=atomic", -HARTREE, 0.74 * BOHR),
        ("coordinate_unit=bohr", -1, 0.74 * BOHR),
        ("unit_pos=nm unit_energy=meV", -1e-3, 7.4),
    ],
)
def test_keys_of_units(write, units, energy, bond):
    (molecule,) = read_molecules(write(H2.replace("{energy}", f"-1 {units}")), "energy", unit="eV", length_unit="")
    np.testing.assert_allclose([molecule.y[0], molecule.pos[1, 2]], [energy, bond], rtol=1e-12)


@pytest.mark.parametrize("said", ["uhf=2", "mult=3", "multiplicity=3", "spin=2", "unpaired_electrons=2"])
def test_words_for_unpaired_electrons(write, said):
    assert read_molecules(write(H2.replace("{energy}", f"-1 {said}")))[0].spin == 2


def test_a_cell_of_zeros_is_none(write):
    assert (
        len(read_molecules(write(H2.replace("energy=", 'Lattice="0 0 0 0 0 0 0 0 0" energy=').format(energy=-1)))) == 1
    )


def test_words_for_no_label(write):
    for word in ("None", "nan", "NA", "null"):
        assert np.isnan(read_molecules(write(H2.format(energy=word)), "energy")[0].y).all()


@pytest.mark.parametrize(
    "symbols, numbers",
    [
        (("1", "6"), [1, 6]),
        (("6.0", "08"), [6, 8]),
        (("h", "CL"), [1, 17]),
        (("Br", "nA"), [35, 11]),
        (("D", "t"), [1, 1]),
    ],
)
def test_symbols_as_people_write_them(write, symbols, numbers, capsys):
    text = f"2\nenergy=-1\n{symbols[0]} 0 0 0\n{symbols[1]} 0 0 0.74\n"
    assert read_molecules(write(text), "energy")[0].z.tolist() == numbers
    said = capsys.readouterr().err
    assert ("2 atoms are D or T and are read as hydrogen" in said) == ("D" in symbols) and said.count("warning") <= 1


@pytest.mark.parametrize(
    "text, value", [("1.0D+00", 1.0), ("7.4d-01", 0.74), ("1.2*^-1", 0.12), ("5.-001", 0.5), ("+.5E0", 0.5)]
)
def test_numbers_of_fortran_and_mathematica(write, text, value):
    path = write(f"2\nenergy={text}\nH 0 0 0.0D+00\nH 0 0 {text}\n")
    (molecule,) = read_molecules(path, "energy")
    assert molecule.y.tolist() == [value] and molecule.pos[1].tolist() == [0, 0, value]


QM9 = (
    "3\ngdb 3\t799.6\t437.9\t282.9\t1.85\t6.31\t-0.2928\t0.0687\t0.3615\t19.0\t0.0213\t-76.404702\t-76.40187\t"
    "-76.400922\t-76.422349\t6.002\nO\t-0.034\t0.978\t0.0076\t-0.59\nH\t0.0648\t0.0206\t0.0015\t0.29\n"
    "H\t0.8718\t1.3008\t 6.9*^-6\t0.29\n1671.4\t3803.6\t3907.7\nO\tO\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)


def test_raw_files_of_qm9(write):
    molecules = read_molecules(write(QM9 + QM9.replace("gdb 3", "gdb 4")), "U0, gap")
    assert [one.name for one in molecules] == ["gdb 3", "gdb 4"]
    assert molecules[1].y.tolist() == [-76.404702, 0.3615] and molecules[1].pos[2, 2] == 6.9e-6
    assert molecules[0].z.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    "comment, target, energy",
    [
        ("-76.4", "comment", -76.4),
        ("  -5.07054412D+00 ", "comment", -5.07054412),
        ("Coordinates from ORCA-job h2 E -1.1723", "E", -1.1723),
        (" energy: -5.070544440 gnorm: 0.000311 xtb: 6.4.1", "energy", -5.07054444),
        ("i = 5, time = 2.500, E = -17.1643", "E", -17.1643),
        ("energy = -1.5 charge = 0", "energy", -1.5),
        ("energy -76.4", "energy", -76.4),
        ("     -76.4        !CONF1", "comment", -76.4),
    ],
)
def test_energies_in_comments(write, comment, target, energy):
    path = write(f"2\n{comment}\nH 0 0 0\nH 0 0 0.74\n")
    assert read_molecules(path, target)[0].y.tolist() == [energy]


def test_a_remedy_for_an_energy_by_another_name(write):
    with pytest.raises(
        ValueError, match=r"no 'energy'; its comment is the number -76.4: take it with --target comment"
    ):
        read_molecules(write("2\n-76.4\nH 0 0 0\nH 0 0 0.74\n"), "energy")
    with pytest.raises(ValueError, match=r"it has E; choose with --target E\."):
        read_molecules(write("2\nCoordinates from ORCA-job h2 E -1.1723\nH 0 0 0\nH 0 0 0.74\n"), "energy")
    with pytest.raises(ValueError, match="has no 'water'; it has no labels at all"):
        read_molecules(write("2\nwater\nH 0 0 0\nH 0 0 0.74\n"), "water")


def test_names_of_an_older_windows(write):
    path = write("2\nname=café energy=-1\nH 0 0 0\nH 0 0 0.74\n".encode("latin-1"))
    assert read_molecules(path, "energy")[0].name == "café"


def test_three_columns_of_forces(write, capsys):
    layout = "Properties=species:S:1:pos:R:3:fx:R:1:fy:R:1:fz:R:1"
    (molecule,) = read_molecules(write(f"2\n{layout} energy=-1\nH 0 0 0 1 2 3\nH 0 0 .74 4 5 6\n"), "energy")
    assert molecule.forces.tolist() == [[1, 2, 3], [4, 5, 6]]
    (molecule,) = read_molecules(write("2\nenergy=-1\nH 0 0 0 1 2 3\nH 0 0 .74 4 5 6\n"), "energy")
    assert molecule.forces is None
    said = capsys.readouterr().err
    assert "warning: a.xyz: atoms of 1 structures have columns behind their positions that nothing names" in said


def test_further_columns(write):
    plain = write("2\nenergy=-1\nH 0 0 0 0.1 x\nH 0 0 0.74 -0.1\n")
    assert read_molecules(plain, "energy")[0].pos[1].tolist() == [0, 0, 0.74]
    layout = "Properties=id:I:1:species:S:1:pos:R:3:tag:S:1:forces:R:3"
    path = write(f"2\n{layout} energy=-1\n1 H 0 0 0 a 1 2 3\n2 H 0 0 .74 b -1 -2 -3D0\n")
    (molecule,) = read_molecules(path, "energy")
    np.testing.assert_array_equal(molecule.forces, [[1, 2, 3], [-1, -2, -3]])
    numbers = write("2\nProperties=pos:R:3:Z:I:1 energy=-1\n0 0 0 1\n0 0 .74 1\n")
    assert read_molecules(numbers, "energy")[0].z.tolist() == [1, 1]


@pytest.mark.parametrize("key", ["charge", "Charge", "total_charge"])
def test_charge_and_multiplicity_that_a_file_does_not_state(write, key):
    path = write(f"2\nenergy=1\nH 0 0 0\nH 0 0 0.74\n2\nenergy=1 {key}=1 multiplicity=2\nH 0 0 0\nH 0 0 1.1\n")
    found = read_molecules(path, charge=0, multiplicity=1)
    assert [(one.charge, one.spin) for one in found] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match=r"frame 1 \(line 5\) states its charge, but a.xyz frame 0 .* give --charge 0"):
        read_molecules(path)
    with pytest.raises(ValueError, match="states its multiplicity, but .* give --multiplicity 1 if that is meant"):
        read_molecules(path, charge=0)
    with pytest.raises(ValueError, match=r"a.xyz frame 0 \(line 1\) has 2 electrons .*, of which 1 cannot be unpaired"):
        read_molecules(path, charge=0, multiplicity=2)
