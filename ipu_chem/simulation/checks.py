"""Structures that simulations refuse before anything moves."""

from typing import Any, List, Sequence

import numpy as np

from ipu_chem.data.checks import check_electrons
from ipu_chem.models.registry import needs_charge
from ipu_chem.simulation.pairs import check_places
from ipu_chem.trained_run import ForceField


def check_structure(atoms: Any, members: Sequence[ForceField]) -> None:
    """Refuse ase.Atoms that runs cannot take.

    Raises:
        ValueError: periodic atoms, an element, a place or a charge that the runs cannot have learned; says which.
    """
    who = atoms.get_chemical_formula() or "the molecule"
    if atoms.pbc.any():
        raise ValueError(f"{who} has a periodic cell; runs know free molecules, so set atoms.pbc=False if it is one.")
    numbers, offsets = atoms.numbers, np.array([0, len(atoms)])
    check_places(numbers, atoms.positions, offsets, [who])
    for member in members:
        member.check_elements(numbers, who)
    charges = charges_of(atoms, members)
    if charges:
        charge, spin = (np.array([value]) for value in charges)
        check_electrons(numbers, offsets, charge, spin, [who])


def charges_of(atoms: Any, members: Sequence[ForceField]) -> List[int]:
    """Charge and unpaired electrons where the runs' model takes them, else nothing.

    Raises:
        ValueError: it takes them, and ``atoms.info`` lacks one.
    """
    name = members[0].config.model.name
    if not needs_charge(name):
        return []
    lacking = [key for key in ("charge", "spin") if key not in atoms.info]
    if lacking:
        raise ValueError(
            f"{name} takes the charge and the unpaired electrons of a molecule: set atoms.info[{lacking[0]!r}], 0 for "
            "neutral molecules with all electrons paired; of a file, give --charge 0 --multiplicity 1."
        )
    return [int(atoms.info["charge"]), int(atoms.info["spin"])]
