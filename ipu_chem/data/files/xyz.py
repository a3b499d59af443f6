"""Frames of xyz and extxyz files, with the number of every line: each frame is read, or the line that forbids it named.

A frame is a line with the number of atoms, a comment line, and a line "symbol x y z" for every atom. Blank lines
between frames do not count. Beside extxyz (key=value pairs) comments are understood as ORCA, xtb, sGDML and QM9's raw
files write them.
"""

import io
import re
import sys
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.energy_units import is_energy
from ipu_chem.data.files.frame import (
    ISOTOPES,
    Frame,
    atomic_number,
    electrons,
    number,
    periodic,
    say_isotopes,
    stated_units,
)
from ipu_chem.data.files.text import DAMAGE, decoded, open_bytes
from ipu_chem.units import energy_unit

_PLAIN = "species:S:1:pos:R:3"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:(?:[eEdD]|\*\^)[-+]?\d+)?"
_WORD_NUMBER = re.compile(rf"([A-Za-z_]\w*)\s*:?\s+({_NUMBER})(?=[\s,;]|$)")  # as in "E -76.4" and "energy: -5.1"
_BARE_NUMBER = re.compile(_NUMBER)
_UNIT = re.compile(rf"([A-Za-z_]\w*)\s*[=:]?\s*{_NUMBER}\s+\(?([A-Za-z][\w/.]*)\)?(?=[\s,;]|$)")  # "E=-76.4 Eh"
_BEHIND_NUMBER = re.compile(r"[\d.]\s+\(?[A-Za-z][\w/.]*\)?(?=[\s,;]|$)")  # a word, found faster
_DIGITS_APART = re.compile(r"\d_\d")
_UNDERSCORE = re.compile(r"([^\s=]+)=([-+\d.]*\d_\d[-+\d._eE]*)(?=\s|$)")  # which Python passes over in numbers
# Of the raw files of QM9 (R. Ramakrishnan et al., Sci. Data 1, 140022 (2014)), behind "gdb" and the number.
_QM9 = "A B C mu alpha homo lumo gap r2 zpve U0 U H G Cv".split()


class _Columns(NamedTuple):
    """Places of what an atom's line holds."""

    symbol: int
    pos: int
    width: int
    vectors: Dict[str, int]  # three numbers each


def xyz_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a file, plain or gzipped, in order.

    Raises:
        ValueError: a line that is not what the frame needs, with its number; a file without frames, or a damaged one.
    """
    symbols: Dict[str, int] = {}
    layouts: Dict[str, _Columns] = {}
    isotopes, unnamed, place = 0, 0, 0
    lines = _Lines(path)
    with lines.file:
        while True:
            start = lines.begin()
            if start is None:
                break
            where = f"{path.name} frame {place} (line {lines.number})"
            count = _count(start, lines, where, place)
            first = lines.number + 2
            comment, *rows = lines.take(count + 1) or [""]
            if len(rows) < count:
                raise ValueError(
                    f"{where} says {count:,} atoms, but the file ends after {len(rows):,} of them; it is cut, or the "
                    "number is wrong."
                )
            values, twice = _comment(decoded(comment.encode("utf-8", "surrogateescape")).strip(), where)
            layout = str(values.pop("Properties", _PLAIN))
            if layout not in layouts:
                layouts[layout] = _columns(layout, where)
            columns = layouts[layout]
            cells = [row.split() for row in rows]
            try:
                if "_" in "".join(rows):  # which Python passes over in numbers
                    raise ValueError
                for row in cells:
                    if len(row) != columns.width and (layout != _PLAIN or len(row) < columns.width):
                        raise ValueError
                z = [symbols[row[columns.symbol]] for row in cells]
                pos = _vectors(cells, columns.pos)
                arrays = {name: _vectors(cells, at) for name, at in columns.vectors.items()}
            except (KeyError, ValueError):
                for row, line in zip(cells, range(first, first + count)):
                    _check_row(row, columns, layout, f"{path.name} line {line}", where, count)
                    symbols[row[columns.symbol]] = atomic_number(row[columns.symbol])
                z = [symbols[row[columns.symbol]] for row in cells]
                pos = _vectors(cells, columns.pos, number)
                arrays = {name: _vectors(cells, at, number) for name, at in columns.vectors.items()}
            unnamed += min(map(len, cells)) >= columns.width + 3
            isotopes += sum(row[columns.symbol].lower() in ISOTOPES for row in cells)
            if comment.startswith("gdb ") and "U0" in values:
                lines.take(3)  # frequencies, SMILES and InChI
            known = electrons(values, twice, where)
            name = str(values.get("name", f"{path.name} frame {place}"))
            yield Frame(where, name, np.array(z, np.int64), pos, values, arrays, stated_units(values), twice, **known)
            place += 1
    if not place:
        raise ValueError(f"{path} holds no frames.")
    say_isotopes(path.name, isotopes)
    if unnamed:
        print(
            f"warning: {path.name}: atoms of {unnamed:,} structures have columns behind their positions that nothing "
            f"names, and which are passed over; forces need Properties={_PLAIN}:forces:R:3 in the comment.",
            file=sys.stderr,
        )


class _Lines:
    """Lines of a file, counted.

    Attributes:
        file: to close.
        number: of the last line that was taken, from 1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Bytes that are no UTF-8 are kept apart: only a comment may have some.
        self.file: IO[str] = io.TextIOWrapper(open_bytes(path), encoding="utf-8", errors="surrogateescape")
        self.number = 0

    def begin(self) -> Optional[str]:
        """The next line that is not blank; None at the end."""
        while True:
            found = self.take(1)
            if not found or found[0].strip():
                return found[0].strip() if found else None

    def take(self, count: int) -> List[str]:
        """As many lines, or those that are left."""
        try:
            taken = list(islice(self.file, count))
        except DAMAGE as error:
            raise ValueError(f"{self.path} is cut or damaged behind line {self.number:,} ({error}).") from None
        if self.number == 0 and taken:
            if taken[0].startswith(("\udcff\udcfe", "\udcfe\udcff")):
                raise ValueError(f"{self.path} is text in UTF-16; write it in UTF-8 (iconv -f UTF-16 -t UTF-8).")
            taken[0] = taken[0].lstrip("\ufeff")
        self.number += len(taken)
        return taken


