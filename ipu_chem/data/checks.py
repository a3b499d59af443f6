"""Checks of many molecules at once, which refuse those that no model can take before they cost anything."""

from typing import Callable, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.neighbors import radius_edges

MAX_Z = 99  # embeddings have 100 rows, and row 0 is padding
_COINCIDENT = 0.1  # Å; the shortest bond, H2, is 0.74
_AT_ONCE = 1 << 16  # molecules whose distances are computed together, in float64

# Element symbols by atomic number, 0 to 99.
SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr "
    "Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W "
    "Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es"
).split()


def check_atoms(z: np.ndarray, pos: np.ndarray, offsets: np.ndarray, names: Sequence[str]) -> None:
    """Check many molecules at once.

    Args:
        z: [total] integer.
        pos: [total, 3] floating, Å.
        offsets: [I + 1] integer.
        names: I names for the error message.

    Raises:
        ValueError: as `check_molecule`, for the first molecule at fault.
    """
    lengths = np.diff(offsets)
    if len(lengths) and lengths.min() < 1:
        empty = int(np.argmin(lengths))
        raise ValueError(f"{names[empty] or f'molecule {empty}'} has no atoms; leave it out.")
    wrong = (z < 1) | (z > MAX_Z)
    if wrong.any():
        atom = int(np.argmax(wrong))
        who, local = _owner(atom, offsets, names)
        raise ValueError(f"{who}: atom {local} has atomic number {z[atom]}; elements are 1 (H) to {MAX_Z} (Es).")
    bad = ~np.isfinite(pos).all(axis=1)
    if bad.any():
        who, local = _owner(int(np.argmax(bad)), offsets, names)
        raise ValueError(f"{who}: atom {local} has a coordinate that is not finite; correct or leave out the molecule.")
    for first in range(0, len(lengths), _AT_ONCE):
        bounds = offsets[first : first + _AT_ONCE + 1]
        _check_apart(z, pos[bounds[0] : bounds[-1]], bounds, names[first : first + _AT_ONCE], first)


def _check_apart(z: np.ndarray, pos: np.ndarray, bounds: np.ndarray, names: Sequence[str], first: int) -> None:
    """Refuse two atoms at one place among some molecules, of which ``first`` is the first."""
    close = radius_edges(pos, bounds - bounds[0], _COINCIDENT)
    if len(close.values):
        molecule = int(np.argmax(close.lengths > 0))
        one, other = sorted(int(atom) for atom in close[molecule][0])
        start = bounds[molecule]
        place = start - bounds[0]
        distance = float(np.linalg.norm(pos[place + one] - pos[place + other]))
        raise ValueError(
            f"{names[molecule] or f'molecule {first + molecule}'}: atoms {one} ({SYMBOLS[z[start + one]]}) and "
            f"{other} ({SYMBOLS[z[start + other]]}) are {distance:.3f} Å apart; two atoms at one place are "
            "a duplicate or a wrong unit (coordinates are in Å, unless length_unit is bohr, nm or pm)."
        )


def check_forces(forces: np.ndarray, offsets: np.ndarray, names: Sequence[str]) -> None:
    """Check the forces of many molecules at once.

    Args:
        forces: [total, 3] floating.
        offsets: [I + 1] integer.
        names: I names for the error message.

    Raises:
        ValueError: some forces of a molecule are not finite; all of them NaN means that it has none.
    """
    bad = ~np.isfinite(forces).all(axis=1)
    if not bad.any():
        return
    missing = np.isnan(forces).all(axis=1)
    whole = np.repeat(np.logical_and.reduceat(missing, offsets[:-1]), np.diff(offsets))
    if (bad & ~whole).any():
        atom = int(np.argmax(bad & ~whole))
        who, local = _owner(atom, offsets, names)
        raise ValueError(
            f"{who}: the force on atom {local} is not finite; a molecule has forces on all its atoms, or NaN on all."
        )


def check_electrons(
    z: np.ndarray, offsets: np.ndarray, charge: Optional[np.ndarray], spin: Optional[np.ndarray], names: Sequence[str]
) -> None:
    """Check charges and unpaired electrons of many molecules at once.

    Args:
        z: [total] integer.
        offsets: [I + 1] integer.
        charge: [I] integer, e; None if they are not known.
        spin: [I] integer, unpaired electrons; None if they are not known.
        names: I names for the error message.

    Raises:
        ValueError: a charge beyond 8 bits or more than the nuclei's, or spin that so many electrons cannot have.
    """
    electrons = np.add.reduceat(np.asarray(z, np.int64), offsets[:-1])
    if charge is not None:
        charge = np.asarray(charge, np.int64)
        _refuse(
            (charge < -128) | (charge > np.minimum(electrons, 127)),
            names,
            lambda item: f"a charge of {charge[item]}; it is -128 to 127 and leaves no fewer than 0 electrons.",
        )
        electrons = electrons - charge
    if spin is not None:
        spin = np.asarray(spin, np.int64)
        limit = np.minimum(electrons, 255) if charge is not None else 255
        _refuse(
            (spin < 0) | (spin > limit),
            names,
            lambda item: f"a spin of {spin[item]}; it is the number of unpaired electrons, 0 to all of them.",
        )
    if charge is not None and spin is not None:
        _refuse(
            (electrons - spin) % 2 != 0,
            names,
            lambda item: (
                f"{electrons[item]} electrons (charge {charge[item]}), of which {spin[item]} cannot be unpaired: both "
                "are even or both are odd (spin is 2S, the multiplicity less 1)."
            ),
        )


def _refuse(wrong: np.ndarray, names: Sequence[str], what: Callable[[int], str]) -> None:
    """Complain about the first molecule that is wrong."""
    if wrong.any():
        item = int(np.argmax(wrong))
        raise ValueError(f"{names[item] or f'molecule {item}'} has {what(item)}")


def _owner(atom: int, offsets: np.ndarray, names: Sequence[str]) -> Tuple[str, int]:
    """The molecule's name and the atom's number in it."""
    molecule = int(np.searchsorted(offsets, atom, side="right")) - 1
    return names[molecule] or f"molecule {molecule}", atom - int(offsets[molecule])
