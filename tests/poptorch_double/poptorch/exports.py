"""Compiled programs in files (python/_poptorch_data.py): what it takes to compile them again.

A program that is loaded is traced once more; only the slow part of compilation is saved by a real file.
"""

import os
import pickle
from typing import Any, Callable, NamedTuple, Optional

from torch import nn

from .arguments import Arguments
from .enums import ConnectionType
from .options import Options


class Saved(NamedTuple):
    """The model and the optimizer are there if the program was exported with its model."""

    version: str
    inputs: Arguments
    options: Options
    training: Optional[bool]
    model: Optional[nn.Module]
    optimizer: Any
    optimizer_state: Any


def write(filename: str, program: Any, inputs: Arguments, export_model: bool) -> None:
    folder = os.path.dirname(filename)
    if folder:
        os.makedirs(folder, exist_ok=True)
    if os.path.isdir(filename):
        filename = os.path.join(filename, "model.poptorch")
    optimizer = program._optimizer if export_model else None
    saved = Saved(
        program._poptorch_version,
        inputs,
        program.options,
        program._training if export_model else None,
        program.model if export_model else None,
        optimizer,
        None if optimizer is None else optimizer.state_dict(),
    )
    with open(filename, "wb") as file:
        pickle.dump(saved, file, protocol=4)


def read(filename: str, version: str) -> Saved:
    with open(filename, "rb") as file:
        saved = pickle.load(file)
    assert isinstance(saved, Saved), f"{filename} holds no program"
    assert saved.version == version, f"{filename} was made by version {saved.version}, this is {version}"
    saved.options._unfreeze()
    saved.options.deleteIfExists("ipu_version")
    if saved.options.connection_type == ConnectionType.Never.value:
        saved.options.connectionType(ConnectionType.Always)
    return saved


def load(filename: str, edit_opts_fn: Optional[Callable[[Options], None]] = None) -> Any:
    """The program that compileAndExport saved with its model."""
    from . import __version__, inferenceModel, trainingModel

    saved = read(filename, __version__)
    assert saved.model is not None and saved.training is not None, f"{filename} was saved with export_model=False"
    if edit_opts_fn is not None:
        edit_opts_fn(saved.options)
    if saved.optimizer_state is not None:
        saved.optimizer.load_state_dict(saved.optimizer_state)
    if saved.training:
        program = trainingModel(saved.model, saved.options, saved.optimizer)
    else:
        program = inferenceModel(saved.model, saved.options)
    program.loadExecutable(filename)
    return program