def _count(text: str, lines: _Lines, where: str, place: int) -> int:
    """The number of atoms that a frame begins with."""
    if not (re.fullmatch("[0-9]+", text) and len(text) < 19):
        before = f"; frame {place - 1} may have more atoms than it says" if place else ""
        if text.upper().startswith("VEC"):
            raise periodic(where, "take the lines with VEC out if it is one")
        raise ValueError(
            f"{lines.path.name} line {lines.number}: {text[:60]!r} stands where the number of atoms of frame {place} "
            f"belongs{before}."
        )
    if int(text) == 0:
        raise ValueError(f"{where} has no atoms; take it out.")
    return int(text)


def _columns(layout: str, where: str) -> _Columns:
    """The places that a text such as "species:S:1:pos:R:3:forces:R:3" means."""
    words = layout.split(":")
    found, vectors, width = {}, {}, 0
    for name, kind, size in zip(words[::3], words[1::3], words[2::3]):
        if not size.isdigit():
            break
        found[name.lower()] = (width, int(size))
        if kind in "RI" and size == "3" and name.lower() not in ("pos", "positions"):
            vectors[name] = width
        width += int(size)
    for word in ("f{}", "force_{}", "forces_{}"):  # three columns of one number each
        places = [found.get(word.format(axis), (-9, 0)) for axis in "xyz"]
        if [(at - places[0][0], size) for at, size in places] == [(0, 1), (1, 1), (2, 1)]:
            vectors["forces"] = places[0][0]
    symbol = next((found[key][0] for key in ("species", "symbols", "element", "z", "numbers") if key in found), None)
    pos = next((found[key] for key in ("pos", "positions") if key in found), (0, 0))
    if len(words) % 3 or symbol is None or pos[1] != 3:
        raise ValueError(f"{where}: Properties={layout} names no columns species:S:1 and pos:R:3.")
    return _Columns(symbol, pos[0], width, vectors)


def _vectors(cells: Sequence[List[str]], at: int, convert: Any = float) -> np.ndarray:
    """[n, 3] of three columns."""
    flat = map(convert, chain.from_iterable([row[at : at + 3] for row in cells]))
    return np.array(list(flat), np.float64).reshape(-1, 3)


def _check_row(row: List[str], columns: _Columns, layout: str, line: str, where: str, count: int) -> None:
    """Refuse a line that is no atom's, and say why."""
    if len(row) < columns.width or (layout != _PLAIN and len(row) > columns.width):
        raise ValueError(
            f"{line}: {' '.join(row)[:60]!r} is no atom with {columns.width} columns; {where} says {count:,} atoms."
        )
    try:
        atomic_number(row[columns.symbol])
        for at in (columns.pos, *columns.vectors.values()):
            for cell in row[at : at + 3]:
                number(cell)
    except ValueError as error:
        raise ValueError(f"{line}: {error} (of {where}).") from None


def _comment(text: str, where: str) -> Tuple[Dict[str, Any], FrozenSet[str]]:
    """Statements of a comment line, and keys that it says more than once; a periodic cell is refused."""
    from ase.io.extxyz import key_val_str_to_dict

    values: Dict[str, Any] = {}
    keys: List[str] = []
    if "=" in text:
        try:
            values = key_val_str_to_dict(text)
        except Exception as error:  # ASE has no common class of its parse errors
            raise ValueError(f"{where}: its comment line cannot be read ({type(error).__name__}: {error}).") from None
        # ASE calls words without a value true.
        keys = re.findall(r"([^\s=\"'{\[]+)\s*=", re.sub(r"\"[^\"]*\"|'[^']*'", "''", text))
        values = {key: value for key, value in values.items() if key in keys}
        if _DIGITS_APART.search(text):
            values.update({key: raw for key, raw in _UNDERSCORE.findall(text) if key in values})
    elif _BARE_NUMBER.fullmatch(text.partition("!")[0].strip()):  # CREST writes "-76.4 !CONF1"
        values = {"comment": number(text.partition("!")[0])}
    elif text.startswith("gdb ") and len(text.split()) == 2 + len(_QM9):
        return {**dict(zip(_QM9, map(number, text.split()[2:]))), "name": "gdb " + text.split()[1]}, frozenset()
    else:
        pairs = _WORD_NUMBER.findall(text)
        keys = [key for key, _ in pairs]
        values = {key: number(value) for key, value in pairs}
    for key, unit in _UNIT.findall(text) if _BEHIND_NUMBER.search(text) else ():
        if key in values and is_energy(key) and energy_unit(unit) is not None:
            values.setdefault(f"{key}_unit", unit)
    lower = {key.lower(): key for key in values}
    if "properties" in lower:
        values["Properties"] = values.pop(lower["properties"])
    cells = [values.pop(lower[key]) for key in ("lattice", "cell") if key in lower]
    is_cell = any(np.size(cell) in (3, 6, 9) and np.any(cell) for cell in cells)
    pbc = values.pop(lower["pbc"]) if "pbc" in lower else is_cell
    if np.any(pbc):
        raise periodic(where)
    return values, frozenset(key for key in keys if len(keys) > len(set(keys)) and keys.count(key) > 1)
