"""Paths of a prediction, checked before anything heavy is loaded."""

import os
from pathlib import Path

from ipu_chem.data.files.text import existing_file
from packing.files import PathLike

SUFFIXES = (".csv", ".extxyz")


def check_paths(source: PathLike, output: PathLike) -> None:
    """Refuse an input that is not there and an output that cannot be written, or would replace the input.

    Raises:
        ValueError: names the file and what would do.
    """
    source, output = existing_file(source), Path(output)
    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output {output}: give a .csv file, or .extxyz for energies and forces.")
    if output.exists() and os.path.samefile(source, output) or output.resolve() == source.resolve():
        raise ValueError(f"--output {output} is the input itself; give another file.")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; give a file in it.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output}: its folder cannot be made ({error.strerror}); give another.") from None
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output {output}: its folder cannot be written; give another.")
