"""Engines of `engines.py`: each evaluates frames in its own units and moves the first from rest at constant energy."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np

from ipu_chem.simulation.engines.ipi import serve_ipi
from ipu_chem.simulation.engines.lammps import LammpsForce
from ipu_chem.simulation.engines.openmm import openmm_force
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL

STEP_FS = 0.5
_KJ_PER_MOL = KCAL_PER_MOL / 4.184
_UNITS = {"metal": (1.0, 1.0, 1e-3), "real": (1.0, 1 / KCAL_PER_MOL, 1.0), "electron": (1 / BOHR, 1 / HARTREE, 1.0)}


class Moved(NamedTuple):
    """Results of an engine for F frames of n atoms, in eV and Å.

    Attributes:
        energies: [F].
        forces: [F, n, 3].
        end: [n, 3], positions of the first frame after the steps.
        totals: [steps], its total energies.
    """

    energies: np.ndarray
    forces: np.ndarray
    end: np.ndarray
    totals: np.ndarray


def _moved(found: List[Any], end: np.ndarray, totals: List[float]) -> Moved:
    """Results of (energy, forces) of each frame."""
    energies, forces = zip(*found)
    return Moved(np.array(energies), np.array(forces), end, np.array(totals))


def _calculator(run: Path) -> Any:
    from ipu_chem.simulation.calculator import Calculator

    return Calculator.from_run(run, dtype="float64")


def by_ase(run: Path, frames: List[Any], steps: int) -> Moved:
    """ASE's VelocityVerlet, which others are compared with."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    calculator, found = _calculator(run), []
    for atoms in frames:
        calculator.calculate(atoms)
        found.append((calculator.results["energy"], calculator.results["forces"]))
    atoms, totals = frames[0].copy(), []
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, STEP_FS * units.fs)
    for _ in range(steps):
        dynamics.run(1)
        totals.append(atoms.get_total_energy())
    return _moved(found, atoms.positions, totals)


def by_torch_sim(run: Path, frames: List[Any], steps: int) -> Moved:
    """torch-sim: all frames at once."""
    import torch
    import torch_sim as ts

    from ipu_chem.simulation.engines.torch_sim import TorchSimModel

    model = TorchSimModel.from_run(run)
    found = model(ts.io.atoms_to_state(frames, model.device, model.dtype))
    dt = torch.tensor(STEP_FS * 1e-3 * ts.units.MetalUnits.time, dtype=model.dtype)
    start, move = ts.integrators.nve(model, dt=dt, kT=torch.tensor(0.0, dtype=model.dtype))
    state = start(ts.io.atoms_to_state(frames, model.device, model.dtype), seed=0)
    state.momenta = torch.zeros_like(state.momenta)
    atoms, totals = len(frames[0]), []
    for _ in range(steps):
        state = move(state, dt=dt)
        kinetic = (state.momenta[:atoms].square().sum(1) / (2 * state.masses[:atoms])).sum()
        totals.append(float(state.energy[0] + kinetic))
    forces = found["forces"].numpy().reshape(len(frames), atoms, 3)
    return Moved(found["energy"].numpy(), forces, state.positions[:atoms].numpy(), np.array(totals))


def _by_openmm(make: Callable[[Any, Any], Any], run: Path, frames: List[Any], steps: int) -> Moved:
    """Move with the System that ``make`` builds of a calculator and a topology."""
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number in frames[0].numbers.tolist():
        topology.addAtom(str(number), app.Element.getByAtomicNumber(number), residue)
    system, masses = make(_calculator(run), topology), frames[0].get_masses()
    for index, mass in enumerate(masses.tolist()):
        system.setParticleMass(index, mass)
    integrator = openmm.VerletIntegrator(STEP_FS * unit.femtosecond)
    context, found = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference")), []
    for atoms in frames:
        context.setPositions(atoms.positions * unit.angstrom)
        state = context.getState(getEnergy=True, getForces=True)
        forces = state.getForces(asNumpy=True)._value * _KJ_PER_MOL / 10
        found.append((state.getPotentialEnergy()._value * _KJ_PER_MOL, forces))
    context.setPositions(frames[0].positions * unit.angstrom)
    # Velocities are those half a step before, nm/ps.
    context.setVelocities(-found[0][1] / _KJ_PER_MOL * 10 / masses[:, None] * STEP_FS * 1e-3 / 2)
    totals = []
    for _ in range(steps):
        integrator.step(1)
        state = context.getState(getEnergy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value * _KJ_PER_MOL)
    end = context.getState(getPositions=True).getPositions(asNumpy=True)._value * 10
    return _moved(found, end, totals)


def by_openmm(run: Path, frames: List[Any], steps: int) -> Moved:
    """OpenMM's PythonForce, platform Reference, which computes in float64."""

    def make(calculator: Any, topology: Any) -> Any:
        import openmm

        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        system.addForce(openmm_force(calculator, topology))
        return system

    return _by_openmm(make, run, frames, steps)


def by_openmm_ml(run: Path, frames: List[Any], steps: int) -> Moved:
    """OpenMM-ML's bridge to ASE's calculators."""

    def make(calculator: Any, topology: Any) -> Any:
        from openmmml import MLPotential

        return MLPotential("ase").createSystem(topology, calculator=calculator)

    return _by_openmm(make, run, frames, steps)


