"""Layout of a file of SMILES: its encoding, what separates its cells, and which columns hold SMILES and names.

A table is .csv or .tsv, or .txt with a header that names SMILES; its cells are separated by what makes sense of its
header: a comma, a semicolon or a tab. In every other file a line is a SMILES, a blank and a name.
"""

import csv
import io
import re
import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ipu_chem.data.files.text import DAMAGE, existing_file, find_encoding, open_lines, read_lines, text_suffix
from packing.files import PathLike

# Columns of SMILES by their letters and digits, the best first: PubChem's canonical SMILES have no stereochemistry.
_SMILES_COLUMNS = (
    *("smiles", "isomericsmiles", "isosmiles", "smilesisomeric", "canonicalsmiles", "smilescanonical", "cansmiles"),
    *("smile", "smilesstring", "smi", "standardizedsmiles", "rdkitsmiles", "ligandsmiles", "compoundsmiles"),
    *("molsmiles", "moleculesmiles", "connectivitysmiles"),
)
_NAME_COLUMNS = (
    *("name", "id", "molid", "moleculeid", "compoundid", "compoundname", "chemblid", "moleculechemblid", "cid"),
    *("zincid", "title", "molname"),
)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "space": " "}
# Some tables write a line break after the SMILES, inside of quotes; a quote that is open for longer is damage.
MOST_LINES = 3
_LOOKED_AT = 20  # lines behind the first, for a header that stands further down
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_SHOWN = 20  # columns in a message


class TableOptions(NamedTuple):
    """Choices of a user about a file of SMILES; empty ones are found.

    Attributes:
        smiles_column: name of the column.
        delimiter: one character, or the word comma, semicolon or tab.
        encoding: as Python calls it.
        prefix: of these options where they were given, for messages: "data." or "--".
    """

    smiles_column: str = ""
    delimiter: str = ""
    encoding: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, section: Any, prefix: str) -> "TableOptions":
        """Those of a section or of a command's options; ones that it does not have are empty."""
        return cls(*(getattr(section, name, "") or "" for name in cls._fields[:3]), prefix)

    def given(self) -> Dict[str, str]:
        """Those that are not empty, by name."""
        return {name: value for name, value in zip(self._fields[:3], self) if value}


FOUND = TableOptions()  # everything is


class Layout(NamedTuple):
    """Columns of a file of SMILES.

    Attributes:
        delimiter: between columns; "" where a line is SMILES, blank, anything.
        header: number of the last line of the header; 0 without one.
        columns: how many cells a row has.
        smiles: place of the SMILES.
        split: place of the split (train, test, ...); -1 without one.
        name: place of the name; -1 without one.
        names: of the columns.
        encoding: of the file.
    """

    delimiter: str = ""
    header: int = 0
    columns: int = 1
    smiles: int = 0
    split: int = -1
    name: int = 1
    names: Tuple[str, ...] = ("smiles", "name")
    encoding: str = "utf-8"


