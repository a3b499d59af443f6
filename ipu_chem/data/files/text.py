"""Text of a file, plain or compressed, in UTF-8 and with "\\n" at the end of lines whatever the file has.

A file says its encoding by a mark at its beginning, or by its bytes: UTF-8 where that makes sense of its lines, else
the encoding of Windows in Western Europe, which is said on stderr. Of a large file one line is read after the other, as
far as it is whole.
"""

import codecs
import gzip
import io
import re
import sys
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Iterator, Tuple, cast

from packing.files import PathLike

SUFFIXES = (".csv", ".tsv", ".smi", ".txt")
# What reading raises where a file is cut short or damaged.
DAMAGE = (EOFError, OSError, zlib.error, zipfile.BadZipFile)
# A longer line is no molecule but a damaged file, and must not fill memory.
LONGEST = 100_000
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_BUFFER, _SCANNED = 1 << 16, 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# First bytes of files that are no text, and what to do.
_OTHERS = (
    (b"PK\x03\x04", "an Excel file or an archive; save the sheet as CSV (UTF-8), or name a zip .csv.zip"),
    (b"\xd0\xcf\x11\xe0", "an Excel file; save the sheet as CSV (UTF-8)"),
    (b"PAR1", "a Parquet file; write it as CSV, pandas.read_parquet(...).to_csv(...)"),
    (b"\x1f\x8b", "gzipped; name it .csv.gz or .smi.gz"),
    (b"BZh", "packed by bzip2; unpack it"),
    (b"\xfd7zXZ", "packed by xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it"),
    (b"SQLite format 3", "a database; export the table as CSV"),
    (b"\x89HDF", "an HDF5 file; write the table as CSV"),
    (b"\x93NUMPY", "a NumPy file; write the table as CSV"),
    (b"%PDF", "a PDF; write the table as CSV"),
    (b"<!DOCTYPE", "a web page; download the file itself"),
    (b"<!doctype", "a web page; download the file itself"),
    (b"<html", "a web page; download the file itself"),
)
_FORMULAS = "=+-@\t\r\n"  # what a formula of a spreadsheet begins with


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


def holds_smiles(path: Path) -> bool:
    """Test if the name of a file says that SMILES are in it."""
    return plain_suffix(path) in (*SUFFIXES, ".zip")


def open_bytes(path: Path) -> IO[bytes]:
    """Content of a plain or gzipped file."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def open_text(path: Path) -> IO[str]:
    """Text of a plain or gzipped file, without the mark that some editors put before it."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def decoded(raw: bytes) -> str:
    """Text of a few lines: UTF-8, without a mark before it, else as an older Windows writes names."""
    raw = raw[len(codecs.BOM_UTF8) :] if raw.startswith(codecs.BOM_UTF8) else raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def text_suffix(path: Path) -> str:
    """Suffix that says how the text is laid out, of the file inside for a .gz or .zip.

    Raises:
        ValueError: SMILES are not read from such files.
    """
    suffix = plain_suffix(Path(_member(path).filename) if path.suffix.lower() == ".zip" else path)
    if suffix not in SUFFIXES:
        hint = "; write the SMILES of the structures first, with RDKit or Open Babel" if suffix == ".sdf" else ""
        hint = "; save the sheet as CSV (UTF-8)" if suffix in (".xlsx", ".xls", ".ods") else hint
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"{path}: SMILES are read from {kinds} files, also in .gz or .zip{hint}.")
    return suffix


def find_encoding(path: Path, given: str = "", option: str = "encoding") -> str:
    """Encoding of a file; one that is neither marked nor UTF-8 is said on stderr, once.

    Args:
        path: the file; it is gone through once, as far as it is not ASCII.
        given: an encoding that Python knows; empty finds it.
        option: that gives it, for messages.

    Raises:
        ValueError: no such encoding, or the file is no text; says what it is.
    """
    if given:
        try:
            b"a".decode(given)
        except UnicodeError:  # of two bytes or more a letter
            pass
        except LookupError:
            raise ValueError(f"{option}={given}: there is no such encoding; try utf-8, cp1252 or utf-16.") from None
        return given
    state = path.stat()
    return _found(path, state.st_size, state.st_mtime_ns, option)


def open_lines(path: Path, encoding: str = "utf-8") -> IO[bytes]:
    """The text of a file in UTF-8, with its lines ended by "\\n"."""
    text_suffix(path)
    return cast(IO[bytes], io.BufferedReader(_AsItComes(_open_raw(path), encoding), _BUFFER))


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
        with _open_raw(path) as file:
            for block in iter(lambda: file.read(_SCANNED), b""):
                count += block.count(b"\n") or block.count(b"\r")
    except DAMAGE:
        pass
    return count


