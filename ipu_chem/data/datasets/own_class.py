"""A data set of a user's own: a class, or a function, that gives molecules one by one.

Its items are `Molecule`s, or anything with z [n], pos [n, 3] in Å and, where known, y, force (or forces) [n, 3], charge
and spin, such as PyTorch Geometric's Data. Attributes of the set say what the labels are: ``targets`` their names,
``units`` their units, ``extensive`` whether they grow with the molecule.
"""

from itertools import islice
from typing import Any, Dict, Optional, Sequence

import numpy as np

from ipu_chem.data.datasets.info import failures_info, target_info
from ipu_chem.data.energy_units import is_energy
from ipu_chem.data.molecule import Molecule, checked, molecules_to_store
from packing.store import Store


def load_own(name: str, make: Any, options: Dict[str, Any], limit: Optional[int] = None) -> Store:
    """The molecules of a data set, in memory: nobody knows when its files change, so nothing of it is kept.

    Args:
        name: as in ``data.name``.
        make: the class or function.
        options: its arguments.
        limit: first molecules only; None takes all.

    Raises:
        ValueError: no molecules, an item without z or pos, or labels that differ in number from the names given.
    """
    items = make(**options)
    molecules = [molecule_of(item, f"{name} {place}") for place, item in enumerate(islice(_each(items), limit))]
    count = next((len(molecule.y) for molecule in molecules if molecule.y is not None), 0)
    names = _listed(items, "targets", ["y"] if count == 1 else [f"y{column}" for column in range(count)])
    units, extensive = _listed(items, "units", [""] * count), _listed(items, "extensive", [True] * count)
    if not len(names) == len(units) == len(extensive) == count:
        raise ValueError(
            f"{name}: molecules have {count} labels, but there are {len(names)} targets, {len(units)} units and "
            f"{len(extensive)} values of extensive; give one of each for a label."
        )
    info: Dict[str, Any] = {
        "name": name,
        "targets": [target_info(*one) for one in zip(names, units, map(bool, extensive))],
        "level": "as given",
        "source": name,
        "licence": "the user's own",
        "citation": [],
        "options": {word: str(value) for word, value in options.items()},
        "failures": failures_info([]),
        "reference_energies": {},
    }
    if any(molecule.forces is not None for molecule in molecules):
        info["forces_of"] = next((word for word in names if is_energy(word)), names[0])
    return molecules_to_store(molecules, info)


def molecule_of(item: Any, name: str) -> Molecule:
    """One item as a checked molecule.

    Raises:
        ValueError: it has no z or pos, or is no molecule that a model can take.
    """
    found = {word: _array(item, word) for word in ("z", "pos", "y", "forces", "charge", "spin")}
    found["forces"] = _array(item, "force") if found["forces"] is None else found["forces"]
    if found["z"] is None or found["pos"] is None:
        raise ValueError(f"{name}: a molecule has z [n] and pos [n, 3]; this {type(item).__name__} lacks them.")
    y = None if found["y"] is None else np.asarray(found["y"], np.float64).reshape(-1)
    counts = [None if found[word] is None else int(found[word].reshape(-1)[0]) for word in ("charge", "spin")]
    return checked(
        found["z"].reshape(-1), found["pos"], y, str(getattr(item, "name", "") or name), found["forces"], *counts
    )


def _each(items: Any) -> Any:
    """Items in order; ``__len__`` and ``__getitem__`` are enough."""
    return (items[place] for place in range(len(items))) if hasattr(items, "__getitem__") else iter(items)


def _array(item: Any, word: str) -> Optional[np.ndarray]:
    value = getattr(item, word, None)
    return None if value is None else np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _listed(items: Any, word: str, usual: Sequence[Any]) -> Sequence[Any]:
    """An attribute of the set, one value for each label; a single one is for all."""
    value = getattr(items, word, None)
    if value is None:
        return usual
    return list(value) if isinstance(value, (list, tuple)) else [value] * len(usual)
