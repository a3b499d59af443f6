"""Vocabulary: ids of the symbols of molecules, in memory and as JSON."""

import hashlib
import json
from typing import Any, Dict, Iterable, Sequence, Set, Tuple, Type, TypeVar

from ipu_chem.data.selfies.symbols import is_symbol, shown
from packing.files import PathLike, atomic_file

PAD, BOS, EOS, UNK = "[PAD]", "[BOS]", "[EOS]", "[UNK]"
FORMAT = 1
_Self = TypeVar("_Self", bound="Vocabulary")


class Vocabulary:
    """Symbols and their ids.

    Attributes:
        symbols: id -> symbol, special ones included.
        pad_id, bos_id, eos_id, unk_id: ids of the special symbols.
        unknown: what happens to a symbol outside the vocabulary: "error", or "map" to ``unk_id``.
    """

    kind = "selfies"
    # Those for PAD, BOS, EOS and UNK, then others that no molecule holds.
    special: Tuple[str, ...] = (PAD, BOS, EOS, UNK)

    def __init__(self, symbols: Iterable[str], unknown: str = "error") -> None:
        """Number the symbols; `build` makes them from those of a corpus.

        Raises:
            ValueError: a symbol is there twice, a special one is missing, or ``unknown`` is neither error nor map.
        """
        check_choice("unknown", unknown, ("error", "map"))
        self.symbols = tuple(symbols)
        self.unknown = unknown
        ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(ids) < len(self.symbols):
            twice = next(s for index, s in enumerate(self.symbols) if ids[s] != index)
            raise ValueError(f"symbol {twice!r} is in the vocabulary twice; every symbol has one id.")
        missing = [symbol for symbol in self.special if symbol not in ids]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; it needs {', '.join(self.special)}.")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (ids[symbol] for symbol in self.special[:4])
        self._special_ids = frozenset(ids[symbol] for symbol in self.special)

    @classmethod
    def build(cls: Type[_Self], symbols: Iterable[str], robust_alphabet: bool = True, unknown: str = "error") -> _Self:
        """A vocabulary from the symbols of a corpus: special ones, these in their order, then the robust alphabet.

        Args:
            symbols: single symbols, without the special ones; a corpus store lists its own as ``info["symbols"]``.
            robust_alphabet: add what ``selfies.get_semantic_robust_alphabet()`` has beside them, sorted.
            unknown: see `Vocabulary`.

        Raises:
            ValueError: one is not a single symbol or is a special one, or selfies is not installed.
        """
        chosen = list(cls.special)
        for symbol in dict.fromkeys(symbols):
            if not is_symbol(symbol) or symbol in cls.special:
                raise ValueError(
                    f"{shown(symbol)} is no symbol of a molecule; list symbols (split_symbols) like '[=C]'."
                )
            chosen.append(symbol)
        if robust_alphabet:
            chosen += sorted(_robust_alphabet().difference(chosen))
        return cls(chosen, unknown)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.symbols)

    def modern_symbols(self) -> Tuple[str, ...]:
        """id -> what SELFIES 2.x calls it."""
        return self.symbols

    def fingerprint(self) -> str:
        """16 hex digits that change with the meaning of any id."""
        text = json.dumps([self.kind, self.special, self.symbols])
        return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()

    def to_dict(self) -> Dict[str, Any]:
        """Plain values, from which `tokenizer_from_dict` makes the same tokenizer."""
        return {"format": FORMAT, "kind": self.kind, **self._settings(), "symbols": list(self.symbols)}

    def save(self, path: PathLike) -> None:
        """Write the tokenizer as JSON, atomically."""
        with atomic_file(path, "w") as file:
            json.dump(self.to_dict(), file, indent=1)

    def _settings(self) -> Dict[str, Any]:
        """Arguments of the constructor beside the symbols."""
        return {"unknown": self.unknown}


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{what}={value!r} is none of {', '.join(choices)}.")


def _robust_alphabet() -> Set[str]:
    try:
        from selfies import get_semantic_robust_alphabet
    except ImportError:
        raise ValueError("the robust alphabet comes from the package selfies: pip install selfies") from None
    return get_semantic_robust_alphabet()
