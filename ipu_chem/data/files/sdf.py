"""Records of SDF files through RDKit, refused where they are drawings or lack hydrogens."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, Tuple

import numpy as np

from ipu_chem.data.files.frame import Frame, electrons, say_isotopes
from ipu_chem.data.files.text import DAMAGE, decoded, open_bytes
from ipu_chem.data.molecule import rdkit_arrays

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_TWICE = "_twice"  # names of properties that a record has more than once
_TAG = re.compile(r"^>.*<([^>\n]+)>", re.MULTILINE)
_FLAT = 1e-3  # Å, standard deviation from a plane
# Of the length of a hydrogen's bond to the sum of covalent radii: C-H 1.02. A drawing's has 1.4.
_SHORTEST, _LONGEST = 0.7, 1.3
# Longest bond by shortest, of different elements, in a drawing; O=C=S has 1.35.
_ALIKE = 1.01
# Elements that four neighbors surround in a tetrahedron, never in a plane.
_TETRAHEDRAL = (5, 6, 7, 13, 14, 15, 16, 31, 32, 33, 34)


def sdf_frames(path: Path) -> Iterator[Frame]:
    """Every record, in order; only elements, coordinates, charges and radicals are used, so odd valences do no harm.

    Raises:
        ValueError: no records, one that RDKit cannot read, a drawing, or one that lacks hydrogens.
    """
    isotopes, place, charged, radical = 0, 0, False, False
    frames: List[Frame] = []
    for place, mol in enumerate(sdf_records(path), start=1):
        title = mol.GetProp("_Name").strip()
        where = f"{path.name} record {place}"
        name = title or where
        where = f"{title} ({where})" if title else where
        _check_complete(mol, where)
        if mol.GetNumConformers() == 0:
            raise ValueError(f"{where} has no coordinates; embed it first (RDKit: AddHs, EmbedMolecule).")
        z, pos = rdkit_arrays(mol)
        atoms = list(mol.GetAtoms())
        isotopes += sum(atom.GetAtomicNum() == 1 and atom.GetIsotope() > 1 for atom in atoms)
        charge = sum(atom.GetFormalCharge() for atom in atoms)
        spin = sum(atom.GetNumRadicalElectrons() for atom in atoms)
        values, twice = mol.GetPropsAsDict(), frozenset(mol.GetProp(_TWICE).split("\n")) - {""}
        said = electrons(values, twice, where)
        for what, drawn in (("charge", charge), ("spin", spin)):
            if drawn and said[what] not in (None, drawn):
                raise ValueError(
                    f"{where}: its property says a {what} of {said[what]}, its atoms have {drawn}; correct one of them."
                )
        charge, spin = charge or said["charge"] or 0, spin or said["spin"] or 0
        charged, radical = charged or said["charge"] is not None or charge != 0, radical or spin != 0
        frames.append(Frame(where, name, z, pos, values, {}, twice=twice, charge=charge, spin=spin))
    if not place:
        raise ValueError(f"{path} holds no records.")
    say_isotopes(path.name, isotopes)
    for frame in frames:  # a file without charges and radicals says nothing of them
        yield frame._replace(charge=frame.charge if charged else None, spin=frame.spin if radical else None)


def sdf_records(path: Path) -> Iterator["Mol"]:
    """RDKit molecules of an SDF file as written: not sanitized, hydrogens kept.

    Raises:
        ValueError: a record cannot be parsed, or the file is cut.
    """
    from rdkit import Chem, rdBase

    supplier = Chem.SDMolSupplier()
    for index, (text, line, is_whole) in enumerate(_texts(path), start=1):
        # RDKit's log would say it again, and a generator must not hold the log blocked between two records.
        with rdBase.BlockLogs():
            supplier.SetData(text, sanitize=False, removeHs=False)
            mol = supplier[0] if len(supplier) else None
        if mol is None:
            raise ValueError(
                f"{path}: record {index} (line {line}) cannot be parsed by RDKit; repair it or take it out."
            )
        if not is_whole and list(mol.GetPropNames()):
            raise ValueError(f"{path}: record {index} (line {line}) is cut: the file ends without its line $$$$.")
        tags = _TAG.findall(text)
        mol.SetProp(_TWICE, "\n".join({tag for tag in tags if tags.count(tag) > 1}))
        yield mol


def _texts(path: Path) -> Iterator[Tuple[str, int, bool]]:
    """Text of every record, the number of its first line from 1, and if its end is there."""
    lines: List[bytes] = []
    number, start = 0, 1
    with open_bytes(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError(f"{path} is text in UTF-16; write it in UTF-8 (iconv -f UTF-16 -t UTF-8).")
                lines.append(line)
                if line.startswith(b"$$$$"):
                    yield decoded(b"".join(lines)), start, True
                    lines, start = [], number + 1
        except DAMAGE as error:
            raise ValueError(f"{path} is cut or damaged behind line {number:,} ({error}).") from None
    if any(line.strip() for line in lines):
        yield decoded(b"".join(lines)), start, False


def _check_complete(mol: "Mol", name: str) -> None:
    """Refuse drawings and skeletons: they would be predicted without any complaint."""
    info = mol.GetProp("_MolFileInfo") if mol.HasProp("_MolFileInfo") else ""
    mol.UpdatePropertyCache(strict=False)
    if mol.GetNumAtoms() > 1 and mol.GetNumConformers() and _is_drawing(mol, info[20:22]):
        raise ValueError(f"{name} is a 2D drawing; write 3D coordinates (RDKit: AddHs, EmbedMolecule).")
    atoms = list(mol.GetAtoms())
    has_hydrogens = any(atom.GetAtomicNum() == 1 for atom in atoms)
    if mol.GetNumBonds() == 0 and has_hydrogens:
        return  # written without bonds, so that valences say nothing
    missing = sum(atom.GetTotalNumHs() for atom in atoms)
    # Zwitterions that were written without charges have as many too many at one end.
    missing -= sum(_too_many(atom) for atom in atoms)
    if missing > 0:
        raise ValueError(
            f"{name} {'lacks' if has_hydrogens else 'holds no hydrogens but has room for'} {missing} "
            f"{'hydrogens that its valences need' if has_hydrogens else 'of them'}; write the file with explicit "
            "hydrogens (RDKit: AddHs with addCoords=True), with its charges and radicals, or as .xyz."
        )


def _too_many(atom: Any) -> int:
    """1 for a neutral N with four bonds or O with three."""
    if atom.GetFormalCharge() or atom.GetAtomicNum() not in (7, 8):
        return 0
    bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
    return int(bonds == {7: 4, 8: 3}[atom.GetAtomicNum()])


def _is_drawing(mol: "Mol", dimension: str) -> bool:
    """Test if a molecule lies in a plane although it cannot, or there has bonds as drawings have them."""
    from rdkit import Chem

    pos = mol.GetConformer().GetPositions()
    if np.linalg.svd(pos - pos.mean(0), compute_uv=False)[-1] > _FLAT * np.sqrt(len(pos)):
        return False
    if dimension == "2D" or any(
        atom.GetDegree() > 4 or atom.GetDegree() == 4 and atom.GetAtomicNum() in _TETRAHEDRAL for atom in mol.GetAtoms()
    ):
        return True
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    elements = {frozenset(mol.GetAtomWithIdx(atom).GetAtomicNum() for atom in pair) for pair in ends}
    lengths = [np.linalg.norm(pos[one] - pos[other]) for one, other in ends]
    if len(elements) > 1 and max(lengths) < _ALIKE * min(lengths):
        return True
    table = Chem.GetPeriodicTable()
    off = []
    for atom in mol.GetAtoms():  # lengths of bonds of hydrogen, which drawings give it as to any element
        if atom.GetAtomicNum() == 1 and atom.GetDegree() == 1 and len(pos) > 2:
            other = atom.GetNeighbors()[0]
            usual = table.GetRcovalent(1) + table.GetRcovalent(other.GetAtomicNum())
            ratio = np.linalg.norm(pos[atom.GetIdx()] - pos[other.GetIdx()]) / usual
            off.append(not _SHORTEST <= ratio <= _LONGEST)
    return sum(off) > len(off) / 2
