"""Ids of many molecules at once: their texts as bytes, every token a number of eight of them, looked up in a table.

Of representations whose tokens are in brackets, as those of SELFIES. What is not made of known tokens alone comes back
undone; to say what is wrong with which molecule is for others.
"""

from typing import Dict, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.representations.base import DOT

_WORD = 8  # bytes of a symbol, without brackets; longer ones ([=123Xe@@H1+1]) are not in the table
# By the length of a symbol: which bytes of the word that begins with it are its own.
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(_WORD + 1)], np.uint64)
_DOT = " "  # what the dot is called in brackets: no symbol holds a blank
_OPEN, _CLOSE = b"[]"


class Lookup:
    """Ids by symbol."""

    def __init__(self) -> None:
        self._ids: Dict[str, int] = {}
        self._table: Optional[Tuple[np.ndarray, np.ndarray]] = None

    def add(self, symbol: str, index: int) -> None:
        """Give a symbol its id."""
        self._ids[symbol] = index
        self._table = None

    def find(self, symbol: str) -> Optional[int]:
        """The id of a symbol, None if it has none."""
        return self._ids.get(symbol)

    def encode(self, texts: Sequence[str]) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        """Ids of the tokens of at least one molecule.

        Returns:
            (ids [total] int32 one molecule after the other, symbols per molecule [I] int64); None if one of the texts
            is empty or has something in it that is not in the table.
        """
        try:
            joined = "".join(texts)
            if _DOT in joined:
                return None
            if DOT in joined:
                texts = [text.replace(DOT, f"[{_DOT}]") for text in texts]
                joined = "".join(texts)
            data = joined.encode("ascii") + bytes(_WORD)
        except (TypeError, UnicodeEncodeError):  # not a text, or not one of symbols
            return None
        characters = np.frombuffer(data, np.uint8)
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        closing = np.flatnonzero(characters == _CLOSE)
        opening = np.append(0, closing[:-1] + 1)
        lengths = closing - opening - 1
        counts = np.diff(np.searchsorted(closing, ends), prepend=0)
        # Symbols follow each other without a gap, molecules end with one, and none of them is without symbols.
        if not (
            counts.min() > 0
            and (characters[opening] == _OPEN).all()
            and (characters[ends - 1] == _CLOSE).all()
            and lengths.max() <= _WORD
        ):
            return None
        words = np.ndarray((len(data) - _WORD,), "<u8", data, 1, (1,))  # that begin behind every character
        known, ids = self._sorted()
        symbols = words[opening] & _MASKS[lengths]
        places = np.minimum(np.searchsorted(known, symbols), len(known) - 1)
        return None if (known[places] != symbols).any() else (ids[places], counts)

    def _sorted(self) -> Tuple[np.ndarray, np.ndarray]:
        """Words [n] uint64 in rising order, and their ids [n] int32."""
        if self._table is None:
            contents = [_DOT if symbol == DOT else symbol[1:-1] for symbol in self._ids]
            bytes_of = [content.encode("utf-8") for content in contents]
            words = np.array([int.from_bytes(one[:_WORD], "little") for one in bytes_of], np.uint64)
            ids = np.array(list(self._ids.values()), np.int32)
            fit = np.array([len(one) <= _WORD for one in bytes_of], bool)
            order = np.argsort(words[fit])
            self._table = words[fit][order], ids[fit][order]
        return self._table


def bordered(ids: np.ndarray, counts: np.ndarray, leading: np.ndarray, eos_id: int) -> np.ndarray:
    """Ids with leading ones before and EOS behind every molecule.

    Args:
        ids: [total] integer, one molecule after the other.
        counts: [I] integer, ids of each molecule.
        leading: [L] integer, BOS and what stands behind it.
        eos_id: id of EOS.

    Returns:
        [total + (L + 1) I] of the dtype of ``ids``.
    """
    more = len(leading) + 1
    ends = np.cumsum(counts + more)
    flat = np.empty(len(ids) + more * len(counts), ids.dtype)
    # Every molecule before it, and what its own begins with, push a symbol on.
    flat[np.arange(len(ids)) + np.repeat(more * np.arange(len(counts)) + len(leading), counts)] = ids
    flat[(ends - counts - more)[:, None] + np.arange(len(leading))] = leading
    flat[ends - 1] = eos_id
    return flat
