"""hydronet: 4,464,740 minima of clusters of 3 to 30 water molecules with TTM2.1-F binding energies.

A. Rakshit et al., "Atlas of putative minima and low-lying energy networks of water clusters n = 3-25", J. Chem. Phys.
151, 214307 (2019); S. Choudhury et al., "HydroNet", arXiv:2012.00131 (2020). Raw data are those of
torch_geometric.datasets.HydroNet: W3_geoms_all.zip to W30_geoms_all.zip; it keeps positions in float16, we do not.
"""

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Tuple, cast

import numpy as np
from tqdm import tqdm

from ipu_chem.data.datasets.info import check_limit, failures_info, target_info
from ipu_chem.data.download import fetch, find_file
from ipu_chem.data.molecule import arrays_to_store
from ipu_chem.data.water_xyz import Clusters, read_clusters
from ipu_chem.units import KCAL_PER_MOL
from packing.arrays import open_arrays
from packing.files import file_digest
from packing.store import Store
from packing.types import offsets_of

URL = "https://figshare.com/ndownloader/files/38063847"
SPLITS_URL = "https://figshare.com/ndownloader/files/38075904"
_ARCHIVE = "W3-W30_all_geoms_TTM2.1-F"
_SPLITS = "hydronet_splits"
# Where files may lie in the folder that is given; an archive that was unpacked into a folder may hold another in it.
_PLACES = ("", "raw", _ARCHIVE, f"raw/{_ARCHIVE}", f"{_ARCHIVE}/{_ARCHIVE}")
_SPLIT_PLACES = (*_PLACES, "processed", _SPLITS, f"{_SPLITS}/{_SPLITS}")
# Published subsets: largest number of water molecules, and how many clusters there are up to it.
SUBSETS = {"small": (25, 2_726_710), "medium": (25, 2_726_710), "large": (30, 4_464_740)}
_SMALLEST, _LARGEST = 3, 30


def inputs(path: Optional[Path], cache: Path, subset: Optional[str] = None) -> Dict[str, Any]:
    """Checksums of the files with clusters and of the index file, fetched first where ``path`` is None."""
    files, split = _find(path, cache, subset)
    return {file.name: file_digest(file) for file in [*files, *([split] if split else [])]}


