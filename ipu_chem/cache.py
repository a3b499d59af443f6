"""The cache folder: prepared data, neighbor lists and compiled kernels, under names that change with their content."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from ipu_chem.locks import in_turn
from packing.files import PathLike
from packing.store import Store
from packing.verify import DamagedStore


def cache_folder(cache: Optional[PathLike] = None) -> Path:
    """The folder given, else IPU_CHEM_CACHE, else ~/.cache/ipu-chem, created for this user alone if need be.

    Raises:
        ValueError: it cannot be written, which is better known before anything is prepared.
    """
    root = Path(cache or os.environ.get("IPU_CHEM_CACHE") or "~/.cache/ipu-chem").expanduser()
    try:
        root.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache folder {root} cannot be made ({error}); set IPU_CHEM_CACHE or data.cache.") from None
    if not os.access(root, os.W_OK):
        raise ValueError(f"cache folder {root} cannot be written; set IPU_CHEM_CACHE or data.cache.")
    return root


def content_key(identity: Dict[str, Any]) -> str:
    """16 hex digits that change with anything of what decides the content of a store."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def open_prepared(folder: Path, name: str, says_why: bool = True) -> Optional[Store]:
    """The store that lies in a folder of the cache; None if it has to be prepared.

    Args:
        folder: of the store.
        name: of the data set.
        says_why: print what is wrong with one that is there.
    """
    store = _whole(folder, name, says_why)
    if store is not None:
        print(f"{name}: {len(store):,} molecules, prepared before, from {folder}")
    return store


def _whole(folder: Path, name: str, says_why: bool = True) -> Optional[Store]:
    """The store of a folder, unless it is missing, damaged or of another format."""
    try:
        return Store.open(folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if says_why:
            print(f"{name}: preparing again, because {error.what if isinstance(error, DamagedStore) else error}")
        return None


def kept(name: str, identity: str, store: Store, cache: Optional[PathLike], make: Callable[[], Store]) -> Store:
    """The store joined with what is made of its positions once and kept in the cache folder.

    Args:
        name: what is made, for the name of its folder.
        identity: what it depends on beside positions, such as a cutoff and the version of a format.
        store: molecules with the field pos.
        cache: see `cache_folder`.
        make: gives a store with the new fields alone.
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=8)
    digest.update(store.fields["pos"].tobytes())
    digest.update(store.axes["nodes"].tobytes())
    folder = cache_folder(cache) / f"{name}-{digest.hexdigest()}"
    found = _whole(folder, name)
    if found is None:
        with in_turn(folder.with_name(f".{folder.name}.lock"), f"preparing {name}"):
            found = _whole(folder, name, says_why=False)
            if found is None:
                found = make()
                found.save(folder)
    return store.join(found)
