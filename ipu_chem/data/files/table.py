"""Tables of SMILES of any size, read in the same way by every command, for graphs and for text.

Only a chunk is in memory at a time. A row that cannot be used is a `Failure` with its line, never an exception and
never passed over: one with more or fewer cells than the header, without SMILES, with a blank inside of them, damaged.
They are counted and listed with the molecules that cannot be encoded or embedded. Where labels are asked for
(`numbers.read_labels`) the whole table is refused at a row with another number of cells or damage, for a value may have
slipped into another column. A file that ends before its time (a cut .gz) is a failure after the last whole chunk.
"""

import csv
import io
import re
from collections import deque
from itertools import islice
from pathlib import Path
from typing import IO, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ipu_chem.data.files.layout import FOUND, MOST_LINES, Layout, TableOptions, read_layout, split_smi
from ipu_chem.data.files.text import DAMAGE, LONGEST, open_lines, read_lines
from packing.files import PathLike

# Lines encoded at once: about a second of one core, which is what a kill costs each of them.
CHUNK = 1000
SPLITS = ("train", "test", "test_scaffolds")

NO_SMILES = "no SMILES"
_SHOWN = 200  # characters of a damaged line in the list of failures
_SIMPLE = re.compile(r'"[^"]*"').fullmatch  # what csv need not be asked for
_BLANK_BEHIND_QUOTE = re.compile(r'"[ \t]+(?=[,;\t\n]|$)')


class Line(NamedTuple):
    """One molecule of a file: number of its line from 1, SMILES, name ("" without one), and the index of its split."""

    line: int
    smiles: str
    name: str = ""
    split: int = 0


class Failure(NamedTuple):
    """One molecule that was left out, and why; its SMILES, or what stands there instead."""

    line: int
    smiles: str
    reason: str
    name: str = ""


Entry = Union[Line, Failure]
# Number of a line from 1, and its bytes.
Record = Tuple[int, bytes]
# The same number, and what stands in its columns, without blanks around it, or why that cannot be read.
Cells = Tuple[int, Union[List[str], Failure]]


class Row(NamedTuple):
    """One row of a file, whether or not its molecule can be used.

    Attributes:
        line: its number, from 1.
        smiles: its SMILES; "" where there are none.
        name: its name; the number of the line without one.
        cells: as many as the header has; those of a damaged row are empty.
        entry: the molecule, or why there is none.
    """

    line: int
    smiles: str
    name: str
    cells: List[str]
    entry: Entry


class Table(NamedTuple):
    """Names of the columns, without blanks around them, and rows."""

    header: List[str]
    rows: List[Row]


def read_table(path: PathLike, options: TableOptions = FOUND, limit: int = 0) -> Table:
    """Every row of a file, those that cannot be used included.

    Args:
        path: .smi, .csv, .tsv or .txt, also in .gz or .zip.
        options: what the user knows of it.
        limit: only so many rows; 0 takes all.

    Raises:
        ValueError: see `read_layout`, or there are no rows.
    """
    path = Path(path)
    layout = read_layout(path, options)
    rows = []
    for number, cells in read_rows(path, layout, limit):
        entry = line_of(number, cells, layout)
        shown = [""] * layout.columns if isinstance(cells, Failure) else cells
        rows.append(Row(number, entry.smiles, entry.name or str(number), shown, entry))
    if not rows:
        raise ValueError(f"{path} holds no SMILES.")
    return Table(list(layout.names), rows)


def read_smiles_file(path: PathLike, options: TableOptions = FOUND, limit: int = 0) -> List[Entry]:
    """Molecules of a file in the order of its lines, and failures where one cannot be used; see `read_table`.

    Raises:
        ValueError: see `read_layout`, there are no rows, or the file is cut short or damaged; names the line.
    """
    path = Path(path)
    layout = read_layout(path, options)
    entries: List[Entry] = []
    try:
        for records in read_chunks(path, layout, limit):
            entries += [entry for record in records for entry in parse(record, layout)]
    except DAMAGE as error:
        last = entries[-1].line if entries else 0
        raise ValueError(f"{path} is damaged or cut short after line {last} ({error}).") from None
    if not entries:
        raise ValueError(f"{path} holds no SMILES.")
    return entries


