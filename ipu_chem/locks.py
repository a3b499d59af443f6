"""Locks of folders: one process at a time writes into a run, and a data set is prepared once.

The system's own lock of a file (flock) ends with its process, however that ends. What the file says is for the sentence
that refuses a second process. It is touched every few seconds, which is what counts between hosts whose file system
keeps locks to each host, and where there are none at all.
"""

import errno
import json
import os
import shlex
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import IO, Any, Dict, Iterator, Optional, Tuple

from packing.files import PathLike, disk_full_named, host_name, is_alive

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TOUCHED_EVERY = 10.0  # seconds
_STALE = 60.0  # seconds after which a lock that is not touched is nobody's
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_LONGEST = 160  # characters of a command


class FolderInUse(ValueError):
    """Another process writes into the folder."""


@contextmanager
def locked(folder: PathLike) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if need be.

    Raises:
        FolderInUse: another one is in it; says which, since when, and what to do.
        ValueError: the folder cannot be written.
        OSError: the disk is full.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        with disk_full_named(folder / LOCK):
            folder.mkdir(parents=True, exist_ok=True)
            path, file = _first(folder / LOCK, folder)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from None
    stop = threading.Event()
    try:
        with disk_full_named(path):
            _write(file)
        threading.Thread(target=_touch, args=(path, stop), name="lock", daemon=True).start()
        yield
    finally:
        stop.set()
        with suppress(OSError):
            path.unlink()  # before others may have it, so that it is still this one
        with suppress(OSError):  # a full disk may still not take what it says
            file.close()
        if made:
            with suppress(OSError):  # nothing has been written
                folder.rmdir()


@contextmanager
def in_turn(path: PathLike, what: str) -> Iterator[None]:
    """Wait for other processes that do the same.

    Args:
        path: file to lock; its folder is made.
        what: they do, as in "another process that is ...".
    """
    path = Path(path)
    try:
        file = _flocked(path, wait=False)
        if file is None:
            print(f"waiting for another process that is {what}", file=sys.stderr, flush=True)
            file = _flocked(path, wait=True)
    except _NoLocks:  # both do it, and the later result replaces the same of the earlier one
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        if file is not None:
            file.close()


class _NoLocks(Exception):
    """The file system has no locks."""


def _flocked(path: Path, wait: bool) -> Optional[IO[str]]:
    """The open file, locked and still at its path; None if another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # whoever had it may have removed its folder
        file = open(path, "a+", encoding="utf-8")
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no locks")
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            raise _NoLocks from None
        with suppress(OSError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # whoever had it has removed it


def _first(path: Path, folder: Path) -> Tuple[Path, IO[str]]:
    """The lock file, open, if nobody else has it."""
    try:
        file = _flocked(path, wait=False)
    except _NoLocks:
        return _first_without_flock(path, folder)
    if file is None:
        raise _in_use(folder, _holder(path))
    holder = _holder(path)
    # Of another kernel: its lock may not reach this host.
    if holder and holder["host"] != host_name() and holder["boot"] != _boot() and _age(path) < _STALE:
        file.close()
        raise _in_use(folder, holder, _STALE - _age(path))
    return path, file


def _first_without_flock(path: Path, folder: Path) -> Tuple[Path, IO[str]]:
    """Likewise by a file that only one process can make."""
    print(
        f"warning: the file system of {folder} has no locks (flock): two processes that start there within a moment "
        "may both go on",
        file=sys.stderr,
    )
    held = path.with_name(path.name + ".held")
    holder = _holder(held)
    if holder and not (holder["host"] == host_name() and not is_alive(holder["pid"])) and _age(held) < _STALE:
        raise _in_use(folder, holder, _STALE - _age(held))
    with suppress(OSError):
        path.unlink()
        held.unlink()
    try:
        handle = os.open(held, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except FileExistsError:
        raise _in_use(folder, _holder(held)) from None
    return held, os.fdopen(handle, "w+", encoding="utf-8")


def _write(file: IO[str]) -> None:
    """Say who has the lock."""
    words = sys.argv[1:] if Path(sys.argv[0]).name in ("cli.py", "__main__.py", "ipu-chem") else sys.argv
    name = [] if words is sys.argv else ["ipu-chem"]
    command = shorten(" ".join(map(shlex.quote, [*name, *words])), _LONGEST, placeholder=" ...")
    holder = {"host": host_name(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.seek(0)
    file.truncate()
    json.dump({**holder, "command": command, "boot": _boot()}, file)
    file.flush()


def _holder(path: Path) -> Dict[str, Any]:
    """Contents of a lock file; empty if there are none."""
    for _ in range(10):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {**{"host": "?", "pid": 0, "since": "?", "command": "", "boot": ""}, **found}
        except (OSError, ValueError, TypeError):
            if not path.is_file():
                break
            time.sleep(0.01)  # it may just be written
    return {}


def _in_use(folder: Path, holder: Dict[str, Any], seconds: float = 0.0) -> FolderInUse:
    if not holder:
        return FolderInUse(f"{folder} is in use by another process; wait until it ends, or choose another --out.")
    there = "" if holder["host"] == host_name() else " there"
    late = f"; if it has been killed there, the folder is free {seconds:.0f} s from now" if seconds else ""
    return FolderInUse(
        f"{folder} is in use by process {holder['pid']} on {holder['host']} since {holder['since']} "
        f"(`{holder['command']}`); wait until it ends, stop it{there} with `kill {holder['pid']}`, or choose another "
        f"--out{late}."
    )


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system."""
    with suppress(OSError), tempfile.TemporaryFile(dir=path.parent) as file:
        return os.fstat(file.fileno()).st_mtime - path.stat().st_mtime
    return 0.0


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_TOUCHED_EVERY):
        with suppress(OSError):
            os.utime(path)


def _boot() -> str:
    """Changes with the kernel; containers of one machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
