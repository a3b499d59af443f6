"""Data sets by name, prepared once and kept: `load_dataset("nci3d")`.

A prepared store lies in the cache folder (argument, else IPU_CHEM_CACHE, else ~/.cache/ipu-chem) under a
name that changes with the input files, the options and the format, so a stale one is never taken.
"""

import inspect
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional

from ipu_chem.cache import cache_folder, content_key, open_prepared
from ipu_chem.data.datasets import hydronet, md17, nci3d, ogb, own_file, pcqm4mv2, qm9, rmd17
from ipu_chem.data.datasets.info import LabelTable
from ipu_chem.locks import in_turn
from ipu_chem.options import meant
from packing.files import PathLike
from packing.store import Store

# Raised whenever the same files and options would give another store.
_FORMAT = 2
# Options that change how fast a store is made, not what is in it.
_MANNER = ("workers", "progress")


class Dataset(NamedTuple):
    """Functions that prepare a data set.

    Attributes:
        inputs: (path, cache folder, and options by the names of its further arguments) -> JSON: checksums and library
            versions that decide the content.
        prepare: (path, cache folder, **options) -> Store.
        table: (path, cache folder, limit or None) -> LabelTable, of sets that are SMILES with labels; what models of
            text read.
        has_classes: its labels are classes.
    """

    inputs: Callable[..., Dict[str, Any]]
    prepare: Callable[..., Store]
    table: Optional[Callable[..., LabelTable]] = None
    has_classes: bool = False


DATASETS: Dict[str, Dataset] = {
    "nci3d": Dataset(nci3d.inputs, nci3d.prepare),
    "qm9": Dataset(qm9.inputs, qm9.prepare),
    "rmd17": Dataset(rmd17.inputs, rmd17.prepare),
    "md17": Dataset(md17.inputs, md17.prepare),
    "hydronet": Dataset(hydronet.inputs, hydronet.prepare),
    "pcqm4mv2": Dataset(pcqm4mv2.inputs, pcqm4mv2.prepare, pcqm4mv2.table),
    "file": Dataset(own_file.inputs, own_file.prepare),
    **{
        name: Dataset(
            partial(ogb.inputs, name), partial(ogb.prepare, name), partial(ogb.table, name), source.has_classes
        )
        for name, source in ogb.SETS.items()
    },
}


def load_dataset(name: str, path: Optional[PathLike] = None, cache: Optional[PathLike] = None, **options: Any) -> Store:
    """A data set as a memory-mapped store, prepared on first use.

    Args:
        name: one of `DATASETS`.
        path: where the raw data lies; None lets the data set find or download them.
        cache: folder for prepared stores.
        **options: of the data set's ``prepare``.

    Raises:
        ValueError: unknown name or option, raw data missing or damaged.
        OSError: the cache folder cannot be written.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}{meant(name, DATASETS)}; there are {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    settings = {**known_options(f"data set {name}", dataset.prepare, options), **options}
    root = cache_folder(cache)
    path = None if path is None else Path(path).expanduser()
    content = {key: value for key, value in settings.items() if key not in _MANNER}
    needed = {key: value for key, value in content.items() if key in inspect.signature(dataset.inputs).parameters}
    identity = {"format": _FORMAT, "options": content, "inputs": dataset.inputs(path, root, **needed)}
    folder = root / f"{name}-{content_key(identity)}"

    store = open_prepared(folder, name)
    if store is not None:
        return store
    with in_turn(root / f".{folder.name}.lock", f"preparing {name}"):
        store = open_prepared(folder, name, says_why=False)
        if store is not None:  # another process has made it meanwhile
            return store
        store = dataset.prepare(path, root, **settings)
        store.info.setdefault("reference_energies", {})
        store.save(folder)
    left_out = store.info["failures"]["count"]
    print(f"{name}: {len(store):,} molecules prepared, {left_out:,} left out (listed in {folder / 'meta.json'})")
    return Store.open(folder)


def known_options(what: str, function: Callable[..., Any], options: Dict[str, Any]) -> Dict[str, Any]:
    """Options of a function with their defaults.

    Raises:
        ValueError: one of ``options`` is none of them.
    """
    known = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    for option in options:
        if option not in known:
            raise ValueError(f"{what} has no option {option!r}{meant(option, known)}; it has {', '.join(known)}.")
    return known
