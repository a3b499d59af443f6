"""Archives of arrays (.npz) from anywhere: what their headers claim is compared with what is there, before memory is
taken for it.
"""

import math
import os
import zipfile
import zlib
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np

from packing.files import PathLike

# Content of an archive may be this large whatever its own size, or this many times as large: zeros pack well.
_MOST_BYTES = 1 << 30
_MOST_TIMES = 200


@contextmanager
def open_arrays(path: PathLike) -> Iterator[Any]:
    """`np.load` of a .npz file, without pickles.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no .npz, is damaged, or claims arrays that are not in it; begins with its path.
    """
    try:
        _check_claims(path)
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:  # RuntimeError: a password, it says
        raise ValueError(f"{path} is damaged ({error}).") from error


def _check_claims(path: PathLike) -> None:
    """Compare sizes of content and shapes of arrays with what is there.

    Raises:
        ValueError: they are larger.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is no .npz archive of arrays.")
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        if claimed > max(_MOST_BYTES, _MOST_TIMES * size):
            raise ValueError(f"{path} claims a content of {claimed:,} bytes in its {size:,}; it is damaged or no data.")
        for member in archive.infolist():
            with archive.open(member) as opened:
                needed = _bytes_of(opened)
            if needed > member.file_size:
                raise ValueError(
                    f"{path}: {member.filename} claims an array of {needed:,} bytes and has {member.file_size:,}; "
                    "it is damaged or no data."
                )


def _bytes_of(file: Any) -> int:
    """Bytes of the array that a .npy file begins with by its header; 0 if it is none, or one of objects."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        return 0
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        return 0
    shape, _, dtype = read(file)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
