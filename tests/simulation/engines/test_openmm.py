"""OpenMM: a PythonForce gives ASE's energies and forces in kJ/mol and nm, and moves atoms as there."""

import numpy as np
import pytest
from engine_cases import STEP_FS, STEPS, assert_conserved, assert_same, by_ase, example, moved_by_ase

from ipu_chem.simulation.calculator import Calculator
from ipu_chem.simulation.engines.openmm import openmm_force
from ipu_chem.units import KCAL_PER_MOL

openmm = pytest.importorskip("openmm", minversion="8.6", reason="OpenMM was NOT tested: it is not installed")
from openmm import app, unit  # noqa: E402

KJ_PER_MOL = KCAL_PER_MOL / 4.184  # eV


def topology_of(atoms):
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number in atoms.numbers.tolist():
        element = app.Element.getByAtomicNumber(number)
        topology.addAtom(element.symbol, element, residue)
    return topology


def context_of(atoms, force, platform="Reference"):
    system = openmm.System()
    for mass in atoms.get_masses().tolist():
        system.addParticle(mass)
    system.addForce(force)
    integrator = openmm.VerletIntegrator(STEP_FS * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(atoms.positions * unit.angstrom)
    return context


def results_of(context):
    """Energy, eV, and forces, eV/Å."""
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL, forces * KJ_PER_MOL


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_energies_and_forces_are_those_of_ase(make_run, molecules, platform):
    run = make_run()
    for atoms in molecules:
        force = openmm_force(Calculator.from_run(run, dtype="float64"), topology_of(atoms))
        # The platform CPU keeps positions and forces in float32.
        tolerance = {"Reference": 1e-6, "CPU": 1e-5}[platform]
        assert_same(results_of(context_of(atoms, force, platform)), by_ase(run, atoms), tolerance)


def test_its_bridge_to_ase_says_the_same(make_run, molecules):
    openmmml = pytest.importorskip("openmmml", reason="OpenMM-ML was NOT tested: it is not installed")
    run = make_run()
    for atoms in molecules:
        calculator = Calculator.from_run(run, dtype="float64")
        system = openmmml.MLPotential("ase").createSystem(topology_of(atoms), calculator=calculator)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(atoms.positions * unit.angstrom)
        force = openmm_force(Calculator.from_run(run, dtype="float64"), topology_of(atoms))
        assert_same(results_of(context), results_of(context_of(atoms, force)), 1e-7)


def test_constant_energy_from_rest_moves_atoms_as_ase_does(make_run, molecules):
    run = make_run()
    for atoms in molecules:
        force = openmm_force(Calculator.from_run(run, dtype="float64"), topology_of(atoms))
        context = context_of(atoms, force)
        # Its velocities are half a step behind; ASE's first step has half a kick.
        kick = by_ase(run, atoms)[1] / KJ_PER_MOL * 10 / atoms.get_masses()[:, None] * STEP_FS * 1e-3 / 2
        context.setVelocities(-kick * unit.nanometer / unit.picosecond)
        totals, potentials = [], []
        for _ in range(STEPS):
            context.getIntegrator().step(1)
            state = context.getState(getEnergy=True)
            potentials.append(state.getPotentialEnergy()._value)
            totals.append(potentials[-1] + state.getKineticEnergy()._value)
        positions = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        expected, _ = moved_by_ase(run, atoms)
        np.testing.assert_allclose(positions, expected, atol=1e-5)
        assert_conserved(np.array(totals), np.array(potentials))


def test_a_molecule_among_others(make_run, molecules):
    run = make_run()
    both = molecules[0] + molecules[1]
    chosen = list(range(9, 12))
    force = openmm_force(Calculator.from_run(run, dtype="float64"), topology_of(both), atoms=chosen)
    energy, forces = results_of(context_of(both, force))
    assert_same((energy, forces[9:]), by_ase(run, molecules[1]))
    assert not forces[:9].any()


def test_models_that_take_the_charge_get_it(charged_run, molecules):
    atoms = molecules[0]
    atoms.info.update(charge=-1, spin=1)
    calculator = Calculator.from_run(charged_run, dtype="float64")
    force = openmm_force(calculator, topology_of(atoms), charge=-1, spin=1)
    assert_same(results_of(context_of(atoms, force)), by_ase(charged_run, atoms))
    with pytest.raises(ValueError, match="give charge=0, spin=0"):
        openmm_force(calculator, topology_of(atoms))


def test_what_no_run_knows_is_refused_in_one_sentence(make_run, molecules):
    calculator, water = Calculator.from_run(make_run()), molecules[1]
    periodic, ammonia, nameless = topology_of(water), water.copy(), topology_of(water)
    periodic.setUnitCellDimensions([2, 2, 2])
    ammonia.numbers[0] = 7
    next(nameless.atoms()).element = None
    for topology, options, sentence in (
        (periodic, {}, "the topology has a periodic box.*setPeriodicBoxVectors.None."),
        (topology_of(ammonia), {}, "holds N, but .* molecules of H, C, O alone"),
        (nameless, {}, "atom 0 .O. of the topology has no element"),
        (topology_of(water), {"charge": 1}, "charge=1, but painn takes no charges"),
        (topology_of(water), {"spin": 2}, "spin=2, but painn takes no charges"),
        (topology_of(water[:0]), {}, "the engine has no atoms"),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            openmm_force(calculator, topology, **options)
        assert "\n" not in str(error.value)
    periodic.setPeriodicBoxVectors(None)
    openmm_force(calculator, periodic)


def test_places_and_numbers_of_atoms_that_do_not_fit_stop_the_engine(make_run, molecules):
    calculator, water = Calculator.from_run(make_run()), molecules[1]
    close = water.copy()
    close.positions[1] = close.positions[0]
    for atoms, sentence in (
        (close, "atoms 0 .O. and 1 .H. are 0.000 Å apart"),
        (molecules[0], "the same atoms to both"),
    ):
        context = context_of(atoms, openmm_force(calculator, topology_of(water)))
        with pytest.raises(openmm.OpenMMException, match=sentence):
            results_of(context)


def test_what_the_readme_shows_runs(make_run, ethanol, tmp_path, monkeypatch):
    run = make_run("runs/ethanol")
    monkeypatch.chdir(tmp_path)
    # Of atoms of the same name OpenMM keeps the first.
    ethanol.set_array("atomtypes", np.array([f"{symbol}{index}" for index, symbol in enumerate(ethanol.symbols)]))
    ethanol.write("ethanol.pdb")
    names = {}
    exec(compile(example("PDBFile"), "README.md", "exec"), names)
    state = names["simulation"].context.getState(getPositions=True, getEnergy=True)
    ethanol.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ_PER_MOL
    assert state.getStepCount() == 20 and energy == pytest.approx(by_ase(run, ethanol)[0], abs=1e-3)
