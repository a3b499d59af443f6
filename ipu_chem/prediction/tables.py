"""What was predicted of the molecules of a file, and the table that it is written to."""

import csv
import io
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from ipu_chem.metrics import Target
from packing.files import PathLike, atomic_file


class Refused(NamedTuple):
    """A molecule without a prediction, and why."""

    line: int
    name: str
    reason: str


class Predictions(NamedTuple):
    """What became of the molecules of a file.

    Attributes:
        lines: of the K that were predicted, from 1.
        names: theirs.
        values: [K, T] float64 in real units.
        refused: the others.
    """

    lines: List[int]
    names: List[str]
    values: np.ndarray
    refused: List[Refused]


def check_strict(refused: Sequence[Refused], strict: bool) -> None:
    """Stop at the first molecule that cannot be predicted.

    Raises:
        ValueError: ``strict`` and there is one; names it.
    """
    if strict and refused:
        first = refused[0]
        raise ValueError(f"line {first.line} ({first.name}): {first.reason}.")


def write_predictions(output: PathLike, targets: Sequence[Target], found: Predictions) -> None:
    """Write line, name, one column per target with its unit, and the reason where there is no prediction.

    Of classes, the column is the probability of 1.
    """
    rows: Dict[int, Tuple[str, Any, str]] = {
        line: (name, values, "") for line, name, values in zip(found.lines, found.names, found.values)
    }
    rows.update({entry.line: (entry.name, None, entry.reason) for entry in found.refused})
    units = ["probability" if target.binary else target.unit for target in targets]
    columns = [f"{target.name} ({unit})" if unit else target.name for target, unit in zip(targets, units)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", "name", *columns, "reason"])
    for line in sorted(rows):
        name, values, reason = rows[line]
        shown = [""] * len(targets) if values is None else [f"{value:.8g}" for value in values]
        writer.writerow([line, name, *shown, reason])
    with atomic_file(output, "w") as file:
        file.write(text.getvalue())