def read_layout(path: Path, options: TableOptions = FOUND, with_split: bool = False) -> Layout:
    """Find out how a file of SMILES is to be read, from its name and its first line.

    Args:
        path: .smi, .csv, .tsv or .txt (a .smi, or a table with a header), each also in .gz or .zip.
        options: what the user knows of it.
        with_split: look for a column "split", too.

    Raises:
        ValueError: no such file, nothing in it, another kind of file, or no such column; names the columns there are.
    """
    existing_file(path)
    given = _given_delimiter(options)
    try:
        suffix = text_suffix(path)
        encoding = find_encoding(path, options.encoding, f"{options.prefix}encoding")
        lines, number = _first_lines(path, suffix, encoding)
    except (*DAMAGE, RuntimeError) as error:  # RuntimeError: a zip with a password
        raise ValueError(f"{path} cannot be read ({error}); is it what its name says?") from None
    stated = re.fullmatch(r"sep=(.)", lines[0].strip("\n")) if lines else None  # by Excel, for Excel
    if stated and suffix in _DELIMITERS:
        given, lines, number = given or stated.group(1), lines[1:], number + 1
    first = lines[0].strip("\n") if lines else ""
    if not first.strip():
        raise ValueError(f"{path} holds no SMILES.")
    if re.search(r"[\x00-\x08\x0e-\x1f]", first):
        raise ValueError(f"{path} line {number} is no text; is the file what its name says?")
    if suffix not in _DELIMITERS and not (suffix == ".txt" and _is_table(first, given, options.smiles_column)):
        if options.smiles_column or given:
            chosen = "smiles_column" if options.smiles_column else "delimiter"
            value = options.smiles_column or options.delimiter
            raise ValueError(
                f"{path}: {options.prefix}{chosen}={value} is for tables; a {suffix} file has no columns, write it as "
                ".csv with a header."
            )
        header = number if is_smiles_header((split_smi(first) or ("", ""))[0]) else 0
        return Layout(header=header, encoding=encoding)
    text = "".join(lines[: _closed(lines)])
    delimiter, columns = _choose_delimiter(text, given, options.smiles_column, _DELIMITERS.get(suffix, "\t"))
    if not options.smiles_column and not any(map(is_smiles_header, columns)):
        _refuse_late_header(path, lines, number, given)
        _refuse_other_delimiter(path, columns, f"{options.prefix}delimiter")
    smiles = _smiles_place(columns, path, options)
    lower = [column.lower() for column in columns]
    split = place_of("split", lower, path) if with_split and "split" in lower else -1
    header = number + text.rstrip("\n").count("\n")
    return Layout(delimiter, header, len(columns), smiles, split, _name_place(columns), tuple(columns), encoding)


def place_of(name: str, columns: Sequence[str], path: PathLike) -> int:
    """Place of the one column of a name.

    Raises:
        ValueError: there is none or more than one; names the columns there are.
    """
    found = [place for place, column in enumerate(columns) if column == name]
    if not found:
        raise ValueError(f"{path} has no column {name!r}; it has {_listed(columns)}.")
    if len(found) > 1:
        places = " and ".join(str(place + 1) for place in found)
        raise ValueError(f"{path} has {len(found)} columns {name!r} ({places}); rename or remove what is not meant.")
    return found[0]


def find_columns(columns: Sequence[str], path: PathLike) -> Tuple[int, int]:
    """Places of the SMILES and of the name among the columns of a table; -1 for no name.

    Raises:
        ValueError: there is no such column of SMILES; names the columns there are.
    """
    columns = [column.strip() for column in columns]
    return _smiles_place(columns, path, FOUND), _name_place(columns)


def is_smiles_header(word: str) -> bool:
    """Test if a column, or the first word of a .smi file, names SMILES below it."""
    return _plain(word) in _SMILES_COLUMNS


def split_smi(text: str) -> Optional[Tuple[str, str]]:
    """(SMILES, name or "") of one line of a .smi file; None for a blank line and a "#" comment.

    A block of CXSMILES, "CCO |...|", belongs to the SMILES.
    """
    words = text.split(None, 1)
    if not words or words[0].startswith("#"):
        return None
    smiles, name = words[0], words[1].strip() if len(words) > 1 else ""
    if name.startswith("|") and "|" in name[1:]:
        end = name.index("|", 1) + 1
        smiles, name = f"{smiles} {name[:end]}", name[end:].strip()
    return smiles, name


def holds_something(line: bytes, suffix: str) -> bool:
    """Test if a line is neither blank nor, outside of tables, a comment."""
    text = line.strip()
    return bool(text) and not (text[:1] == b"#" and suffix in (".smi", ".txt"))


def _first_lines(path: Path, suffix: str, encoding: str) -> Tuple[List[str], int]:
    """The first line that holds something with those after it that it may need, and its number."""
    with open_lines(path, encoding) as file:
        numbered = enumerate(read_lines(file), 1)
        for number, line in numbered:
            if holds_something(line, suffix):
                lines = [line, *(other for _, other in islice(numbered, _LOOKED_AT))]
                return [other.decode("utf-8", errors="replace") for other in lines], number
    return [], 0


