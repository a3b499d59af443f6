"""Structures of 3D files as ASE's atoms, and back."""

from typing import Any, List

import numpy as np

from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.molecule import Molecule
from packing.files import PathLike


def read_structures(path: PathLike) -> List[Any]:
    """All structures of a file, ase.Atoms; errors as of `read_molecules`."""
    return [to_atoms(molecule) for molecule in read_molecules(path)]


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
