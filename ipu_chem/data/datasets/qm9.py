"""QM9: 130,831 molecules of up to nine C, N, O, F atoms with 19 properties from B3LYP/6-31G(2df,p).

R. Ramakrishnan et al., "Quantum chemistry structures and properties of 134 kilo molecules", Sci. Data 1, 140022
(2014). Targets, their order and their units are those of torch_geometric.datasets.QM9: energies in eV.

Two layouts of raw data are read: PyG's (gdb9.sdf, gdb9.sdf.csv, uncharacterized.txt) and a folder with
qm9_geometries.npz, which holds most geometries with their electronic energy and, beside it, a table of all
properties for some. Only elements and coordinates are taken from the SDF: its bonds are known to be wrong
for part of the molecules, and molecules that a sanitizing reader refuses are part of the data set.
"""

import csv
import itertools
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union, cast

import numpy as np

from ipu_chem.data.datasets.info import check_limit, failures_info, target_info
from ipu_chem.data.download import download, find_file, unpack
from ipu_chem.data.files.sdf import sdf_records
from ipu_chem.data.files.table import Failure
from ipu_chem.data.files.text import open_text
from ipu_chem.data.molecule import Molecule, molecules_to_store, rdkit_arrays
from packing.arrays import open_arrays
from packing.files import atomic_folder, file_digest
from packing.store import Store
from packing.types import offsets_of

# As torch_geometric.datasets.qm9 has them, so that figures can be compared to the last digit.
_HARTREE = 27.211386246  # eV
_KCAL_PER_MOL = 0.04336414  # eV


_ARCHIVE = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip"
_SKIP = "https://ndownloader.figshare.com/files/3195404"
_PLACES = ("", "raw")
_HELP = (
    f"fetch gdb9.sdf and gdb9.sdf.csv ({_ARCHIVE}) and uncharacterized.txt ({_SKIP}) by hand and pass their folder as "
    "path"
)


class Target(NamedTuple):
    """One property: unit in the store, whether it is a sum over atoms, and factor from the raw table's unit."""

    name: str
    unit: str
    extensive: bool
    factor: float = 1.0


TARGETS = (
    Target("mu", "D", False),  # dipole moment
    Target("alpha", "a0^3", True),  # isotropic polarizability
    Target("homo", "eV", False, _HARTREE),
    Target("lumo", "eV", False, _HARTREE),
    Target("gap", "eV", False, _HARTREE),
    Target("r2", "a0^2", True),  # electronic spatial extent
    Target("zpve", "eV", True, _HARTREE),  # zero-point vibrational energy
    Target("u0", "eV", True, _HARTREE),  # internal energy at 0 K
    Target("u298", "eV", True, _HARTREE),  # internal energy at 298.15 K
    Target("h298", "eV", True, _HARTREE),  # enthalpy
    Target("g298", "eV", True, _HARTREE),  # free energy
    Target("cv", "cal/mol/K", True),  # heat capacity
    Target("u0_atom", "eV", True, _KCAL_PER_MOL),  # the same as energies of atomization
    Target("u298_atom", "eV", True, _KCAL_PER_MOL),
    Target("h298_atom", "eV", True, _KCAL_PER_MOL),
    Target("g298_atom", "eV", True, _KCAL_PER_MOL),
    Target("A", "GHz", False),  # rotational constants
    Target("B", "GHz", False),
    Target("C", "GHz", False),
)
# Electronic energy, u0 - zpve; only the npz layout has it.
_E_EL = Target("e_el", "eV", True, _HARTREE)

# Energies of the free atoms H, C, N, O, F in eV, from the authors' atomref.txt as converted in
# torch_geometric.datasets.qm9.atomrefs (PyG 2.8); zpve and cv of a free atom are 0 there by definition.
_ELEMENTS = ("1", "6", "7", "8", "9")
_ATOM_REFERENCES = {
    "zpve": (0.0, 0.0, 0.0, 0.0, 0.0),
    "u0": (-13.61312172, -1029.86312267, -1485.30251237, -2042.61123593, -2713.48485589),
    "u298": (-13.5745904, -1029.82456413, -1485.26398105, -2042.5727046, -2713.44632457),
    "h298": (-13.54887564, -1029.79887659, -1485.2382935, -2042.54701705, -2713.42063702),
    "g298": (-13.90303183, -1030.25891228, -1485.71166277, -2043.01812778, -2713.88796536),
    "cv": (0.0, 0.0, 0.0, 0.0, 0.0),
    # A free atom has no zero-point energy: its u0 is its electronic energy.
    "e_el": (-13.61312172, -1029.86312267, -1485.30251237, -2042.61123593, -2713.48485589),
}


