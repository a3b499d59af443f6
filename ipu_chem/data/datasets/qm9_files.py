"""QM9's raw files: in a given folder, or downloaded from the addresses PyG takes them from."""

import shutil
from pathlib import Path
from typing import NamedTuple, Optional

from ipu_chem.data.download import download, find_file, unpack
from packing.files import atomic_folder

_ARCHIVE = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip"
_SKIP = "https://ndownloader.figshare.com/files/3195404"
_PLACES = ("", "raw")
_HELP = (
    f"fetch gdb9.sdf and gdb9.sdf.csv ({_ARCHIVE}) and uncharacterized.txt ({_SKIP}) by hand and pass their folder as "
    "path"
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
    geometries = find_file(path, ["qm9_geometries.npz", "qm9_geometries.npz.gz"], _PLACES)
    if geometries is not None:
        tables = sorted(path.glob("qm9_all19_properties_*.csv*"))
        return RawFiles(geometries=geometries, table=tables[0] if tables else None)
    names = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
    files = RawFiles(*(find_file(path, [name, f"{name}.gz"], _PLACES) for name in names))
    missing = [name for name, file in zip(names, files) if file is None]
    if missing:
        raise ValueError(f"qm9: {path} lacks {', '.join(missing)}; {_HELP}.")
    return files


def _downloaded(cache: Path) -> Path:
    """Folder with PyG's raw files, whole or not there at all."""
    folder = cache / "qm9-raw"
    if not folder.is_dir():
        archive = download("qm9", _ARCHIVE, cache / "qm9.zip")
        skip = download("qm9", _SKIP, cache / "uncharacterized.txt")
        with atomic_folder(folder) as temporary:
            unpack("qm9", archive, temporary / "raw")
            shutil.move(str(skip), str(temporary / skip.name))
        archive.unlink()
    return folder
