"""SELFIES (2.x) as a representation: any sequence of their symbols is a molecule.

M. Krenn et al., "Self-referencing embedded strings (SELFIES): A 100% robust molecular string representation", Mach.
Learn.: Sci. Technol. 1, 045024 (2020). selfies encodes a SMILES with its default constraints, and the result is kept
only if it stands for the same molecule: what is decoded has the same canonical SMILES. Iodine with three bonds and
ferrocene, for which SELFIES have no room, are failures.
"""

import re
from functools import lru_cache
from typing import Dict, List, Set

from ipu_chem.data.representations.base import DOT, Representation, stands_for
from ipu_chem.data.selfies.symbols import is_symbol, split_symbols

OTHER = "SELFIES stand for another molecule"
NOT_DECODED = "no SELFIES that can be decoded"
_MOST_SYMBOLS = 2**16
# Molecules without stereochemistry, of atoms and charges that organic chemistry is made of. Where their bonds keep to
# the constraints of selfies, which its strict encoder tests, the decoder makes the same graph bond by bond, and no
# choice of double bonds in a ring changes what RDKit takes for aromatic. All others are decoded.
_PLAIN = re.compile(
    r"(?:[BCNOPSFIbcnops0-9()=#%.-]|Cl|Br|\[(?:nH|n\+|N\+|NH\+|NH2\+|NH3\+|O-|S-|N-|Na\+|K\+|Cl-|Br-)\])+"
)
_TEXT = re.compile(r"(\[[^\[\]]+\]|\.)+")


class Selfies(Representation):
    """Symbols in brackets, of which any sequence can be decoded."""

    name = "selfies"
    title = "SELFIES"
    pattern = r"\[[^\[\]]*\]|\."
    in_brackets = True
    column = "selfies"
    hint = " (SELFIES are those of selfies 2.x, not SMILES)"

    def versions(self) -> Dict[str, str]:
        from importlib.metadata import version

        try:
            import selfies  # noqa: F401
        except ImportError:
            raise ValueError("molecules are encoded by RDKit and selfies: pip install selfies.") from None
        # selfies.__version__ is behind the release it comes with.
        return {"selfies": version("selfies")}

    def write(self, smiles: str, canonical: str) -> List[str]:
        import selfies

        if _PLAIN.fullmatch(smiles):
            try:
                return _decodable(split_symbols(selfies.encoder(smiles)))
            except (selfies.EncoderError, RecursionError):
                pass  # beyond the constraints
        try:
            text = selfies.encoder(smiles, strict=False)
            symbols = split_symbols(text)
        except MemoryError:
            raise
        except Exception:  # also IndexError, KeyError or RecursionError for what its parser does not foresee
            raise ValueError("selfies cannot encode the molecule") from None
        _decodable(symbols)
        if not _stands_for(text, canonical):
            raise ValueError(OTHER)
        return symbols

    def read(self, text: str) -> str:
        import selfies

        try:
            return selfies.decoder(text) or ""
        except Exception:  # whatever selfies trips over, the other molecules must not be lost
            raise ValueError(NOT_DECODED) from None

    def split(self, text: str, name: str = "") -> List[str]:
        return split_symbols(text, name)

    def is_token(self, text: str) -> bool:
        return is_symbol(text)

    def alphabet(self) -> Set[str]:
        try:
            from selfies import get_semantic_robust_alphabet
        except ImportError:
            raise ValueError("the robust alphabet comes from the package selfies: pip install selfies") from None
        return get_semantic_robust_alphabet()

    def beginning(self, prefix: str) -> str:
        """SELFIES of SELFIES or SMILES; atoms of SMILES keep their order, so that a molecule goes on at the last."""
        if _TEXT.fullmatch(prefix):
            return prefix
        self.versions()
        import selfies

        try:
            return selfies.encoder(prefix)
        except selfies.EncoderError as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"prefix {prefix}: neither SELFIES nor SMILES that can be encoded ({reason}).") from None


def _stands_for(text: str, canonical: str) -> bool:
    """Test if SELFIES are decoded to the molecule of a canonical SMILES."""
    import selfies

    try:
        return stands_for(selfies.decoder(text), canonical)
    except MemoryError:
        raise
    except Exception:  # as in `Selfies.write`
        return False


def _decodable(symbols: List[str]) -> List[str]:
    """The same symbols, if the decoder takes all of them."""
    for symbol in dict.fromkeys(symbols):  # in their order: of several the first is named, always
        if not _decodes(symbol):
            raise ValueError(f"selfies cannot decode its own symbol {symbol}")
    return symbols


@lru_cache(maxsize=_MOST_SYMBOLS)
def _decodes(symbol: str) -> bool:
    """Test if the decoder takes a symbol. It judges each for itself, so a text of symbols it takes is taken, too."""
    import selfies

    if symbol == DOT:
        return True
    try:
        selfies.decoder(symbol)
    except selfies.DecoderError:
        return False
    return True