def prepare(
    path: Optional[Path], cache: Path, subset: Optional[str] = None, limit: Optional[int] = None, progress: bool = True
) -> Store:
    """Read clusters, the smallest first; 10,000 of them take about a second.

    Args:
        path: folder with W3_geoms_all.zip, ..., also in raw/; one such file, zipped or not; None downloads all.
        cache: folder in which a download is kept.
        subset: small (500,000 clusters of at most 25 molecules that split_00_small.npz names), medium (all of at
            most 25), large (all); None takes whatever files are there.
        limit: take the first clusters only.
        progress: show a bar.

    Returns:
        z, pos, y [I, 1] (eV), charge, spin, name ("W10_0"); official [I] (0 training, 1 the held-out items, 2 neither)
        where there is an index file split_00_SUBSET.npz with train_idx and val_idx.

    Raises:
        ValueError: files are missing, or a frame is damaged; names it.
    """
    check_limit("hydronet", limit)
    files, split = _find(path, cache, subset)
    # An index file numbers all clusters, so that all have to be read to find those it names.
    blocks, names = _read(files, None if split else limit, progress)
    lengths = np.repeat([block.pos.shape[1] for block in blocks], [len(block.energy) for block in blocks])
    offsets = offsets_of(lengths)
    energy = np.concatenate([block.energy for block in blocks])
    zeros = np.zeros(len(lengths), np.int8)
    store = arrays_to_store(
        np.tile(np.array([8, 1, 1], np.uint8), int(offsets[-1]) // 3),
        np.concatenate([block.pos.reshape(-1, 3) for block in blocks]),
        offsets,
        names,
        energy[:, None] * KCAL_PER_MOL,
        charge=zeros,
        spin=zeros,
        info=_info(subset, limit, files),
    )
    if split:
        part = _official(split, len(store), SUBSETS[cast(str, subset)][1])
        items = np.flatnonzero(part < 2) if subset == "small" else np.arange(len(store))
        store = store.take(items[:limit])
        store.fields["official"] = part[items[:limit]]
    return store


def _info(subset: Optional[str], limit: Optional[int], files: List[Path]) -> Dict[str, Any]:
    return {
        "name": f"hydronet {subset}" if subset else "hydronet",
        "targets": [target_info("energy", "eV", True)],
        "level": "TTM2.1-F binding energy at its minima",
        "source": f"{files[0].name} to {files[-1].name}" if len(files) > 1 else files[0].name,
        "licence": "none stated (https://sites.uw.edu/wdbase/database-of-water-clusters/)",
        "citation": [
            "A. Rakshit, P. Bandyopadhyay, J. P. Heindel, S. S. Xantheas, J. Chem. Phys. 151, 214307 (2019)",
            "S. Choudhury et al., arXiv:2012.00131 (2020) (HydroNet)",
        ],
        "options": {"subset": subset, "limit": limit},
        "failures": failures_info([]),
        "part": {"name": "water", "atoms": 3},
    }


def _read(files: List[Path], limit: Optional[int], progress: bool) -> Tuple[List[Clusters], List[str]]:
    """Clusters of all files with positions in float32, and their names."""
    blocks: List[Clusters] = []
    names: List[str] = []
    for file in tqdm(files, "hydronet", unit="file", disable=not progress or len(files) == 1):
        before, start = len(names), file.name.partition("_")[0]
        try:
            with _open(file) as text:
                for block in read_clusters(text, file.name):
                    count = len(block.energy) if limit is None else min(len(block.energy), limit - len(names))
                    blocks.append(Clusters(block.pos[:count].astype(np.float32), block.energy[:count]))
                    names += [f"{start}_{len(names) - before + index}" for index in range(count)]
                    if len(names) == limit:
                        return blocks, names
        except (EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{file} is cut or damaged ({error}); fetch it again.") from None
        if len(names) == before:
            raise ValueError(f"{file} holds no clusters.")
    return blocks, names


def _open(file: Path) -> IO[bytes]:
    """The text of a file, or of the one file in a zip."""
    if file.suffix != ".zip":
        return open(file, "rb")
    with zipfile.ZipFile(file) as archive:
        return archive.open(archive.namelist()[0])


def _find(path: Optional[Path], cache: Path, subset: Optional[str]) -> Tuple[List[Path], Optional[Path]]:
    """Files with clusters, by size, and the index file of the subset if it is there."""
    if subset is not None and subset not in SUBSETS:
        raise ValueError(f"hydronet has no subset {subset!r}; data.subset is one of {', '.join(SUBSETS)}.")
    if path is None:
        path = _downloaded(cache)
    if path.is_file():
        if subset:
            raise ValueError(f"hydronet: {path} is one file; pass the folder of all for data.subset={subset}.")
        return [path], None
    most = SUBSETS[subset][0] if subset else _LARGEST
    files = {
        size: find_file(path, [f"W{size}_geoms_all.{suffix}" for suffix in ("zip", "xyz")], _PLACES)
        for size in range(_SMALLEST, most + 1)
    }
    missing = [f"W{size}_geoms_all.zip" for size, file in files.items() if file is None]
    if missing and (subset or len(missing) == len(files)):
        which = f"{missing[0]} to {missing[-1]}" if len(missing) > 2 else " and ".join(missing)
        raise ValueError(
            f"hydronet: {path} lacks {which}; unpack {_ARCHIVE}.zip ({URL}) there, or pass the folder that has them."
        )
    split = None
    if subset:
        name = f"split_00_{subset}.npz"
        split = find_file(path, [name], _SPLIT_PLACES)
        if subset == "small" and split is None:
            raise ValueError(f"hydronet: {path} lacks {name}; unpack {_SPLITS}.zip ({SPLITS_URL}) there.")
    return [file for file in files.values() if file is not None], split


def _downloaded(cache: Path) -> Path:
    """Folder with the published files."""
    folder = cache / "hydronet-raw"
    for name, url in ((_ARCHIVE, URL), (_SPLITS, SPLITS_URL)):
        fetch("hydronet", url, cache / f"{name}.zip", folder / name)
    return folder


def _official(split: Path, count: int, expected: int) -> np.ndarray:
    """[I] uint8: 0 for train_idx, 1 for val_idx, 2 for neither.

    Raises:
        ValueError: these are not the clusters that the file numbers, or it is no index file.
    """
    if count != expected:
        raise ValueError(f"{split} numbers the {expected:,} published clusters, but {count:,} are here.")
    part = np.full(count, 2, np.uint8)
    try:
        with open_arrays(split) as indices:
            for value, key in enumerate(("train_idx", "val_idx")):
                part[indices[key]] = value
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{split} is no index file with train_idx and val_idx ({error}).") from None
    return part