class _AsItComes(io.RawIOBase):
    """Hands on what is unpacked already: the error of a damaged file comes after everything before the damage.

    Around it `io.BufferedReader` finds lines several times faster than gzip's and zipfile's own readers. Whatever is
    read becomes UTF-8 without a mark, and its line ends "\\n", also those of old Macs.
    """

    def __init__(self, file: Any, encoding: str) -> None:
        self.file, self.name = file, encoding
        same = codecs.lookup(encoding).name in ("utf-8", "ascii", "utf-8-sig")
        self.decoder = None if same else codecs.getincrementaldecoder(encoding)()
        self.rest, self.after_return, self.first = b"", False, True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.rest or self._next(len(buffer))
        count = min(len(data), len(buffer))
        buffer[:count] = data if count == len(data) else data[:count]
        self.rest = data[count:]
        return count

    def _next(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        while True:
            data = self.file.read1(size)
            ended = not data
            if self.decoder is not None:
                try:
                    data = self.decoder.decode(data, ended).encode("utf-8")
                except UnicodeError:
                    raise OSError(f"it is no text in {self.name}") from None
            if self.first and data:
                self.first = False
                data = data[3:] if data.startswith(codecs.BOM_UTF8) else data
            if self.after_return and data:
                self.after_return = False
                data = data[1:] if data.startswith(b"\n") else data
            if b"\r" in data:
                self.after_return = data.endswith(b"\r")
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if data or ended:
                return data

    def close(self) -> None:
        self.file.close()
        super().close()


@lru_cache(maxsize=256)
def _found(path: Path, size: int, changed: int, option: str) -> str:
    """See `find_encoding`; looked for once for a file that stays as it is."""
    try:
        with _open_raw(path) as file:
            start = _start(file)
            if len(start) > LONGEST and b"\n" not in start and b"\r" not in start:  # nor are all others looked at
                raise ValueError(f"{path} line 1 has more than {LONGEST:,} characters; is it what its name says?")
            _refuse_other_files(path, start)
            marked = next((name for mark, name in _MARKS if start.startswith(mark)), "") or _wide(start[:_BUFFER])
            if marked:
                return marked
            good, bad, name = _lines_of(file, start)
    except DAMAGE:
        return "utf-8"  # whoever reads the lines says so
    if bad <= good:
        return "utf-8"
    print(f"{path.name} is no UTF-8 and is read as {name}; {option} gives another encoding", file=sys.stderr)
    return name


def _start(file: IO[bytes]) -> bytes:
    """The first bytes, as many as a line may have or more; those before any damage."""
    start = b""
    while len(start) <= LONGEST:
        try:
            piece = file.read1(_SCANNED)  # type: ignore[attr-defined]
        except DAMAGE:
            return start
        if not piece:
            break
        start += piece
    return start


def _lines_of(file: IO[bytes], start: bytes) -> Tuple[int, int, str]:
    """Numbers of lines beyond ASCII that are UTF-8 and that are not, before any damage, and what the latter may be."""
    good, bad, name = 0, 0, "cp1252"
    rest, block = b"", start
    while block:
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if not newline:  # lines of an old Mac, or a very long one
            whole, newline, rest = rest.rpartition(b"\r")
            whole, rest = (whole, rest) if newline else (rest, b"")
        try:
            block = file.read1(_SCANNED)  # type: ignore[attr-defined]
        except DAMAGE:
            block = b""
        if not block:
            whole, rest = whole + newline + rest, b""
        if whole.isascii():
            continue
        for line in whole.splitlines():
            if not line.isascii():
                try:
                    line.decode("utf-8")
                    good += 1
                except UnicodeDecodeError:
                    bad += 1
                    name = "latin-1" if _NOT_CP1252.search(line) else name
    return good, bad, name


def _wide(start: bytes) -> str:
    """UTF-16 without a mark: every second byte of what is mostly ASCII is 0."""
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    if half and odd > 0.7 * half and not even:
        return "utf-16-le"
    return "utf-16-be" if half and even > 0.7 * half and not odd else ""


def _refuse_other_files(path: Path, start: bytes) -> None:
    text = start.lstrip(b" \r\n\t\xef\xbb\xbf")
    for mark, advice in _OTHERS:
        if text.startswith(mark) and not (mark.isalnum() and start.isascii()):  # PAR1 is a protein, too
            raise ValueError(f"{path} is no text but {advice}.")


def _open_raw(path: Path) -> IO[bytes]:
    """Content of a plain file, or of what is packed in a .gz or .zip."""
    return zipfile.ZipFile(path).open(_member(path)) if path.suffix.lower() == ".zip" else open_bytes(path)


def _member(path: Path) -> zipfile.ZipInfo:
    """The one file in a zip."""
    with zipfile.ZipFile(path) as archive:
        files = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX")]
    if len(files) != 1:
        held = ", ".join(one.filename for one in files) or "nothing"
        raise ValueError(f"{path} holds {held}; a .zip of SMILES holds one file, take out the one that is meant.")
    return files[0]


def as_text(cell: str) -> str:
    """A name or SMILES of a file for a cell of a table that is written: never a formula to a spreadsheet.

    One that begins as formulas do gets an apostrophe in front, which spreadsheets take for "text"; numbers do not. No
    SMILES begins so.
    """
    if cell[:1] not in _FORMULAS or not cell:
        return cell
    try:
        float(cell.strip())
    except ValueError:
        return f"'{cell}"
    return cell
