"""SELFIES as a list of symbols, and errors for a text that is not SELFIES.

M. Krenn et al., "Self-referencing embedded strings (SELFIES): A 100% robust molecular string representation", Mach.
Learn.: Sci. Technol. 1, 045024 (2020); A. Lo et al., "Recent advances in the SELFIES library: 2023", Digital Discovery
2, 897 (2023).
"""

import re
from typing import List

from ipu_chem.data.representations.base import DOT, shown

_SYMBOL = re.compile(r"\[[^\[\]\s]+\]")
# An atom in brackets as SMILES write it; [=C], [Ring1] or [Branch1] of SELFIES are none.
_SMILES_ATOM = re.compile(r"\[\d*(?:[A-Z][a-z]?|[a-z]{1,2}|\*)@{0,2}(?:H\d*)?(?:[+-]+\d*)?(?::\d+)?\]")
_SMILES_TEXT = re.compile(r"(?:[BCNOSPFIbcnops0-9()=#$:/\\%~*-]|Cl|Br)+")


def split_symbols(selfies: str, name: str = "") -> List[str]:
    """Symbols of a SELFIES in order, such as "[=C]" or ".".

    Args:
        selfies: of one molecule, in any version of the language.
        name: what error messages call the molecule.

    Raises:
        ValueError: it is empty, a SMILES, has text between its symbols, or a bracket that is not closed.
    """
    if isinstance(selfies, str) and selfies[:1] == "[" and selfies[-1:] == "]":
        pieces = selfies[1:-1].split("][")
        # As many brackets as pieces: none is left inside of one.
        brackets = (selfies.count("["), selfies.count("]"))
        if brackets == (len(pieces), len(pieces)) and "[]" not in selfies and len(selfies.split()) == 1:
            return [f"[{piece}]" for piece in pieces]
    return _split_carefully(selfies, name or "the molecule")


def is_symbol(text: str) -> bool:
    """Test if a text is exactly one symbol."""
    return text == DOT or _SYMBOL.fullmatch(text) is not None


def looks_like_smiles(text: str) -> bool:
    """Test if a text has atoms outside of brackets, and all else in it could be a SMILES, too."""
    outside = _SYMBOL.sub("", text).replace(DOT, "")
    return _SMILES_TEXT.fullmatch(outside) is not None and all(map(_SMILES_ATOM.fullmatch, _SYMBOL.findall(text)))


def _split_carefully(selfies: str, who: str) -> List[str]:
    """Fragments, and an error that says what is wrong with the text."""
    if not isinstance(selfies, str):
        raise ValueError(f"{who} is no text but {type(selfies).__name__} {shown(selfies)}; a SELFIES is a str.")
    if not selfies.strip():
        raise ValueError(f"{who} is empty: it has no symbols; leave it out.")
    if looks_like_smiles(selfies):
        raise ValueError(
            f"{who}: {shown(selfies)} looks like SMILES, encode it first: selfies.encoder(smiles) writes SELFIES."
        )
    symbols, at = [], 0
    while at < len(selfies):
        symbol = _SYMBOL.match(selfies, at)
        if symbol is not None:
            symbols.append(symbol.group())
            at = symbol.end()
        elif selfies[at] == DOT:
            symbols.append(DOT)
            at += 1
        else:
            rest = shown(selfies[at : at + 8])
            raise ValueError(
                f"{who}: {shown(selfies)} is damaged, no symbol begins at character {at} ({rest}); "
                "SELFIES are symbols in brackets and nothing between them, encode the molecule again."
            )
    return symbols