class _Files(NamedTuple):
    """The files of one layout; those of the other are None, and so is a table that the npz layout can miss."""

    sdf: Optional[Path] = None
    table: Optional[Path] = None
    uncharacterized: Optional[Path] = None
    geometries: Optional[Path] = None


class _Raw(NamedTuple):
    """Molecules as read: gdb numbers, and labels [I, T] in the store's units."""

    molecules: List[Molecule]
    ids: np.ndarray
    labels: np.ndarray
    failures: List[Failure]


def inputs(path: Optional[Path], cache: Path) -> Dict[str, Any]:
    """Checksums of the raw files, fetched first where ``path`` is None."""
    return {file.name: file_digest(file) for file in _find(path, cache) if file is not None}


def prepare(
    path: Optional[Path],
    cache: Path,
    targets: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    keep_uncharacterized: bool = False,
) -> Store:
    """Read QM9.

    Args:
        path: folder with either layout, files plain or gzipped, also in its subfolder raw/; None downloads.
        cache: folder in which a download is kept.
        targets: names of the targets to keep, in this order; None keeps all.
        limit: take the first molecules of the file only.
        keep_uncharacterized: keep the 3,054 molecules whose geometry failed the authors' consistency check.

    Returns:
        z, pos, y [I, T], charge, spin, id [I] (gdb number), name ("gdb_1").

    Raises:
        ValueError: files are missing or do not belong together, or a target is unknown.
    """
    files = _find(path, cache)
    known = TARGETS if files.geometries is None else (*TARGETS, _E_EL)
    chosen = _choose(targets, [target.name for target in known])
    check_limit("qm9", limit)
    raw = _read_npz(files, limit) if files.geometries else _read_sdf(files, limit, keep_uncharacterized)

    labels = raw.labels[:, chosen]
    used = [known[column] for column in chosen]
    has_label = np.isfinite(labels).any(axis=1)
    unlabeled = [
        Failure(int(raw.ids[row]), raw.molecules[row].name, "no label for any of the targets")
        for row in np.flatnonzero(~has_label)
    ]
    keep = np.flatnonzero(has_label)
    references = {
        target.name: dict(zip(_ELEMENTS, _ATOM_REFERENCES[target.name]))
        for target in used
        if target.name in _ATOM_REFERENCES
    }
    info = {
        "name": "qm9",
        "targets": [target_info(target.name, target.unit, target.extensive) for target in used],
        "level": "B3LYP/6-31G(2df,p), geometries and properties",
        "source": ", ".join(file.name for file in files if file is not None),
        "licence": "CC0 (figshare collection 978904)",
        "citation": [
            "R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld, Sci. Data 1, 140022 (2014), "
            "doi:10.1038/sdata.2014.22",
            "L. Ruddigkeit, R. van Deursen, L. C. Blum, J.-L. Reymond, J. Chem. Inf. Model. 52, 2864 (2012) (GDB-17)",
        ],
        "options": {"limit": limit, "keep_uncharacterized": keep_uncharacterized},
        "failures": failures_info(raw.failures + unlabeled),
        "reference_energies": references,
    }
    # All of GDB-17's molecules are neutral, and computed as singlets.
    molecules = [raw.molecules[row]._replace(y=labels[row], charge=0, spin=0) for row in keep]
    return molecules_to_store(molecules, info, fields={"id": raw.ids[keep]})


def _choose(targets: Union[str, Sequence[str], None], known: List[str]) -> List[int]:
    """Columns of the targets asked for."""
    if targets is None:
        return list(range(len(known)))
    targets = [targets] if isinstance(targets, str) else list(targets)
    unknown = [name for name in targets if name not in known]
    if unknown or not targets or len(set(targets)) < len(targets):
        wrong = f"unknown target {unknown[0]!r}" if unknown else "targets are one or more different names"
        raise ValueError(f"qm9: {wrong}; this copy has {', '.join(known)}.")
    return [known.index(name) for name in targets]


