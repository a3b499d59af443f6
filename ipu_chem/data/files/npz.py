"""Molecules of .npz files: frames of one molecule, or molecules of all kinds in arrays that are padded by zeros.

sGDML, MD17, PhysNet, QM7, TorchANI and others name the same arrays differently. Whatever else holds one number for
every molecule may be a label, and whatever holds three for every atom forces.
"""

import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from ipu_chem.data.files.frame import (
    ELECTRONS,
    ISOTOPES,
    Frame,
    atomic_number,
    electrons,
    periodic,
    say_isotopes,
    stated_units,
)
from packing.arrays import open_arrays

# Names of the arrays, the first that is there; "charges" are atomic numbers to Cormorant and EGNN.
_Z = ("z", "Z", "nuclear_charges", "atomic_numbers", "species", "numbers", "charges")
_POS = ("R", "coords", "coordinates", "positions", "pos", "coord", "xyz")
_COUNT = ("N", "num_atoms", "n_atoms", "natoms")
_ENERGY = ("E", "energies")  # what "energy" is called by sGDML, MD17 and TorchANI
_CELLS = ("lattice", "cell", "box")
_PADDING = ("0", "0.0", "-1", "")


class Arrays(NamedTuple):
    """Arrays of I molecules by their role.

    Attributes:
        z: [n] or [I, n] symbols or numbers; pos: [I, n, 3] floating.
        count: [I] atoms that each has; None if the file does not say.
        scalars: [I] each; vectors: [I, n, 3] each; facts: what stands there once, such as units.
        names: of the first two, for messages.
    """

    z: np.ndarray
    pos: np.ndarray
    count: Optional[np.ndarray]
    scalars: Mapping[str, np.ndarray]
    vectors: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    names: Tuple[str, str]


def npz_frames(path: Path) -> Iterator[Frame]:
    """Every molecule, in order; frames of one molecule share its atoms.

    Raises:
        ValueError: a file that is damaged, without elements and positions, or with arrays that do not belong together;
            a periodic cell, or padding that is not plain.
    """
    arrays = read_arrays(path)
    units = stated_units(arrays.facts)
    once = {key: value for key, value in arrays.facts.items() if key.lower() in (*ELECTRONS, "q")}
    each = [key for key in arrays.scalars if key.lower() in (*ELECTRONS, "q")]
    scalars = {key: array.tolist() for key, array in arrays.scalars.items()}
    symbols: Dict[Any, int] = {}
    file, stem, isotopes = path.name, path.stem, 0
    z = np.empty(0, np.int64)
    for item, pos in enumerate(arrays.pos):
        where = f"{file} frame {item}"
        if item == 0 or arrays.z.ndim == 2:
            words = _words(arrays, item, where)
            z = _numbers(words, symbols, f"{where}: {arrays.names[0]}")
            isotopes += sum(word.lower() in ISOTOPES for word in words) if arrays.z.dtype.kind not in "fiu" else 0
        n = len(z)
        values = {key: column[item] for key, column in scalars.items()}
        known: Dict[str, Optional[int]] = {}
        if once or each:
            said = {**once, **{key: values[key] for key in each}}
            said = {"charge" if key in ("Q", "q") else key: value for key, value in said.items()}
            known = electrons(said, frozenset(), where)
        forces = {key: array[item, :n] for key, array in arrays.vectors.items()}
        yield Frame(where, f"{stem}_{item}", z, pos[:n], values, forces, units, **known)
    say_isotopes(path.name, isotopes)


