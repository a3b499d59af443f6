"""Trained language models from a folder: of a run, or as Hugging Face's libraries keep them."""

from pathlib import Path
from typing import Any, Dict, NamedTuple

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.data.selfies.saved import read_tokenizer, tokenizer_from_dict
from ipu_chem.data.selfies.tokens import Tokenizer
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.registry import build_language_model
from packing.files import PathLike


class LanguageModel(NamedTuple):
    """A model that can be used.

    Attributes:
        model: on the CPU, in evaluation mode.
        tokenizer: its vocabulary.
        info: of a run, its checkpoint's state; of a Hugging Face folder empty.
    """

    model: ChemGPT
    tokenizer: Tokenizer
    info: Dict[str, Any]


def load_language_model(folder: PathLike) -> LanguageModel:
    """The best weights of a run, or those of a Hugging Face folder.

    Raises:
        ValueError: nothing of the kind is there, the run learnt something else, or a vocabulary is missing.
    """
    folder = Path(folder)
    best = folder / "checkpoints" / "best.safetensors"
    if best.is_file():
        return _of_run(folder, best)
    if (folder / "config.json").is_file():
        from ipu_chem.huggingface import load_chemgpt

        model, tokenizer = load_chemgpt(folder)
        if tokenizer is None:
            raise ValueError(
                f"{folder} holds weights but no tokenizer.json; put the one that they were trained with there."
            )
        return LanguageModel(model.eval(), tokenizer, {})
    raise ValueError(
        f"{folder} holds neither a run (checkpoints/best.safetensors) nor Hugging Face weights (config.json); "
        "give the --out folder of `ipu-chem train`, or a folder of published weights."
    )


def load_tokenizer(path: PathLike) -> Tokenizer:
    """A vocabulary: a JSON file of `Tokenizer.save`, or that of a run or a Hugging Face folder.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return read_tokenizer(path)
    if (path / "tokenizer.json").is_file() and not (path / "checkpoints").is_dir():
        from ipu_chem.data.selfies.saved import tokenizer_from_huggingface

        return tokenizer_from_huggingface(path)
    best = path / "checkpoints" / "best.safetensors"
    if best.is_file():  # without building the model
        return tokenizer_from_dict(_text_state(path, load_checkpoint(best)[1])["tokenizer"])
    return load_language_model(path).tokenizer


def make_language_model(config: RunConfig, vocab_size: int, max_positions: int) -> Any:
    """The model of a config with fresh weights."""
    return build_language_model(config.model.name, vocab_size, max_positions, **config.model.arguments())


def _of_run(folder: Path, best: Path) -> LanguageModel:
    """The model of a run."""
    tensors, state = load_checkpoint(best)
    config = from_dict(_text_state(folder, state)["config"])
    tokenizer = tokenizer_from_dict(state["tokenizer"])
    model = make_language_model(config, tokenizer.vocab_size, state["budget"]["tokens"])
    model.load_state_dict(tensors["model"])
    return LanguageModel(model.model.eval(), tokenizer, state)


def _text_state(folder: Path, state: Dict[str, Any]) -> Dict[str, Any]:
    """The state of a checkpoint, if it is a language model's."""
    if "tokenizer" not in state or "standardizer" in state:
        raise ValueError(
            f"{folder} is a run of {from_dict(state['config']).model.name} that learnt labels: use `ipu-chem predict`; "
            "a chemgpt that was trained without data.target writes and embeds molecules, and others can start from it."
        )
    return state
