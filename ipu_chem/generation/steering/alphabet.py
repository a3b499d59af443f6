"""Symbols that are never drawn: those that a chemist bans, and those of other elements than allowed."""

import re
from typing import Collection, Dict, List, Sequence, Set

from ipu_chem.data.representations.tokenizer import Tokenizer

_SYMBOL = re.compile(r"\[[^\[\]\s]+\]")
_STRUCTURE = re.compile(r"\[(?:[=#]|[-/\\]{2})?(?:Branch|Ring)\d\]")
_ATOM = re.compile(r"\[[=#/\\]?\d*([A-Z][a-z]?)@{0,2}(?:H\d+)?(?:[+-]\d+)?\]")


def banned_symbols(tokenizer: Tokenizer, ban: str = "", only: str = "") -> Set[str]:
    """Symbols of a vocabulary that are not to be drawn.

    SELFIES write lengths of branches and sizes of rings with symbols of atoms, too: what is banned is drawn for
    neither, so that some lengths and sizes are not reached.

    Args:
        tokenizer: of SELFIES.
        ban: symbols, such as "[P]" or "[P] [=N+1]".
        only: elements that molecules may hold, separated by commas, such as "C,N,O"; empty allows all. Hydrogens are
            always allowed.

    Raises:
        ValueError: a symbol or an element that the vocabulary lacks, or the vocabulary is of other texts.
    """
    if not ban and not only:
        return set()
    if tokenizer.representation.name != "selfies":
        raise ValueError(
            f"--ban and --only are for models of SELFIES, and this one writes {tokenizer.representation.title}."
        )
    symbols = tokenizer.modern_symbols()
    named = _SYMBOL.findall(ban)
    if ban and (not named or _SYMBOL.sub("", ban).strip(", ")):
        raise ValueError(f'--ban {ban}: give symbols of SELFIES in brackets, as in --ban "[P] [=S]".')
    unknown = [symbol for symbol in named if symbol not in symbols or symbol in tokenizer.special]
    if unknown:
        raise ValueError(
            f"--ban {unknown[0]}: the vocabulary has no such symbol, so that nothing is to be banned; symbols are like "
            f"{' '.join(sorted(symbol for symbol in symbols if _ATOM.fullmatch(symbol))[:4])}."
        )
    return {*named, *_of_others(symbols, tokenizer.special, only)}


def _of_others(symbols: Sequence[str], special: Collection[str], only: str) -> List[str]:
    """Symbols of atoms of other elements than these."""
    if not only:
        return []
    allowed = [element.strip() for element in only.split(",")]
    elements: Dict[str, str] = {}
    for symbol in symbols:
        atom = _ATOM.fullmatch(symbol)
        if atom is not None and symbol not in special and not _STRUCTURE.fullmatch(symbol):
            elements[symbol] = atom[1]
    unknown = [element for element in allowed if element not in elements.values()]
    if unknown:
        raise ValueError(
            f"--only {only}: the vocabulary has no {unknown[0] or 'element without a name'}; its elements are "
            f"{', '.join(sorted(set(elements.values())))}."
        )
    return [symbol for symbol, element in elements.items() if element not in {*allowed, "H"}]
