"""Atomic files and folders: what a plan, a store or a checkpoint is written through, so that a kill or a full disk
leaves either the old content or the new one, never half of it, also for whoever reads meanwhile.

What is being written has a name such as ``.plan.npz.1234@host.k3x_9f0a.tmp``, of the process that writes it. What
killed processes have left is removed by the next one that writes into the folder.
"""

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Optional, Set, Tuple, TypeVar, Union

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PathLike = Union[str, "os.PathLike[str]"]
T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota, or a limit of the process
_OURS = re.compile(r"\..+\.(\d+)@([\w-]+)\.\w+\.(tmp|old)")
_DAY = 86400.0  # seconds after which what a process of another host has not touched is left over
_TRIES = 200  # to read a folder that is replaced all the time
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
_writing: Set[str] = set()  # temporary names of this process
_cleaned: Set[Tuple[int, str]] = set()  # folders in which a process has removed what others left


class DiskFull(OSError):
    """No room for a file; what was there before is kept.

    Attributes:
        reason: of the system, and the free space.
    """

    reason = ""

    @classmethod
    def of(cls, path: PathLike, error: OSError) -> "DiskFull":
        """The sentence about a file that was to be written."""
        reason = f"{error.strerror or os.strerror(errno.ENOSPC)}, {_free(Path(path))} free"
        made = cls(
            f"{path} could not be written ({reason}); what was there before is kept: free some space, then run the "
            "same command again."
        )
        made.reason, made.errno = reason, error.errno or errno.ENOSPC
        return made


@contextmanager
def disk_full_named(path: PathLike) -> Iterator[None]:
    """Name the file that is written inside where the disk has no room for it.

    Raises:
        DiskFull: instead of the system's error.
    """
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        # numpy says how many items it could not write, and nothing else.
        if error.errno in _FULL or (error.errno is None and "requested and" in str(error)):
            raise DiskFull.of(path, error) from error
        raise


@contextmanager
def atomic_file(path: PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside ``path``; it takes the name ``path`` only if the block succeeds.

    Raises:
        OSError: the disk is full (`DiskFull`) or the folder cannot be written; ``path`` is left as it was.
    """
    path = Path(path)
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
        with _named(temporary):
            try:
                with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                    _hold(file.fileno())
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide the file from a team
                os.replace(temporary, path)
            except BaseException:
                _remove_quietly(temporary)
                raise
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``; it takes the name ``path`` only if the block succeeds.

    An existing folder at ``path`` is replaced; `read_folder` reads the old one or the new one.

    Raises:
        OSError: the disk is full (`DiskFull`) or the parent cannot be written; ``path`` is left as it was.
    """
    path = Path(path)
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent))
        with _named(str(temporary)), _folder_held(temporary):
            try:
                yield temporary
                for file in temporary.rglob("*"):
                    if file.is_file():
                        with open(file, "rb") as opened:
                            os.fsync(opened.fileno())
                os.chmod(temporary, 0o777 & ~_umask())
                _swap_in(temporary, path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        _sync_folder(path.parent)


def read_folder(path: PathLike, read: Callable[[Path], T]) -> T:
    """Read a folder that `atomic_folder` may replace meanwhile: all that is read is of one and the same.

    Args:
        path: of the folder.
        read: reads it; called again if it was replaced.

    Raises:
        ValueError: it is replaced again and again; and what ``read`` raises of a folder that stays.
    """
    path = Path(path)
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            found = read(path)
        except (OSError, ValueError):
            if before is not None and _identity(path) == before or before is None and not _put_back(path):
                raise
        else:
            if _identity(path) == before:
                return found
        time.sleep(0.002)
    raise ValueError(f"{path} is replaced again and again while it is read; wait until that is done.")


def sweep(folder: PathLike) -> None:
    """Remove what killed processes were writing into a folder or removing from it, once a process."""
    folder = Path(folder)
    if (os.getpid(), str(folder)) in _cleaned:
        return
    _cleaned.add((os.getpid(), str(folder)))
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]:
            if _is_left_over(path):
                if path.suffix == ".old":  # killed between two renames
                    for old in path.iterdir():
                        _put_back(folder / old.name)
                _remove(path)


def remove_leftovers(folder: PathLike) -> None:
    """Remove what killed writers have left in a folder and in those in it; for whoever is alone there."""
    folder = Path(folder)
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        # Earlier versions wrote no process into the names.
        if _is_left_over(path) if _OURS.fullmatch(path.name) else path.suffix == ".tmp":
            _remove(path)


def remove_folder(path: PathLike) -> None:
    """Remove a folder that is whole or gone at every instant; of a killed process the next one removes the rest."""
    path = Path(path)
    sweep(path.parent)
    temporary = tempfile.mkdtemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    with _named(temporary), suppress(OSError):  # another process may have been faster
        os.replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def file_digest(path: PathLike) -> str:
    """32 hex digits that change with any byte of the file (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()


def host_name() -> str:
    """Name of this machine, in letters that a file name may have."""
    return re.sub(r"[^\w-]", "_", platform.node())[:40] or "host"


def is_alive(process: int) -> bool:
    """True if this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}.{os.getpid()}@{host_name()}."


@contextmanager
def _named(temporary: str) -> Iterator[None]:
    """Note what this process is writing."""
    _writing.add(temporary)
    try:
        yield
    finally:
        _writing.discard(temporary)


def _hold(handle: int) -> bool:
    """Lock what is written: containers may have one name and the same numbers of processes."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        pass
    return True


@contextmanager
def _folder_held(folder: Path) -> Iterator[bool]:
    """`_hold` of a file or folder by name; gives False where another process holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        yield _hold(handle)
    finally:
        os.close(handle)


def _is_left_over(path: Path) -> bool:
    """True if the process that was writing this is no more."""
    found = _OURS.fullmatch(path.name)
    if found is None or str(path) in _writing:
        return False
    process, host = int(found[1]), found[2]
    if host == host_name():
        if process != os.getpid() and is_alive(process):
            return False
    else:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _DAY:
                return False
    with _folder_held(path) as free:
        return free


def _swap_in(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``, at which there may be a folder."""
    try:
        os.replace(temporary, path)
    except OSError:
        if not path.is_dir():
            raise
    else:
        return
    if _exchange(temporary, path):
        _remove(temporary)
        return
    # A folder cannot be renamed over a full one. Readers wait until it is there again (`_put_back`).
    aside = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".old", dir=path.parent))
    with _named(str(aside)), _folder_held(aside):
        os.replace(path, aside / path.name)
        try:
            os.replace(temporary, path)
        except OSError:
            os.replace(aside / path.name, path)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system cannot."""
    try:
        rename: Any = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _put_back(path: Path) -> bool:
    """True if a folder that is not there is just being replaced; where its writer was killed, the old one returns."""
    for aside in path.parent.glob(f".{path.name[:100]}.*.old"):
        if (aside / path.name).is_dir() and not path.exists():
            if _is_left_over(aside):
                with suppress(OSError):
                    os.replace(aside / path.name, path)
            return True
    return path.exists()


def _identity(path: Path) -> Optional[Tuple[int, int, int]]:
    """Changes when a folder is replaced; None where there is none."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_mtime_ns


def _free(path: Path) -> str:
    """Free space on the disk of a path."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return f"{shutil.disk_usage(path).free / 1e6:,.1f} MB"
    except OSError:
        return "unknown space"


def _umask() -> int:
    """The process's file-creation mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        _remove_quietly(str(path))


def _remove_quietly(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every file system lets a folder be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
