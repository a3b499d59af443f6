"""Tables of SMILES of any size: their columns, their lines in chunks, and the content of a line.

Only a chunk is in memory at a time. A line that cannot be used is a `Failure`, never an exception; a file that ends
before its time (a cut .gz) is one, after the last whole chunk.
"""

import csv
import io
from collections import deque
from itertools import islice
from pathlib import Path
from typing import IO, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.files.text import DAMAGE, LONGEST, existing_file, open_lines, plain_suffix, read_lines, text_suffix
from packing.files import PathLike

# Lines encoded at once: about a second of one core, which is what a kill costs each of them.
CHUNK = 1000
SPLITS = ("train", "test", "test_scaffolds")

# Below which SMILES and names stand.
_SMILES_COLUMNS = ("smiles", "canonical_smiles", "smile")
_NAME_COLUMNS = ("name", "id", "mol_id", "molecule_id")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Some tables write a line break after the SMILES, inside of quotes; a quote that is open for longer is damage.
_MOST_LINES = 3
_SHOWN = 200  # characters of a damaged line in the list of failures


class SmilesLine(NamedTuple):
    """One molecule of a SMILES file: line number from 1, SMILES, and its name (the line number without one)."""

    line: int
    smiles: str
    name: str


class Failure(NamedTuple):
    """One molecule that was left out, and why."""

    line: int
    smiles: str
    reason: str


# Number of a line from 1, and its bytes.
Record = Tuple[int, bytes]
# The same number, and what stands in its columns or why that cannot be read.
Row = Tuple[int, Union[List[str], Failure]]


class Layout(NamedTuple):
    """Columns of a file of SMILES.

    Attributes:
        delimiter: between columns; "" where a line is SMILES, blank, anything.
        header: number of the line that names the columns; 0 without one.
        columns: how many a row has at least.
        smiles: place of the SMILES.
        split: place of the split (train, test, ...); -1 without one.
    """

    delimiter: str = ""
    header: int = 0
    columns: int = 1
    smiles: int = 0
    split: int = -1


class Line(NamedTuple):
    """Content of a line: its number, a SMILES, and the index of its split in `SPLITS`."""

    line: int
    smiles: str
    split: int = 0


def read_layout(path: Path, smiles_column: Optional[str] = None, with_split: bool = False) -> Layout:
    """Find out how a file of SMILES is to be read, from its name and its first line.

    Args:
        path: .smi, .csv, .tsv or .txt (a .smi, or a table with tabs and a header), each also in .gz or .zip.
        smiles_column: of a table; None takes "smiles", whatever its case.
        with_split: look for a column "split", too.

    Raises:
        ValueError: no such file, nothing in it, another kind of file, or no such column; names the columns there are.
    """
    existing_file(path)
    try:
        suffix = text_suffix(path)
        with open_lines(path) as file:
            number, raw = next(
                ((number, line) for number, line in enumerate(read_lines(file), 1) if _holds_something(line, suffix)),
                (0, b""),
            )
    except (*DAMAGE, RuntimeError) as error:  # RuntimeError: a zip with a password
        raise ValueError(f"{path} cannot be read ({error}); is it what its name says?") from None
    first = raw.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not first:
        raise ValueError(f"{path} holds no SMILES.")
    delimiter = _DELIMITERS.get(suffix, "")
    if suffix == ".txt" and any(map(is_smiles_header, first.split("\t"))):
        delimiter = "\t"
    if not delimiter:
        if smiles_column is not None:
            raise ValueError(f"{path}: smiles_column={smiles_column!r} is for tables; a {suffix} file has no columns.")
        return Layout(header=number if is_smiles_header((split_smi(first) or ("", ""))[0]) else 0)
    columns = next(csv.reader([first], delimiter=delimiter))
    smiles, _ = find_columns(columns, path, smiles_column)
    lower = [column.strip().lower() for column in columns]
    split = lower.index("split") if with_split and "split" in lower else -1
    return Layout(delimiter, number, len(columns), smiles, split)


def read_chunks(path: Path, layout: Layout, limit: int = 0) -> Iterator[List[Record]]:
    """Lines of a file in chunks of `CHUNK`; blank lines and "#" comments are passed over.

    Args:
        path: the file.
        layout: from `read_layout`.
        limit: only so many lines; 0 takes all.

    Raises:
        One of `DAMAGE`, after all whole chunks: the file is cut short or damaged.
    """
    with open_lines(path) as file:
        records = islice(_records(file, layout), limit or None)
        while True:
            chunk = list(islice(records, CHUNK))
            if not chunk:
                return
            yield chunk


