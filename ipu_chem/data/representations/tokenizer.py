"""Molecules as token ids, one for each token of their texts in a representation.

A molecule is BOS, its tokens, EOS. The vocabulary is the four special tokens, those of a corpus, and the alphabet of
the representation: that of SELFIES can make any molecule, so that what a model generates can always be written down.
"""

import hashlib
import json
from itertools import chain
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Type, TypeVar, Union

import numpy as np

from ipu_chem.data.representations.base import DOT, UnknownToken, shown
from ipu_chem.data.representations.conditions import leading_ids, properties_of
from ipu_chem.data.representations.lookup import Lookup, bordered
from ipu_chem.data.representations.registry import USUAL, representation_named
from packing.files import PathLike, atomic_file
from packing.store import Store
from packing.types import Ragged, index_dtype, offsets_of

PAD, BOS, EOS, UNK = "[PAD]", "[BOS]", "[EOS]", "[UNK]"
FORMAT = 1
_Self = TypeVar("_Self", bound="Tokenizer")
_BLOCK = 1024  # molecules looked up at once
_FEW = 16  # molecules that are looked at one by one when that fails


class Tokenizer:
    """Tokens and their ids, which encode and decode molecules.

    Attributes:
        representation: that the texts of molecules are in.
        symbols: id -> token, special ones included.
        pad_id, bos_id, eos_id, unk_id: ids of the special tokens.
        unknown: what happens to a token outside the vocabulary: "error", or "map" to ``unk_id``.
        properties: that molecules begin with tokens of (see `conditions`); none for most vocabularies.
        leading: [1 + P] int64, ids that every molecule begins with: BOS, then a token for each of P properties, which
            are not known until `put_conditions` says them.
        unknown_count: how many tokens it has mapped to ``unk_id`` since it was made.
    """

    cuts_fragments = False  # encodes every fragment of a molecule
    # Those for PAD, BOS, EOS and UNK, then others that no molecule holds.
    special: Tuple[str, ...] = (PAD, BOS, EOS, UNK)

    def __init__(self, symbols: Iterable[str], unknown: str = "error", representation: str = USUAL) -> None:
        """Number the tokens; `build` makes them from those of a corpus.

        Args:
            symbols: tokens in the order of their ids.
            unknown: see the class.
            representation: its name.

        Raises:
            ValueError: a token is there twice, a special one is missing, ``unknown`` is neither error nor map, or there
                is no such representation.
        """
        check_choice("unknown", unknown, ("error", "map"))
        self.representation = representation_named(representation)
        self.symbols = tuple(symbols)
        self.unknown = unknown
        ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(ids) < len(self.symbols):
            twice = next(s for index, s in enumerate(self.symbols) if ids[s] != index)
            raise ValueError(f"token {twice!r} is in the vocabulary twice; every token has one id.")
        self.properties = properties_of(self.symbols)
        stated = [one for each in self.properties for one in (*each.ids.tolist(), each.unknown)]
        if stated:
            self.special = (*type(self).special, *(self.symbols[index] for index in sorted(stated)))
        missing = [symbol for symbol in self.special if symbol not in ids]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; it needs {', '.join(self.special)}.")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (ids[symbol] for symbol in self.special[:4])
        self._special_ids = frozenset(ids[symbol] for symbol in self.special)
        self.leading = leading_ids(self.bos_id, self.properties, {})
        self.unknown_count = 0
        self._lookup = Lookup()
        for index, symbol in enumerate(self.modern_symbols()):
            if index not in self._special_ids and self.representation.is_token(symbol):
                self._lookup.add(symbol, index)

    @classmethod
    def build(
        cls: Type[_Self],
        symbols: Iterable[str],
        robust_alphabet: bool = True,
        unknown: str = "error",
        representation: str = USUAL,
    ) -> _Self:
        """A tokenizer from the tokens of a corpus: special ones, these in their order, then the alphabet.

        Args:
            symbols: single tokens, without the special ones; a corpus store lists its own as ``info["symbols"]``.
            robust_alphabet: add what the representation's alphabet has beside them, sorted; that of SELFIES is
                ``selfies.get_semantic_robust_alphabet()``.
            unknown, representation: see `Tokenizer`.

        Raises:
            ValueError: one is not a single token or is a special one, or a library is not installed.
        """
        language = representation_named(representation)
        chosen = list(cls.special)
        for symbol in dict.fromkeys(symbols):
            if not language.is_token(symbol) or symbol in cls.special:
                raise ValueError(
                    f"{shown(symbol)} is no single token of {language.title}; list what `Representation.split` gives."
                )
            chosen.append(symbol)
        if robust_alphabet:
            chosen += sorted(language.alphabet().difference(chosen))
        return cls(chosen, unknown, representation)

    @property
    def kind(self) -> str:
        """Its name in saved vocabularies."""
        return self.representation.name

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.symbols)

    def modern_symbols(self) -> Tuple[str, ...]:
        """id -> what molecules call it (SELFIES 2.x, where a vocabulary has another dialect)."""
        return self.symbols

    def never_written(self, rows: int = 0) -> List[int]:
        """Ids that no molecule holds: special tokens but the end, pieces of tokens, and rows beyond the vocabulary.

        Args:
            rows: of the table of a model, which may have more than the vocabulary.
        """
        special = self._special_ids - {self.eos_id}
        is_token, names = self.representation.is_token, self.modern_symbols()
        none = (index for index, name in enumerate(names) if index in special or not is_token(name))
        return [*none, *range(self.vocab_size, rows)]

    def fingerprint(self) -> str:
        """16 hex digits that change with the meaning of any id."""
        text = json.dumps([self.kind, self.special, self.symbols])
        return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()

    def to_dict(self) -> Dict[str, Any]:
        """Plain values, from which `tokenizer_from_dict` makes the same tokenizer."""
        what = {"format": FORMAT, "kind": self.kind, "representation": self.representation.name}
        return {**what, **self._settings(), "symbols": list(self.symbols)}

    def save(self, path: PathLike) -> None:
        """Write the tokenizer as JSON, atomically."""
        with atomic_file(path, "w") as file:
            json.dump(self.to_dict(), file, indent=1)

    def encode(self, text: str, name: str = "") -> np.ndarray:
        """Ids of one molecule, [n + 2] of the smallest index dtype: BOS, n tokens, EOS; see also ``leading``.

        Raises:
            ValueError: see `encode_many`.
        """
        return self.encode_many([text], [name or "the molecule"]).values

    def encode_many(self, texts: Sequence[str], names: Optional[Sequence[str]] = None) -> Ragged:
        """Ids of many molecules, each with BOS and EOS.

        Args:
            texts: I molecules in its representation.
            names: I names for error messages; without them a molecule is called by its number.

        Raises:
            ValueError: names the molecule that is empty, damaged, in another representation, or has a token outside
                the vocabulary.
        """
        if isinstance(texts, str):
            raise ValueError(f"encode_many takes a list of {self.representation.title}; encode takes one.")
        if names is not None and len(names) != len(texts):
            raise ValueError(f"{len(names)} names for {len(texts)} molecules; give one each.")
        if not len(texts):
            return Ragged(np.empty(0, index_dtype(self.vocab_size)), np.zeros(1, np.int64))
        blocks: List[np.ndarray] = []
        lengths: List[np.ndarray] = []
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            ids, counts = self._encode_block(block, () if names is None else names[start : start + _BLOCK], start)
            ids = bordered(ids, counts, self.leading, self.eos_id)
            blocks.append(ids.astype(index_dtype(self.vocab_size)))
            lengths.append(counts + len(self.leading) + 1)
        return self.counted(Ragged(np.concatenate(blocks), offsets_of(np.concatenate(lengths))))

    def encode_store(self, store: Store) -> Ragged:
        """Ids of all molecules of a corpus store, each with BOS and EOS.

        Args:
            store: "symbols" on the axis "tokens" holds places in ``info["symbols"]``; "smiles" names the molecules.

        Raises:
            ValueError: it is no such store or one in another representation, a molecule is empty or has a token outside
                the vocabulary.
        """
        from ipu_chem.data.representations.store import encode_store

        return self.counted(encode_store(self, store))

    def decode(self, ids: Union[Sequence[int], np.ndarray]) -> str:
        """Text (SELFIES 2.x) of ids up to the first EOS, without the special tokens.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        kept = []
        for index in np.asarray(ids).tolist():
            if index == self.eos_id:
                break
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index} is outside the vocabulary of {self.vocab_size}: another tokenizer's ids?")
            if index not in self._special_ids:
                kept.append(self.symbols[index])
        return self._join(kept)

    def save_huggingface(self, folder: PathLike) -> None:
        """Write the files that transformers' ``AutoTokenizer`` loads, with the same ids (see `huggingface`)."""
        from ipu_chem.data.representations.huggingface import write_tokenizer

        write_tokenizer(self, folder)

    def id_of(self, symbol: str) -> int:
        """The id of a token as it stands in a molecule.

        Raises:
            ValueError: it is outside the vocabulary and not to be mapped; the reason alone.
        """
        index = self._lookup.find(symbol)
        if index is None:
            index = self._resolve(symbol)
            self._lookup.add(symbol, index)
        return index

    def mapping_unknown(self: _Self) -> _Self:
        """The same vocabulary, which reads what it lacks as ``unk_id``."""
        return type(self)(self.symbols, "map", self.representation.name)

    def extended(self: _Self, symbols: Sequence[str]) -> _Self:
        """The same vocabulary with further tokens, as molecules call them, behind those that it has."""
        return type(self)([*self.symbols, *symbols], self.unknown, self.representation.name)

    def with_properties(self: _Self, tokens: Sequence[str]) -> _Self:
        """The same vocabulary with tokens of properties behind its own; see `conditions.bin_tokens`."""
        return type(self)([*self.symbols, *tokens], self.unknown, self.representation.name)

    def without_stereo_of(self, store: Store) -> int:
        """Molecules of a corpus store of which it leaves out stereochemistry."""
        return 0

    def counted(self, ids: Ragged) -> Ragged:
        """The same ids, after adding to ``unknown_count``."""
        self.unknown_count += int(np.count_nonzero(ids.values == self.unk_id))
        return ids

    def cut_fragments(self, symbols: List[Any], dot: Any) -> List[Any]:
        """Tokens that are encoded of a molecule with dots between them."""
        return symbols

    def _settings(self) -> Dict[str, Any]:
        """Arguments of the constructor beside the tokens and the representation."""
        return {"unknown": self.unknown}

    def _join(self, symbols: List[str]) -> str:
        """Text of the tokens of a molecule as the vocabulary has them."""
        return "".join(symbols)

    def _resolve(self, symbol: str) -> int:
        """The id of a token that is not among those spelled as in the vocabulary."""
        if self.unknown == "map":
            return self.unk_id
        raise UnknownToken(
            f"token {symbol!r} is not in the vocabulary",
            "set data.unknown=drop to leave such molecules out, data.unknown=extend to add it, or "
            f"data.unknown=map to read it as {self.special[3]}{self.representation.hint}.",
        )

    def _encode_block(self, texts: Sequence[str], names: Sequence[str], first: int) -> Tuple[np.ndarray, np.ndarray]:
        """Ids of tokens, and how many of each molecule; ``first`` is the number of the first one."""
        found = self._lookup.encode(texts) if self.representation.in_brackets else self._ids_of_pieces(texts)
        if found is not None:
            return found
        if len(texts) > _FEW:  # most of them may have nothing to them, or need just one symbol that is new
            middle = len(texts) // 2
            halves = (
                self._encode_block(texts[:middle], names[:middle], first),
                self._encode_block(texts[middle:], names[middle:], first + middle),
            )
            return np.concatenate([ids for ids, _ in halves]), np.concatenate([counts for _, counts in halves])
        called = [
            name or f"molecule {first + index}" for index, name in enumerate(names if len(names) else [""] * len(texts))
        ]
        molecules = list(map(self._encode_carefully, texts, called))
        return np.array(list(chain(*molecules)), np.int32), np.array([len(ids) for ids in molecules], np.int64)

    def _ids_of_pieces(self, texts: Sequence[str]) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        """The same of molecules that are made of known tokens alone, else None."""
        ids: List[Any] = []
        counts: List[int] = []
        for text in texts:
            pieces = self.representation.pieces(text) if isinstance(text, str) else []
            if not pieces:
                return None
            ids += map(self._lookup.find, pieces)
            counts.append(len(pieces))
        return None if None in ids else (np.array(ids, np.int32), np.array(counts, np.int64))

    def _encode_carefully(self, text: str, who: str) -> List[int]:
        """Ids of the tokens of one molecule, or the error that says what is wrong with it."""
        symbols = self.representation.split(text, who)
        if DOT in symbols:
            symbols = self.cut_fragments(symbols, DOT) or self.representation.split("", who)
        try:
            return list(map(self.id_of, symbols))
        except UnknownToken as error:
            raise UnknownToken(f"{who}: {error.reason}", error.remedy) from None
        except ValueError as error:
            raise ValueError(f"{who}: {error}") from None


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is none of its choices."""
    if value not in choices:
        raise ValueError(f"{what}={value!r} is none of {', '.join(choices)}.")
