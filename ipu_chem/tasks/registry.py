"""The registry of tasks: the one place that decides from the options which task a run is."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type

from ipu_chem.checkpoint import BEST, load_checkpoint
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.models.registry import reads_text
from ipu_chem.tasks.base import State, Task
from ipu_chem.tasks.labels import has_labels
from packing.files import PathLike

# Kind, as run.json has it -> module and class, imported when a run is of that kind.
TASKS: Dict[str, str] = {
    "graphs": "ipu_chem.tasks.graphs:GraphTask",
    "text": "ipu_chem.tasks.language:LanguageTask",
    "text property": "ipu_chem.tasks.text_labels:TextPropertyTask",
}


def task_of(config: RunConfig) -> Type[Task]:
    """The class of the task that the options ask for.

    A graph model learns labels of molecules in 3D. A model of text learns labels where data.target names any or the
    data set is SMILES with labels, else the next token.

    Raises:
        ValueError: there is no such model, or it is not stated properties.
    """
    if not reads_text(config.model.name):
        kind = "graphs"
    else:
        kind = "text property" if has_labels(config.data) else "text"
    if kind != "text" and config.data.condition:
        raise ValueError(
            f"data.condition={config.data.condition}: only a language model is given properties; leave it out, or "
            "train a chemgpt without data.target."
        )
    module, _, name = TASKS[kind].partition(":")
    return getattr(import_module(module), name)


def load_task(config: RunConfig, plans: Optional[Path] = None, state: Optional[State] = None) -> Task:
    """`Task.load` of the task that the options ask for."""
    return task_of(config).load(config, plans, state)


def restored_task(folder: PathLike, accelerator: Optional[str] = None) -> Tuple[RunConfig, Task, Dict[str, Any], State]:
    """Options, task, weights and state of a finished run's best checkpoint.

    Args:
        folder: of the run.
        accelerator: another device than the run was trained on.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: the checkpoint is damaged, or the class of its model or data set is not found.
    """
    path = Path(folder) / BEST
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the --out folder of a trained run.")
    tensors, state = load_checkpoint(path)
    config = from_dict(state["config"])
    config = replace(config, accelerator=accelerator or config.accelerator)
    task = task_of(config).restored(config, state)
    weights = task.inference_weights(config, tensors["model"])
    return replace(config, model=task.model_config), task, weights, state
