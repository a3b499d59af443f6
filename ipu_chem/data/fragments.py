"""Molecules as a data set means them: without atom maps, and one fragment of a salt where that is asked for."""

import re
from typing import TYPE_CHECKING, Tuple

if TYPE_CHECKING:
    from rdkit.Chem import Mol

KEEP, LARGEST, ERROR = "keep", "largest", "error"
SEVERAL = "several fragments"
_ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]")
MOST_FRAGMENTS = 10  # of the largest size that is allowed
_MAP = re.compile(r"(\[[^\[\]:]*):\d+\]")


def without_maps(smiles: str) -> str:
    """The SMILES without numbers of atoms, [CH3:1][OH:2] -> [CH3][OH]: they name atoms, and no molecule."""
    return _MAP.sub(r"\1]", smiles) if ":" in smiles else smiles


def exceeds(smiles: str, most: int) -> bool:
    """Test by the text alone if a SMILES has more atoms than a molecule may have, which some RDKits parse for hours.

    Args:
        smiles: of one molecule, of one or several fragments.
        most: atoms of a fragment.
    """
    if len(smiles) <= most:
        return False
    sizes = [len(_ATOM.findall(piece)) for piece in smiles.split(".")]
    return max(sizes) > most or sum(sizes) > MOST_FRAGMENTS * most


def largest_fragment(mol: "Mol") -> Tuple["Mol", int]:
    """The fragment of most heavy atoms, and how many fragments there are; of equal ones the last by SMILES."""
    from rdkit import Chem

    parts = Chem.GetMolFrags(mol, asMols=True)
    if len(parts) < 2:
        return mol, len(parts)
    return max(parts, key=lambda part: (part.GetNumHeavyAtoms(), Chem.MolToSmiles(part))), len(parts)
