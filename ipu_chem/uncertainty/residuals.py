"""Residuals of a run on its validation split, in a file of its folder: what intervals are calibrated with.

They are signed and in the order of the split, so that those of several runs on one split also say how far their mean
is off, and how far they differ.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np

from packing.arrays import open_arrays
from packing.files import PathLike, atomic_file
from packing.types import Ragged

FILE = "residuals.npz"  # inside the folder of a run
LABELS, FORCES = "labels", "forces"
_FORMAT = 1


class Residuals(NamedTuple):
    """Predictions minus labels of a validation split.

    Attributes:
        outputs: `LABELS`: [K, T] float64 in the targets' units, a row for each molecule; `FORCES`, where a run
            learned them: [n, 3] float64 of each molecule, in the energy's unit by Å. NaN where there is no label.
        targets: name and unit of the T.
        data: of the molecules and of their split, fingerprints.
        checkpoint: whose predictions these are, as `checkpoint_of` names it.
    """

    outputs: Mapping[str, Ragged]
    targets: Sequence[Sequence[str]]
    data: Sequence[str]
    checkpoint: Sequence[float]


def checkpoint_of(state: Mapping[str, Any]) -> List[float]:
    """Step of a checkpoint and the number that it was chosen by, which no other of its run has."""
    progress = state.get("progress") or {}
    return [float(progress.get("step", 0)), float(progress.get("best", 0.0))]


def data_of_split(state: Mapping[str, Any]) -> List[str]:
    """Fingerprints of a checkpoint's molecules and of their split."""
    return [state.get("fingerprint", ""), state.get("split", "")]


def write_residuals(folder: PathLike, found: Residuals) -> Path:
    """Write the residuals of a run into its folder, atomically, with a checksum.

    Raises:
        OSError: the disk is full or not writable; what was there is kept.
    """
    arrays: Dict[str, np.ndarray] = {}
    for name, one in found.outputs.items():
        arrays[name] = np.asarray(one.values, np.float64)
        arrays[f"{name}_offsets"] = np.asarray(one.offsets, np.int64)
    about = {
        "format": _FORMAT,
        "targets": [list(one) for one in found.targets],
        "data": list(found.data),
        "checkpoint": list(found.checkpoint),
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path = Path(folder) / FILE
    with atomic_file(path) as file:
        np.savez(file, **arrays, blake2b=np.frombuffer(_digest(arrays), np.uint8))
    return path


def read_residuals(folder: PathLike) -> Residuals:
    """Residuals from the folder of a run, compared with their checksum.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file is damaged.
    """
    path = Path(folder) / FILE
    try:
        with open_arrays(path) as opened:
            arrays = {name: opened[name] for name in opened.files}
        if arrays.pop("blake2b").tobytes() != _digest(arrays):
            raise ValueError("its checksum does not match")
        about = json.loads(arrays.pop("about").tobytes().decode())
        names = [name for name in (LABELS, FORCES) if name in arrays]
        outputs = {name: Ragged(arrays[name], arrays[f"{name}_offsets"]) for name in names}
        return Residuals(outputs, about["targets"], about["data"], about["checkpoint"])
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError, OSError, zlib.error) as error:
        reason = str(error).replace(f"{path} ", "").rstrip(".")
        raise ValueError(f"{path} is damaged ({reason}).") from None


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Checksum of names, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
