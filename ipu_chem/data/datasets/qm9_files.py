"""Where QM9's raw files lie: in a given folder, or downloaded from the addresses PyG takes them from.

On data's way: [raw files] -> qm9 -> store.
"""

import sys
from pathlib import Path
from typing import NamedTuple, Optional
from zipfile import BadZipFile

from packing.files import atomic_folder

_HELP = (
    "fetch gdb9.sdf and gdb9.sdf.csv (https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip) "
    "and uncharacterized.txt (https://ndownloader.figshare.com/files/3195404) by hand and pass their folder as path"
)


class RawFiles(NamedTuple):
    """The files of one layout; those of the other are None, and so is a table that the npz layout can miss."""

    sdf: Optional[Path] = None
    table: Optional[Path] = None
    uncharacterized: Optional[Path] = None
    geometries: Optional[Path] = None


def find_files(path: Optional[Path], cache: Path) -> RawFiles:
    """The raw files in ``path``, or in the cache's download, which is made if need be.

    Raises:
        ValueError: files are missing, or cannot be downloaded; names them and where they are.
    """
    if path is None:
        path = _downloaded(cache)
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise ValueError(f"qm9: there is no folder {path}; {_HELP}.")
    geometries = _find(path, "qm9_geometries.npz")
    if geometries is not None:
        tables = sorted(path.glob("qm9_all19_properties_*.csv*"))
        return RawFiles(geometries=geometries, table=tables[0] if tables else None)
    names = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
    files = RawFiles(*(_find(path, name) for name in names))
    missing = [name for name, file in zip(names, files) if file is None]
    if missing:
        raise ValueError(f"qm9: {path} lacks {', '.join(missing)}; {_HELP}.")
    return files


def _find(folder: Path, name: str) -> Optional[Path]:
    for candidate in (folder / name, folder / f"{name}.gz", folder / "raw" / name, folder / "raw" / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _downloaded(cache: Path) -> Path:
    """Folder with PyG's raw files, whole or not there at all."""
    folder = cache / "qm9-raw"
    if folder.is_dir():
        return folder
    try:
        from torch_geometric.data import download_url, extract_zip
        from torch_geometric.datasets import QM9
    except ImportError:
        raise ValueError(f"qm9: downloading needs torch_geometric; pip install torch-geometric, or {_HELP}.") from None
    print(f"qm9: downloading into {folder}", file=sys.stderr)
    try:
        with atomic_folder(folder) as temporary:
            archive = Path(download_url(QM9.raw_url, str(temporary)))
            extract_zip(str(archive), str(temporary))
            archive.unlink()
            download_url(QM9.raw_url2, str(temporary), filename="uncharacterized.txt")
    except (OSError, BadZipFile) as error:
        raise ValueError(f"qm9: the download failed ({error}); {_HELP}.") from None
    return folder
