"""SMILES as tokens of one atom, bond, ring closure or bracket each.

The regular expression is that of P. Schwaller et al., "Molecular Transformer: a model for uncertainty-calibrated
chemical reaction prediction", ACS Cent. Sci. 5, 1572 (2019), and dative bonds and ring closures above 99, as RDKit
writes them. What stands in brackets is one token: charges, isotopes, hydrogens and chirality with their atom.
"""

import re
from typing import List, Set

from ipu_chem.data.representations.base import Representation, shown

_TOKEN = (
    r"\[[^\]]+\]|->|<-|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|"
    r"%\([0-9]+\)|%[0-9]{2}|[0-9]"
)
# What stands outside of brackets in nearly all organic molecules.
_ALPHABET = "B C N O P S F Cl Br I b c n o p s ( ) . = # - / \\ 1 2 3 4 5 6 7 8 9".split()
# All in brackets, and [C] among it: as SMILES that is a bare carbon, at which RDKit would not complain.
_BRACKETS = re.compile(r"(\[[^\]]*\]\.?)+")


class Smiles(Representation):
    """Canonical SMILES of RDKit, or with their atoms in random order; not every sequence of tokens is a molecule."""

    name = "smiles"
    title = "SMILES"
    pattern = _TOKEN

    def write(self, smiles: str, canonical: str) -> List[str]:
        tokens = self.pieces(smiles)
        if not tokens:
            raise ValueError("the SMILES have characters that no token begins with")
        return tokens

    def alphabet(self) -> Set[str]:
        return set(_ALPHABET)

    def split(self, text: str, name: str = "") -> List[str]:
        if isinstance(text, str) and looks_like_selfies(text):
            who = name or "the molecule"
            raise ValueError(f"{who}: {shown(text)} looks like SELFIES; selfies.decoder(text) writes SMILES.")
        return super().split(text, name)


def looks_like_selfies(text: str) -> bool:
    """Test if a text is symbols in brackets and nothing else, the carbon of SELFIES among them."""
    return "[C]" in text and _BRACKETS.fullmatch(text.strip()) is not None
