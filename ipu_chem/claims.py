"""Claims of folders that many processes share: one at a time works in a folder, on whatever machine it runs.

A claim is a numbered file, `.claim.1`, `.claim.2` and so on, of which the highest number counts. Whoever takes a folder
over makes the next number, which one process alone can do; none is ever made twice, so that a process that slept while
its claim was taken sees a higher number before it writes, and stops. A claim that is given back is renamed, which needs
no room on the disk.
"""

import os
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

from ipu_chem import heartbeats

_NAME = re.compile(r"\.claim\.(\d+)(\.free)?")
_CHECKED_EVERY = 1.0  # seconds
_TRIES = 5  # against processes that come and go


class Claimed(Exception):
    """Another process works in the folder; the text says which."""


class ClaimLost(Exception):
    """The claim was taken over, since its process did not touch it for a minute."""


class _Entry(NamedTuple):
    number: int
    free: bool
    path: Path


class Claim:
    """A claim that this process holds."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self._identity = os.stat(path).st_ino
        self._checked = time.monotonic()
        self._heart = heartbeats.Heartbeat(path)

    def check(self, always: bool = True) -> None:
        """Make sure that the folder is still this process's.

        Args:
            always: ask the file system; else if it was not asked within the last second.

        Raises:
            ClaimLost: it is another one's, or the folder was removed.
        """
        if not always and time.monotonic() - self._checked < _CHECKED_EVERY:
            return
        try:
            entries = _entries(self.path.parent)
            same = os.stat(self.path).st_ino == self._identity
        except OSError:
            same = False
        if not same or not entries or entries[-1].number != self.number:
            raise ClaimLost(f"{self.path.parent} was taken over by another process while this one did not run.")
        self._checked = time.monotonic()

    def release(self, used: bool = True) -> None:
        """Give the folder back; a number that was not used is removed instead of being kept as free."""
        self._heart.stop()
        with suppress(OSError):
            if os.stat(self.path).st_ino != self._identity:
                return
            if used:
                os.rename(self.path, f"{self.path}.free")
            else:
                os.remove(self.path)


@contextmanager
def claimed(folder: Path) -> Iterator[Claim]:
    """Keep other processes out of a folder, which is made if need be.

    Raises:
        Claimed: another one is in it.
        OSError: the disk is full, or the folder cannot be read.
    """
    claim = _take(folder)
    try:
        yield claim
    finally:
        claim.release()


def holder_of(folder: Path, now: Optional[float] = None) -> Optional[Path]:
    """The claim of a process that works in a folder, None if nobody does.

    Args:
        folder: that may be claimed, or not be there.
        now: `heartbeats.clock` of the file system, where it is known.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = _entries(folder)
    if entries and not entries[-1].free and heartbeats.is_live(entries[-1].path, now):
        return entries[-1].path
    return None


def _entries(folder: Path) -> List[_Entry]:
    """Claims of a folder, the highest last; one that is held after a free one of its number.

    Raises:
        OSError: it cannot be read, which says nothing of who holds it.
    """
    try:
        with os.scandir(folder) as found:
            matches = [(_NAME.fullmatch(entry.name), entry.path) for entry in found]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        (_Entry(int(match[1]), bool(match[2]), Path(path)) for match, path in matches if match),
        key=lambda entry: (entry.number, not entry.free),
    )


def _take(folder: Path) -> Claim:
    for _ in range(_TRIES):
        before = _entries(folder)
        if before and not before[-1].free and heartbeats.is_live(before[-1].path):
            raise Claimed(f"{folder} is in use by {heartbeats.describe(before[-1].path)}")
        number = before[-1].number + 1 if before else 1
        path = folder / f".claim.{number}"
        if not heartbeats.make(path, heartbeats.whoami()):
            continue
        claim = Claim(path, number)
        # Slept since it was read, the number may have been given, given back and removed.
        try:
            now = _entries(folder)
        except OSError:
            claim.release(used=False)
            raise
        if any(entry.number >= number and entry.path != path for entry in now):
            claim.release(used=False)
            continue
        for entry in now:  # not as it was before: one may have been renamed since
            if entry.number < number:
                with suppress(OSError):
                    os.remove(entry.path)
        return claim
    raise Claimed(f"{folder} is in use by another process")
