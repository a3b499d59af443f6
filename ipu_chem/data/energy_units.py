"""Doubts about the unit that the user says labels are in: printed once, they stop nothing."""

import re
from functools import lru_cache
from typing import List, Optional, Sequence

import numpy as np

from ipu_chem.units import ENERGIES, HARTREE, KNOWN_ENERGIES, energy_unit
from packing.store import Store

# eV/Å, root mean square. Near 1 at room temperature and at 500 K (3BPA 0.9, rMD17 0.9 to 1.3), and it grows with the
# root of the temperature: 10 would be 50,000 K, where there are no molecules. In kcal/mol/Å rMD17 has 21 to 29.
_LARGEST_FORCE = 10.0
# eV per atom, standard deviation among molecules of one composition. ANI-1's most distorted frames reach 0.3, and
# torn into atoms a molecule loses about 4.
_LARGEST_SPREAD = 1.0
_ENOUGH = 10  # molecules, for a spread
# Electronic energies of the free atoms H to Ar, Hartree, rounded: the atoms of a molecule sum to its total energy but
# for a per mille or two, so that a total energy shows its unit.
_ATOMS = "0 .5 2.9 7.5 14.7 24.6 37.8 54.6 75.0 99.7 128.9 162.2 200.0 242.3 289.3 341.2 398.1 460.1 527.5"
_ATOM_ENERGIES = -np.array(_ATOMS.split(), np.float64)
_TOTAL = 0.05  # how near a total energy is to its atoms'

_UNIT_IN_NAME = re.compile(r"[_\s(\[]([A-Za-z]+(?:[/_]mol)?)[)\]]?$")  # "energy_eV", "E (kcal/mol)"
_ENERGY_NAME = re.compile(r"energy|energies|^e$|^e[_0-9]|^u0?$|_e$", re.IGNORECASE)


@lru_cache(maxsize=1024)
def is_energy(name: str) -> bool:
    """Test if a label of this name is an energy, whose forces there may be."""
    return _ENERGY_NAME.search(name) is not None


def check_energy_unit(names: Sequence[str], unit: str, extensive: bool) -> None:
    """Refuse an unknown unit of an energy that adds up over atoms; that of anything else is a mere word.

    Raises:
        ValueError: lists the units that are known; or the name of an energy says another one.
    """
    energies = [name for name in names if is_energy(name)]
    for name in energies if energy_unit(unit) is not None else ():
        said = _UNIT_IN_NAME.search(name)
        own = said.group(1).replace("_", "/") if said else unit
        if energy_unit(own) not in (None, energy_unit(unit)):
            raise ValueError(
                f"data.unit={unit}, but {name} is by its name in {own}; give --data.unit {own}, or rename it."
            )
    if unit and extensive and energies and energy_unit(unit) is None:
        raise ValueError(
            f"data.unit={unit} is no unit of energy that is known here, but {energies[0]} is called an energy; known "
            f"are {KNOWN_ENERGIES} (--data.extensive false, if it is no energy of the whole molecule, takes any word)."
        )


def unit_doubts(store: Store) -> List[str]:
    """Doubts about the units of a store's energies and forces, a sentence each.

    Args:
        store: with info["targets"], and forces of info["forces_of"] or none.
    """
    doubts = []
    for column, target in enumerate(store.info["targets"]):
        name, unit = target["name"], energy_unit(target["unit"])
        if unit is None or not target["extensive"] or not is_energy(name):
            continue
        labels = np.asarray(store.fields["y"], np.float64)[:, column]
        found = _unit_of_totals(store, labels)
        if found and ENERGIES[found.lower()] != unit:
            doubts.append(f"{name} is said to be in {target['unit']}, but looks like total energies in {found}.")
        elif _spread(store, labels) * unit > _LARGEST_SPREAD:
            doubts.append(
                f"{name} is said to be in {target['unit']}, but molecules of one composition differ by more than "
                f"{_LARGEST_SPREAD:g} eV per atom; is it in kcal/mol or kJ/mol?"
            )
        if "forces" in store and name == store.info.get("forces_of"):
            forces = np.asarray(store.fields["forces"], np.float64)
            size = float(np.sqrt(np.nanmean(forces**2))) * unit
            if size > _LARGEST_FORCE:
                doubts.append(
                    f"forces are said to be in {target['unit']}/Å and would be {size:.3g} eV/Å large (root mean "
                    f"square), but molecules do not bear {_LARGEST_FORCE:g}; are they in kcal/mol/Å?"
                )
    return doubts


def _unit_of_totals(store: Store, labels: np.ndarray) -> Optional[str]:
    """The unit in which labels are total energies of all electrons; None if they are not in any."""
    z, known = np.asarray(store.fields["z"]), np.isfinite(labels)
    if not known.any() or z.max() >= len(_ATOM_ENERGIES):
        return None
    atoms = np.add.reduceat(_ATOM_ENERGIES[z], store.axes["nodes"][:-1])
    ratio = labels[known] / atoms[known]
    for name in ("Hartree", "eV", "kcal/mol", "kJ/mol", "meV"):
        off = np.abs(ratio * ENERGIES[name.lower()] / HARTREE - 1)
        if np.quantile(off, 0.9) < _TOTAL:
            return name
    return None


def _spread(store: Store, labels: np.ndarray) -> float:
    """Standard deviation among molecules of the most common composition, charge and spin, per atom."""
    known = np.flatnonzero(np.isfinite(labels))
    sizes = store.sizes()["nodes"][known]
    # Number of atoms and sum of squared atomic numbers tell compositions apart well enough.
    squares = np.add.reduceat(np.asarray(store.fields["z"], np.int64) ** 2, store.axes["nodes"][:-1])[known]
    electrons = [np.asarray(store.fields[key], np.int64)[known] for key in ("charge", "spin") if key in store]
    _, group, counts = np.unique(
        np.stack([sizes, squares, *electrons]), axis=1, return_inverse=True, return_counts=True
    )
    if not len(known) or counts.max() < _ENOUGH:
        return 0.0
    chosen = group.reshape(-1) == counts.argmax()
    return float(labels[known][chosen].std() / sizes[chosen][0])
