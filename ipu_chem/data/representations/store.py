"""Ids of a whole corpus at once: its tokens are numbers already, and a table turns them into a tokenizer's ids."""

from typing import TYPE_CHECKING, Dict, List, Tuple

import numpy as np

from ipu_chem.data.molecule import decode_text
from ipu_chem.data.representations.base import DOT, UnknownToken
from ipu_chem.data.representations.lookup import bordered
from ipu_chem.data.representations.registry import USUAL
from packing.store import Store
from packing.types import Ragged, index_dtype, offsets_of

if TYPE_CHECKING:
    from ipu_chem.data.representations.tokenizer import Tokenizer

_BLOCK = 1 << 16  # molecules at once: what limits the memory beside the result


def representation_of(store: Store) -> str:
    """The name of the representation of a corpus; those of earlier versions, which do not say it, are SELFIES."""
    return store.info.get("representation", USUAL)


def encode_store(tokenizer: "Tokenizer", store: Store) -> Ragged:
    """Ids of all molecules, see `Tokenizer.encode_store`."""
    symbols, table, reasons = _looked_up(tokenizer, store)
    if len(symbols) and symbols.lengths.min() == 0:
        raise ValueError(f"{_name_in(store, int(np.argmin(symbols.lengths)))} is empty: it has no tokens.")
    places = _outside(symbols, table, reasons)
    if len(places):
        item = int(_owners(symbols, places[:1])[0])
        raise ValueError(f"{_name_in(store, item)}: {reasons[int(symbols.values[places[0]])]}")
    return _ids(tokenizer, symbols, table)


def encode_known(tokenizer: "Tokenizer", store: Store) -> Tuple[Ragged, np.ndarray, Dict[int, str]]:
    """Ids of the molecules that the vocabulary has all tokens of.

    Returns:
        (ids of the K molecules, which those are [K], molecule -> why it is none of them).
    """
    symbols, table, reasons = _looked_up(tokenizer, store)
    places = _outside(symbols, table, reasons)[::-1]  # so that of several reasons the first is given
    refused = {item: "it has no tokens" for item in np.flatnonzero(symbols.lengths == 0).tolist()}
    for item, symbol in zip(_owners(symbols, places).tolist(), symbols.values[places].tolist()):
        error = reasons[symbol]
        refused[item] = error.reason if isinstance(error, UnknownToken) else str(error)
    kept = np.setdiff1d(np.arange(len(symbols)), list(refused)).astype(np.int64)
    return _ids(tokenizer, symbols.take(kept), table), kept, refused


def _looked_up(tokenizer: "Tokenizer", store: Store) -> Tuple[Ragged, np.ndarray, Dict[int, ValueError]]:
    """Tokens of all molecules, the id of each (-1 for none), and why one has none."""
    if "symbols" not in store or "symbols" not in store.info:
        raise ValueError("the store holds no tokens; make one with ipu_chem.data.corpora.")
    theirs, mine = representation_of(store), tokenizer.representation.name
    if theirs != mine:
        raise ValueError(
            f"the corpus is written in {theirs} and the vocabulary in {mine}; take the corpus with "
            f"data.representation={mine}, or another vocabulary."
        )
    names: List[str] = store.info["symbols"]
    symbols = store.ragged("symbols")
    if tokenizer.cuts_fragments and DOT in names:
        symbols = _cut_fragments(tokenizer, symbols, names.index(DOT))
    table, reasons = np.full(len(names), -1, np.int32), {}
    for index, symbol in enumerate(names):
        try:
            table[index] = tokenizer.id_of(symbol)
        except ValueError as error:  # matters only if a molecule has it
            reasons[index] = error
    return symbols, table, reasons


def _outside(symbols: Ragged, table: np.ndarray, reasons: Dict[int, ValueError]) -> np.ndarray:
    """Places of tokens that have no id."""
    return np.flatnonzero((table < 0)[symbols.values]) if reasons else np.zeros(0, np.int64)


def _owners(symbols: Ragged, places: np.ndarray) -> np.ndarray:
    """The molecules that stand at places."""
    return np.searchsorted(symbols.offsets, places, side="right") - 1


def _ids(tokenizer: "Tokenizer", symbols: Ragged, table: np.ndarray) -> Ragged:
    """Ids of tokens that all have one, with begin and end."""
    offsets = symbols.offsets + (len(tokenizer.leading) + 1) * np.arange(len(symbols) + 1)
    values = np.empty(offsets[-1], index_dtype(tokenizer.vocab_size))
    for start in range(0, len(symbols), _BLOCK):
        borders = symbols.offsets[start : start + _BLOCK + 1]
        ids = table[symbols.values[borders[0] : borders[-1]]]
        end = start + len(borders) - 1
        flat = bordered(ids, np.diff(borders), tokenizer.leading, tokenizer.eos_id)
        values[offsets[start] : offsets[end]] = flat
    return Ragged(values, offsets)


def _cut_fragments(tokenizer: "Tokenizer", symbols: Ragged, dot: int) -> Ragged:
    """Tokens without the fragments that the tokenizer leaves out."""
    items = np.unique(_owners(symbols, np.flatnonzero(symbols.values == dot)))
    cut = {item: tokenizer.cut_fragments(symbols[item].tolist(), dot) for item in items.tolist()}
    lengths, values = symbols.lengths, np.array(symbols.values)
    inside = np.ones(len(values), bool)
    for item, kept in cut.items():
        start, end = symbols.offsets[item : item + 2]
        values[start : start + len(kept)] = kept
        inside[start + len(kept) : end] = False
        lengths[item] = len(kept)
    return Ragged(values[inside], offsets_of(lengths))


def _name_in(store: Store, item: int) -> str:
    on_line = f", line {store.fields['line'][item]}" if "line" in store and store.info.get("name") != "memory" else ""
    return f"molecule {item}" + (f" ({decode_text(store, 'smiles', item)}{on_line})" if "smiles" in store else "")
