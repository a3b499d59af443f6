"""file: molecules and labels of the user's own, from one .csv or .smi (SMILES), .sdf, .xyz, .extxyz, .db or .npz file.

SMILES are embedded as nci3d's are; coordinates of 3D files are taken as they stand, and forces with them, in the unit
of the energies per Å. The file says neither the unit of its labels nor whether they grow with the molecule, so the
user does.
"""

from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple

import numpy as np

from ipu_chem.data.datasets.info import check_limit, failures_info, own_targets
from ipu_chem.data.datasets.own_structures import check_wanted, read_own
from ipu_chem.data.energy_units import unit_doubts
from ipu_chem.data.files.layout import TableOptions, read_layout
from ipu_chem.data.files.numbers import read_labels
from ipu_chem.data.files.structures import Wanted
from ipu_chem.data.files.table import Entry, Failure, read_smiles_file
from ipu_chem.data.files.text import existing_file, holds_smiles, plain_suffix
from ipu_chem.data.fragments import ERROR, KEEP, SEVERAL
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.smiles import Embedding, embed_many
from ipu_chem.metrics import BINARY
from packing.files import file_digest
from packing.store import Store

# Raised whenever a file of SMILES would be read as others than before.
_READER = 2
_STRUCTURES = 2  # likewise, of files of structures


def inputs(path: Optional[Path], cache: Path) -> Dict[str, Any]:
    """Checksum of the file, and of the RDKit that embeds its SMILES."""
    file = _file(path)
    found: Dict[str, Any] = {"file": file_digest(file)}
    if holds_smiles(file):
        import rdkit

        found.update(rdkit=rdkit.__version__, reader=_READER)
    else:
        found.update(structures=_STRUCTURES)
    return found


