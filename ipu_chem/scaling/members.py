"""Processes that share the folder of a search or study: any number that ask for the same, on any machines.

Each keeps a file there while it is at work. Whoever joins with other options, or another version, is refused while
somebody is; afterwards the folder goes on with the new ones, as far as its candidates allow.
"""

import json
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

import ipu_chem
from ipu_chem import heartbeats
from ipu_chem.config import RunConfig, to_dict
from ipu_chem.json_file import read_json, write_json
from ipu_chem.options import differences
from ipu_chem.scaling.candidates import FREE

OWNER = "campaign.json"
_FILES = {"search": "search.json", "scale": "plan.json"}  # of a folder of an earlier version
_READS, _BETWEEN = 10, 0.1  # of a file that is being written; seconds
_APART = ("jobs", "executor")  # may differ between processes


@contextmanager
def joined(
    folder: Path, command: str, options: Mapping[str, Any], grid: Mapping[str, Any], base: RunConfig
) -> Iterator[int]:
    """Work on a folder, together with others that ask for the same.

    Args:
        folder: of the search or study, made if need be.
        command: search or scale.
        options: of the command.
        grid: dotted options and their values.
        base: config of the runs.

    Yields:
        Number of other processes that are at work there.

    Raises:
        ValueError: others ask for something else, or the folder is another command's; says what to do.
        OSError: the disk is full.
    """
    asked = _asked(command, options, grid, base)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = _owner(folder)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from None
    if owner not in ("", command):
        raise ValueError(f"{folder} is the folder of an `ipu-chem {owner}`: choose another --out.")
    me = heartbeats.whoami()
    path = folder / f".member.{me['token']}"
    heartbeats.make(path, {**me, "asked": asked})
    heart = heartbeats.Heartbeat(path)
    try:
        others = _others(path, asked)
        write_json(folder / OWNER, asked)
        yield others
    finally:
        heart.stop()
        with suppress(OSError):
            path.unlink()
        with suppress(OSError):
            if made and {entry.name for entry in folder.iterdir()} <= {OWNER}:  # nothing has been done
                (folder / OWNER).unlink()
                folder.rmdir()


def _asked(command: str, options: Mapping[str, Any], grid: Mapping[str, Any], base: RunConfig) -> Dict[str, Any]:
    config = to_dict(base)
    for key in FREE:
        section, _, name = key.rpartition(".")
        (config[section] if section else config).pop(name, None)
    return {
        "command": command,
        "version": ipu_chem.__version__,
        "options": {name: value for name, value in options.items() if name not in _APART},
        "grid": dict(grid),
        "config": config,
    }


def _owner(folder: Path) -> str:
    """Command that a folder is of, "" if of none."""
    if (folder / OWNER).is_file():
        return str(read_json(folder / OWNER, "delete it, and the same command makes it again").get("command", ""))
    return next((command for command, name in _FILES.items() if (folder / name).is_file()), "")


def _others(path: Path, asked: Mapping[str, Any]) -> int:
    """Count others that are at work; whoever comes to those that ask for something else is refused."""
    now = heartbeats.clock(path.parent)
    members: List[Path] = sorted([*path.parent.glob(".member.*"), *path.parent.glob(".work.*")])
    count = 0
    mine = json.loads(json.dumps(asked))  # as it reads what others ask for
    for other in members:
        if other == path:
            continue
        if not heartbeats.is_live(other, now):
            with suppress(OSError):  # of a process that was killed
                other.unlink()
            continue
        if other.name.startswith(".work"):
            continue
        theirs = _asked_by(other)
        if theirs is None:
            continue
        changed = differences(theirs, mine)
        changed.sort(key=lambda change: change[0] != "version")
        if changed:
            key, was, value = changed[0]
            key = key.replace("options.", "--", 1) if key.startswith("options.") else key
            raise ValueError(
                f"{path.parent} is in use by {heartbeats.describe(other)}, with {key}={was!r}, and this command has "
                f"{value!r}: give the same options and version everywhere, wait until it ends, or choose another --out."
            )
        count += 1
    return count


def _asked_by(other: Path) -> Optional[Dict[str, Any]]:
    """Options and all else that another process asks for; None if it has just ended."""
    for _ in range(_READS):
        found = heartbeats.read(other).get("asked")
        if found is not None:
            return found
        if not other.is_file():
            return None
        time.sleep(_BETWEEN)  # it is just being written, on a file system without links
    return {}
