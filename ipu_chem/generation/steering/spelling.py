"""Ways to spell a molecule as SELFIES that begin or end at given atoms, and where SELFIES can be cut.

RDKit writes SMILES in random orders of atoms; those are taken that have a placeholder at their ends, and it is then
left out, so that the atom beside it is where a text begins or goes on.
"""

import re
from typing import Any, List, Optional, Sequence, Tuple

from ipu_chem.data.selfies.symbols import split_symbols

_BRANCH = re.compile(r"\[[=#]?Branch([123])\]")
_RING = re.compile(r"\[(?:[=#]|[-/\\]{2})?Ring([123])\]")
_PLACEHOLDER = 85  # astatine, which nobody asks for
_ENTER, _LEAVE = 211, 210  # its isotopes
_ORDERS = (24, 192, 2048)  # orders of atoms that are tried: more if none of the first will do


def spellings(mol: Any, enter: Optional[int], leave: Optional[int], seed: int, most: int = 8) -> List[List[str]]:
    """Different SELFIES of a molecule as symbols, as many as are found, in an order that the seed decides.

    Args:
        mol: RDKit's molecule.
        enter: atom that the text begins at, bonded to whatever stands before it; None for any, with nothing before.
        leave: atom at which what stands behind the text goes on; None if nothing does.
        seed: of the orders of atoms.
        most: spellings.

    Returns:
        None at all where an atom has no hydrogen to give, or SELFIES cannot express the molecule.
    """
    from rdkit import Chem, rdBase

    ends = [(_ENTER, enter), (_LEAVE, leave)]
    marked = _with_placeholders(mol, [(isotope, atom) for isotope, atom in ends if atom is not None])
    if marked is None:
        return []
    begins = f"[{_ENTER}At]" if enter is not None else ""
    closes = f"[{_LEAVE}At]" if leave is not None else ""
    found: List[List[str]] = []
    for orders in _ORDERS:
        with rdBase.BlockLogs():
            texts = Chem.MolToRandomSmilesVect(marked, orders, randomSeed=seed + 1)
        for smiles in dict.fromkeys(texts):
            if smiles.startswith(begins) and smiles.endswith(closes):
                symbols = _symbols(smiles)
                if symbols and len(found) < most:
                    found.append(symbols[int(enter is not None) : len(symbols) - int(leave is not None)])
        if found:
            break
    return found


def cuts(symbols: Sequence[str]) -> List[int]:
    """Places behind the first, second, ... symbol of the main chain with all its branches and rings.

    A text can end or go on there. A few places may be none where SELFIES ignore a branch that has no room.
    """
    from selfies.grammar_rules import get_index_from_selfies

    found, at = [], 0
    while at < len(symbols):
        branch, ring = _BRANCH.fullmatch(symbols[at]), _RING.fullmatch(symbols[at])
        if branch or ring:
            digits = int((branch or ring)[1])  # type: ignore[index]
            inside = 1 + get_index_from_selfies(*symbols[at + 1 : at + 1 + digits]) if branch else 0
            at += 1 + digits + inside
        else:
            at += 1
        if at <= len(symbols):
            found.append(at)
    return found


def _with_placeholders(mol: Any, ends: Sequence[Tuple[int, int]]) -> Any:
    """A molecule with placeholders (isotope, atom beside it) in place of hydrogens; None if there are none."""
    from rdkit import Chem, rdBase

    editable = Chem.RWMol(mol)
    for isotope, index in ends:
        atom = editable.GetAtomWithIdx(index)
        if atom.GetTotalNumHs() < 1:
            return None
        if atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
        placeholder = Chem.Atom(_PLACEHOLDER)
        placeholder.SetIsotope(isotope)
        placeholder.SetNoImplicit(True)
        editable.AddBond(index, editable.AddAtom(placeholder), Chem.BondType.SINGLE)
        atom.UpdatePropertyCache()
    with rdBase.BlockLogs():
        return None if Chem.SanitizeMol(editable, catchErrors=True) else editable.GetMol()


def _symbols(smiles: str) -> List[str]:
    """Symbols of a SMILES with placeholders; none if SELFIES cannot express it."""
    import selfies

    try:
        return split_symbols(selfies.encoder(smiles))
    except selfies.EncoderError:
        return []
