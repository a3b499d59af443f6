"""Units as people spell them, and doubts about those of positions."""

import numpy as np
import pytest

from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.datasets.info import own_targets
from ipu_chem.data.lengths import length_doubt
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL, energy_unit, force_unit, in_angstrom


@pytest.mark.parametrize(
    "words, ev",
    [
        (("eV", "ev", " EV ", "electronvolt"), 1.0),
        (("meV", "mev"), 1e-3),
        (("Ha", "ha", "Hartree", "hartree", "HARTREE", "Eh", "E_h", "a.u.", "au"), HARTREE),
        (("mHa", "mEh", "millihartree"), 1e-3 * HARTREE),
        (
            ("kcal/mol", "kcal mol-1", "kcal mol^-1", "kcal/mole", "kcal·mol⁻¹", "KCAL/MOL", "kcal per mol"),
            KCAL_PER_MOL,
        ),
        (("kJ/mol", "kj mol^{-1}", "kJ*mol-1", "kJ mol−1"), KCAL_PER_MOL / 4.184),
        (("cm-1", "cm^-1", "cm⁻¹", "1/cm"), 1.239841984e-4),
        (("Ry", "rydberg"), HARTREE / 2),
        (("", "MeV", "MEV", "hartre", "kcal", "eV/atom", "log(mol/l)", "D", "eV/Å"), None),
    ],
)
def test_energies(words, ev):
    for word in words:
        assert energy_unit(word) == (None if ev is None else pytest.approx(ev, rel=1e-9)), word


@pytest.mark.parametrize(
    "words, angstrom",
    [
        (("A", "Å", "\u212b", "Ang", "angstrom", "Angstroms", "Ångström"), 1.0),
        (("Bohr", "bohr", "au", "a.u.", "a0"), BOHR),
        (("nm", "NM", "nanometer"), 10.0),
        (("pm",), 0.01),
    ],
)
def test_lengths(words, angstrom):
    assert {in_angstrom(word) for word in words} == {angstrom}
    with pytest.raises(ValueError, match="'feet' is no unit of length that is known here; known are Å"):
        in_angstrom("feet")


@pytest.mark.parametrize("unit", ["hartre", "kcal", "MeV", "eV/atom"])
def test_unknown_units_of_energies_are_refused(unit):
    with pytest.raises(ValueError, match=rf"data.unit={unit} is no unit of energy .* known are eV, meV, Hartree"):
        own_targets(["energy"], unit, True, "number")
    assert own_targets(["energy"], unit, False, "number")[0]["unit"] == unit  # such as per atom
    assert own_targets(["dipole"], unit, True, "number")[0]["unit"] == unit  # a word


@pytest.mark.parametrize(
    "words, ev",
    [
        (("eV/Å", "eV/A", "ev/Ang", "eV Å^-1", "eV per Angstrom", "eV·Å⁻¹"), 1.0),
        (("Hartree/bohr", "Ha/Bohr", "Eh/a0", "a.u.", "au", "atomic units"), HARTREE / BOHR),
        (("kcal/mol/Å", "kcal/(mol Å)", "kcal/mol*Ang", "kcal mol^-1 Å^-1"), KCAL_PER_MOL),
        (("eV", "eV/s", "Å", "", "N", "MeV/Å"), None),
    ],
)
def test_forces(words, ev):
    for word in words:
        assert force_unit(word) == (None if ev is None else pytest.approx(ev, rel=1e-9)), word


@pytest.mark.parametrize(
    "name, own",
    [("energy_eV", "eV"), ("energy (kcal/mol)", "kcal/mol"), ("E_kcal_mol", "kcal/mol"), ("energy[Ha]", "Ha")],
)
def test_a_unit_in_the_name_of_an_energy(name, own):
    with pytest.raises(ValueError, match=rf"data.unit=kJ/mol, but .* is by its name in {own}; give --data.unit {own}"):
        own_targets([name], "kJ/mol", True, "number")
    assert own_targets([name], own, True, "number") and own_targets(["energy_total"], "eV", True, "number")


def test_words_for_what_is_no_energy():
    for unit in ("D", "Å^3", "log(mol/l)", ""):
        assert own_targets(["mu"], unit, True, "number")[0]["unit"] == unit
    assert own_targets(["energy"], "ev", True, "number")[0]["unit"] == "eV"
    assert own_targets(["energy"], "Ha", True, "number")[0]["unit"] == "Ha"


@pytest.mark.parametrize("name", ["H2O", "CH4", "C6H6", "N2", "H2", "CO2", "Si2H6", "LiF", "P2", "CH3Cl"])
def test_molecules_in_angstrom_raise_no_doubt_and_others_do(name):
    from ase.build import molecule

    atoms = molecule(name)
    assert length_doubt([atoms.numbers], [atoms.positions]) is None
    for unit, length in (("bohr", BOHR), ("nm", 10.0), ("pm", 0.01)):
        found = length_doubt([atoms.numbers] * 2, [atoms.positions / length, 1.03 * atoms.positions / length])
        assert found is not None and found[0] == unit and f"positions look like {unit}" in found[1]


def test_what_says_nothing_of_lengths():
    assert length_doubt([], []) is None
    assert length_doubt([np.array([6])], [np.zeros((1, 3))]) is None
    argon = np.array([[0, 0, 0], [3.8, 0, 0.0]])  # no bond
    assert length_doubt([np.array([18, 18])], [argon]) is None


def write(path, length):
    from ase.build import molecule

    text = ""
    for name in ("CH4", "C2H6", "C6H6"):
        atoms = molecule(name)
        rows = [f"{s} {x:.6f} {y:.6f} {z:.6f}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions / length)]
        text += "\n".join([str(len(atoms)), "energy=-5", *rows]) + "\n"
    path.write_text(text)
    return path


@pytest.mark.parametrize("unit, length", [("bohr", BOHR), ("nm", 10.0)])
def test_a_file_in_another_unit(tmp_path, capsys, unit, length):
    path = write(tmp_path / "a.xyz", length)
    load_dataset("file", path, tmp_path / "one", target="energy")
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and f"give --data.length_unit {unit}, or --data.length_unit A" in said
    store = load_dataset("file", path, tmp_path / "two", target="energy", length_unit=unit)
    right = load_dataset("file", write(tmp_path / "b.xyz", 1.0), tmp_path / "three", target="energy")
    np.testing.assert_allclose(store.fields["pos"], right.fields["pos"], atol=1e-5)
    load_dataset("file", path, tmp_path / "four", target="energy", length_unit="A")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(length_unit="feet"), "data.length_unit: 'feet' is no unit of length"),
        (dict(multiplicity=0), "data.multiplicity=0 is 2S . 1"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_dataset("file", write(tmp_path / "a.xyz", 1.0), tmp_path, **options)
    (tmp_path / "a.smi").write_text("C\n")
    with pytest.raises(ValueError, match="data.charge is for files of structures"):
        load_dataset("file", tmp_path / "a.smi", tmp_path, charge=0)
