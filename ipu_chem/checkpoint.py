"""Checkpoints: one safetensors file holds weights, optimizer, averages and progress; no pickle.

Its header has a checksum of the whole file, made with zeros in its own place.
"""

import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Set

import torch
from torch import Tensor

from packing.files import DiskFull, PathLike, atomic_file

BEST = Path("checkpoints") / "best.safetensors"  # inside the folder of a run
LAST = Path("checkpoints") / "last.safetensors"
_FORMAT = "2"
_WITHOUT_CHECKSUM = "1"
_CHECKSUM = b'"blake2b":"'  # in the JSON of the header; inside of values quotes are escaped
_DIGITS = 32
_BLOCK = 1 << 22
_TRIES = 100  # to read a file that is replaced all the time
_said: Set[Path] = set()  # checkpoints without a checksum that were named


def save_checkpoint(path: PathLike, tensors: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: file to write.
        tensors: groups such as {"model": ..., "optimizer": ..., "ema": ...} of named tensors; plain values
            among them are kept too.
        state: everything else, as JSON values.

    Raises:
        OSError: the disk is full or not writable; the previous checkpoint is kept, and the sentence says how to go on.
    """
    from safetensors.torch import save

    flat: Dict[str, Tensor] = {}
    plain: Dict[str, Any] = {}
    for group, values in tensors.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                flat[f"{group}/{name}"] = value.detach().cpu().contiguous()
            else:
                plain[f"{group}/{name}"] = value
    metadata = {"format": _FORMAT, "state": json.dumps(dict(state)), "plain": json.dumps(plain)}
    content = memoryview(save(flat, metadata={**metadata, "blake2b": "0" * _DIGITS}))
    header = bytearray(content[: 8 + int.from_bytes(content[:8], "little")])
    place = header.index(_CHECKSUM) + len(_CHECKSUM)
    digest = hashlib.blake2b(header, digest_size=_DIGITS // 2)
    digest.update(content[len(header) :])
    header[place : place + _DIGITS] = digest.hexdigest().encode()
    try:
        with atomic_file(path) as file:
            file.write(header)
            file.write(content[len(header) :])
    except OSError as error:
        reason = error.reason if isinstance(error, DiskFull) else str(error)
        raise OSError(f"the checkpoint {path} could not be written ({reason}); {_next_start(Path(path))}.") from error


def load_checkpoint(path: PathLike) -> "tuple[Dict[str, Dict[str, Any]], Dict[str, Any]]":
    """Read a checkpoint; one that a run replaces meanwhile is read again, for it is opened more than once.

    Returns:
        (groups of tensors and plain values, state), as they were saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint of this program, or is damaged.
    """

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            found = _read(path)
        except _Damaged as error:
            if _identity(path) == before:
                raise ValueError(f"{path} is damaged or no checkpoint ({error}); {_instead_of(path)}.") from error
            continue
        if _identity(path) == before:
            return found
    raise ValueError(f"{path} is written again and again while it is read; stop the run, or read its best checkpoint.")


class _Damaged(ValueError):
    """A file that is not what was written."""


def _identity(path: Path) -> "tuple[int, int, int]":
    """Changes when the file is replaced."""
    now = path.stat()
    return now.st_ino, now.st_mtime_ns, now.st_size


def _read(path: Path) -> "tuple[Dict[str, Dict[str, Any]], Dict[str, Any]]":
    """`load_checkpoint` of a file that stays."""
    from safetensors import SafetensorError, safe_open

    has_checksum = _check(path)
    groups: Dict[str, Dict[str, Any]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            version = metadata.get("format")
            if version not in (_FORMAT, _WITHOUT_CHECKSUM):
                raise ValueError(f"{path} is not a checkpoint of this program (format {version}).")
            if (version == _FORMAT) != has_checksum:
                raise _Damaged("it has no checksum")
            for key in file.keys():
                group, name = key.split("/", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, RuntimeError) as error:  # the latter by torch, of a file that is too short
        raise _Damaged(str(error)) from error
    if not has_checksum and path not in _said:
        _said.add(path)
        print(f"{path} is of an earlier version and has no checksum", file=sys.stderr)
    for key, value in json.loads(metadata["plain"]).items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return groups, json.loads(metadata["state"])


def _check(path: Path) -> bool:
    """Compare a file with the checksum in its header; False if it has none.

    Raises:
        _Damaged: they differ.
    """
    with open(path, "rb") as file:
        length = file.read(8)
        header = bytearray(length + file.read(min(int.from_bytes(length, "little"), path.stat().st_size)))
        place = header.find(_CHECKSUM) + len(_CHECKSUM)
        if place < len(_CHECKSUM):
            return False
        expected, header[place : place + _DIGITS] = bytes(header[place : place + _DIGITS]), b"0" * _DIGITS
        digest = hashlib.blake2b(header, digest_size=_DIGITS // 2)
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    if digest.hexdigest().encode() != expected:
        raise _Damaged("its checksum does not match")
    return True


def _next_start(path: Path) -> str:
    """The way on from a run whose checkpoint could not be written."""
    folder = path.parent.parent
    kept = "the previous one is kept" if path.is_file() else "there was none before"
    return f"{kept}: make room, then {_resume(folder) if (folder / LAST).is_file() else 'run the same command again'}"


def _resume(folder: Path) -> str:
    return f"go on with `ipu-chem train --resume {shlex.quote(str(folder))}`"


def _instead_of(path: Path) -> str:
    """The way on from a damaged checkpoint: the other one of its run, if that is whole."""
    folder = path.parent.parent
    other = folder / (BEST if path.name == LAST.name else LAST)
    if path.parent.name != LAST.parent.name or path.name not in (BEST.name, LAST.name):
        return "take another one"
    try:
        _read(other)
    except (OSError, ValueError):
        return f"start again: delete {folder}, or choose another --out"
    if path.name == LAST.name:
        return (
            f"{other} beside it is whole: predict and evaluate read that one, but training cannot go on from it, so "
            "start again with another --out"
        )
    return f"{other} beside it is whole: delete the damaged file, and {_resume(folder)}, which writes one again"


def random_state() -> Dict[str, Tensor]:
    """State of torch's CPU generator, for models that draw random numbers."""
    return {"torch": torch.get_rng_state()}


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore the state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
