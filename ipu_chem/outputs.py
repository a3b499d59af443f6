"""Places that a command will write to, checked before it works for hours."""

import os
from pathlib import Path
from typing import List, Sequence

import yaml

from packing.files import PathLike


def check_folder(option: str, path: PathLike) -> Path:
    """A folder that can be written, or made.

    Args:
        option: as it is typed, such as "--out".
        path: of the folder.

    Raises:
        ValueError: a file is in the way, or the rights are missing.
    """
    folder = Path(path)
    if not str(path).strip():
        raise ValueError(f"{option} is empty: give a folder.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {path} is a file: give a folder.")
    _check_parent(option, folder)
    return folder


def check_file(option: str, path: PathLike, suffixes: Sequence[str] = (), inputs: Sequence[PathLike] = ()) -> Path:
    """A file that can be written.

    Args:
        option: as it is typed, such as "--output".
        path: of the file.
        suffixes: that it may have; none allows any.
        inputs: files that the command reads, or its runs were trained on.

    Raises:
        ValueError: another suffix, a folder is in the way, an input would be written over, or the rights are missing.
    """
    file = Path(path)
    if suffixes and file.suffix not in suffixes:
        raise ValueError(f"{option} {path}: give a file that ends in {' or '.join(suffixes)}.")
    if not str(path).strip() or file.is_dir():
        raise ValueError(f"{option} {path or 'is empty'}: give a file{', not a folder' if file.is_dir() else ''}.")
    for one in inputs:
        if file.exists() and os.path.exists(one) and os.path.samefile(file, one):
            raise ValueError(f"{option} {path} is a file that is read, or that a run was trained on: give another.")
    _check_parent(option, file)
    return file


def data_of(runs: Sequence[PathLike]) -> List[Path]:
    """Files that runs were trained on, which no command writes over.

    Args:
        runs: folders; those that are none have no files.
    """
    found = []
    for run in runs:
        try:
            with open(Path(run) / "config.yaml", encoding="utf-8") as file:
                path = yaml.safe_load(file)["data"]["path"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # other commands say what is wrong
            continue
        found += [Path(path).expanduser()] if isinstance(path, str) and path else []
    return found


def _check_parent(option: str, path: Path) -> None:
    """Refuse a path that cannot be made: by the nearest thing above it, or itself, that exists."""
    above = path.absolute().parent if path.is_file() else path.absolute()
    while not os.path.lexists(str(above)) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise ValueError(f"{option} {path}: {above.name} is no folder: give another place.")
    if not os.access(str(above), os.W_OK | os.X_OK):
        raise ValueError(f"{option} {path}: {above} cannot be written: give another place, or the rights to this one.")
