"""The contract of a representation: a language that writes molecules as tokens, one after the other.

A representation of one's own is a subclass of `Representation`, or of one of those here, that has no arguments; runs
take it as ``data.representation=package.module:Class``.
"""

import re
from functools import lru_cache
from typing import Any, Dict, List, Set

DOT = "."  # between fragments, in every representation here
_SHOWN = 60  # characters of a text in an error message


class UnknownToken(ValueError):
    """A vocabulary lacks a token; ``reason`` leaves out the remedy, which belongs to training."""

    def __init__(self, reason: str, remedy: str) -> None:
        """Join both; the remedy names options of a run."""
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


class Representation:
    """Molecules as tokens, from and to SMILES.

    Attributes:
        name: by which options, corpora and vocabularies know it; of one's own ``package.module:Class``.
        title: of its texts in sentences.
        pattern: regular expression of one token; Hugging Face's tokenizers read it, too.
        in_brackets: every token but the dot is in brackets, so that many texts are looked up at once.
        column: its texts in tables of generated molecules.
        hint: behind the sentence about a token that a vocabulary lacks.
    """

    name = ""
    title = "texts"
    pattern = ""
    in_brackets = False
    column = "text"
    hint = ""

    def versions(self) -> Dict[str, str]:
        """Versions of the libraries beside RDKit that decide what a molecule is written as.

        Raises:
            ValueError: one is not installed; says how to get it.
        """
        return {}

    def write(self, smiles: str, canonical: str) -> List[str]:
        """Tokens of a molecule.

        Args:
            smiles: canonical, or with its atoms in another order.
            canonical: RDKit's canonical SMILES of the molecule that the tokens must stand for.

        Raises:
            ValueError: it cannot be written; the reason alone.
        """
        raise NotImplementedError

    def read(self, text: str) -> str:
        """SMILES of a text that a model wrote; whether they are a molecule is for RDKit to say.

        Raises:
            ValueError: it cannot be read; the reason alone.
        """
        return text

    def split(self, text: str, name: str = "") -> List[str]:
        """Tokens of a text in order.

        Args:
            text: of one molecule.
            name: what error messages call the molecule.

        Raises:
            ValueError: it is empty, or no token begins where one should.
        """
        tokens = self.pieces(text) if isinstance(text, str) else []
        if not tokens:
            self._refuse(text, name or "the molecule")
        return tokens

    def pieces(self, text: str) -> List[str]:
        """Tokens of a text, none if there is anything else in it."""
        found: List[str] = _compiled(self.pattern).findall(text)
        return found if sum(map(len, found)) == len(text) else []

    def is_token(self, text: str) -> bool:
        """Test if a text is exactly one token."""
        return _compiled(self.pattern).fullmatch(text) is not None

    def alphabet(self) -> Set[str]:
        """Tokens that a vocabulary gets beside those of its corpus."""
        return set()

    def beginning(self, prefix: str) -> str:
        """The text of what a user wants molecules to begin with.

        Raises:
            ValueError: nothing begins so.
        """
        return prefix

    def _refuse(self, text: Any, who: str) -> None:
        """Say what is wrong with a text that has no tokens."""
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(f"{who} is no text but {kind} {shown(text)}; give its {self.title} as a str.")
        if not text.strip():
            raise ValueError(f"{who} is empty: it has no tokens; leave it out.")
        at = 0
        for found in _compiled(self.pattern).finditer(text):
            if found.start() != at:
                break
            at = found.end()
        raise ValueError(
            f"{who}: {shown(text)} is damaged, no token of {self.title} begins at character {at} "
            f"({shown(text[at : at + 8])}); write the molecule again."
        )


def shown(text: Any) -> str:
    """A text as error messages quote it, cut where it is long."""
    return repr(text) if len(str(text)) <= _SHOWN else repr(str(text)[:_SHOWN])[:-1] + "...'"


def stands_for(smiles: str, canonical: str) -> bool:
    """Test if SMILES are the molecule of a canonical SMILES."""
    from rdkit import Chem

    try:
        mol = Chem.MolFromSmiles(smiles)
        # Of a few molecules RDKit's canonical SMILES is not its own.
        return mol is not None and Chem.MolToSmiles(mol) in (canonical, Chem.CanonSmiles(canonical))
    except MemoryError:
        raise
    except Exception:  # an invariant of RDKit is violated
        return False


@lru_cache(maxsize=None)
def _compiled(pattern: str) -> Any:
    return re.compile(pattern)
