"""The published vocabulary of ChemGPT for molecules in SELFIES 2.x.

N. C. Frey et al., "Neural scaling of deep chemical models", Nat. Mach. Intell. 5, 1297 (2023). The published tokenizer
is a WordPiece model over symbols of SELFIES 1.0.4. Those of 2.x are spelled differently, and it breaks many of them
into pieces that the model has hardly seen: "[=Branch1]" into five. Here every symbol is translated and has one id, the
one that the published file gives to its 1.0.4 spelling.
"""

import re
from typing import Any, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from ipu_chem.data.representations.base import DOT, UnknownToken
from ipu_chem.data.representations.tokenizer import Tokenizer, check_choice
from ipu_chem.data.selfies.dialect import to_version_1, to_version_2, without_stereo
from packing.files import PathLike
from packing.store import Store

_PIECE = "##"  # begins a piece that continues a symbol


class ChemGPTTokenizer(Tokenizer):
    """The 684 published ids: BOS is [CLS] (2), EOS is [SEP] (3), [PAD] is 1 and [UNK] 0.

    ``symbols`` are the published ones, in SELFIES 1.0.4 and with the pieces of WordPiece; molecules go in and come out
    in SELFIES 2.x; the 1.0.4 spelling is read, too. The pieces are never given to a molecule.

    Attributes:
        stereo: the vocabulary has no chirality, directed bonds and isotopes. "drop" leaves them out, as the training
            data did: [C@@H1] and [/C] are [C] (`dialect.without_stereo`). "error" refuses the molecule.
        fragments: the vocabulary has no dot. "error" refuses a molecule that has one, "largest" encodes its fragment
            of most symbols (the first of several), "map" reads the dot as [UNK], as the published tokenizer does.
    """

    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")

    def __init__(
        self, symbols: Iterable[str], unknown: str = "error", stereo: str = "drop", fragments: str = "error"
    ) -> None:
        """Take the published symbols; `from_published` reads them from their file.

        Raises:
            ValueError: see `Tokenizer`, or a policy is none of its choices.
        """
        check_choice("stereo", stereo, ("drop", "error"))
        check_choice("fragments", fragments, ("error", "largest", "map"))
        self.stereo, self.fragments = stereo, fragments
        super().__init__(symbols, unknown)

    @classmethod
    def from_published(
        cls, path: PathLike, unknown: str = "error", stereo: str = "drop", fragments: str = "error"
    ) -> "ChemGPTTokenizer":
        """Read the published tokenizer.json, or one that `save_huggingface` has written.

        Args:
            path: the file, or the folder that holds it.
            unknown, stereo, fragments: see `Tokenizer` and `ChemGPTTokenizer`.

        Raises:
            ValueError: there is no such file, or it is another tokenizer.
        """
        from ipu_chem.data.representations.huggingface import read_symbols

        return cls([to_version_1(symbol) for symbol in read_symbols(path, cls.special)], unknown, stereo, fragments)

    def modern_symbols(self) -> Tuple[str, ...]:
        """id -> what SELFIES 2.x calls it; pieces stay as they are."""
        return tuple(map(to_version_2, self.symbols))

    @property
    def cuts_fragments(self) -> bool:
        """True if `cut_fragments` leaves any out."""
        return self.fragments == "largest"

    def cut_fragments(self, symbols: List[Any], dot: Any) -> List[Any]:
        """The fragment of most symbols, where that is the policy."""
        if not self.cuts_fragments:
            return symbols
        borders = [-1, *(place for place, symbol in enumerate(symbols) if symbol == dot), len(symbols)]
        start, end = max(zip(borders, borders[1:]), key=lambda pair: pair[1] - pair[0])
        return symbols[start + 1 : end]

    def mapping_unknown(self) -> "ChemGPTTokenizer":
        fragments = "map" if self.fragments == "error" else self.fragments
        return ChemGPTTokenizer(self.symbols, "map", self.stereo, fragments)

    def extended(self, symbols: Sequence[str]) -> "ChemGPTTokenizer":
        return ChemGPTTokenizer([*self.symbols, *map(to_version_1, symbols)], **self._settings())

    def without_stereo_of(self, store: Store) -> int:
        symbols = store.info["symbols"] if self.stereo == "drop" else []
        lossy = np.array([self._lookup.find(one) is None and without_stereo(one) != one for one in symbols], bool)
        if not lossy.any():
            return 0
        ids = store.ragged("symbols")
        return len(np.unique(np.searchsorted(ids.offsets, np.flatnonzero(lossy[ids.values]), side="right")))

    @property
    def kind(self) -> str:
        return "chemgpt"

    def _settings(self) -> Dict[str, Any]:
        return {"unknown": self.unknown, "stereo": self.stereo, "fragments": self.fragments}

    def _resolve(self, symbol: str) -> int:
        if symbol == DOT:
            if self.fragments == "map":
                return self.unk_id
            raise UnknownToken(
                "it has several fragments and the published vocabulary no dot",
                "set data.fragments=largest to encode one of them, or data.unknown=map to read the dot as [UNK].",
            )
        plain = without_stereo(symbol)
        if plain != symbol and self.stereo == "error":
            raise ValueError(
                f"symbol {symbol!r} says something of stereochemistry or isotopes, which the published vocabulary "
                "cannot; take stereo='drop' to leave it out."
            )
        # Spelled as the vocabulary does where SELFIES allow more than one way, such as [SiH0] and [Si].
        known = self._lookup.find(to_version_2(to_version_1(plain)))
        return super()._resolve(symbol) if known is None else known

    def _join(self, symbols: List[str]) -> str:
        text = ""
        for symbol in symbols:
            text += symbol[len(_PIECE) :] if symbol.startswith(_PIECE) else symbol
        return re.sub(r"\[[^\[\]]*\]", lambda found: to_version_2(found.group()), text)
