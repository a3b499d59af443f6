"""JSON files that a program writes and reads again: whole or not at all, with a checksum of their values."""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Mapping

from packing.files import PathLike, atomic_file

_CHECKSUM = "blake2b"


def write_json(path: PathLike, values: Mapping[str, Any]) -> None:
    """Write an object, atomically.

    Raises:
        OSError: the disk is full or not writable; what was there is kept.
    """
    with atomic_file(path, "w") as file:
        json.dump({**values, _CHECKSUM: _digest(json.loads(json.dumps(values)))}, file, indent=1)


def read_json(path: PathLike, remedy: str) -> Dict[str, Any]:
    """Values of a file, compared with their checksum; those of earlier versions have none.

    Args:
        path: of the file.
        remedy: end of the sentence about a damaged file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
        expected = values.pop(_CHECKSUM, None)
        if expected is not None and expected != _digest(values):
            raise ValueError("its checksum does not match")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}.") from None
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
