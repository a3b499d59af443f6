"""DFT geometries of PCQM4Mv2, one record at a time: from the published SDF, which stays packed, or a CXSMILES table.

Record i of the SDF is row i of data.csv.gz, as long as rows train; a table of CXSMILES (coordinates in its extension)
begins with row 0, too. The heavy atoms of every record are compared with the SMILES of its row.
"""

import csv
import tarfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Iterator, List, Sequence, cast

import numpy as np

from ipu_chem.data.files.layout import find_columns
from ipu_chem.data.files.table import Failure
from ipu_chem.data.files.text import open_bytes, open_text
from ipu_chem.data.molecule import checked, rdkit_arrays

if TYPE_CHECKING:
    from rdkit.Chem import Mol

GEOMETRIES_URL = "http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2-train.sdf.tar.gz"
# RDKit makes a SystemError of what reading raises.
_DAMAGE = (OSError, EOFError, tarfile.TarError, zlib.error, csv.Error, UnicodeDecodeError, SystemError)


@dataclass
class Geometries:
    """Molecules in flat buffers: millions of small arrays would take several times the memory.

    Attributes:
        rows: of the table, of every molecule.
        counts: its atoms.
        z: atomic numbers of all, uint8.
        pos: coordinates of all, Å, float32.
        failures: records that are no usable molecule; line is that of the row in data.csv.gz.
    """

    rows: List[int] = field(default_factory=list)
    counts: List[int] = field(default_factory=list)
    z: bytearray = field(default_factory=bytearray)
    pos: bytearray = field(default_factory=bytearray)
    failures: List[Failure] = field(default_factory=list)


def read_geometries(file: Path, smiles: Sequence[str], bar: Any) -> Geometries:
    """The records of as many rows as there are SMILES.

    Args:
        file: SDF, also in .gz or .tar.gz, or a table of CXSMILES.
        smiles: of the rows of data.csv.gz, from its first.
        bar: of tqdm, updated with every record.

    Raises:
        ValueError: the file is damaged, or holds another molecule than its row; names it.
    """
    from rdkit import rdBase

    found = Geometries()
    with bar, rdBase.BlockLogs():
        try:
            for row, (mol, text) in enumerate(zip(_records(file), smiles)):
                bar.update(1)
                if mol is None or mol.GetNumConformers() == 0:
                    found.failures.append(Failure(row + 2, text, "its DFT geometry cannot be read"))
                    continue
                z, pos = rdkit_arrays(mol)
                _check_same(file, row, z, text)
                try:
                    checked(z, pos, None, str(row))
                except ValueError as error:
                    found.failures.append(Failure(row + 2, text, f"DFT geometry: {str(error).rstrip('.')}"))
                    continue
                found.rows.append(row)
                found.counts.append(len(z))
                found.z += z.astype(np.uint8).tobytes()
                found.pos += pos.astype(np.float32).tobytes()
        except _DAMAGE as error:
            raise ValueError(
                f"{file} is cut or damaged after {len(found.rows):,} records ({error.__cause__ or error}); fetch it "
                "again."
            ) from None
    return found


def _check_same(file: Path, row: int, z: np.ndarray, smiles: str) -> None:
    """Refuse geometries of other molecules; hydrogens are not compared, because radicals are written in two ways."""
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return
    expected = sorted(atom.GetAtomicNum() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1)
    if sorted(z[z > 1].tolist()) != expected:
        raise ValueError(
            f"{file}: record {row} is no geometry of {smiles}, which data.csv.gz has in that row; they do not belong "
            "together."
        )


def _records(file: Path) -> "Iterator[Mol]":
    """RDKit molecules as written, None for a record that cannot be parsed."""
    if ".csv" in file.name:
        yield from _cxsmiles(file)
        return
    from rdkit import Chem

    with _open_sdf(file) as text:
        yield from Chem.ForwardSDMolSupplier(text, sanitize=False, removeHs=False)


def _cxsmiles(file: Path) -> "Iterator[Mol]":
    from rdkit import Chem

    options = Chem.SmilesParserParams()
    options.sanitize = options.removeHs = False
    with open_text(file) as text:
        reader = csv.reader(text)
        place, _ = find_columns(next(reader, []), file)
        for row in reader:
            yield Chem.MolFromSmiles(row[place], options)


@contextmanager
def _open_sdf(file: Path) -> Iterator[IO[bytes]]:
    """The text of an SDF; of a .tar.gz that of the first file in it, which is never unpacked to disk."""
    if ".tar" not in file.name:
        with open_bytes(file) as text:
            yield text
        return
    with tarfile.open(str(file), "r|gz") as archive:
        for member in archive:
            if member.isfile():
                yield cast(IO[bytes], archive.extractfile(member))
                return
    raise ValueError(f"{file} holds no file.")
