"""The 3D half of data.name=file: structures with labels, and the forces of the one that they belong to."""

import sys
from pathlib import Path
from typing import Optional

import numpy as np

from ipu_chem.data.files.structures import Structures, Wanted, read_labeled
from ipu_chem.data.files.text import plain_suffix
from ipu_chem.units import in_angstrom

SUFFIXES = (".xyz", ".extxyz", ".db", ".npz")  # of files that name forces


def check_wanted(file: Path, wanted: Wanted, is_smiles: bool) -> None:
    """Refuse everything that can be known to be wrong before the file is read.

    Raises:
        ValueError: forces of nothing or of a file without names, an unknown unit of length, or a multiplicity below 1.
    """
    if wanted.force_key and not wanted.targets:
        raise ValueError(f"{file}: forces ({wanted.force_key}) are of an energy; name it with data.target.")
    if wanted.force_key and plain_suffix(file) not in SUFFIXES:
        raise ValueError(f"{file}: data.force_key={wanted.force_key} is for {', '.join(SUFFIXES)} files.")
    given = [key for key in ("length_unit", "charge", "multiplicity") if getattr(wanted, key) not in ("", None)]
    if is_smiles and given:
        raise ValueError(f"{file}: data.{given[0]} is for files of structures; SMILES say it themselves.")
    if wanted.length_unit:
        try:
            in_angstrom(wanted.length_unit)
        except ValueError as error:
            raise ValueError(f"data.length_unit: {error}") from None
    if wanted.multiplicity is not None and wanted.multiplicity < 1:
        raise ValueError(
            f"data.multiplicity={wanted.multiplicity} is 2S + 1: 1 where all electrons are paired, or more."
        )


def read_own(file: Path, wanted: Wanted, limit: Optional[int]) -> Structures:
    """Structures of a file, with labels and forces where it has them.

    Raises:
        ValueError: as `read_labeled`; also forces of a molecule without their energy.
    """
    found, names = read_labeled(file, wanted, limit), wanted.targets
    for molecule in found.molecules if names else ():
        if molecule.y is None or len(molecule.y) != len(names):
            raise ValueError(
                f"{molecule.name}: {', '.join(names)} is one number each for a molecule, not a list of them."
            )
        if molecule.forces is not None and np.isnan(molecule.y[names.index(found.forces_of)]):
            raise ValueError(
                f"{molecule.name} has forces but no {found.forces_of}; forces are learned with their energy."
            )
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if not any(molecule.forces is not None for molecule in found.molecules):
        found = found._replace(forces_of="")
    return found
