"""SMILES to 3D: RDKit's ETKDGv3 embedding, MMFF94 minimization, and the MMFF94 energy as a label.

S. Wang et al., "Improving Conformer Generation for Small Rings and Macrocycles Based on Distance Geometry and
Experimental Torsional-Angle Preferences", J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3); T. A. Halgren,
"Merck molecular force field. I.", J. Comput. Chem. 17, 490 (1996) (MMFF94).
"""

import csv
from functools import partial
from pathlib import Path
from typing import IO, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.files import existing_file, open_text, plain_suffix
from ipu_chem.data.molecule import Molecule, from_rdkit
from ipu_chem.parallel import in_parallel
from packing.files import PathLike

# Attempts at an embedding, first from the distance bounds, then from random coordinates.
_ATTEMPTS = (10, 20)
_MINIMISER_STEPS = 1000
# kcal/mol/Å; a converged minimization ends below 0.03, a broken one (a straight angle) at thousands.
_LARGEST_FORCE = 0.1
_SMILES_COLUMNS = ("smiles", "canonical_smiles", "smile")
_NAME_COLUMNS = ("name", "id", "mol_id", "molecule_id")
# Below this many molecules, starting processes costs more than it gains.
_FEW = 16


class SmilesLine(NamedTuple):
    """One molecule of a SMILES file: line number from 1, SMILES, and its name (the line number without one)."""

    line: int
    smiles: str
    name: str


class Failure(NamedTuple):
    """One molecule that was left out, and why."""

    line: int
    smiles: str
    reason: str


class Embedding(NamedTuple):
    """One molecule in 3D; ``molecule.y`` is [1], its MMFF94 energy in kcal/mol at this geometry."""

    molecule: Molecule
    smiles: str  # canonical
    line: int