def read_rows(path: Path, layout: Layout, limit: int = 0) -> Iterator[Row]:
    """Rows of a file, see `rows` and `read_chunks`; one that ends before its time ends with a failure."""
    last = 0
    try:
        for records in read_chunks(path, layout, limit):
            for record in records:
                for row in rows(record, layout):
                    last = row[0]
                    yield row
    except DAMAGE as error:
        yield last + 1, Failure(last + 1, "", f"the file is damaged from here on, or cut short ({error})")


def column_names(path: Path, layout: Layout) -> List[str]:
    """Names in the header of a table; "smiles" and "name" for files that are no tables."""
    if not layout.delimiter:
        return ["smiles", "name"]
    with open_lines(path) as file:
        header = next(line for number, line in enumerate(read_lines(file), 1) if number == layout.header)
    text = header.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return [name.strip() for name in next(csv.reader([text], delimiter=layout.delimiter))]


def parse(record: Record, layout: Layout) -> Iterator[Union[Line, Failure]]:
    """Content of a line, or why it cannot be used; several lines only where a quote was open by mistake."""
    for number, cells in rows(record, layout):
        yield line_of(number, cells, layout)


def rows(record: Record, layout: Layout) -> Iterator[Row]:
    """Number and cells of a line, as `parse` reads it; those of a file that is no table are SMILES and name."""
    number, raw = record
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
    except UnicodeDecodeError:
        yield number, Failure(number, _shown(raw), "damaged line: not UTF-8")
        return
    if len(raw) >= LONGEST:
        yield number, Failure(number, _shown(raw), f"damaged line: {LONGEST:,} characters or more")
    elif not layout.delimiter:
        found = split_smi(text)
        if found is not None:
            yield number, list(found)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=layout.delimiter, strict=True)
        made: List[Row] = []
        start = number
        try:
            for row in reader:
                made.append((start, row))
                start = number + reader.line_num
        except csv.Error as error:
            pieces = raw.splitlines(keepends=True)
            if len(pieces) == 1:
                yield number, Failure(number, _shown(raw), f"damaged line: {error}")
            for place, piece in enumerate(pieces if len(pieces) > 1 else ()):
                yield from rows((number + place, piece), layout)
        else:
            yield from (row for row in made if row[1])


def line_of(number: int, cells: Union[List[str], Failure], layout: Layout) -> Union[Line, Failure]:
    """The molecule of a row of `rows`."""
    if isinstance(cells, Failure):
        return cells
    if len(cells) < layout.columns:
        return Failure(number, layout.delimiter.join(cells)[:_SHOWN], "damaged line: fewer columns than the header")
    smiles = cells[layout.smiles].strip()
    if layout.split < 0:
        return Line(number, smiles)
    split = cells[layout.split].strip()
    if split not in SPLITS:
        return Failure(number, smiles, f"damaged line: its split is none of {', '.join(SPLITS)}")
    return Line(number, smiles, SPLITS.index(split))


def _shown(raw: bytes) -> str:
    return raw[:_SHOWN].decode("utf-8", errors="replace").strip()


def _records(file: IO[bytes], layout: Layout) -> Iterator[Record]:
    """Lines without the header; a row whose quoted cell holds line breaks is one."""
    lines = ((number, line) for number, line in enumerate(read_lines(file), 1) if number != layout.header)
    ahead: Deque[Record] = deque()
    while True:
        record = ahead.popleft() if ahead else next(lines, None)
        if record is None:
            return
        number, line = record
        if not _holds_something(line, "" if layout.delimiter else ".smi"):
            continue
        if layout.delimiter and line.count(b'"') % 2:
            for more in range(1, _MOST_LINES):
                while len(ahead) < more and (following := next(lines, None)) is not None:
                    ahead.append(following)
                joined = b"".join([line, *(other for _, other in islice(ahead, more))])
                if joined.count(b'"') % 2 == 0 and len(ahead) >= more:
                    line = joined
                    for _ in range(more):
                        ahead.popleft()
                    break
        yield number, line


def _holds_something(line: bytes, suffix: str) -> bool:
    """Test if a line is neither blank nor, outside of tables, a comment."""
    text = line.strip()
    return bool(text) and not (text[:1] == b"#" and suffix in (".smi", ".txt"))