def read_arrays(path: Path) -> Arrays:
    """Arrays of a file by their roles, which names and shapes say; raises as `npz_frames`."""
    try:
        with open_arrays(path) as file:
            found = {key: _plain(file, key) for key in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no molecules that can be read ({error}).") from None
    names = [next((key for key in keys if key in found), "") for keys in (_Z, _POS)]
    if not all(names):
        wanted = f"atomic numbers ({', '.join(_Z[:4])}) and positions ({', '.join(_POS[:4])})"
        raise ValueError(f"{path} holds no {wanted}; it has {', '.join(found) or 'nothing'}.")
    z, pos = (found.pop(name) for name in names)
    pos = pos[None] if pos.ndim == 2 and z.ndim == 1 else pos
    count = len(pos) if pos.ndim else 0
    if pos.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {names[1]} holds {pos.dtype}, no numbers.")
    fits = z.ndim in (1, 2) and pos.shape == (count, z.shape[-1], 3) and (z.ndim == 1 or len(z) == count)
    if not count or not fits:
        shapes = f"{names[0]} {list(z.shape)} and {names[1]} {list(pos.shape)}"
        raise ValueError(f"{path}: {shapes} do not belong together; they are [n] or [I, n], and [I, n, 3].")
    fitting = (pos.shape, pos.shape[1:]) if count == 1 else (pos.shape,)
    vectors = {
        key: np.asarray(array, np.float64).reshape(pos.shape)
        for key, array in found.items()
        if array.shape in fitting and array.dtype.kind in "fiu"
    }
    scalars = {
        key: array.reshape(count)
        for key, array in found.items()
        if array.dtype.kind in "bfiu"
        and (array.shape in ((count,), (count, 1), (1, count)) or (count == 1 and array.ndim == 0))
    }
    facts = {key: array.reshape(-1)[0] if array.size == 1 else array for key, array in found.items()}
    facts = {key: value for key, value in facts.items() if key not in scalars}
    _check_free(path, facts)
    numbered = next((scalars.pop(key) for key in _COUNT if key in scalars), None)
    for alias in _ENERGY:
        if alias in scalars and "energy" not in scalars and not set(_ENERGY) <= set(scalars):
            scalars["energy"] = scalars[alias]
    for key in ("E", "F", "forces", "energy", "energies", "old_indices"):
        if key in found and key not in scalars and key not in vectors:
            shapes = f"{key} {found[key].dtype} {list(found[key].shape)} and {names[1]} {list(pos.shape)}"
            raise ValueError(f"{path}: {shapes} do not belong together.")
    return Arrays(z, np.asarray(pos, np.float64), numbered, scalars, vectors, facts, (names[0], names[1]))


def atoms_of(arrays: Arrays, path: Path) -> np.ndarray:
    """Atomic numbers of the one molecule of a file, [n] uint8; D and T are said."""
    words = _words(arrays, 0, path.name)
    say_isotopes(path.name, sum(word.lower() in ISOTOPES for word in words))
    return _numbers(words, {}, f"{path}: {arrays.names[0]}").astype(np.uint8)


def _words(arrays: Arrays, item: int, where: str) -> List[str]:
    """Symbols or numbers of a molecule's atoms, without padding."""
    row = arrays.z if arrays.z.ndim == 1 else arrays.z[item]
    words = [one.decode().strip() if isinstance(one, bytes) else str(one).strip() for one in row.tolist()]
    n = len(words)
    while arrays.z.ndim == 2 and n and words[n - 1] in _PADDING:
        n -= 1
    if arrays.count is not None and arrays.z.ndim == 2 and arrays.count[item] != n:
        raise ValueError(
            f"{where}: {arrays.names[0]} has {n} atoms before its padding, but the file says "
            f"{arrays.count[item]}; pad behind the last atom by 0."
        )
    rest = arrays.pos[item, n:]
    if not ((rest == 0).all() or np.isnan(rest).all()):
        raise ValueError(
            f"{where}: atoms that {arrays.names[0]} calls {words[n]} have positions; padding has zeros, "
            "and ghost atoms are to be taken out."
        )
    return words[:n]


def _numbers(words: List[str], symbols: Dict[Any, int], where: str) -> np.ndarray:
    try:
        for word in words:
            if word not in symbols:
                symbols[word] = atomic_number(word)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from None
    return np.array([symbols[word] for word in words], np.int64)


def _check_free(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a periodic cell."""
    lower = {key.lower(): value for key, value in facts.items()}
    cell = any(np.any(lower[key]) for key in _CELLS if key in lower)
    if np.any(lower["pbc"]) if "pbc" in lower else cell:
        raise periodic(str(path), "write the file without lattice, or with pbc=False, if it is one")


def _plain(arrays: Any, key: str) -> np.ndarray:
    """An array of numbers or texts.

    Raises:
        ValueError: it holds Python objects, which are not unpickled.
    """
    try:
        return np.asarray(arrays[key])
    except ValueError as error:
        what = "holds Python objects; write it as an array of numbers or texts" if "pickle" in str(error) else error
        raise ValueError(f"{key} {what}") from None