def embed_smiles(
    smiles: str, seed: int = 0, name: str = "", line: int = 0, max_atoms: Optional[int] = None
) -> Embedding:
    """A local minimum of MMFF94 and its energy; the same for the same SMILES, seed and RDKit version.

    Args:
        smiles: one molecule in one fragment.
        seed: of the embedding, 0 or more.
        name: of the molecule; the SMILES when empty.
        line: passed on.
        max_atoms: refuse larger molecules, hydrogens included, before embedding them.

    Raises:
        ValueError: the reason alone, such as "no MMFF94 parameters".
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import ChemicalForceFields, rdDistGeom

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            raise ValueError("RDKit cannot parse the SMILES")
        fragments = len(Chem.GetMolFrags(mol))
        if fragments > 1:
            raise ValueError(f"several fragments ({fragments}); give one molecule per line")
        canonical = Chem.MolToSmiles(mol)
        mol = Chem.AddHs(mol)
        if max_atoms is not None and mol.GetNumAtoms() > max_atoms:
            raise ValueError(f"more than {max_atoms} atoms with hydrogens")
        if not ChemicalForceFields.MMFFHasAllMoleculeParams(mol):
            raise ValueError("no MMFF94 parameters")

        options = rdDistGeom.ETKDGv3()
        options.randomSeed = seed + 1  # to RDKit's generator 0 and 1 are the same seed
        for attempts, random in zip(_ATTEMPTS, (False, True)):
            options.maxIterations, options.useRandomCoords = attempts, random
            if rdDistGeom.EmbedMolecule(mol, options) >= 0:
                break
        else:
            raise ValueError(f"no 3D embedding in {sum(_ATTEMPTS)} attempts")

        properties = ChemicalForceFields.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
        field = ChemicalForceFields.MMFFGetMoleculeForceField(mol, properties)
        field.Initialize()
        if field.Minimize(maxIts=_MINIMISER_STEPS) != 0:
            raise ValueError(f"MMFF94 minimization not converged in {_MINIMISER_STEPS} steps")
        # The minimizer also stops, and reports success, where an angle is straight and its gradient breaks down.
        force = float(np.abs(field.CalcGrad()).max())
        if not force <= _LARGEST_FORCE:
            raise ValueError(f"MMFF94 minimization stopped off a minimum (a force above {_LARGEST_FORCE} kcal/mol/Å)")
        molecule = from_rdkit(mol, name or smiles)._replace(
            y=np.array([field.CalcEnergy()]),
            charge=Chem.GetFormalCharge(mol),
            spin=sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()),
        )
        return Embedding(molecule, canonical, line)


def embed_many(
    smiles: Sequence[Union[str, SmilesLine]],
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
    strict: bool = False,
    max_atoms: Optional[int] = None,
) -> Tuple[List[Embedding], List[Failure]]:
    """Embed molecules in parallel processes; the result does not depend on how many there are.

    Args:
        smiles: texts, or lines of `read_smiles_file`.
        seed: of every embedding.
        workers: processes; None takes the cores this process may use.
        progress: show a bar on stderr.
        strict: stop at the first failure instead of listing it.
        max_atoms: list larger molecules, hydrogens included, as failures.

    Returns:
        (embeddings, failures), each in the order given.

    Raises:
        ValueError: ``strict`` and a molecule failed; names the line, the SMILES and the reason.
    """
    lines = [
        SmilesLine(index, item, str(index)) if isinstance(item, str) else item
        for index, item in enumerate(smiles, start=1)
    ]
    embed = partial(_embed_or_fail, seed=seed, max_atoms=max_atoms)
    title = "embedding" if progress else None
    embeddings: List[Embedding] = []
    failures: List[Failure] = []
    for result in in_parallel(embed, lines, workers, chunk=_FEW, few=_FEW, title=title):
        if isinstance(result, Embedding):
            embeddings.append(result)
        elif strict:
            raise ValueError(f"line {result.line} ({result.smiles}): {result.reason}.")
        else:
            failures.append(result)
    return embeddings, failures


def _embed_or_fail(line: SmilesLine, seed: int, max_atoms: Optional[int]) -> Union[Embedding, Failure]:
    try:
        return embed_smiles(line.smiles, seed, line.name, line.line, max_atoms)
    except (ValueError, RuntimeError) as error:  # RDKit reports a violated invariant as RuntimeError
        return Failure(line.line, line.smiles, str(error).strip().split("\n")[0])


def read_smiles_file(path: PathLike, smiles_column: Optional[str] = None) -> List[SmilesLine]:
    """Lines of a .smi (SMILES, blank, name) or .csv file with a header, either also as .gz.

    A first line of a .smi file that says "smiles" is a header; blank lines and "#" comments are passed over.

    Args:
        path: the file.
        smiles_column: of a .csv; None takes "smiles", whatever its case.

    Raises:
        ValueError: no such file, nothing in it, another suffix, or no such column; names the columns there are.
    """
    path = existing_file(path)
    suffix = plain_suffix(path)
    if suffix not in (".smi", ".csv"):
        raise ValueError(f"{path}: SMILES are read from .smi or .csv files, also gzipped (.smi.gz, .csv.gz).")
    if suffix == ".smi" and smiles_column is not None:
        raise ValueError(f"{path}: smiles_column={smiles_column!r} is for .csv files; a .smi file has none.")
    try:
        with open_text(path) as file:
            lines = _smi_lines(file) if suffix == ".smi" else _csv_lines(file, path, smiles_column)
    except (UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as text ({error}); is it what its name says?") from None
    if not lines:
        raise ValueError(f"{path} holds no SMILES.")
    return lines


def split_smi(text: str) -> Optional[Tuple[str, str]]:
    """(SMILES, name or "") of one line of a .smi file; None for a blank line and a "#" comment."""
    words = text.split(None, 1)
    if not words or words[0].startswith("#"):
        return None
    return words[0], words[1].strip() if len(words) > 1 else ""


def is_smiles_header(word: str) -> bool:
    """Test if a column, or the first word of a .smi file, names SMILES below it."""
    return word.strip().lower() in _SMILES_COLUMNS


def find_columns(columns: Sequence[str], path: PathLike, smiles_column: Optional[str] = None) -> Tuple[int, int]:
    """Places of the SMILES and of the name among the columns of a table; -1 for no name.

    Raises:
        ValueError: there is no such column of SMILES; names the columns there are.
    """
    lower = [column.strip().lower() for column in columns]
    if smiles_column is None:
        smiles_place = _place(_SMILES_COLUMNS, lower)
    else:
        smiles_place = _place([smiles_column], columns)
    if smiles_place < 0:
        asked = "no column named smiles" if smiles_column is None else f"no column {smiles_column!r}"
        raise ValueError(f"{path} has {asked}; pass smiles_column, one of: {', '.join(columns)}.")
    return smiles_place, _place(_NAME_COLUMNS, lower)


def _place(names: Sequence[str], columns: Sequence[str]) -> int:
    """Index of the first of the names that is there; -1 if none is."""
    return next((columns.index(name) for name in names if name in columns), -1)


def _smi_lines(file: IO[str]) -> List[SmilesLine]:
    lines: List[SmilesLine] = []
    for number, text in enumerate(file, start=1):
        found = split_smi(text)
        if found is None or (not lines and is_smiles_header(found[0])):
            continue
        lines.append(SmilesLine(number, found[0], found[1] or str(number)))
    return lines


def _csv_lines(file: IO[str], path: Path, smiles_column: Optional[str]) -> List[SmilesLine]:
    reader = csv.reader(file)
    columns = next(reader, None)
    if not columns:
        return []
    smiles_place, name_place = find_columns(columns, path, smiles_column)
    lines = []
    for row in reader:
        smiles = row[smiles_place].strip() if smiles_place < len(row) else ""
        if smiles:
            name = row[name_place].strip() if 0 <= name_place < len(row) else ""
            lines.append(SmilesLine(reader.line_num, smiles, name or str(reader.line_num)))
    return lines
