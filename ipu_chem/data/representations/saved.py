"""Tokenizers read back: from the state of a run, from JSON, and from files of Hugging Face's libraries."""

import json
from pathlib import Path
from typing import Any, Dict, Mapping, Type

from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from ipu_chem.data.representations.huggingface import read_symbols
from ipu_chem.data.representations.tokenizer import BOS, FORMAT, PAD, UNK, Tokenizer
from packing.files import PathLike

_KINDS: Dict[Any, Type[Tokenizer]] = {one.kind: one for one in (Tokenizer, ChemGPTTokenizer)}


def tokenizer_from_dict(data: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` has described, of either kind.

    Raises:
        ValueError: it describes none, or one of a later version.
    """
    settings = dict(data) if isinstance(data, Mapping) else {}
    if settings.pop("format", None) != FORMAT or settings.get("kind") not in _KINDS:
        raise ValueError(f"no tokenizer of format {FORMAT} and one of the kinds {', '.join(sorted(_KINDS))}.")
    try:
        return _KINDS[settings.pop("kind")](**settings)
    except TypeError as error:
        raise ValueError(f"the description of the tokenizer is incomplete or has unknown entries: {error}.") from None


def read_tokenizer(path: PathLike) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no tokenizer.
    """
    try:
        return tokenizer_from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no tokenizer written by Tokenizer.save: {error}") from None


def tokenizer_from_huggingface(path: PathLike) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the folder that holds one.

    It is one that `Tokenizer.save_huggingface` has written, or the published one of ChemGPT; policies are the standard
    ones.

    Raises:
        ValueError: there is none, or it is neither.
    """
    symbols = read_symbols(path, (PAD, UNK))
    return Tokenizer(symbols) if BOS in symbols else ChemGPTTokenizer.from_published(path)
