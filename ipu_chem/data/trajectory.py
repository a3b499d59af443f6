"""Frames of one molecule: geometries of a simulation with their energies and forces, as .npz files hold them."""

import re
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional

import numpy as np

from ipu_chem.data.files.frame import ISOTOPES, atomic_number, periodic, say_isotopes, stated_units
from ipu_chem.data.files.text import existing_file
from ipu_chem.data.molecule import arrays_to_store
from ipu_chem.units import in_angstrom
from packing.arrays import open_arrays
from packing.files import PathLike
from packing.store import Store

# Keys of sGDML's files (also those of MD17), and of revised MD17.
_KEYS = (("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies", "forces"))
# Others that are read: units, a cell, and numbers in a longer trajectory.
_MORE = re.compile(r"old_indices|lattice|cell|pbc|\w*_units?", re.IGNORECASE)


class Frames(NamedTuple):
    """I frames of a molecule of n atoms.

    Attributes:
        z: [n] uint8, atomic numbers.
        pos: [I, n, 3] float64, Å.
        energy: [I] float64.
        forces: [I, n, 3] float64, unit of the energy per Å.
        old_indices: [I] int64, numbers of the frames in a trajectory that these are taken from; None if not said.
        unit: of the energies, as the file states it; "" if it does not.
        length: unit of the positions in the file, which states it; "" if it does not.
    """

    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    old_indices: Optional[np.ndarray] = None
    unit: str = ""
    length: str = ""


def read_frames(path: PathLike, limit: Optional[int] = None, length_unit: str = "") -> Frames:
    """Frames of an .npz file with the keys z, R, E, F (sGDML, MD17) or nuclear_charges, coords, ... (revised MD17).

    Args:
        path: the file; z may be symbols.
        limit: take the first frames only.
        length_unit: of its positions, and by which forces are; "" takes what the file states (r_unit), else Å.

    Raises:
        ValueError: no such file, one that is damaged, a periodic cell, a number that is not finite, or arrays that are
            missing or do not belong together.
    """
    path = existing_file(path)
    try:
        with open_arrays(path) as arrays:
            keys = next((keys for keys in _KEYS if keys[0] in arrays.files), _KEYS[0])
            missing = [key for key in keys if key not in arrays.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}; it has {', '.join(arrays.files)}")
            z = _plain(arrays, keys[0])
            pos, energy, forces = (_floats(arrays, key) for key in keys[1:])
            more = {key.lower(): _plain(arrays, key) for key in arrays.files if _MORE.fullmatch(key)}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no frames with energies and forces ({error}).") from None
    old_indices = more.get("old_indices")
    count = len(pos) if pos.ndim else 0
    if z.ndim != 1 or pos.shape != (count, len(z), 3) or forces.shape != pos.shape or energy.size != count or not count:
        shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in zip(keys, (z, pos, energy, forces)))
        raise ValueError(f"{path}: {shapes} do not belong together; they are [n], [I, n, 3], [I], [I, n, 3].")
    if old_indices is not None and old_indices.shape != (count,):
        raise ValueError(f"{path}: old_indices has shape {list(old_indices.shape)} for {count} frames.")
    _check_free(path, more)
    symbols = [one.decode() if isinstance(one, bytes) else str(one) for one in z.tolist()]
    say_isotopes(path.name, sum(one.strip().lower() in ISOTOPES for one in symbols))
    try:
        z = np.array(list(map(atomic_number, symbols)), np.uint8)
    except ValueError as error:
        raise ValueError(f"{path}: {keys[0]}: {error}.") from None
    units = stated_units(more)
    length = _length(path, units, length_unit)
    energy = np.asarray(energy, np.float64).reshape(-1)
    said = ("positions of frame {} are", "energy of frame {} is", "forces of frame {} are")
    for what, array in zip(said, (pos, energy, forces)):
        good = np.isfinite(array).reshape(count, -1).all(1)
        if not good.all():
            raise ValueError(f"{path}: the {what.format(int(np.argmin(good)))} not finite; take that frame out.")
    return Frames(
        z,
        np.asarray(pos[:limit], np.float64) * length,
        energy[:limit],
        np.asarray(forces[:limit], np.float64) / length,
        None if old_indices is None else old_indices[:limit],
        units.get("energy", ""),
        units.get("length", ""),
    )


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


def _floats(arrays: Any, key: str) -> np.ndarray:
    """An array of numbers.

    Raises:
        ValueError: it holds something else.
    """
    array = _plain(arrays, key)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{key} holds {array.dtype}, no numbers")
    return array


def _check_free(path: Path, more: Mapping[str, np.ndarray]) -> None:
    """Refuse a periodic cell."""
    pbc = more.get("pbc")
    cell = next((more[key] for key in ("lattice", "cell") if key in more and np.any(more[key])), None)
    if np.any(pbc) if pbc is not None else cell is not None:
        raise periodic(str(path), "write the file without lattice, or with pbc=False, if it is one")


def _length(path: Path, units: Mapping[str, str], given: str) -> float:
    """Å of the unit of positions."""
    stated = units.get("length", "")
    try:
        length = in_angstrom(stated or given or "Å")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if stated and given and in_angstrom(given) != length:
        raise ValueError(f"{path} states {stated} as its unit of length, not {given}; leave data.length_unit out.")
    return length


def frames_to_store(
    frames: Frames,
    name: str,
    factor: float,
    info: Mapping[str, Any],
    fields: Optional[Mapping[str, np.ndarray]] = None,
) -> Store:
    """Frames as molecules, neutral and with all electrons paired.

    Args:
        frames: what they are.
        name: of the molecule; frames are called name_0, name_1, ...
        factor: from the unit of the file to that of the store.
        info: what `Store.info` shall hold.
        fields: further fields with one row per frame.

    Returns:
        As `arrays_to_store`, with forces, and old_indices [I] int64 where the file has them.

    Raises:
        ValueError: a frame that no model can take.
    """
    count, atoms = frames.pos.shape[:2]
    zeros = np.zeros(count, np.int64)  # neutral, all electrons paired
    more: Dict[str, np.ndarray] = dict(fields or {})
    if frames.old_indices is not None:
        more["old_indices"] = np.asarray(frames.old_indices, np.int64)
    return arrays_to_store(
        np.tile(frames.z, count),
        frames.pos.reshape(-1, 3),
        np.arange(count + 1, dtype=np.int64) * atoms,
        [f"{name}_{index}" for index in range(count)],
        frames.energy[:, None] * factor,
        frames.forces.reshape(-1, 3) * factor,
        zeros,
        zeros,
        info,
        fields=more,
    )