def read_smiles_file(path: PathLike, smiles_column: Optional[str] = None) -> List[SmilesLine]:
    """Lines of a .smi (SMILES, blank, name) or .csv file with a header, either also as .gz; see `read_layout`.

    Args:
        path: the file.
        smiles_column: of a .csv; None takes "smiles", whatever its case.

    Raises:
        ValueError: no such file, nothing in it, another suffix, no such column, or a line that is damaged; names it.
    """
    path = existing_file(path)
    if plain_suffix(path) not in (".smi", ".csv"):
        raise ValueError(f"{path}: SMILES are read from .smi or .csv files, also gzipped (.smi.gz, .csv.gz).")
    layout = read_layout(path, smiles_column)
    place = find_columns(column_names(path, layout), path, smiles_column if layout.delimiter else None)[1]
    lines: List[SmilesLine] = []
    for number, cells in read_rows(path, layout):
        if isinstance(cells, Failure):
            raise ValueError(
                f"{path} cannot be read as text (line {number}: {cells.reason}); is it what its name says?"
            )
        smiles = cells[layout.smiles].strip() if layout.smiles < len(cells) else ""
        if smiles:
            name = cells[place].strip() if 0 <= place < len(cells) else ""
            lines.append(SmilesLine(number, smiles, name or str(number)))
    if not lines:
        raise ValueError(f"{path} holds no SMILES.")
    return lines


def read_labels(path: Path, layout: Layout, names: Sequence[str], limit: int = 0) -> Tuple[np.ndarray, np.ndarray]:
    """Numbers of a table by line.

    Args:
        path: the table.
        layout: from `read_layout`.
        names: T columns.
        limit: only so many lines; 0 takes all.

    Returns:
        (lines [n] int64, ascending; labels [n, T] float64, NaN where a cell is empty).

    Raises:
        ValueError: it is no table, has no such column, or a cell holds something else than a number.
    """
    if not layout.delimiter:
        raise ValueError(f"{path} holds no labels, only SMILES; write SMILES and labels as columns of a .csv.")
    columns = column_names(path, layout)
    for name in names:
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(columns)}.")
    places = [columns.index(name) for name in names]
    lines: List[int] = []
    labels: List[List[float]] = []
    for number, cells in read_rows(path, layout, limit):
        if isinstance(cells, Failure) or len(cells) < layout.columns:
            continue  # no molecule of the corpus either
        lines.append(number)
        labels.append([_number(cells[place], f"{path} line {number}: {columns[place]}") for place in places])
    return np.array(lines, np.int64), np.array(labels, np.float64).reshape(-1, len(names))


def _number(cell: str, what: str) -> float:
    """Number in a cell; NaN for an empty one."""
    try:
        value = float(cell.strip() or "nan")
    except ValueError:
        value = float("inf")
    if np.isinf(value):
        raise ValueError(f"{what} is {cell!r}, no number; correct it, or empty the cell to leave that label out.")
    return value


def split_smi(text: str) -> Optional[Tuple[str, str]]:
    """(SMILES, name or "") of one line of a .smi file; None for a blank line and a "#" comment."""
    words = text.split(None, 1)
    if not words or words[0].startswith("#"):
        return None
    return words[0], words[1].strip() if len(words) > 1 else ""


def is_smiles_header(word: str) -> bool:
    """Test if a column, or the first word of a .smi file, names SMILES below it."""
    return word.strip().lower() in _SMILES_COLUMNS


def find_columns(columns: Sequence[str], path: PathLike, smiles_column: Optional[str] = None) -> Tuple[int, int]:
    """Places of the SMILES and of the name among the columns of a table; -1 for no name.

    Raises:
        ValueError: there is no such column of SMILES; names the columns there are.
    """
    lower = [column.strip().lower() for column in columns]
    if smiles_column is None:
        smiles_place = _place(_SMILES_COLUMNS, lower)
    else:
        smiles_place = _place([smiles_column], columns)
    if smiles_place < 0:
        asked = "no column named smiles" if smiles_column is None else f"no column {smiles_column!r}"
        raise ValueError(f"{path} has {asked}; pass smiles_column, one of: {', '.join(columns)}.")
    return smiles_place, _place(_NAME_COLUMNS, lower)


def _place(names: Sequence[str], columns: Sequence[str]) -> int:
    """Index of the first of the names that is there; -1 if none is."""
    return next((columns.index(name) for name in names if name in columns), -1)
