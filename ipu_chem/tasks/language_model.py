"""Trained language models from a folder: of a run, or as Hugging Face's libraries keep them."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Tuple

from ipu_chem.checkpoint import BEST
from ipu_chem.data.representations.saved import read_tokenizer, tokenizer_from_huggingface
from ipu_chem.data.representations.tokenizer import Tokenizer
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.registry import restored_task
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
    info: Mapping[str, Any]


def load_language_model(folder: PathLike) -> LanguageModel:
    """Read the best weights of a run, or those of a Hugging Face folder.

    Raises:
        ValueError: nothing of the kind is there, the run learned something else, or a vocabulary is missing.
    """
    folder = Path(folder)
    if (folder / BEST).is_file():
        task, weights, state = _of_run(folder)
        model = task.fresh_model()  # a run that starts from it has seeded torch's generator
        model.load_state_dict(weights)
        return LanguageModel(model.model.eval(), task.tokenizer, state)
    if (folder / "config.json").is_file():
        from ipu_chem.huggingface import load_chemgpt

        model, tokenizer = load_chemgpt(folder)
        if tokenizer is None:
            raise ValueError(
                f"{folder} holds weights but no tokenizer.json; put the one that they were trained with there."
            )
        return LanguageModel(model.eval(), tokenizer, {})
    raise ValueError(
        f"{folder} holds neither a run ({BEST}) nor Hugging Face weights (config.json); give the --out folder of "
        "`ipu-chem train`, or a folder of published weights."
    )


def load_tokenizer(path: PathLike) -> Tokenizer:
    """Read a vocabulary: a JSON file of `Tokenizer.save`, or that of a run or a Hugging Face folder.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return read_tokenizer(path)
    if (path / "tokenizer.json").is_file() and not (path / BEST).parent.is_dir():
        return tokenizer_from_huggingface(path)
    if (path / BEST).is_file():  # without building the model
        return _of_run(path)[0].tokenizer
    return load_language_model(path).tokenizer


def _of_run(folder: Path) -> Tuple[Any, Dict[str, Any], Mapping[str, Any]]:
    """Task, weights and state of a run, if it is a language model's."""
    task: Task
    _, task, weights, state = restored_task(folder)
    if not task.writes_molecules:
        raise ValueError(
            f"{folder} is a run of {task.model_config.name} that learned labels: use `ipu-chem predict`; a chemgpt "
            "that was trained without data.target writes and embeds molecules, and others can start from it."
        )
    return task, weights, state