def _closed(lines: Sequence[str]) -> int:
    """Number of lines of a header: those up to the end of a quoted cell that is open."""
    for count in range(1, MOST_LINES + 1):
        if "".join(lines[:count]).count('"') % 2 == 0:
            return count
    return 1


def _given_delimiter(options: TableOptions) -> str:
    given = _WORDS.get(options.delimiter.lower(), options.delimiter)
    if len(given) > 1 or given and (given.isalnum() or given in '"\n\r'):
        raise ValueError(
            f"{options.prefix}delimiter={options.delimiter}: give one character, or comma, semicolon or tab."
        )
    return given


def _is_table(first: str, given: str, smiles_column: str) -> bool:
    """Test if the first line of a .txt is a header."""
    cells = [first.split(mark) for mark in given or "\t,;" if mark in first]
    return any(cell.strip('" ') == smiles_column or is_smiles_header(cell) for row in cells for cell in row)


def _refuse_late_header(path: Path, lines: Sequence[str], number: int, given: str) -> None:
    """Name the line of a header that has a title or comments above it."""
    for place, line in enumerate(lines[1:], number + 1):
        if _is_table(line.strip("\n"), given, ""):
            raise ValueError(f"{path} line {place} looks like the header; take out what stands above it.")


def _refuse_other_delimiter(path: Path, columns: Sequence[str], option: str) -> None:
    """Name a character that seems to separate the cells of a header and is none of the usual ones."""
    for mark, word in (("|", "'|'"), (" ", "space"), (":", "':'")) if len(columns) == 1 else ():
        if any(map(is_smiles_header, columns[0].split(mark)[:_SHOWN])):
            raise ValueError(f"{path}: its cells seem to be separated otherwise; pass {option} {word}.")


def _choose_delimiter(text: str, given: str, smiles_column: str, usual: str) -> Tuple[str, List[str]]:
    """Delimiter and cells of a header: the ones with a column of SMILES, else with most columns."""
    found = []
    for delimiter in given or f"{usual},;\t":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        try:
            columns = [" ".join(column.split()) for column in next(reader, [])]
        except csv.Error:  # a cell of more than 131,072 characters
            columns = [text[:_SHOWN]]
        is_there = smiles_column in columns if smiles_column else any(map(is_smiles_header, columns))
        found.append((is_there, len(columns), delimiter == usual, delimiter, columns))
    return max(found)[3:]


def _smiles_place(columns: Sequence[str], path: PathLike, options: TableOptions) -> int:
    wanted = options.smiles_column
    if wanted:
        same = [column for column in columns if column.lower() == wanted.lower()]
        if wanted not in columns and len(same) == 1:
            wanted = same[0]
        if wanted not in columns:
            raise ValueError(
                f"{path} has no column {wanted!r}; pass {options.prefix}smiles_column, one of: {_listed(columns)}."
            )
        return place_of(wanted, columns, path)
    plain = [_plain(column) for column in columns]
    places = [place for name in _SMILES_COLUMNS for place, column in enumerate(plain) if column == name]
    if not places:
        header = " (does it begin with a header?)" if any(map(_NUMBER.fullmatch, columns)) else ""
        raise ValueError(
            f"{path} has no column named smiles{header}; pass {options.prefix}smiles_column, one of: "
            f"{_listed(columns)}."
        )
    chosen = columns[places[0]]
    if len(places) > 1:
        place_of(chosen, columns, path)
        _say(
            f"{Path(path).name}: SMILES are those of the column {chosen!r}, not of "
            f"{', '.join(repr(columns[place]) for place in places[1:])}; {options.prefix}smiles_column chooses"
        )
    return places[0]


def _name_place(columns: Sequence[str]) -> int:
    """Place of the names; -1 where no column, or more than one, is called so."""
    plain = [_plain(column) for column in columns]
    name = next((name for name in _NAME_COLUMNS if name in plain), "")
    return plain.index(name) if plain.count(name) == 1 else -1


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _listed(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return ", ".join(column[:60] for column in columns[:_SHOWN]) + more


@lru_cache(maxsize=256)
def _say(sentence: str) -> None:
    """Print a sentence on stderr, once."""
    print(sentence, file=sys.stderr)
