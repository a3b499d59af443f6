"""Tokenizers read back: from the state of a run, from JSON, and from files of Hugging Face's libraries."""

import json
from pathlib import Path
from typing import Any, Mapping

from ipu_chem.data.representations.huggingface import read_representation, read_symbols
from ipu_chem.data.representations.registry import USUAL
from ipu_chem.data.representations.tokenizer import BOS, FORMAT, PAD, UNK, Tokenizer
from ipu_chem.data.selfies.chemgpt import ChemGPTTokenizer
from packing.files import PathLike

_CHEMGPT = "chemgpt"


def tokenizer_from_dict(data: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` has described, of any representation.

    Raises:
        ValueError: it describes none, or one of a later version.
    """
    settings = dict(data) if isinstance(data, Mapping) else {}
    kind, representation = settings.pop("kind", None), settings.pop("representation", USUAL)  # not said before
    if settings.pop("format", None) != FORMAT or kind not in (_CHEMGPT, representation):
        raise ValueError(f"no tokenizer of format {FORMAT}, of {_CHEMGPT} or of a representation that it names.")
    try:
        if kind == _CHEMGPT:
            return ChemGPTTokenizer(**settings)
        return Tokenizer(representation=representation, **settings)
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

    It is one that `Tokenizer.save_huggingface` has written, whose tokenizer_config.json lies beside it and says the
    representation, or the published one of ChemGPT; policies are the standard ones.

    Raises:
        ValueError: there is none, or it is neither.
    """
    symbols = read_symbols(path, (PAD, UNK))
    if BOS not in symbols:
        return ChemGPTTokenizer.from_published(path)
    tokenizer = Tokenizer(symbols, representation=read_representation(path))
    if len(tokenizer.never_written()) >= len(tokenizer.special):  # one of which, the end, is written
        raise ValueError(
            f"{path} has tokens that are none of {tokenizer.representation.title}; put the tokenizer_config.json that "
            "was written with it beside it."
        )
    return tokenizer
