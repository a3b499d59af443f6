"""Seconds of a run that was killed: nobody was left to add them up, but the files it wrote say until when it lived.

All times are of the file system, by one clock: those of the machines that share it differ.
"""

import math
from pathlib import Path

from ipu_chem.json_file import read_json, write_json

_FILE = "started.json"
_WRITTEN = ("metrics.jsonl", "log.txt")


def start(folder: Path, counted: Path) -> float:
    """Note that a part of a run begins.

    Args:
        folder: of the run, which exists.
        counted: file that is written once the seconds of a part are added up.

    Returns:
        Seconds of the parts before it that never came to `finish`: from their start to the last line they wrote.
    """
    lost, path = 0.0, folder / _FILE
    if path.is_file() and not (counted.is_file() and counted.stat().st_mtime >= last_sign(folder)):
        try:
            before = float(read_json(path, "delete it")["lost"])
            lost = before + max(0.0, last_sign(folder) - path.stat().st_mtime)
        except (ValueError, KeyError, TypeError):  # cut off, and worth no error
            lost = 0.0
        lost = lost if math.isfinite(lost) else 0.0
    write_json(path, {"lost": lost})
    return lost


def finish(folder: Path) -> None:
    """Note that its seconds are added up."""
    (folder / _FILE).unlink(missing_ok=True)


def last_sign(folder: Path) -> float:
    """Time of the last line of a run, in seconds of the file system's clock; 0 where there is none."""
    return max((path.stat().st_mtime for name in _WRITTEN if (path := folder / name).is_file()), default=0.0)
