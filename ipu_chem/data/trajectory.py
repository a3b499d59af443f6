"""Frames of one molecule: geometries of a simulation with their energies and forces, as .npz files hold them."""

from typing import Any, Dict, Mapping, NamedTuple, Optional

import numpy as np

from ipu_chem.data.files.frame import stated_units
from ipu_chem.data.files.npz import atoms_of, read_arrays
from ipu_chem.data.files.text import existing_file
from ipu_chem.data.molecule import arrays_to_store
from ipu_chem.units import in_angstrom
from packing.files import PathLike
from packing.store import Store


class Frames(NamedTuple):
    """I frames of a molecule of n atoms.

    Attributes:
        z: [n] uint8, atomic numbers.
        pos: [I, n, 3] float64, Å.
        energy: [I] float64.
        forces: [I, n, 3] float64, unit of the energy per Å.
        old_indices: [I] int64, numbers of the frames in a trajectory that these are taken from; None if not said.
        unit: of the energies, as the file states it; "" if it does not.
    """

    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    old_indices: Optional[np.ndarray] = None
    unit: str = ""


def read_frames(path: PathLike) -> Frames:
    """Frames of an .npz file with the keys z, R, E, F (sGDML, MD17) or nuclear_charges, coords, ... (revised MD17).

    Args:
        path: the file; z may be symbols, and positions in the unit that it states (r_unit), else Å.

    Raises:
        ValueError: no such file, one that is damaged, a periodic cell, a number that is not finite, or arrays that are
            missing or do not belong together.
    """
    path = existing_file(path)
    arrays = read_arrays(path)
    energy = arrays.scalars.get("energy")
    forces = next((arrays.vectors[key] for key in ("F", "forces") if key in arrays.vectors), None)
    if arrays.z.ndim != 1 or energy is None or forces is None:
        held = ", ".join([*arrays.names, *arrays.scalars, *arrays.vectors])
        raise ValueError(f"{path} holds no frames of one molecule with energies (E) and forces (F); it has {held}.")
    said = {"positions": (arrays.pos, "are"), "energy": (energy, "is"), "forces": (forces, "are")}
    for what, (array, verb) in said.items():
        good = np.isfinite(array).reshape(len(energy), -1).all(1)
        if not good.all():
            raise ValueError(f"{path}: the {what} of frame {int(np.argmin(good))} {verb} not finite; take it out.")
    units = stated_units(arrays.facts)
    try:
        length = in_angstrom(units.get("length", "Å"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Frames(
        atoms_of(arrays, path),
        arrays.pos * length,
        np.asarray(energy, np.float64),
        np.asarray(forces, np.float64) / length,
        arrays.scalars.get("old_indices"),
        units.get("energy", ""),
    )


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
