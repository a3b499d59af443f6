"""Sentences about exceptions: the answers of the command line, in place of tracebacks."""

import errno
import json
import linecache
import os
import sysconfig
from pathlib import Path
from types import FrameType
from typing import Iterator, List, Optional, Tuple

from packing.files import DiskFull

TRACEBACK = "IPU_CHEM_TRACEBACK"  # set in the environment, exceptions are shown whole
_OURS = tuple(str(Path(__file__).parents[1] / name) + os.sep for name in ("ipu_chem", "packing"))
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))
_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "Invalid buffer size")
_PATHS = ("path", "file", "source", "filename", "name", "input", "structures", "folder")  # likeliest first
_DISK = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of the disk is used up; free some space",
    errno.EROFS: "the file system can only be read; give another folder",
    errno.EACCES: "permission denied; give another place, or the rights to this one",
    errno.EPERM: "permission denied; give another place, or the rights to this one",
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "this is a folder, and a file is needed",
    errno.ENOTDIR: "a part of this path is a file, and a folder is needed",
    errno.EEXIST: "there is something of that name already; give another",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ELOOP: "links lead in a circle",
}


def sentence(error: BaseException) -> str:
    """One sentence about an exception: ours as they are, others with the file that was read and the place in the code.

    Args:
        error: that ended a command.
    """
    text = " ".join(str(error).split())
    if isinstance(error, DiskFull):
        return text
    if isinstance(error, OSError) and error.errno is not None:
        where = " ".join(f"{name}:" for name in (error.filename, error.filename2) if isinstance(name, (str, Path)))
        return f"{where} {_DISK.get(error.errno, str(error.strerror).lower())}.".strip()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in text for word in _MEMORY)):
        return (
            f"there is not enough memory{_of(error)}: give fewer or smaller molecules, smaller packs "
            "(batching.micro_batch_size, pack.nodes) or a smaller model."
        )
    if isinstance(error, RecursionError):
        return f"{_read_file(error) or 'something'} is nested too deeply."
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in ("", "ipu_chem", "packing"):
        library = str(error.name).split(".")[0]
        return f"{library} is not installed: `ipu-chem doctor` says how to get what is missing."
    if isinstance(error, (ValueError, OSError, FloatingPointError)) and _is_meant(error):
        return text
    file = _read_file(error)
    if isinstance(error, UnicodeDecodeError):
        return f"{file or 'a file'} is no UTF-8 text (byte {error.start}): save it as UTF-8."
    if isinstance(error, json.JSONDecodeError):
        return f"{file or 'a file'}, line {error.lineno}, is no JSON: it may be cut; write it again."
    if isinstance(error, EOFError):
        return f"{file or 'a file'} ends too early: it may be cut; copy it again."
    about = f"{file}: " if file else ""
    return (
        f"{about}{type(error).__name__}{f': {text}' if text else ''} ({_place(error)}). Nobody foresaw this; "
        f"{TRACEBACK}=1 before the command shows where it came from."
    )


def _of(error: BaseException) -> str:
    file = _read_file(error)
    return f" for {file}" if file else ""


def _frames(error: BaseException) -> Iterator[Tuple[FrameType, int]]:
    """Frames and lines that an exception came through, the innermost first."""
    found: List[Tuple[FrameType, int]] = []
    trace = error.__traceback__
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return reversed(found)


def _is_meant(error: BaseException) -> bool:
    """True for an exception that was raised by a line of ours or of a user's own class, with words for the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    file = trace.tb_frame.f_code.co_filename
    raised = linecache.getline(file, trace.tb_lineno).lstrip().startswith("raise ")  # else a call in it has failed
    return raised and (file.startswith(_OURS) or not file.startswith(_INSTALLED))


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is not of an installed library."""
    for frame, line in _frames(error):
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            return f"{os.path.relpath(file, Path(_OURS[0]).parent)}:{line}"
        if not file.startswith((*_INSTALLED, "<")):
            return f"{file}:{line}"
    return "place unknown"


def _read_file(error: BaseException) -> Optional[str]:
    """The file that was read when an exception was raised, by the variables of the functions that read it."""
    for frame, _ in _frames(error):
        if frame.f_code.co_filename.startswith(_OURS):
            for name in _PATHS:
                value = frame.f_locals.get(name)
                if isinstance(value, (str, Path)) and value and os.path.isfile(value):
                    return str(value)
    return None