def read_chunks(path: Path, layout: Layout, limit: int = 0) -> Iterator[List[Record]]:
    """Lines of a file in chunks of `CHUNK`; blank lines and "#" comments are passed over.

    Args:
        path: the file.
        layout: from `read_layout`.
        limit: only so many lines; 0 takes all.

    Raises:
        One of `DAMAGE`, after all whole chunks: the file is cut short or damaged.
    """
    with open_lines(path, layout.encoding) as file:
        records = islice(_records(file, layout), limit or None)
        while True:
            chunk = list(islice(records, CHUNK))
            if not chunk:
                return
            yield chunk


def read_rows(path: Path, layout: Layout, limit: int = 0) -> Iterator[Cells]:
    """Rows of a file, see `cells_of` and `read_chunks`; one that ends before its time ends with a failure."""
    last = 0
    try:
        for records in read_chunks(path, layout, limit):
            for record in records:
                for row in cells_of(record, layout):
                    last = row[0]
                    yield row
    except DAMAGE as error:
        yield last + 1, Failure(last + 1, "", f"the file is damaged from here on, or cut short ({error})")


def parse(record: Record, layout: Layout) -> Sequence[Entry]:
    """Content of a line, or why it cannot be used; several lines only where a quote was open by mistake."""
    if not layout.delimiter:  # the same as below, for millions of lines
        text = _text(*record)
        if isinstance(text, Failure):
            return (text,)
        found = split_smi(text)
        return (_in_smi(record[0], *found),) if found else ()
    return [line_of(number, cells, layout) for number, cells in cells_of(record, layout)]


def cells_of(record: Record, layout: Layout) -> Sequence[Cells]:
    """Number and cells of a line; those of a file that is no table are SMILES and name."""
    number, raw = record
    text = _text(number, raw)
    if isinstance(text, Failure):
        return ((number, text),)
    if not layout.delimiter:
        found = split_smi(text)
        return () if found is None else ((number, list(found)),)
    cells = [cell.strip() for cell in text.split(layout.delimiter)]
    if '"' not in text:
        return ((number, _as_many(number, cells, layout)),)
    if len(cells) == layout.columns and all('"' not in cell or _SIMPLE(cell) for cell in cells):
        return ((number, [cell[1:-1].strip() if cell[:1] == '"' else cell for cell in cells]),)
    return _quoted(number, raw, text, layout)


def line_of(number: int, cells: Union[List[str], Failure], layout: Layout) -> Entry:
    """The molecule of a row of `cells_of`."""
    if isinstance(cells, Failure):
        return cells
    if not layout.delimiter:
        return _in_smi(number, *cells)
    smiles = cells[layout.smiles]
    name = cells[layout.name] if layout.name >= 0 else ""
    doubt = smiles_doubt(smiles)
    if doubt:
        return Failure(number, smiles, doubt, name)
    if layout.split < 0:
        return Line(number, smiles, name)
    split = cells[layout.split]
    if split not in SPLITS:
        return Failure(number, smiles, f"damaged line: its split is none of {', '.join(SPLITS)}", name)
    return Line(number, smiles, name, SPLITS.index(split))


def smiles_doubt(smiles: str) -> str:
    """Reason why a text is no SMILES before any chemistry; "" for most.

    RDKit takes what stands behind a blank for a name, and so half a molecule for the whole. Only a block of CXSMILES,
    "CCO |...|", belongs to the SMILES.
    """
    if not smiles:
        return NO_SMILES
    if smiles.isascii() and smiles.isprintable() and " " not in smiles and "[#" not in smiles:
        return ""
    if "[#" in smiles:
        return "SMARTS, no SMILES: [# stands for any atom of an element, without its hydrogens"
    if not smiles.isascii():
        return "the SMILES have characters beyond ASCII"
    words = smiles.split(None, 1)
    if len(words) < 2 or re.fullmatch(r"\|.*\|", words[1]):
        return ""
    return "a blank inside of the SMILES, and what stands behind it is no CXSMILES block |...|"


