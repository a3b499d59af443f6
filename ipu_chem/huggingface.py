"""ChemGPT in folders of Hugging Face's libraries: published weights in, trained ones out."""

import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from torch import Tensor

from ipu_chem.data.files.torch_files import load_torch
from ipu_chem.data.representations.registry import representation_named
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.gpt_neo import from_gpt_neo, to_gpt_neo
from ipu_chem.models.gpt_neox import from_gpt_neox, to_gpt_neox
from packing.files import PathLike, atomic_folder

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_OLD_WEIGHTS = "pytorch_model.bin"
_TOKENIZER = "tokenizer.json"
# By model_type: learned positions, rotary ones.
_READERS = {"gpt_neo": from_gpt_neo, "gpt_neox": from_gpt_neox}


def load_chemgpt(folder: PathLike) -> Tuple[ChemGPT, Optional[Tokenizer]]:
    """Read a GPT-Neo or GPT-NeoX: the published ChemGPT, or what `save_chemgpt` wrote.

    Ids of first and last tokens that config.json names are not read, because published ones lie outside of the
    vocabulary: those of the tokenizer count.

    Args:
        folder: holds config.json, model.safetensors (also in parts) or pytorch_model.bin, and maybe tokenizer.json.

    Returns:
        The model in float32, and the vocabulary or None where there is no tokenizer.json.

    Raises:
        ValueError: a file is missing or damaged, it is another kind of model, or weights, config and vocabulary do
            not fit each other; says which.
    """
    folder = Path(folder)
    config = _read_json(folder / _CONFIG)
    try:
        kind, weights = config.get("model_type"), _read_weights(folder)
        if kind not in _READERS:
            raise ValueError(f"config.json is of a model of type {kind!r}; ChemGPT is of type {' or '.join(_READERS)}.")
        model = _READERS[kind](config, weights)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if not (folder / _TOKENIZER).is_file():
        return model, None
    from ipu_chem.data.representations.saved import tokenizer_from_huggingface

    tokenizer = tokenizer_from_huggingface(folder)
    _check_vocabulary(model, tokenizer, str(folder))
    return model, tokenizer


def save_chemgpt(model: ChemGPT, tokenizer: Optional[Tokenizer], folder: PathLike) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load and that gives the same logits.

    Args:
        model: written as a GPT-Neo, with rotary positions as a GPT-NeoX.
        tokenizer: its vocabulary; None writes none, and no ids of first, last and padding tokens. With one, what
            `generate` draws in transformers has the distribution of `ipu_chem.generation.sampling.generate`.
        folder: new or empty.

    Raises:
        ValueError: the folder holds files, the model has both rotary positions and local layers, or more tokens are
            in the vocabulary than in the model.
        OSError: the disk is full or the folder cannot be written; nothing is left of it.
    """
    from safetensors.torch import save

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds files already; give a new folder.")
    config, state = (to_gpt_neox if model.config()["positions"] == "rope" else to_gpt_neo)(model)
    special: Dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    # As `ipu-chem generate` draws: among all tokens, where transformers would take the likeliest or one of 50.
    drawn: Dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if tokenizer is not None:
        _check_vocabulary(model, tokenizer, "this model")
        special = {name: int(getattr(tokenizer, name[: -len("_token_id")] + "_id")) for name in special}
        drawn["suppress_tokens"] = tokenizer.never_written(config["vocab_size"])
    config.update(special)
    weights = save({name: value.cpu().contiguous() for name, value in state.items()}, metadata={"format": "pt"})
    generation = {**special, "max_length": config["max_position_embeddings"], **drawn}
    with atomic_folder(folder) as made:
        (made / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (made / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        (made / _WEIGHTS).write_bytes(weights)
        if tokenizer is not None:
            tokenizer.save_huggingface(made)


def model_card(card: Mapping[str, Any]) -> Tuple[str, str]:
    """Front matter, and sections for the end, of the README.md of a folder, as Hugging Face shows model cards.

    M. Mitchell et al., "Model cards for model reporting", FAT* 2019.

    Args:
        card: representation, and of a run molecules, splits and results, as run.json has them.
    """
    title, found = representation_named(card["representation"]).title, card.get("molecules", {})
    front = (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        f"tags: [chemistry, molecule-generation, {title.lower()}]\n---\n\n"
    )
    splits = ", ".join(f"{count:,} {name}" for name, count in card.get("splits", {}).items())
    lines = [
        "## Model",
        f"A language model of molecules as {title}: a first token, those of the molecule, a last one.",
        "## Molecules",
        *(f"{name}: {value}" for name, value in found.items()),
        *([f"splits: {splits}"] if splits else []),
        *([] if found else ["The run does not say which."]),
    ]
    if card.get("results"):
        names = list(dict.fromkeys(name for values in card["results"].values() for name in values))
        table = [["split", *names], ["---"] * (len(names) + 1)]
        for split, values in card["results"].items():
            table.append([split, *(f"{values[name]:.5g}" if name in values else "" for name in names)])
        lines += ["## Results", "\n".join(f"| {' | '.join(row)} |" for row in table)]
        lines.append("Only nats per heavy atom compare with models of other vocabularies.")
    lines += [
        "## Limits",
        "It writes molecules like those it was trained on. Nobody has tested what it writes for toxicity or stability; "
        + ("check with RDKit which texts are molecules." if title != "SELFIES" else "selfies.decoder gives SMILES."),
    ]
    return front, "\n" + "\n\n".join(lines) + "\n"


def _check_vocabulary(model: ChemGPT, tokenizer: Tokenizer, name: str) -> None:
    """Refuse a model with fewer tokens than the vocabulary; it may have more, for a round number."""
    rows = model.config()["vocab_size"]
    if tokenizer.vocab_size > rows:
        raise ValueError(
            f"{name} predicts {rows} tokens, the vocabulary has {tokenizer.vocab_size}: they do not belong together."
        )


def _read_weights(folder: Path) -> Dict[str, Tensor]:
    """Tensors by name."""
    if (folder / _WEIGHTS).is_file():
        return _read_safetensors(folder / _WEIGHTS)
    if (folder / _INDEX).is_file():
        parts = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        return {name: value for part in parts for name, value in _read_safetensors(folder / part).items()}
    path = folder / _OLD_WEIGHTS
    if not path.is_file():
        raise ValueError(f"there are no weights; put {_WEIGHTS} or {_OLD_WEIGHTS} beside {_CONFIG}.")
    state = load_torch(path, f"give {_WEIGHTS} instead.")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{_OLD_WEIGHTS} holds something else than tensors by name.")
    return state


def _read_safetensors(path: Path) -> Dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is missing or damaged ({error}).") from error


def _read_json(path: Path) -> Dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path.parent} has no {path.name} that can be read; give the folder of a Hugging Face model."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no values by name.")
    return content
