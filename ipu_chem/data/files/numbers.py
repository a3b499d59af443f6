"""Numbers in columns of a table: labels of molecules.

An empty cell is a label that is missing, and so are NA, NaN, null and the like. Everything else is a number or refused
with its line and column, infinity too. A decimal comma is understood where a whole column is written so and none of it
can be a thousands separator.
"""

import re
import sys
from pathlib import Path
from typing import List, Sequence, Set, Tuple

import numpy as np

from ipu_chem.data.files.frame import MISSING
from ipu_chem.data.files.layout import Layout, place_of
from ipu_chem.data.files.table import Failure, read_rows

_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})+")  # thousands, as far as one can see


def read_labels(
    path: Path, layout: Layout, names: Sequence[str], limit: int = 0, classes: bool = False
) -> Tuple[np.ndarray, np.ndarray]:
    """Numbers of a table by line.

    Args:
        path: the table.
        layout: from `read_layout`.
        names: T columns.
        limit: only so many lines; 0 takes all.
        classes: they are 0 or 1.

    Returns:
        (lines [n] int64, ascending; labels [n, T] float64, NaN where a cell is empty).

    Raises:
        ValueError: it is no table, has no such column or two of them, a row has more or fewer cells than the header or
            is damaged, or a cell holds something else than a number or a class; names line and column.
    """
    if not layout.delimiter:
        raise ValueError(f"{path} holds no labels, only SMILES; write SMILES and labels as columns of a .csv.")
    places = [place_of(" ".join(name.split()), layout.names, path) for name in names]
    nameless = [place + 1 for place in places if layout.names[place + 1 : place + 2] == ("",)]
    with_commas: Set[int] = set()
    lines: List[int] = []
    labels: List[List[float]] = []
    for number, cells in read_rows(path, layout, limit):
        if isinstance(cells, Failure):
            raise ValueError(f"{path} line {number}: {cells.reason}.")
        try:
            labels.append([float(cells[place]) for place in places])
        except ValueError:
            labels.append([_number(path, layout, number, cells[place], place, with_commas) for place in places])
        if nameless and any(cells[place] for place in nameless):
            raise ValueError(
                f"{path} line {number}: a value stands behind {', '.join(names)} in a column without a name; a decimal "
                "comma? Name the column, or remove it."
            )
        if any("_" in cells[place] for place in places):  # 1_000 is a number of Python's alone
            place = next(place for place in places if "_" in cells[place])
            raise _no_number(path, layout, number, place, cells[place])
        lines.append(number)
    for place in sorted(with_commas):
        _check_commas(path, layout, place, limit)
    for place in set(places) - with_commas if layout.delimiter == ";" else ():
        _check_points(path, layout, place, limit)
    y = np.array(labels, np.float64).reshape(-1, len(names))
    _check_values(path, lines, y, names, classes)
    return np.array(lines, np.int64), y


def _number(path: Path, layout: Layout, number: int, cell: str, place: int, with_commas: Set[int]) -> float:
    """Number in a cell that is missing, has a decimal comma, or is none; columns with commas are noted."""
    if cell.lower() in MISSING:
        return np.nan
    if _COMMA.fullmatch(cell) or _GROUPS.fullmatch(cell):
        with_commas.add(place)
    try:
        return float(cell.replace(",", ".", 1).replace(",", ""))  # refused below, if it has several
    except ValueError:
        raise _no_number(path, layout, number, place, cell) from None


def _no_number(path: Path, layout: Layout, number: int, place: int, cell: str) -> ValueError:
    return ValueError(
        f"{path} line {number}: {layout.names[place]} is {cell[:60]!r}, no number; correct it, or empty the cell to "
        "leave that label out."
    )


def _check_values(path: Path, lines: Sequence[int], y: np.ndarray, names: Sequence[str], classes: bool) -> None:
    """Refuse infinity, and classes other than 0 and 1."""
    rows, columns = np.nonzero(np.isinf(y))
    if len(rows):
        raise ValueError(
            f"{path} line {lines[rows[0]]}: {names[columns[0]]} is {y[rows[0], columns[0]]}, no number; correct it, or "
            "empty the cell to leave that label out."
        )
    rows, columns = np.nonzero(np.isfinite(y) & (y != 0) & (y != 1)) if classes else ((), ())
    if len(rows):
        raise ValueError(
            f"{path} line {lines[rows[0]]}: {names[columns[0]]} is {y[rows[0], columns[0]]:g}, but a class is 0 or 1; "
            "write classes as 0 and 1, or leave data.kind out to learn numbers."
        )


def _check_commas(path: Path, layout: Layout, place: int, limit: int) -> None:
    """Refuse a column in which a comma may be something else than a decimal comma."""
    name, shown, sure = layout.names[place], "", False
    for number, cells in read_rows(path, layout, limit):
        cell = cells[place]
        if "." in cell or cell.count(",") > 1:
            raise ValueError(
                f"{path} line {number}: {name} is {cell!r}, and other cells of the column have a comma; write all "
                "with a decimal point and without thousands separators."
            )
        if "," in cell:
            shown, sure = shown or cell, sure or not _GROUPS.fullmatch(cell)
    if not sure:
        raise ValueError(
            f"{path}: {name} has cells such as {shown!r}, whose comma may be a decimal comma or separate thousands; "
            "write them with a decimal point and without thousands separators."
        )
    print(f"{path.name}: {name} has decimal commas; {shown} is read as {shown.replace(',', '.')}", file=sys.stderr)


def _check_points(path: Path, layout: Layout, place: int, limit: int) -> None:
    """Refuse points that may separate thousands: in a column without others, beside a column with decimal commas."""
    groups, comma = "", ""
    for number, cells in read_rows(path, layout, limit):
        cell = cells[place]
        if "." in cell:
            if not _GROUPS.fullmatch(cell):
                return
            groups = groups or f"line {number}: {layout.names[place]} is {cell!r}"
        comma = comma or next((other for other in cells if "," in other and _COMMA.fullmatch(other)), "")
    if groups and comma:
        raise ValueError(
            f"{path} {groups}, whose point may separate thousands, for the table has decimal commas ({comma}); write "
            "numbers without thousands separators."
        )
