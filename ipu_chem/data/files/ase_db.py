"""Rows of ASE's data bases (SQLite), also SchNetPack's, whose labels are arrays in the data of the rows."""

import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Set

import numpy as np

from ipu_chem.data.files.frame import Frame, electrons, periodic, stated_units


def db_frames(path: Path) -> Iterator[Frame]:
    """Every row, in order.

    Raises:
        ValueError: no data base, one without rows, or a row that cannot be read.
    """
    import ase.db

    count = 0
    try:
        with ase.db.connect(str(path)) as base:
            units = _units(base.metadata)
            for row in base.select():
                count += 1
                yield _frame(row, units, f"{path.name} row {row.id}")
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no ASE data base ({error}).") from None
    if not count:
        raise ValueError(f"{path} holds no rows.")


def _units(metadata: Mapping[str, Any]) -> Dict[str, str]:
    """Units that SchNetPack states, of lengths and of each property."""
    properties = metadata.get("_property_unit_dict") or metadata.get("property_unit_dict") or {}
    return {**stated_units(metadata), **{str(key): str(value) for key, value in properties.items()}}


def _frame(row: Any, units: Mapping[str, str], where: str) -> Frame:
    atoms = row.toatoms()
    if atoms.pbc.any():
        raise periodic(where, "write it with atoms.pbc=False if it is one")
    # ASE's own property "charge", a sum over atoms, hides a key of that name but for the row's __dict__.
    pairs = {key: vars(row).get(key, value) for key, value in row.key_value_pairs.items()}
    results = atoms.calc.results if atoms.calc is not None else {}
    places = {"calculator": results, "key_value_pairs": pairs, "data": dict(row.data)}
    found: Dict[str, Any] = {}
    twice: Set[str] = set()
    for values in places.values():
        for key, value in values.items():
            if key in found and not _equal(found[key], value):
                twice.add(key)
            found.setdefault(key, value)
    known = electrons({**pairs, **places["data"]}, frozenset(twice), where)
    if twice:  # then what belongs together stands in one place, and has its name in front
        for key in twice | {key for key, value in found.items() if _is_vectors(value, len(atoms))}:
            del found[key]
        found.update({f"{place}.{key}": value for place, values in places.items() for key, value in values.items()})
    arrays = {key: np.asarray(value) for key, value in found.items() if _is_vectors(value, len(atoms))}
    values = {key: value for key, value in found.items() if key not in arrays}
    name = str({**pairs, **places["data"]}.get("name", where))
    stated = {**units, **stated_units(pairs)}
    positions = np.asarray(atoms.positions, np.float64)
    return Frame(
        where, name, np.asarray(atoms.numbers, np.int64), positions, values, arrays, stated, frozenset(twice), **known
    )


def _is_vectors(value: Any, atoms: int) -> bool:
    return np.shape(value) == (atoms, 3) and np.asarray(value).dtype.kind in "fiu"


def _equal(one: Any, other: Any) -> bool:
    """Test if two places say the same, also one of them as an array of one number."""
    try:
        return np.array_equal(np.asarray(one, np.float64).reshape(-1), np.asarray(other, np.float64).reshape(-1))
    except (TypeError, ValueError):
        return bool(np.all(one == other)) if np.shape(one) == np.shape(other) else False