def _read_sdf(files: _Files, limit: Optional[int], keep_uncharacterized: bool) -> _Raw:
    """PyG's layout: record k of the SDF and row k of the table are one molecule."""
    rows = _read_table(cast(Path, files.table))
    skip = set() if keep_uncharacterized else _read_skip(files.uncharacterized)
    molecules, ids, kept, failures = [], [], [], []
    records = 0
    for index, mol in enumerate(itertools.islice(sdf_records(cast(Path, files.sdf)), limit)):
        records += 1
        name = mol.GetProp("_Name").strip()
        if index >= len(rows) or rows[index]["mol_id"] != name:
            there = f"row {rows[index]['mol_id']}" if index < len(rows) else "nothing"
            raise ValueError(f"{files.table} has {there} where {files.sdf} has {name}; they do not belong together.")
        if index + 1 in skip:
            failures.append(Failure(index + 1, name, "uncharacterized: failed the authors' consistency check"))
            continue
        molecules.append(Molecule(*rdkit_arrays(mol), None, name))
        ids.append(_gdb_number(name))
        kept.append(index)
    if limit is None and records != len(rows):
        raise ValueError(f"{files.sdf} has {records:,} records, {files.table} {len(rows):,} rows; one of them is cut.")
    labels = np.array([_labels(rows[index]) for index in kept]).reshape(-1, len(TARGETS))
    return _Raw(molecules, np.array(ids, np.int64), labels, failures)


def _read_npz(files: _Files, limit: Optional[int]) -> _Raw:
    """Geometries with electronic energies, and all 19 properties for the molecules of a table."""
    with open_arrays(cast(Path, files.geometries)) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    ids = data["id"].astype(np.int64)[:limit]
    offsets = offsets_of(data["N"])
    # Coordinates are kept as 24-bit integers of 1e-4 Å.
    pos = ((data["R_hi"].astype(np.int32) << 16) | data["R_lo"]) / 1e4
    molecules = [
        Molecule(data["Z"][start:stop], pos[start:stop], None, f"gdb_{number}")
        for number, start, stop in zip(ids, offsets[:-1], offsets[1:])
    ]
    labels = np.full((len(ids), len(TARGETS) + 1), np.nan)
    column = {target.name: index for index, target in enumerate(TARGETS)}
    labels[:, -1] = data["E_el"][:limit] * _HARTREE
    labels[:, column["mu"]] = np.linalg.norm(data["dipole"][:limit].astype(np.float64), axis=1)
    for index, name in enumerate(("homo", "lumo", "gap")):
        labels[:, column[name]] = data["homo_lumo_gap"][:limit, index].astype(np.float64) * _HARTREE
    if files.table is not None:
        row_of = {int(number): row for row, number in enumerate(ids)}
        for row in _read_table(files.table):
            index = row_of.get(_gdb_number(row["mol_id"]))
            if index is not None:
                labels[index, :-1] = _labels(row)
    return _Raw(molecules, ids, labels, [])


def _labels(row: Dict[str, str]) -> List[float]:
    """The 19 targets of a row of the property table, NaN where a field is empty."""
    return [float(row[target.name] or "nan") * target.factor for target in TARGETS]


def _gdb_number(name: str) -> int:
    """7 of "gdb_7"."""
    try:
        return int(name.rpartition("_")[2])
    except ValueError:
        raise ValueError(f"qm9: {name!r} is no gdb number such as gdb_7; is this QM9?") from None


def _read_table(path: Path) -> List[Dict[str, str]]:
    with open_text(path) as file:
        reader = csv.DictReader(file)
        missing = {"mol_id", *(target.name for target in TARGETS)} - set(reader.fieldnames or [])
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}; it is not QM9's property table.")
        return list(reader)


def _read_skip(path: Optional[Path]) -> set:
    """Positions in the SDF, from 1, of the molecules to leave out: the rows that begin with a number."""
    with open_text(cast(Path, path)) as file:
        words = (line.split(None, 1) for line in file)
        return {int(word[0]) for word in words if word and word[0].isdecimal()}


def _find(path: Optional[Path], cache: Path) -> _Files:
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
        return _Files(geometries=geometries, table=tables[0] if tables else None)
    names = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
    files = _Files(*(find_file(path, [name, f"{name}.gz"], _PLACES) for name in names))
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