def prepare(
    path: Optional[Path],
    cache: Path,
    target: Optional[str] = None,
    unit: str = "",
    extensive: bool = True,
    kind: Literal["number", "binary"] = "number",
    force_key: str = "",
    length_unit: str = "",
    charge: Optional[int] = None,
    multiplicity: Optional[int] = None,
    limit: Optional[int] = None,
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
    smiles_column: str = "",
    delimiter: str = "",
    encoding: str = "",
    fragments: str = KEEP,
) -> Store:
    """Read a file of molecules, with labels for training, or without to see how they pack.

    Args:
        path: .csv, .tsv or .txt with a SMILES column, .smi, .sdf, .xyz or .extxyz, also gzipped, .db of ASE, .npz of
            frames or padded molecules.
        cache: not used.
        target: columns, properties or keys that hold the labels, separated by commas; None reads none.
        unit: of the labels. Energies are in eV, meV, Hartree (Ha, Eh), kcal/mol, kJ/mol or cm-1, and a file that states
            another one is converted; for anything else it is a word to print.
        extensive: whether they are sums over atoms.
        kind: number, or binary for classes that are 0 or 1.
        force_key: name of the column of forces, of the first label; empty takes those that by their name belong to a
            label that is called an energy: forces or force of energy, dft_forces of dft_energy.
        length_unit: of the positions, and by which forces are: A, bohr, nm or pm; empty takes what the file states, or
            else Å.
        charge: e, of structures whose file states none; None leaves it unknown.
        multiplicity: 2S + 1, 1 where all electrons are paired, of structures whose file states none; None leaves it
            unknown.
        limit: take the first molecules only.
        seed: of the embeddings.
        workers: processes that embed; None takes all cores.
        progress: show a bar.
        smiles_column: column of a table that holds the molecules, if it is not called so.
        delimiter: between the cells of a table: comma, semicolon, tab or another character; empty finds it.
        encoding: of a file of SMILES, such as cp1252; empty finds it.
        fragments: keep (leave molecules of several out), largest or error.

    Returns:
        z, pos, y [I, T] with labels, name, and smiles (canonical) for a file of SMILES; forces, charge and spin where
        the file has them; row [I] int64, the row or frame of the file from 0, and ``info["rows"]``, how many it has, 0
        if the rest was not counted.

    Raises:
        ValueError: no file, an unknown column or property, forces without an energy, or nothing left; names it.
    """
    file = _file(path)
    check_limit(str(file), limit)
    names = [name.strip() for name in (target or "").split(",") if name.strip()]
    smiles: Optional[List[str]] = None
    failures: List[Failure] = []
    table = TableOptions(smiles_column, delimiter, encoding, "data.")
    if table.given() and not holds_smiles(file):
        raise ValueError(f"{file}: data.smiles_column, data.delimiter and data.encoding are for files of SMILES.")
    if names and plain_suffix(file) == ".smi":
        raise ValueError(f"{file}: a .smi file holds no labels; write SMILES and labels as columns of a .csv.")
    targets = own_targets(names, unit, extensive, kind)
    wanted = Wanted(names, force_key, unit, length_unit, charge, multiplicity, "--data.")
    check_wanted(file, wanted, holds_smiles(file))
    forces: Dict[str, Any] = {}
    if holds_smiles(file):
        entries = read_smiles_file(file, table)
        count, entries = len(entries), entries[:limit]
        of_line = _labels(file, table, names, limit or 0, kind == BINARY)
        embeddings, failures = _embed(file, entries, fragments, seed, workers, progress)
        # Without labels of the file there are none: the MMFF94 energy of the embedding is not the user's.
        molecules = [one.molecule._replace(y=of_line.get(one.line)) for one in embeddings]
        smiles = [one.smiles for one in embeddings]
        rows = np.searchsorted([entry.line for entry in entries], [one.line for one in embeddings])
    else:
        found = read_own(file, wanted, limit)
        molecules = found.molecules
        targets = [{**one, "unit": stated or one["unit"]} for one, stated in zip(targets, found.units)]
        forces = {"forces_of": found.forces_of} if found.forces_of else {"other_forces": found.passed_over}
        rows = np.arange(len(molecules))  # frames, none of which is left out
        count = 0 if len(molecules) == limit else len(molecules)  # 0: nobody has counted the rest
    what = dict(target=target, unit=unit, extensive=extensive, kind=kind, force_key=force_key)
    what.update(length_unit=length_unit, charge=charge, multiplicity=multiplicity)
    info: Dict[str, Any] = {
        "name": file.name,
        "targets": targets,
        "level": "as given",
        "source": str(file),
        "licence": "the user's own",
        "citation": [],
        "options": {**what, "limit": limit, "seed": seed, "fragments": fragments},
        "rows": count,
        "failures": failures_info(failures),
        **forces,
    }
    for molecule in molecules if kind == BINARY else ():
        if molecule.y is not None and not np.isin(molecule.y[np.isfinite(molecule.y)], (0, 1)).all():
            raise ValueError(f"{file}: {molecule.name} has {target}={molecule.y}, but a class is 0 or 1; write it so.")
    store = molecules_to_store(molecules, info, smiles, {"row": rows})
    for doubt in unit_doubts(store):
        print(f"{file.name}: {doubt}")
    return store


def _embed(
    file: Path, entries: List[Entry], fragments: str, seed: int, workers: Optional[int], progress: bool
) -> Tuple[List[Embedding], List[Failure]]:
    """Molecules in 3D, and rows without one; the first of several fragments is an error if that is asked for."""
    embeddings, failures = embed_many(entries, seed, workers, progress, fragments=fragments)
    several = [failure for failure in failures if failure.reason.startswith(SEVERAL)] if fragments == ERROR else []
    if several:
        raise ValueError(
            f"{file} line {several[0].line} ({several[0].smiles}): {SEVERAL}, as {len(several):,} rows have; set "
            "data.fragments to largest, or to keep, which leaves them out."
        )
    if not embeddings:
        raise ValueError(f"{file}: no molecule could be embedded; the first failed with: {failures[0].reason}.")
    cut = sum(one.cut for one in embeddings)
    if cut:
        print(f"{file.name}: of {cut:,} molecules of several fragments the largest is taken")
    return embeddings, failures


def _labels(file: Path, table: TableOptions, names: List[str], limit: int, classes: bool) -> Dict[int, np.ndarray]:
    """Line -> labels [T] of a table; an empty cell is a label that is missing."""
    if not names:
        return {}
    lines, labels = read_labels(file, read_layout(file, table), names, limit, classes)
    return dict(zip(map(int, lines), labels))


def _file(path: Optional[Path]) -> Path:
    if path is None:
        raise ValueError("data.name=file reads a file of your own; name it with data.path.")
    return existing_file(path)
