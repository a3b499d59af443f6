"""A data set of a user's own: a class, or a function, that gives molecules one by one.

Items are `Molecule`s, or anything that `from_item` reads, such as those of torch_geometric's data sets. Attributes of
the set say what the labels are: ``targets`` their names, ``units`` their units, ``extensive`` whether they grow with
the molecule.
"""

from itertools import islice
from typing import Any, Dict, Optional, Sequence

import numpy as np

from ipu_chem.data.datasets.info import failures_info, target_info
from ipu_chem.data.energy_units import is_energy
from ipu_chem.data.molecule import array_of, from_item, molecules_to_store
from packing.store import Store

# Numbers in fewer bytes than these were rounded before they came here, which is said.
_ROUNDED = (("labels", ("y", "energy"), 8), ("positions (Å)", ("pos",), 4), ("forces", ("forces", "force"), 4))


def load_own(name: str, make: Any, options: Dict[str, Any], limit: Optional[int] = None) -> Store:
    """The molecules of a data set, in memory: nobody knows when its files change, so nothing of it is kept.

    Args:
        name: as in ``data.name``.
        make: the class or function.
        options: its arguments.
        limit: first molecules only; None takes all.

    Returns:
        Their store; info["notes"] says of numbers in less than the usual precision how exact they are.

    Raises:
        ValueError: its files cannot be had, there are no molecules, an item has no z or pos, or labels differ in number
            from the names given.
    """
    try:
        items = make(**options)
    except OSError as error:  # such as a download
        raise ValueError(f"{name} cannot be made: {error}; put its files where it looks for them.") from error
    each = (items[place] for place in range(len(items))) if hasattr(items, "__getitem__") else items
    given = list(islice(each, limit))
    called = [str(getattr(item, "name", None) or f"{name} {place}") for place, item in enumerate(given)]
    molecules = list(map(from_item, given, called))
    count = next((len(molecule.y) for molecule in molecules if molecule.y is not None), 0)
    usual = "y" if any(getattr(item, "y", None) is not None for item in given[:1]) else "energy"
    names = _listed(items, "targets", [usual] if count == 1 else [f"y{column}" for column in range(count)])
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
        "notes": [note for note in (_precision(given, *one) for one in _ROUNDED) if note],
    }
    if count and any(molecule.forces is not None for molecule in molecules):
        energies = [word for word in names if is_energy(word)] or names
        if len(names) == 1 or is_energy(energies[0]):  # of several labels that are no energies, nobody says whose
            info["forces_of"] = energies[0]
    return molecules_to_store(molecules, info)


def _precision(items: Sequence[Any], what: str, words: Sequence[str], enough: int) -> str:
    """A sentence on floating numbers in fewer than ``enough`` bytes; "" if there are none."""
    arrays = [one for one in (array_of(item, *words) for item in items) if one is not None and one.size]
    rounded = [one for one in arrays if one.dtype.kind == "f" and one.dtype.itemsize < enough]
    if not rounded:
        return ""
    largest, kind = max((float(np.abs(one).max()), one.dtype) for one in rounded)
    step = float(np.spacing(np.array(largest, kind)))
    return f"{what} come in {kind}: where they are largest, {largest:,.6g}, they go in steps of {step:.2g}"


def _listed(items: Any, word: str, usual: Sequence[Any]) -> Sequence[Any]:
    """An attribute of the set, one value for each label; a single one is for all."""
    value = getattr(items, word, None)
    if value is None:
        return usual
    return list(value) if isinstance(value, (list, tuple)) else [value] * len(usual)
