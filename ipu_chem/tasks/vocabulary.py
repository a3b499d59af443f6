"""Symbols that an earlier model's vocabulary lacks: new ids behind the earlier ones, with embeddings to begin with.

A symbol begins as the same atom without stereochemistry, isotope or count of hydrogens, [C@@H1] and [CH3] as [C], in
SMILES [C@@H] as C, where the earlier vocabulary has that. Others are drawn around the mean of the earlier embeddings
(J. Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021): a vector of another size would
change what others see.
"""

import re
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from ipu_chem.data.representations.base import UnknownToken
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.data.selfies.dialect import without_stereo
from packing.store import Store

_BY_TOKEN = ("embedding.wte.weight", "head.weight")  # weights with a row for every token
_HYDROGENS = re.compile(r"H\d(?=[\]+-])")
_SMILES_ATOM = re.compile(r"\[\d*([A-Z][a-z]?|[a-z]{1,2})@{0,2}(H\d?)?([+-]\d?)?\]")
_SHOWN = 8  # new symbols that are named


def extended(tokenizer: Tokenizer, store: Store) -> Tuple[Tokenizer, List[str]]:
    """A vocabulary with all symbols of a corpus, and the new ones among them; prints how many.

    Args:
        tokenizer: the earlier one.
        store: the corpus.
    """
    names: List[str] = store.info["symbols"]
    used = np.unique(np.asarray(store.ragged("symbols").values)).tolist()
    new = [names[index] for index in used if _lacks(tokenizer, names[index])]
    if not new:
        return tokenizer, []
    longer = tokenizer.extended(new)
    known = sum(_begins_as(tokenizer, symbol) is not None for symbol in new)
    more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
    print(
        f"symbols that are new to the vocabulary: {len(new)}, {', '.join(new[:_SHOWN])}{more}; the embeddings of "
        f"{known} begin as those of the same atoms written plainly, of {len(new) - known} at random"
    )
    return longer, new


def is_extended(earlier: Tokenizer, tokenizer: Tokenizer) -> bool:
    """True if a vocabulary gives every id of an earlier one the same meaning."""
    kinds = (earlier.kind, earlier.special) == (tokenizer.kind, tokenizer.special)
    return kinds and tokenizer.symbols[: earlier.vocab_size] == earlier.symbols


def extended_weights(
    weights: Mapping[str, Tensor], earlier: Tokenizer, tokenizer: Tokenizer, rows: int, seed: int
) -> Dict[str, Tensor]:
    """Weights of an earlier model with rows for the new symbols of an extended vocabulary.

    Args:
        weights: its state dict.
        earlier, tokenizer: its vocabulary, and the one that `is_extended`.
        rows: of the new model's embeddings, at least as many as symbols.
        seed: of the rows that are drawn.
    """
    count = earlier.vocab_size
    if tokenizer.vocab_size == count:
        return dict(weights)
    found = dict(weights)
    for name in _BY_TOKEN:
        if name not in weights:
            continue
        old = weights[name]
        deviation, mean = torch.std_mean(old[:count].double(), 0)
        # Tied weights are two entries of one tensor: the same seed draws the same rows.
        drawn = torch.randn((rows, old.shape[1]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        table = (mean + deviation * drawn).to(old.dtype)
        table[: len(old)] = old
        for index, symbol in enumerate(tokenizer.modern_symbols()[count:], count):
            place = _begins_as(earlier, symbol)
            table[index] = (mean + deviation * drawn[index]).to(old.dtype) if place is None else old[place]
        found[name] = table
    return found


def _lacks(tokenizer: Tokenizer, symbol: str) -> bool:
    try:
        tokenizer.id_of(symbol)
    except UnknownToken:
        return True
    return False


def _begins_as(tokenizer: Tokenizer, symbol: str) -> Optional[int]:
    """The id of the same atom without stereochemistry and isotope, or without hydrogens too."""
    plain = without_stereo(symbol)
    candidates = [plain, _HYDROGENS.sub("", plain)]
    atom = _SMILES_ATOM.fullmatch(symbol)
    if atom:
        element, hydrogens, charge = atom.groups(default="")
        candidates += [f"[{element}{hydrogens}{charge}]", f"[{element}{charge}]", *([] if charge else [element])]
    for one in candidates:
        if one != symbol and not _lacks(tokenizer, one):
            return tokenizer.id_of(one)
    return None
