"""Molecules from 3D files: xyz, extxyz and ASE's data bases through ASE, SDF through RDKit."""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, cast

import numpy as np

from ipu_chem.data.files.text import existing_file, open_bytes, plain_suffix
from ipu_chem.data.molecule import Molecule, checked, from_rdkit
from packing.files import PathLike

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_SUFFIXES = (".xyz", ".extxyz", ".sdf", ".db")


def read_molecules(path: PathLike, target: Optional[str] = None, force_key: str = "") -> List[Molecule]:
    """All molecules of a file; its suffix (.xyz, .extxyz, .sdf, also with .gz, or .db) says how to read it.

    Args:
        path: the file.
        target: what to take as labels y: keys of an xyz frame's comment line or calculator, of a data base's rows, or
            SDF properties, separated by commas. None reads no labels.
        force_key: what to take as forces where a frame or row has it; SDF files have none. Empty reads none.

    Raises:
        ValueError: no such file, nothing in it, another suffix, a molecule that cannot be used, or one
            without ``target``.
    """
    suffix = plain_suffix(Path(path))
    if suffix in (".xyz", ".extxyz"):
        return read_xyz(path, target, force_key)
    if suffix == ".db":
        return read_db(path, target, force_key)
    if suffix == ".sdf":
        return read_sdf(path, target)
    hint = "; SMILES have no coordinates, embed them first (ipu_chem.data.smiles)" if suffix in (".smi", ".csv") else ""
    raise ValueError(f"{path}: molecules are read from {', '.join(_SUFFIXES)} files, also gzipped{hint}.")


def read_xyz(path: PathLike, target: Optional[str] = None, force_key: str = "") -> List[Molecule]:
    """All frames of an xyz or extxyz file; ``charge``, and ``spin`` or ``multiplicity``, of its comment lines count.

    Args:
        path: the file, coordinates in Å.
        target: keys of the comment line or of the calculator ASE makes of it, such as "energy".
        force_key: column of forces, or their key in the calculator; empty reads none.

    Raises:
        ValueError: as `read_molecules`; also for periodic cells, which only some models could take.
    """
    import ase.io

    path = existing_file(path)
    molecules: List[Molecule] = []
    frames = ase.io.iread(str(path), index=":", format="extxyz")
    while True:
        name = f"{path.name} frame {len(molecules)}"
        try:
            # With a format given, ASE yields Atoms, never a list of them.
            atoms = cast(Any, next(frames, None))
        except Exception as error:  # ASE has no common class of its parse errors
            raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error}); is the file cut?") from None
        if atoms is None:
            break
        molecules.append(_from_ase(atoms, atoms.info, target, force_key, name))
    if not molecules:
        raise ValueError(f"{path} holds no frames.")
    return molecules


def read_db(path: PathLike, target: Optional[str] = None, force_key: str = "") -> List[Molecule]:
    """All rows of an ASE data base (SQLite), also SchNetPack's, whose labels are in the data of the rows.

    Args:
        path: the file, coordinates in Å.
        target: keys of a row or of its data, such as "energy".
        force_key: likewise, of forces; empty reads none.

    Raises:
        ValueError: as `read_xyz`.
    """
    import ase.db

    path = existing_file(path)
    molecules: List[Molecule] = []
    try:
        with ase.db.connect(str(path)) as base:
            for row in cast(Any, base).select():
                # ASE's own property "charge", a sum over atoms, hides a key of that name but for the row's __dict__.
                values = {key: vars(row).get(key, value) for key, value in row.key_value_pairs.items()}
                values.update(row.data)
                molecules.append(_from_ase(row.toatoms(), values, target, force_key, f"{path.name} row {row.id}"))
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no ASE data base ({error}).") from None
    if not molecules:
        raise ValueError(f"{path} holds no rows.")
    return molecules


