"""Structures as ASE's atoms: read from 3D files, turned into molecules, written with energies and forces."""

from io import StringIO
from typing import Any, List, Sequence

import numpy as np

from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.molecule import Molecule
from packing.files import PathLike, atomic_file


def read_structures(path: PathLike, **wanted: Any) -> List[Any]:
    """All structures of a file, ase.Atoms; arguments and errors as of `read_molecules`."""
    return [to_atoms(molecule) for molecule in read_molecules(path, **wanted)]


def to_atoms(molecule: Molecule) -> Any:
    """ase.Atoms with the name, and charge and spin where they are known, in ``info``."""
    from ase import Atoms

    info = {"name": molecule.name, "charge": molecule.charge, "spin": molecule.spin}
    known = {key: value for key, value in info.items() if value not in (None, "")}
    return Atoms(molecule.z, molecule.pos, info=known)


def to_molecule(atoms: Any) -> Molecule:
    """The reverse; ase.Atoms, or a Molecule, which stays as it is.

    Raises:
        ValueError: atoms are periodic.
    """
    if isinstance(atoms, Molecule):
        return atoms
    name = str(atoms.info.get("name", atoms.get_chemical_formula()))
    if atoms.pbc.any():
        raise ValueError(f"{name} has a periodic cell; runs know free molecules, so set atoms.pbc=False if it is one.")
    charge, spin = (atoms.info.get(key) for key in ("charge", "spin"))
    return Molecule(
        np.asarray(atoms.numbers, np.uint8),
        np.asarray(atoms.positions, np.float64),
        name=name,
        charge=None if charge is None else int(charge),
        spin=None if spin is None else int(spin),
    )


def with_results(atoms: Any, energy: float, forces: np.ndarray) -> Any:
    """The same ase.Atoms, which give this energy, eV, and forces [n, 3], eV/Å, from now on."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def write_extxyz(path: PathLike, structures: Sequence[Any]) -> None:
    """Write ase.Atoms, atomically; those with results have the energy in their comment line, and forces in columns."""
    from ase.io import write

    text = StringIO()
    for atoms in structures:
        write(text, atoms, format="extxyz")
    with atomic_file(path, "w") as file:
        file.write(text.getvalue())
