"""Structures moved to the nearest minimum of a trained run's energy, through ASE's optimizers."""

from pathlib import Path
from typing import Any, List, NamedTuple

import numpy as np
from tqdm import tqdm

from ipu_chem.data.structures import read_structures, with_results, write_extxyz
from ipu_chem.simulation.batch import Runs, load_force_fields, say_doubts
from ipu_chem.simulation.options import RelaxOptions, said_of_structures
from packing.files import PathLike


class Relaxed(NamedTuple):
    """A structure after its relaxation."""

    name: str
    atoms: Any  # ase.Atoms with energy and forces, where the optimizer left them
    converged: bool
    fmax: float  # eV/Å, largest force on an atom
    steps: int
    reason: str  # why it did not come to rest, if not for want of steps


def relax_file(runs: Runs, source: PathLike, options: RelaxOptions) -> List[Relaxed]:
    """Relax every structure of a file and write all of them, also those that did not come to rest.

    Args:
        runs: folders of one run, or of several, whose mean forces move the atoms.
        source: .xyz, .extxyz, .sdf, .db or .npz file.
        options: of the relaxations.

    Returns:
        One entry for each structure, in the order of the file that is written: energy and forces of the end, and
        "converged", "steps" and "name" in its comment lines.

    Raises:
        ValueError: the runs give no forces, or some structure is one that they cannot take; nothing is written.
    """
    if Path(options.output).suffix != ".extxyz":
        raise ValueError(f"--output {options.output}: relaxed structures are written to an .extxyz file.")
    from ipu_chem.simulation.calculator import Calculator

    calculator = Calculator(load_force_fields(runs), options.accelerator, threads=options.threads, dtype=options.dtype)
    structures = read_structures(source, **said_of_structures(options))
    for atoms in structures:
        try:
            calculator.check(atoms)
        except ValueError as error:
            raise ValueError(f"{atoms.info.get('name', 'a structure')}: {error}") from None
    say_doubts(calculator.members, structures)
    relaxed = [relax(atoms, calculator, options) for atoms in tqdm(structures, desc="relaxing", disable=None)]
    write_extxyz(options.output, [one.atoms for one in relaxed])
    return relaxed


def relax(atoms: Any, calculator: Any, options: RelaxOptions) -> Relaxed:
    """Relax one structure, which stays as it is; see `relax_file`."""
    from ase.optimize import BFGS, FIRE

    atoms = atoms.copy()
    atoms.calc = calculator
    optimizer = {"bfgs": BFGS, "fire": FIRE}[options.optimizer](atoms, logfile=None)
    reason, last = "", atoms.positions.copy()
    try:
        for _ in optimizer.irun(fmax=options.fmax, steps=options.steps):
            last = atoms.positions.copy()
    except ValueError as error:  # of the calculator, which refuses places where no atoms can be
        reason = f": {error}"
        atoms.positions[:] = last
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    largest = float(np.sqrt((forces**2).sum(1).max()))
    steps = int(optimizer.nsteps)
    atoms.info.update(converged=largest <= options.fmax and not reason, steps=steps)
    with_results(atoms, energy, forces)
    name = str(atoms.info.get("name", atoms.get_chemical_formula()))
    return Relaxed(name, atoms, bool(atoms.info["converged"]), largest, steps, reason)
