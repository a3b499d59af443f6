"""Files that say which process is at work: made whole at once, touched every few seconds, gone or old when it is over.

They work on any file system that several machines share, also without locks: a file is made by a link, which one
process alone can make, and its age is measured by the clock of the file system, since clocks of machines differ.
"""

import json
import os
import platform
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from packing.files import disk_full_named, host_name, is_alive

TOUCHED_EVERY = 10.0  # seconds
STALE = 60.0  # seconds after which a file that is not touched is of a process that is gone
STALE_HERE = 600.0  # likewise of one that is seen to run on this machine, which may be slow for want of cores or memory


def whoami() -> Dict[str, Any]:
    """Values that name this process among those of all machines: host, pid, since, kernel, numbers, started, token."""
    return {
        "host": host_name(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        **_here(),
        "started": _started(os.getpid()),
        "token": secrets.token_hex(8),
    }


def make(path: Path, values: Mapping[str, Any]) -> bool:
    """Make a file with its contents, at once; False if there is one of that name.

    Raises:
        OSError: the disk is full (`DiskFull`), or the folder cannot be written.
    """
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(values), file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from others who share the folder
            try:
                os.link(temporary, path)
            except FileExistsError:
                # The answer to a link that was made may be lost on its way from a server, and the link be asked again.
                return os.stat(temporary).st_nlink == 2 and os.path.samefile(temporary, path)
            except OSError:  # the file system has no links
                return _made_alone(path, values)
            return True
        finally:
            with suppress(OSError):
                os.remove(temporary)


def read(path: Path) -> Dict[str, Any]:
    """Values of a file; empty if it is gone or was just being written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def clock(folder: Path) -> Optional[float]:
    """Time of the file system, in seconds; None where nothing can be written."""
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        if os.utime in os.supports_fd:
            os.utime(file.fileno())  # by the server's clock
        return os.fstat(file.fileno()).st_mtime
    return None


def is_live(path: Path, now: Optional[float] = None) -> bool:
    """True while the process that has made a file works on.

    A process of this machine that is gone is known at once, one of another machine by the age of its file. One that is
    seen to run here may leave its file alone for longer.

    Args:
        path: of the file.
        now: `clock` of its folder, where it is known.
    """
    holder, stale = read(path), STALE
    try:
        touched = _touched(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # too many open files, a server that does not answer: no reason to take what another one has
        return True
    if holder and all(holder.get(name) == value for name, value in {"host": host_name(), **_here()}.items()):
        if not _runs(holder["pid"], holder.get("started", "")):
            return False
        stale = STALE_HERE
    now = clock(path.parent) if now is None else now
    return now is None or now - touched < stale


def describe(path: Path) -> str:
    """The process that has made a file, for a sentence."""
    holder = {"pid": "?", "host": "another machine", "since": "a moment ago", **read(path)}
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"


class Heartbeat:
    """Touches a file every few seconds, in a thread, until `stop`."""

    def __init__(self, path: Path) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._touch, args=(path,), name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Touch it no more."""
        self._over.set()
        self._thread.join(TOUCHED_EVERY)

    def _touch(self, path: Path) -> None:
        while not self._over.wait(TOUCHED_EVERY):
            with suppress(OSError):
                os.utime(path)


def _touched(path: Path) -> float:
    """Time at which a file was touched, by the clock of its file system."""
    try:
        with open(path, "rb") as file:  # opened, attributes that a machine has remembered are asked for again
            return os.fstat(file.fileno()).st_mtime
    except PermissionError:  # of another user, who is at work all the same
        return path.stat().st_mtime


def _made_alone(path: Path, values: Mapping[str, Any]) -> bool:
    """Likewise where there are no links; for an instant the file is empty, and counts as just made."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(values), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # the disk is full, and nobody is to wait for what is nobody's
        with suppress(OSError):
            os.remove(path)
        raise
    return True


def _here() -> Dict[str, str]:
    """This kernel and its numbering of processes: containers of one machine may share a name, and numbers differ."""
    found = {"kernel": platform.release(), "numbers": ""}
    with suppress(OSError):
        found["kernel"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        found["numbers"] = os.readlink("/proc/self/ns/pid")
    return found


def _status(process: int) -> "list[str]":
    """Fields of Linux about a process from its state on; empty if it is gone, or the system has none."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _started(process: int) -> str:
    """Time at which a process started, "" where the system does not say."""
    return "".join(_status(process)[19:20])


def _runs(process: int, started: str) -> bool:
    """True if this machine has the process; a number is given to others later."""
    fields = _status(process)
    if not fields:
        return not Path("/proc/self/stat").exists() and is_alive(process)
    return fields[0] not in "ZX" and started in ("", fields[19])