def _in_smi(number: int, smiles: str, name: str) -> Entry:
    """The molecule of a line of a .smi file."""
    if name[:1] != "." and smiles.isascii() and "[#" not in smiles:
        return Line(number, smiles, name)
    doubt = smiles_doubt(smiles)
    if re.match(r"\.[A-Za-z\[(]", name) and not doubt:
        doubt = f"a blank inside of the SMILES? {name.split()[0][:20]} behind it is no name but a piece of a molecule"
    return Failure(number, smiles, doubt, name) if doubt else Line(number, smiles, name)


def _text(number: int, raw: bytes) -> Union[str, Failure]:
    """A line as text, or why it is none."""
    try:
        text = raw.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError:
        return _damaged(number, raw, "not UTF-8")
    if len(raw) >= LONGEST:
        return _damaged(number, raw, f"{LONGEST:,} characters or more")
    return _damaged(number, raw, "a NUL byte") if "\0" in text else text


def _quoted(number: int, raw: bytes, text: str, layout: Layout) -> List[Cells]:
    """Rows of a line with quotes, or of several that a quoted cell joins."""
    made: List[Tuple[int, List[str]]] = []
    for content in (text, _BLANK_BEHIND_QUOTE.sub('"', text)):
        made, start = [], number
        lines = io.StringIO(content, newline="\n") if "\n" in content else (content,)
        reader = csv.reader(lines, delimiter=layout.delimiter, strict=True, skipinitialspace=True)
        try:
            for row in reader:
                made.append((start, [cell.strip() for cell in row]))
                start = number + reader.line_num
        except csv.Error as error:
            problem = str(error)
            if problem == "unexpected end of data":
                problem = f"a quote that is not closed within {MOST_LINES} lines"
        else:
            return [(line, _as_many(line, row, layout)) for line, row in made if row]
    pieces = raw.splitlines(keepends=True)
    if len(pieces) == 1:
        return [(number, _damaged(number, raw, problem))]
    return [row for place, piece in enumerate(pieces) for row in cells_of((number + place, piece), layout)]


def _as_many(number: int, cells: List[str], layout: Layout) -> Union[List[str], Failure]:
    """The cells, if they are as many as the header has."""
    if len(cells) == layout.columns:
        return cells
    mark = {",": "a decimal comma, or a comma", ";": "a semicolon", "\t": "a tab"}.get(layout.delimiter, "a delimiter")
    more = f"{mark} without quotes" if len(cells) > layout.columns else "a line that is cut"
    count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
    reason = f"row has {count}, header {layout.columns} ({more}?)"
    smiles = cells[layout.smiles] if layout.smiles < len(cells) else ""
    name = cells[layout.name] if 0 <= layout.name < len(cells) else ""
    return Failure(number, smiles or layout.delimiter.join(cells)[:_SHOWN], reason, name)


def _damaged(number: int, raw: bytes, why: str) -> Failure:
    return Failure(number, raw[:_SHOWN].decode("utf-8", errors="replace").strip(), f"damaged line: {why}")


def _records(file: IO[bytes], layout: Layout) -> Iterator[Record]:
    """Lines below the header; a row whose quoted cell holds line breaks is one."""
    header, is_table = layout.header, bool(layout.delimiter)
    lines = islice(enumerate(read_lines(file), 1), header, None)
    if not is_table:
        yield from ((number, line) for number, line in lines if line.lstrip()[:1] not in (b"", b"#"))
        return
    ahead: Deque[Record] = deque()
    while True:
        record: Optional[Record] = ahead.popleft() if ahead else next(lines, None)
        if record is None:
            return
        number, line = record
        if not line.strip():
            continue
        if line.count(b'"') % 2:
            for more in range(1, MOST_LINES):
                while len(ahead) < more and (following := next(lines, None)) is not None:
                    ahead.append(following)
                joined = b"".join([line, *(other for _, other in islice(ahead, more))])
                if joined.count(b'"') % 2 == 0 and len(ahead) >= more:
                    line = joined
                    for _ in range(more):
                        ahead.popleft()
                    break
        yield number, line
