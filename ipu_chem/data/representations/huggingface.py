"""Tokenizers as the files of Hugging Face's libraries, so that ``AutoTokenizer`` gives the same ids.

A word-level model whose words are the tokens of molecules (of SELFIES those of 2.x); BOS and EOS are added by its
post-processor. The files say nothing of errors: what `Tokenizer` refuses is read as UNK there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from ipu_chem.data.representations.registry import USUAL
from packing.files import PathLike, atomic_file

if TYPE_CHECKING:
    from ipu_chem.data.representations.tokenizer import Tokenizer

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
# What `dialect.without_stereo` does, as replacements by nothing inside of a symbol.
_WITHOUT_STEREO = (
    r"(?<=\[)(?:[-/\\]{2}(?=Ring)|[/\\](?=[A-Z0-9]))",  # directions of bonds
    r"(?<=[BCNOSPFI]|Cl|Br)@{1,2}(?:H\d)?(?=\])",  # chirality of an uncharged organic atom, with its hydrogens
    r"(?<=\d[BCNOSPFI]|\dCl|\dBr)H\d(?=\])",  # hydrogens of one with an isotope
    r"@{1,2}",
    r"(?<=\[|=|#)\d+(?=[A-Z])",  # isotopes
)


def write_tokenizer(tokenizer: "Tokenizer", folder: PathLike) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, each atomically, into a folder.

    The words of a `ChemGPTTokenizer` are the 2.x spellings of its symbols, under the published ids; it drops
    stereochemistry there, too, where that is its policy, but reads every dot as UNK.

    Raises:
        OSError: the folder cannot be written.
    """
    pad, bos, eos, unk = tokenizer.special[:4]
    named = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "unk_token": unk}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "clean_up_tokenization_spaces": False,
        # GPT-Neo would add embeddings of token types to its input.
        "model_input_names": ["input_ids", "attention_mask"],
        "representation": tokenizer.representation.name,
    }
    files = {_FILE: _definition(tokenizer), _CONFIG: config, "special_tokens_map.json": named}
    for name, content in files.items():
        with atomic_file(Path(folder) / name, "w") as file:
            json.dump(content, file, indent=1)


def _definition(tokenizer: "Tokenizer") -> Dict[str, Any]:
    """Content of tokenizer.json."""
    words = tokenizer.modern_symbols()
    ids = {symbol: words.index(symbol) for symbol in tokenizer.special}
    added = [{"id": index, "content": symbol, "special": True, **_PLAIN} for symbol, index in ids.items()]
    eos, unk = tokenizer.special[2:4]
    # What every molecule begins with, properties that are not known included.
    begin = [words[index] for index in tokenizer.leading]
    *first, last = ({"SpecialToken": {"id": symbol, "type_id": 0}} for symbol in (*begin, eos))
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": _normalizer(tokenizer),
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": tokenizer.representation.pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*first, a, last],
            "pair": [*first, a, last, b, last],
            "special_tokens": {
                symbol: {"id": symbol, "ids": [ids[symbol]], "tokens": [symbol]} for symbol in (*begin, eos)
            },
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": unk},
    }


def _normalizer(tokenizer: "Tokenizer") -> Optional[Dict[str, Any]]:
    """Leaves out what the vocabulary cannot say, where that is the tokenizer's policy."""
    if getattr(tokenizer, "stereo", "keep") != "drop":
        return None
    steps = [{"type": "Replace", "pattern": {"Regex": regex}, "content": ""} for regex in _WITHOUT_STEREO]
    return {"type": "Sequence", "normalizers": steps}


def read_representation(path: PathLike) -> str:
    """The representation that the tokenizer_config.json beside a tokenizer.json names.

    Without one it is SELFIES, as of files that earlier versions wrote.

    Raises:
        ValueError: the file is damaged.
    """
    file = (Path(path) if Path(path).is_dir() else Path(path).parent) / _CONFIG
    if not file.is_file():
        return USUAL
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("representation", USUAL))
    except (ValueError, AttributeError):
        raise ValueError(f"{file} is no tokenizer_config.json; fetch or write it again.") from None


def read_symbols(path: PathLike, special: Sequence[str]) -> List[str]:
    """Tokens by id from a tokenizer.json or the folder that holds one.

    Raises:
        ValueError: there is no such file, it holds no vocabulary, one with gaps, or one without ``special``.
    """
    file = Path(path) / _FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {file}; give the tokenizer.json of the model or its folder.")
    try:
        vocabulary = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
        symbols = sorted(vocabulary, key=vocabulary.__getitem__)
        contiguous = [vocabulary[symbol] for symbol in symbols] == list(range(len(symbols)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} is no tokenizer.json with a vocabulary; fetch it again.") from None
    missing = [symbol for symbol in special if symbol not in vocabulary]
    if missing or not contiguous:
        what = f"has no {', '.join(missing)}" if missing else "has gaps in its ids"
        raise ValueError(f"{file} {what}; it belongs to another model.")
    return symbols
