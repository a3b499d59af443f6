"""Checkpoints: one safetensors file holds weights, optimizer, averages and progress; no pickle."""

import json
from pathlib import Path
from typing import Any, Dict, Mapping

import torch
from torch import Tensor

from packing.files import PathLike, atomic_file

BEST = Path("checkpoints") / "best.safetensors"  # inside the folder of a run
_FORMAT = "1"
_TRIES = 100  # to read a file that is replaced all the time


def save_checkpoint(path: PathLike, tensors: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: file to write.
        tensors: groups such as {"model": ..., "optimizer": ..., "ema": ...} of named tensors; plain values
            among them are kept too.
        state: everything else, as JSON values.

    Raises:
        OSError: the disk is full or not writable; the previous checkpoint is kept.
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
    content = save(flat, metadata=metadata)
    try:
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"the checkpoint {path} could not be written ({error}); the previous one is kept.") from error


def load_checkpoint(path: PathLike) -> "tuple[Dict[str, Dict[str, Any]], Dict[str, Any]]":
    """Read a checkpoint; one that a run replaces meanwhile is read again, for it is opened more than once.

    Returns:
        (groups of tensors and plain values, state), as they were saved.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint of this program, or is damaged.
    """
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            found = _read(path)
        except (SafetensorError, RuntimeError) as error:  # the latter by torch, of a file that is too short
            if _identity(path) == before:
                raise ValueError(f"{path} is damaged or no checkpoint ({error}).") from error
            continue
        if _identity(path) == before:
            return found
    raise ValueError(f"{path} is written again and again while it is read; stop the run, or read its best checkpoint.")


def _identity(path: Path) -> "tuple[int, int, int]":
    """Changes when the file is replaced."""
    now = path.stat()
    return now.st_ino, now.st_mtime_ns, now.st_size


def _read(path: Path) -> "tuple[Dict[str, Dict[str, Any]], Dict[str, Any]]":
    """`load_checkpoint` of a file that stays."""
    from safetensors import safe_open

    groups: Dict[str, Dict[str, Any]] = {}
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a checkpoint of this program (format {metadata.get('format')}).")
        for key in file.keys():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    for key, value in json.loads(metadata["plain"]).items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = value
    return groups, json.loads(metadata["state"])


def random_state() -> Dict[str, Tensor]:
    """State of torch's CPU generator, for models that draw random numbers."""
    return {"torch": torch.get_rng_state()}


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore the state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