def _from_ase(atoms: Any, info: Dict[str, Any], target: Optional[str], force_key: str, name: str) -> Molecule:
    """One frame or row."""
    if atoms.pbc.any():
        raise ValueError(
            f'{name} has a periodic cell; only free molecules are supported (write pbc="F F F" if it is one).'
        )
    values = {**info, **(atoms.calc.results if atoms.calc is not None else {})}
    y = _label(values, target, name) if target is not None else None
    forces = atoms.arrays[force_key] if force_key in atoms.arrays else values.get(force_key)
    charge, spin = _whole(info, "charge", name), _whole(info, "spin", name)
    multiplicity = _whole(info, "multiplicity", name)
    if multiplicity is not None:
        if spin is not None and spin != multiplicity - 1:
            raise ValueError(f"{name}: spin={spin} and multiplicity={multiplicity}; spin is the multiplicity less 1.")
        spin = multiplicity - 1
    name = str(info.get("name", name))
    return checked(atoms.numbers, atoms.positions, y, name, forces, charge, spin)


def _whole(values: Dict[str, Any], key: str, name: str) -> Optional[int]:
    """A whole number of a comment line or row; None where it is not there."""
    if key not in values:
        return None
    try:
        number = float(np.asarray(values[key], np.float64).reshape(()))
    except (TypeError, ValueError):
        number = np.nan
    if not number.is_integer():
        raise ValueError(f"{name}: {key}={values[key]} is no whole number.")
    return int(number)


def read_sdf(path: PathLike, target: Optional[str] = None) -> List[Molecule]:
    """All records of an SDF file; only elements and coordinates are used, so odd valences do no harm.

    Args:
        path: the file.
        target: properties of every record.

    Raises:
        ValueError: as `read_molecules`; also for 2D drawings and records without their hydrogens.
    """
    path = existing_file(path)
    molecules = []
    for index, mol in enumerate(sdf_records(path), start=1):
        title = mol.GetProp("_Name").strip()
        name = title or f"{path.name} record {index}"
        _check_complete(mol, name)
        y = _label(mol.GetPropsAsDict(), target, name) if target is not None else None
        molecules.append(from_rdkit(mol, name)._replace(y=y))
    if not molecules:
        raise ValueError(f"{path} holds no records.")
    return molecules


def sdf_records(path: Path) -> Iterator["Mol"]:
    """RDKit molecules of an SDF file as written: not sanitized, hydrogens kept.

    Raises:
        ValueError: a record cannot be parsed.
    """
    from rdkit import Chem, rdBase

    # RDKit's log would say it again, and a generator must not hold the log blocked between two records.
    with open_bytes(path) as file:
        supplier = Chem.ForwardSDMolSupplier(file, sanitize=False, removeHs=False)
        index = 0
        while True:
            index += 1
            with rdBase.BlockLogs():
                mol = next(supplier, "end")
            if mol == "end":
                return
            if mol is None:
                raise ValueError(f"{path}: record {index} cannot be parsed; repair it or take it out.")
            yield mol


def _check_complete(mol: "Mol", name: str) -> None:
    """Refuse drawings and bare skeletons: they would be predicted without any complaint."""
    info = mol.GetProp("_MolFileInfo") if mol.HasProp("_MolFileInfo") else ""
    if info[20:22] == "2D":
        raise ValueError(f"{name} is a 2D drawing; write 3D coordinates (RDKit: AddHs, EmbedMolecule).")
    if mol.GetNumAtoms() > 1 and all(atom.GetAtomicNum() != 1 for atom in mol.GetAtoms()):
        mol.UpdatePropertyCache(strict=False)
        missing = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
        if missing:
            raise ValueError(
                f"{name} holds no hydrogens but has room for {missing}; write the file with explicit hydrogens."
            )


def _label(values: Dict[str, Any], target: str, name: str) -> np.ndarray:
    """[T] float64 from the keys in ``target``, separated by commas."""
    labels = []
    for key in target.split(","):
        key = key.strip()
        if key not in values:
            raise ValueError(f"{name} has no {key!r}; it has {', '.join(sorted(values)) or 'no labels at all'}.")
        try:
            labels.append(np.asarray(values[key], np.float64).reshape(-1))
        except (TypeError, ValueError):
            raise ValueError(f"{name}: {key}={values[key]!r} is not a number.") from None
    return np.concatenate(labels)
