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
_SMALL = 1 << 28  # bytes that are compared at every use: they take less than a second
# Checksums that are published, by address: TensorFlow Datasets' of QM9's and ogbg-molpcba's files, load-atoms' first
# 12 digits for rMD17, OGB's MD5 for the structures of PCQM4Mv2. For other addresses none is known.
CHECKSUMS = {
    "https://ndownloader.figshare.com/files/3195404": (
        "sha256:3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24"
    ),
    "https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/pcba.zip": (
        "sha256:0bb12da2f3ec8b0bb80564114a6174fad2df6a3a0d3c19470b3a27813a7d4e53"
    ),
    "https://figshare.com/ndownloader/files/23950376": "sha256:cddeea2ec2c4",
    "http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2-train.sdf.tar.gz": "md5:fd72bce606e7ddf36c2a832badeec6ab",
}


def download(name: str, url: str, file: Path, size: int = 0, sha256: str = "") -> Path:
    """Fetch a file unless it is there.

    A file that is there is compared with its checksum again: with the published one, or where none is known with that
    of the download, which is kept beside it. A large one whose size and time are those of the last comparison is not
    read.

    Args:
        name: of the data set, for messages.
        url: address.
        file: where it is kept.
        size: bytes it has; 0 if that is not known.
        sha256: its checksum; "" if `CHECKSUMS` has it, or it is not known.

    Returns:
        ``file``.

    Raises:
        ValueError: it cannot be fetched, or is not what was published; says which file to put where.
    """
    expected = f"sha256:{sha256}" if sha256 else CHECKSUMS.get(url, "")
    if file.is_file():
        _compare(name, file, expected)
        return file
    print(f"{name}: downloading {url} to {file}", file=sys.stderr)
    if url.startswith("http:") and not expected:
        print(f"{name}: over http and without a published checksum, so anyone between could change it", file=sys.stderr)
    kind = expected.partition(":")[0] or "sha256"
    digest = hashlib.new(kind)
    try:
        opener = urllib.request.build_opener(_Redirects)
        with opener.open(url, timeout=_TIMEOUT) as answer, atomic_file(file) as out:
            total = size or int(answer.headers.get("Content-Length") or 0)
            received = 0
            with tqdm(None, name, total or None, unit="B", unit_scale=True, mininterval=0.5) as bar:
                for block in iter(lambda: answer.read(_BLOCK), b""):
                    out.write(block)
                    digest.update(block)
                    received += len(block)
                    bar.update(len(block))
                    if total and received > total:
                        break
            if total and received != total:
                raise OSError(f"{received:,} bytes came, not {total:,}")
            found = f"{kind}:{digest.hexdigest()}"
            if not found.startswith(expected):
                raise OSError(f"what came is not the file that was published: its checksum is {found}, not {expected}")
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(
            f"{name}: {url} cannot be downloaded ({error}); fetch it by hand, on any machine, and put it at {file}, or "
            "pass its path."
        ) from None
    _remember(file, found)
    return file


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirections, but for those from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise OSError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _compare(name: str, file: Path, expected: str) -> None:
    """Compare a file that is there with its checksum; a large one unless it is unchanged since that was done.

    Raises:
        ValueError: it is another one; gives both, and says what to delete.
    """
    note = _note(file)
    try:
        stamp, known = note.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # put there by hand, or by an earlier version
        stamp, known = "", ""
    if file.stat().st_size > _SMALL and stamp == _stamp(file) and known.startswith(expected):
        return
    expected = expected or known
    found = _checksum(file, expected.partition(":")[0] or "sha256")
    if not found.startswith(expected):
        published = "was published" if expected != known else "was downloaded"
        raise ValueError(
            f"{name}: {file} is not the file that {published}: its checksum is {found}, not {expected}; delete it and "
            f"{note}, and start again."
        )
    _remember(file, found)


def _remember(file: Path, checksum: str) -> None:
    """Note size, time and checksum beside a file; a folder that cannot be written only costs reading it again."""
    try:
        with atomic_file(_note(file), "w") as out:
            out.write(f"{_stamp(file)} {checksum}\n")
    except OSError:
        pass


def _note(file: Path) -> Path:
    return file.with_name(f".{file.name}.checksum")


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _checksum(file: Path, kind: str) -> str:
    digest = hashlib.new(kind)
    with open(file, "rb") as opened:
        for block in iter(lambda: opened.read(_BLOCK), b""):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


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
    if zipfile.is_zipfile(archive):
        _check_room(name, archive, folder)
    print(f"{name}: unpacking {archive} into {folder}", file=sys.stderr)
    # A name in an archive may lead out of the folder: the filter refuses it, zipfile never follows it.
    safe: Any = {"filter": "data"} if ".tar" in archive.name and hasattr(tarfile, "data_filter") else {}
    try:
        with atomic_folder(folder) as temporary:
            shutil.unpack_archive(str(archive), str(temporary), **safe)
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, shutil.ReadError) as error:
        raise ValueError(f"{name}: {archive} is damaged ({error}); delete it and fetch it again.") from None
    return folder


def _check_room(name: str, archive: Path, folder: Path) -> None:
    """Refuse a .zip whose content has no room on the disk, which a few bytes of it can claim."""
    try:
        with zipfile.ZipFile(archive) as opened:
            needed = sum(member.file_size for member in opened.infolist())
    except zipfile.BadZipFile:
        return  # unpacking says so
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ValueError(f"{name}: {archive} unpacks to {needed:,} bytes, {folder.parent} has room for {free:,}.")


def fetch(name: str, url: str, archive: Path, folder: Path) -> Path:
    """Download an archive and unpack it into a folder, unless that is there; see `download` and `unpack`."""
    return folder if folder.is_dir() else unpack(name, download(name, url, archive), folder)


def find_file(folder: Path, names: Sequence[str], places: Sequence[str] = ("",)) -> Optional[Path]:
    """The first file of some names in some places of a folder; None if there is none."""
    files = (folder / place / name for place in places for name in names)
    return next((file for file in files if file.is_file()), None)
