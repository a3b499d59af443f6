"""Frames of one molecule: geometries of a simulation with their energies and forces, as .npz files hold them."""

import zipfile
from typing import Any, Dict, Mapping, NamedTuple, Optional

import numpy as np

from ipu_chem.data.files.text import existing_file
from ipu_chem.data.molecule import arrays_to_store
from packing.files import PathLike
from packing.store import Store

# Keys of sGDML's files (also those of MD17), and of revised MD17.
_KEYS = (("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies", "forces"))


class Frames(NamedTuple):
    """I frames of a molecule of n atoms.

    Attributes:
        z: [n] uint8, atomic numbers.
        pos: [I, n, 3] float64, Å.
        energy: [I] float64.
        forces: [I, n, 3] float64, unit of the energy per Å.
        old_indices: [I] int64, numbers of the frames in a trajectory that these are taken from; None if not said.
    """

    z: np.ndarray
    pos: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    old_indices: Optional[np.ndarray] = None


def read_frames(path: PathLike, limit: Optional[int] = None) -> Frames:
    """Frames of an .npz file with the keys z, R, E, F (sGDML, MD17) or nuclear_charges, coords, ... (revised MD17).

    Args:
        path: the file.
        limit: take the first frames only.

    Raises:
        ValueError: no such file, one that is damaged, or arrays that are missing or do not belong together.
    """
    path = existing_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys = next((keys for keys in _KEYS if keys[0] in arrays.files), _KEYS[0])
            missing = [key for key in keys if key not in arrays.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}; it has {', '.join(arrays.files)}")
            z, pos, energy, forces = (np.asarray(arrays[key]) for key in keys)
            old_indices = arrays["old_indices"] if "old_indices" in arrays.files else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no frames with energies and forces ({error}).") from None
    count = len(pos)
    if z.ndim != 1 or pos.shape != (count, len(z), 3) or forces.shape != pos.shape or energy.size != count:
        shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in zip(keys, (z, pos, energy, forces)))
        raise ValueError(f"{path}: {shapes} do not belong together; they are [n], [I, n, 3], [I], [I, n, 3].")
    if old_indices is not None and old_indices.shape != (count,):
        raise ValueError(f"{path}: old_indices has shape {list(old_indices.shape)} for {count} frames.")
    energy = np.asarray(energy, np.float64).reshape(-1)
    if not np.isfinite(energy).all():
        raise ValueError(f"{path}: the energy of frame {int(np.argmin(np.isfinite(energy)))} is not finite.")
    return Frames(
        z.astype(np.uint8),
        np.asarray(pos[:limit], np.float64),
        energy[:limit],
        np.asarray(forces[:limit], np.float64),
        None if old_indices is None else old_indices[:limit],
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
