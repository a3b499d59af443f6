"""Text of a file, plain or compressed; of a large one line after line, as far as it is whole."""

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Iterator, cast

from packing.files import PathLike

SUFFIXES = (".csv", ".tsv", ".smi", ".txt")
# What reading raises where a file is cut short or damaged.
DAMAGE = (EOFError, OSError, zlib.error, zipfile.BadZipFile)
# A longer line is no molecule but a damaged file, and must not fill memory.
LONGEST = 100_000
_BUFFER = 1 << 16


def existing_file(path: PathLike) -> Path:
    """The path of a file that is there and not empty.

    Raises:
        ValueError: it is not.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    return path


def plain_suffix(path: Path) -> str:
    """Suffix in lower case, that before .gz for a gzipped file."""
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def open_bytes(path: Path) -> IO[bytes]:
    """Content of a plain or gzipped file."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def open_text(path: Path) -> IO[str]:
    """Text of a plain or gzipped file, without the mark that some editors put before it."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def text_suffix(path: Path) -> str:
    """Suffix that says how the text is laid out, of the file inside for a .gz or .zip.

    Raises:
        ValueError: SMILES are not read from such files.
    """
    suffix = plain_suffix(Path(_member(path).filename) if path.suffix.lower() == ".zip" else path)
    if suffix not in SUFFIXES:
        hint = "; write the SMILES of the structures first, with RDKit or Open Babel" if suffix == ".sdf" else ""
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"{path}: SMILES are read from {kinds} files, also in .gz or .zip{hint}.")
    return suffix


def open_lines(path: Path) -> IO[bytes]:
    """The text of a file as bytes."""
    text_suffix(path)
    file = zipfile.ZipFile(path).open(_member(path)) if path.suffix.lower() == ".zip" else open_bytes(path)
    return cast(IO[bytes], io.BufferedReader(_AsItComes(file), _BUFFER))


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their end; what goes beyond `LONGEST` bytes of one is passed over."""
    for line in iter(lambda: file.readline(LONGEST), b""):
        rest = line
        while len(rest) == LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST)
        yield line


def count_lines(path: Path) -> int:
    """About how many lines a file has, for a progress bar; of a damaged file those before the damage."""
    count = 0
    try:
        with open_lines(path) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                count += block.count(b"\n")
    except DAMAGE:
        pass
    return count


class _AsItComes(io.RawIOBase):
    """Hands on what is unpacked already: the error of a damaged file comes after everything before the damage.

    Around it `io.BufferedReader` finds lines several times faster than gzip's and zipfile's own readers.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def _member(path: Path) -> zipfile.ZipInfo:
    """The one file in a zip."""
    with zipfile.ZipFile(path) as archive:
        files = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX")]
    if len(files) != 1:
        held = ", ".join(one.filename for one in files) or "nothing"
        raise ValueError(f"{path} holds {held}; a .zip of SMILES holds one file, take out the one that is meant.")
    return files[0]
