"""Checksums of a store: written beside its arrays, compared when it is opened.

``meta.json`` has the length and the checksum of every array, ``meta.blake2b`` that of ``meta.json``. Small stores are
read whole at every opening. Large ones are read once: that a content was found whole is noted in the user's cache
folder, with the length, time and inode of every file, and holds for this machine until one of these changes.
"""

import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

from packing.files import atomic_file, file_digest, host_name

META = "meta.json"
_SEAL = "meta.blake2b"
_SMALL = 1 << 28  # bytes that are verified at every opening: they take less than a second
_LONG = 1.0  # seconds after which a line says what was done
_THREADS = 4


class DamagedStore(ValueError):
    """A store that is not what was written.

    Attributes:
        what: is wrong, without the remedy.
    """

    what = ""

    @classmethod
    def of(cls, folder: Path, what: str) -> "DamagedStore":
        """The sentence with its remedy."""
        made = cls(f"{what}; delete the folder {folder} and prepare the data again.")
        made.what = what
        return made


def describe(folder: Path, meta: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write meta.json with the checksums of some files, and its own."""
    files = {name: {"bytes": (folder / name).stat().st_size, "blake2b": file_digest(folder / name)} for name in names}
    text = json.dumps({**meta, "files": files}, indent=1, sort_keys=True)
    (folder / META).write_text(text, encoding="utf-8")
    (folder / _SEAL).write_text(file_digest(folder / META), encoding="utf-8")


def read_meta(folder: Path, version: int) -> Dict[str, Any]:
    """Contents of meta.json.

    Raises:
        ValueError: of another format; `DamagedStore`.
    """
    path = folder / META
    content = path.read_bytes()
    try:
        meta = json.loads(content.decode("utf-8"))
        found = meta.get("format")
    except (ValueError, AttributeError) as error:
        raise DamagedStore.of(folder, f"{path} is damaged: {error}") from None
    if found != version:
        raise ValueError(f"{folder}: store format {found}, this version reads {version}; prepare it again.")
    if not (folder / _SEAL).is_file():
        # Of an earlier version, which is only known once its arrays are read.
        verify_files(folder, meta["files"], True)
        print(f"{folder} is of an earlier version: its arrays are whole, its {META} had no checksum", file=sys.stderr)
        with suppress(OSError), atomic_file(folder / _SEAL, "w") as file:
            file.write(file_digest(path))
    elif (folder / _SEAL).read_bytes() != hashlib.blake2b(content, digest_size=16).hexdigest().encode():
        raise DamagedStore.of(folder, f"{path} is damaged: its checksum does not match")
    return meta


def verify_files(folder: Path, files: Mapping[str, Mapping[str, Any]], verify: Optional[bool] = None) -> None:
    """Compare files with their lengths, and with their checksums unless that was done before on this machine.

    Args:
        folder: of the store.
        files: name -> bytes and blake2b.
        verify: True reads them in any case, False in none.

    Raises:
        DamagedStore: names the file and its array.
    """
    now = {}
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            raise DamagedStore.of(folder, f"{file} is missing or cut short")
        state = file.stat()
        now[name] = [state.st_size, state.st_mtime_ns, state.st_ino, expected["blake2b"]]
    size = sum(one[0] for one in now.values())
    note = _note(folder) if size > _SMALL else None
    if verify is False or (verify is None and note is not None and _noted(note) == now):
        return
    started = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:  # the hash lets other threads run
        found = pool.map(file_digest, [folder / name for name in files])
        for (name, expected), digest in zip(files.items(), found):
            if digest != expected["blake2b"]:
                array = name[: -len(".npy")]
                raise DamagedStore.of(
                    folder, f"{folder / name} is damaged: the checksum of its array {array} does not match"
                )
    seconds = time.monotonic() - started
    kept = ""
    if note is not None:
        with suppress(OSError), atomic_file(note, "w") as file:
            json.dump(now, file)
            kept = "; it is not read again on this machine until it changes"
    if note is not None and seconds > _LONG:
        print(f"{folder}: {size / 1e9:.2f} GB compared with their checksums in {seconds:.1f} s{kept}", file=sys.stderr)


def _note(folder: Path) -> Path:
    """The file that says a large store was whole."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    key = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    return cache / "packing" / "verified" / f"{key}-{host_name()}.json"


def _noted(note: Path) -> Any:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
