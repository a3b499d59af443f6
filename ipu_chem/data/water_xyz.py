"""Water clusters in the xyz files of their data base, which are of one fixed form and up to millions of frames long.

A frame is a line with the number of atoms, a line that ends in the energy, and a line "O x y z" or "H x y z" for every
atom, molecule after molecule in the order O H H.
"""

from itertools import islice
from typing import IO, Iterator, List, NamedTuple

import numpy as np

_LINES = 1 << 19  # read at once
_NUMBER = b"0123456789.+-eE \t\r\n"


class Clusters(NamedTuple):
    """k clusters of n atoms each.

    Attributes:
        pos: [k, n, 3] float64, Å, atoms O H H O H H ...
        energy: [k] float64, as in the file.
    """

    pos: np.ndarray
    energy: np.ndarray


def read_clusters(file: IO[bytes], name: str) -> Iterator[Clusters]:
    """Clusters of a file, as many at once as follow each other with the same size.

    Args:
        file: its lines.
        name: for messages.

    Raises:
        ValueError: a frame is damaged; says which and how.
    """
    lines: List[bytes] = []
    frames = 0
    while True:
        lines += islice(file, _LINES - len(lines))
        while lines and len(lines) < _LINES and not lines[-1].strip():
            lines.pop()  # blank lines at the end
        if not lines:
            return
        rows = _count(lines[0], f"{name} frame {frames}") + 2
        counts = lines[: len(lines) // rows * rows : rows]
        same = next((index for index, line in enumerate(counts) if line.strip() != lines[0].strip()), len(counts))
        if same == 0:
            raise ValueError(f"{name} frame {frames} is cut: {len(lines)} lines are left of {rows}.")
        yield _parse(lines[: same * rows], rows, name, frames)
        frames += same
        del lines[: same * rows]


def _parse(lines: List[bytes], rows: int, name: str, first: int) -> Clusters:
    """Clusters of whole frames; all are parsed together, and one by one only to find which is damaged."""
    try:
        return _numbers(lines, rows)
    except ValueError as error:
        if len(lines) == rows:
            raise ValueError(f"{name} frame {first} is damaged: {error}.") from None
    for frame in range(len(lines) // rows):
        _parse(lines[frame * rows : (frame + 1) * rows], rows, name, first + frame)
    raise AssertionError("frames that are well one by one are well together")


def _numbers(lines: List[bytes], rows: int) -> Clusters:
    """The numbers of whole frames of ``rows`` lines."""
    frames, atoms = len(lines) // rows, rows - 2
    try:
        energy = np.array([float(line.split()[-1]) for line in lines[1::rows]])
    except (IndexError, ValueError):
        raise ValueError("its second line does not end in an energy") from None
    rest = [line for index, line in enumerate(lines) if index % rows > 1]
    if any(line.count(b".") != 3 for line in rest):
        raise ValueError("a line of an atom has other than three coordinates")
    text = b"".join(rest)
    if text.translate(None, _NUMBER) != b"OHH" * (frames * atoms // 3):
        raise ValueError("its atoms are not O H H O H H ...")
    try:
        pos = np.fromiter(map(float, text.translate(None, b"OH").split()), np.float64)
        pos = pos.reshape(frames, atoms, 3)
    except ValueError:
        raise ValueError("a coordinate is no number") from None
    if not np.isfinite(energy).all():
        raise ValueError("its energy is not finite")
    return Clusters(pos, energy)


def _count(line: bytes, name: str) -> int:
    """Atoms of a frame."""
    try:
        count = int(line)
    except ValueError:
        raise ValueError(f"{name} is damaged: it begins with {line[:40]!r}, not with a number of atoms.") from None
    if count < 3 or count % 3:
        raise ValueError(f"{name} is damaged: {count} atoms are no molecules of water.")
    return count
