"""One file from the network: whole, compared with its checksum where that is known, or not there at all."""

import hashlib
import shutil
import sys
import tarfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, Optional, Sequence

from tqdm import tqdm

from packing.files import atomic_file, atomic_folder

_TIMEOUT = 30  # seconds without an answer
_BLOCK = 1 << 20


def download(name: str, url: str, file: Path, size: int = 0, sha256: str = "") -> Path:
    """Fetch a file unless it is there.

    Args:
        name: of the data set, for messages.
        url: address.
        file: where it is kept.
        size: bytes it has; 0 if that is not known.
        sha256: its checksum; "" if that is not known.

    Returns:
        ``file``.

    Raises:
        ValueError: it cannot be fetched; says which file to put where.
    """
    if file.is_file():
        return file
    print(f"{name}: downloading {url} to {file}", file=sys.stderr)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, atomic_file(file) as out:
            expected = size or int(answer.headers.get("Content-Length") or 0)
            received = 0
            with tqdm(None, name, expected or None, unit="B", unit_scale=True, mininterval=0.5) as bar:
                for block in iter(lambda: answer.read(_BLOCK), b""):
                    out.write(block)
                    digest.update(block)
                    received += len(block)
                    bar.update(len(block))
            if expected and received != expected:
                raise OSError(f"{received:,} bytes came, not {expected:,}")
            if sha256 and digest.hexdigest() != sha256:
                raise OSError("what came is not the file that was published, its SHA-256 differs")
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"{name}: {url} cannot be downloaded ({error}); fetch it by hand, on any machine, and put it at {file}, or "
            "pass its path."
        ) from None
    return file


def unpack(name: str, archive: Path, folder: Path) -> Path:
    """The content of a .zip or .tar.* file in a folder, unless that is there.

    Args:
        name: of the data set, for messages.
        archive: the file.
        folder: where its content goes, whole or not at all.

    Returns:
        ``folder``.

    Raises:
        ValueError: the archive is damaged.
    """
    if folder.is_dir():
        return folder
    print(f"{name}: unpacking {archive} into {folder}", file=sys.stderr)
    # A name in an archive may lead out of the folder: the filter refuses it, zipfile never follows it.
    safe: Any = {"filter": "data"} if ".tar" in archive.name and hasattr(tarfile, "data_filter") else {}
    try:
        with atomic_folder(folder) as temporary:
            shutil.unpack_archive(str(archive), str(temporary), **safe)
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, shutil.ReadError) as error:
        raise ValueError(f"{name}: {archive} is damaged ({error}); delete it and fetch it again.") from None
    return folder


def fetch(name: str, url: str, archive: Path, folder: Path) -> Path:
    """Download an archive and unpack it into a folder, unless that is there; see `download` and `unpack`."""
    return folder if folder.is_dir() else unpack(name, download(name, url, archive), folder)


def find_file(folder: Path, names: Sequence[str], places: Sequence[str] = ("",)) -> Optional[Path]:
    """The first file of some names in some places of a folder; None if there is none."""
    files = (folder / place / name for place in places for name in names)
    return next((file for file in files if file.is_file()), None)