def _by_lammps(units: str) -> Callable[[Path, List[Any], int], Moved]:
    def move(run: Path, frames: List[Any], steps: int) -> Moved:
        from lammps import lammps

        length, energy, time_unit = _UNITS[units]
        lmp, numbers = lammps(cmdargs=["-log", "none", "-screen", "none"]), sorted(set(frames[0].numbers.tolist()))
        edge = f"{-40 * length} {40 * length}"
        lmp.commands_list([f"units {units}", "atom_style atomic", "atom_modify map array", "boundary f f f"])
        lmp.commands_list([f"neighbor {2 * length} bin", f"region all block {edge} {edge} {edge}"])
        lmp.command(f"create_box {len(numbers)} all")
        kinds = [numbers.index(number) + 1 for number in frames[0].numbers.tolist()]
        lmp.create_atoms(len(kinds), None, kinds, (frames[0].positions * length).reshape(-1).tolist())
        for kind, mass in dict(zip(kinds, frames[0].get_masses().tolist())).items():
            lmp.command(f"mass {kind} {mass:.10f}")
        lmp.commands_list([f"timestep {STEP_FS * time_unit}", "thermo 1", "fix move all nve"])
        symbols = [frames[0].symbols[kinds.index(kind)] for kind in range(1, len(numbers) + 1)]
        force, found, totals = LammpsForce(lmp, _calculator(run), symbols), [], []

        def get(name: str) -> np.ndarray:
            return np.array(lmp.numpy.extract_atom(name))[np.argsort(lmp.numpy.extract_atom("id"))]

        def put(atoms: Any) -> None:
            for index, place in enumerate((atoms.positions * length).tolist(), start=1):
                lmp.command("set atom {} x {:.16g} y {:.16g} z {:.16g}".format(index, *place))

        for atoms in frames:
            put(atoms)
            force.run(0)
            found.append((lmp.get_thermo("pe") / energy, get("f") * length / energy))
        put(frames[0])
        lmp.command("velocity all set 0 0 0")
        for _ in range(steps):
            force.run(1)
            totals.append(lmp.get_thermo("etotal") / energy)
        moved = _moved(found, get("x") / length, totals)
        lmp.close()
        return moved

    return move


# Every frame is a bead for one step of no length; then the first moves. All digits, units of ASE.
_IPI = """
import sys
import numpy as np
from ase.io import read
from ipi.scripting import InteractiveSimulation, simulation_xml

address, steps, step = sys.argv[1:]
frames = read("frames.traj", ":")
for atoms in frames:
    atoms.set_cell([99.0, 99.0, 99.0])
    atoms.arrays["mass"] = atoms.get_masses()
ff = f"<ffsocket mode='unix' name='run'><address>{address}</address><latency>1e-4</latency></ffsocket>"
motion = "<motion mode='dynamics'><dynamics mode='nve'><timestep units='femtosecond'>{}</timestep></dynamics></motion>"
output, energies, forces, totals = "<output> </output>", [], [], []
simulation = InteractiveSimulation(simulation_xml(frames[0], ff, motion.format(step), output=output))
for atoms in frames:
    simulation.set_structures(atoms)
    simulation.syslist[0].beads.p[:] = 0
    simulation.run(0, write_outputs=False)
    one = simulation.get_structures()
    energies.append(one.get_potential_energy())
    forces.append(one.get_forces())
simulation.set_structures(frames[0])
simulation.syslist[0].beads.p[:] = 0
for _ in range(int(steps)):
    simulation.run(1, write_outputs=False)
    totals.append(sum(float(simulation.properties(name)) for name in ("potential", "kinetic_md")))
np.savez("end.npz", energies=energies, forces=forces, end=simulation.get_structures().positions, totals=totals)
simulation.stop()
"""


def by_ipi(run: Path, frames: List[Any], steps: int) -> Moved:
    """i-PI in its own process, through a Unix socket."""
    import ipi  # noqa: F401 (known to be there before a process needs it)
    from ase.io import write

    calculator = _calculator(run)
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/frames.traj", frames)
        address = f"ipu_chem_{Path(folder).name}"
        command = [sys.executable, "-c", _IPI, address, str(steps), str(STEP_FS)]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            while True:
                try:
                    serve_ipi(frames[0], calculator, unixsocket=address, timeout=300)
                    break
                except ValueError:
                    if server.poll() is not None:
                        raise RuntimeError(f"i-PI ended:\n{server.communicate()[0]}") from None
                    time.sleep(0.1)
            said = server.communicate(timeout=300)[0]
        finally:
            server.kill()
        if server.returncode:
            raise RuntimeError(f"i-PI ended:\n{said}")
        with np.load(f"{folder}/end.npz") as arrays:
            return Moved(*(arrays[name] for name in Moved._fields))


ENGINES: Dict[str, Callable[[Path, List[Any], int], Moved]] = {
    "ASE": by_ase,
    "torch-sim": by_torch_sim,
    "OpenMM": by_openmm,
    "OpenMM-ML": by_openmm_ml,
    **{f"LAMMPS, {units}": _by_lammps(units) for units in _UNITS},
    "i-PI": by_ipi,
}
