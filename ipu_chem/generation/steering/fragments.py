"""Fragments that molecules keep: read from SMILES with attachment points, and found again in molecules."""

from typing import Any, Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple

_MOST_MATCHES = 1000


class Fragment(NamedTuple):
    """A part of a molecule, and where more may hang on it.

    Attributes:
        text: as it was given.
        mol: RDKit's molecule, with hydrogens in place of the attachment points.
        points: number of an attachment point -> index of its atom; empty if none is marked.
        bonds: of every atom with others of the fragment, hydrogens not counted.
    """

    text: str
    mol: Any
    points: Dict[int, int]
    bonds: Tuple[int, ...]

    def open_atoms(self) -> List[int]:
        """Atoms on which something can hang: the marked ones, or all with a hydrogen where none is marked."""
        marked = list(self.points.values())
        return marked or [
            atom.GetIdx()
            for atom in self.mol.GetAtoms()
            if atom.GetTotalNumHs() > 0 and not atom.GetChiralTag()  # whose neighbors must keep their order
        ]

    def matches(self, mol: Any, grown: Collection[int] = (), free: Collection[int] = ()) -> Iterator[Tuple[int, ...]]:
        """Places in a molecule where the fragment stands unchanged; of a marked one only points have other neighbors.

        Args:
            mol: RDKit's molecule.
            grown: atoms of a marked fragment that must have another neighbor, at a single bond.
            free: atoms of it that may have one. If no point is marked, all may have any.

        Yields:
            The molecule's atom for every atom of the fragment.
        """
        found = mol.GetSubstructMatches(self.mol, uniquify=False, maxMatches=_MOST_MATCHES, useChirality=True)
        for match in found:
            if not self.points or (
                all(self._grows_well(mol, match, atom, atom in grown, atom in free) for atom in range(len(match)))
                and self._grows_apart(mol, match, grown)
            ):
                yield match

    def _grows_apart(self, mol: Any, match: Tuple[int, ...], grown: Collection[int]) -> bool:
        """Test if no two of the atoms that have grown share the neighbor."""
        own, seen = set(match), set()
        for atom in grown:
            others = {one.GetIdx() for one in mol.GetAtomWithIdx(match[atom]).GetNeighbors()} - own
            if others & seen:
                return False
            seen |= others
        return True

    def _grows_well(self, mol: Any, match: Tuple[int, ...], atom: int, must: bool, may: bool) -> bool:
        """Test if an atom has no neighbor beside the fragment, or one at a single bond where it must or may have it."""
        there = mol.GetAtomWithIdx(match[atom])
        more = there.GetDegree() - self.bonds[atom]
        if more == 0 or not (must or may):
            return more == 0 and not must
        own = {match[bond.GetOtherAtomIdx(atom)] for bond in self.mol.GetAtomWithIdx(atom).GetBonds()}
        others = [bond for bond in there.GetBonds() if bond.GetOtherAtomIdx(match[atom]) not in own]
        return len(others) == 1 and others[0].GetBondTypeAsDouble() == 1.0


def read_fragment(option: str, text: str) -> Fragment:
    """Read a fragment.

    Args:
        option: as it is typed, such as "--scaffold"; error messages begin with it.
        text: SMILES of connected atoms; attachment points are [*:1], [*:2], ..., or * alone where there is one.

    Raises:
        ValueError: RDKit reads no molecule, it has several parts, or an attachment point is none.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
    said = f"{option} {text}"
    if mol is None or not any(atom.GetAtomicNum() for atom in mol.GetAtoms()):
        raise ValueError(f'{said}: RDKit reads no molecule in it; give SMILES, as in {option} "c1ccccc1[*:1]".')
    if len(Chem.GetMolFrags(mol)) > 1:
        raise ValueError(f"{said}: its parts are not connected; give one fragment.")
    editable = Chem.RWMol(mol)
    dummies = [atom for atom in editable.GetAtoms() if not atom.GetAtomicNum()]
    points: Dict[int, Any] = {}
    for dummy in dummies:
        number, neighbors = dummy.GetAtomMapNum(), dummy.GetNeighbors()
        single = len(neighbors) == 1 and dummy.GetBonds()[0].GetBondType() == Chem.BondType.SINGLE
        if not single or not neighbors[0].GetAtomicNum():
            raise ValueError(f"{said}: an attachment point stands at one single bond to an atom, as in C[*:1].")
        if number in points:
            remedy = "number them, as in [*:1]CC[*:2]" if not number else "give it another number"
            raise ValueError(f"{said}: two attachment points are called [*:{number}]; {remedy}.")
        points[number] = neighbors[0]
    if len({atom.GetIdx() for atom in points.values()}) < len(points):  # as in C([*:1])[*:2]
        raise ValueError(f"{said}: an atom has two attachment points; mark one, and grow the other in a second call.")
    for number, atom in points.items():
        atom.SetIntProp("point", number)
    stereo = _stereo(mol)
    for atom in editable.GetAtoms():
        atom.SetAtomMapNum(0)
        if not atom.GetAtomicNum():
            atom.SetAtomicNum(1)
            atom.SetNoImplicit(True)
    with rdBase.BlockLogs():
        try:
            kept = Chem.RemoveHs(editable.GetMol())
            Chem.AssignStereochemistry(kept, cleanIt=True, force=True)
        except ValueError:
            raise ValueError(f"{said}: without attachment points it is no molecule; give another fragment.") from None
    # A hydrogen stays where it says on which side of a double bond it is.
    if _stereo(kept) != stereo or any(atom.GetAtomicNum() == 1 for atom in kept.GetAtoms()):
        raise ValueError(f"{said}: stereochemistry beside an attachment point cannot be kept; leave it out there.")
    marked = {atom.GetIntProp("point"): atom.GetIdx() for atom in kept.GetAtoms() if atom.HasProp("point")}
    return Fragment(text, kept, marked, tuple(atom.GetDegree() for atom in kept.GetAtoms()))


def _stereo(mol: Any) -> int:
    """Centers and double bonds whose stereochemistry is given."""
    from rdkit import Chem

    centers = sum(atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for atom in mol.GetAtoms())
    return centers + sum(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in mol.GetBonds())


def needs_points(option: str, fragment: Fragment, least: int, most: Optional[int] = None) -> Fragment:
    """The fragment, if it has as many attachment points as are needed.

    Raises:
        ValueError: it has fewer or more.
    """
    count = len(fragment.points)
    if least <= count and (most is None or count <= most):
        return fragment
    wanted = f"{least} or more" if most is None else str(least) if most == least else f"{least} to {most}"
    there = f"{count} attachment points" if count > 1 else "one attachment point" if count else "no attachment point"
    raise ValueError(
        f'{option} {fragment.text} has {there}, but {option} takes {wanted}; they are marked as in "c1ccccc1[*:1]".'
    )
