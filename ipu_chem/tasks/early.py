"""Check of a run by its options alone, in the first second: before molecules are read, made or downloaded.

Whatever only constructors know, of models of this package or of a user's own, is asked of them: the model is built
without values, and so are the loss and the groups of the optimizer.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ipu_chem.backends.options import Batching, world_of_torchrun
from ipu_chem.checkpoint import BEST
from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.data.splits import OFFICIAL, RULES
from ipu_chem.models.base import blocks_of
from ipu_chem.models.registry import parameters_without_embeddings
from ipu_chem.optim import ParameterGroups
from ipu_chem.outputs import check_folder
from ipu_chem.tasks.registry import task_of

_BYTES_OF_PACK = 256  # less than those of a pack of one small molecule
_USUAL_SLOTS = 128


def check_run(config: RunConfig, resumed: bool = False) -> None:
    """Refuse a run that cannot work.

    Args:
        config: of the run.
        resumed: it goes on from its own checkpoint, and needs no earlier run any more.

    Raises:
        ValueError: names the option and what would do.
    """
    check_folder("--out", config.out)
    check_data(config.data)
    _check_call(config, config.batching.for_one_of(world_of_torchrun()))
    start = "" if resumed else config.training.start_from
    if start and not any((Path(start) / name).is_file() for name in (BEST, "config.json")):
        raise ValueError(
            f"training.start_from={start}: there is no checkpoint in it; give the folder of a finished run, or one of "
            "Hugging Face weights."
        )
    try:
        task = task_of(config).planned(config)
        task.loss()
    except ValueError as error:
        raise _refused(config.model, error) from error
    model = _without_values(task, config.model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"model.name={config.model.name}: nothing of this model is trained; leave model.freeze out.")
    ParameterGroups(config.optimizer, model, trained)
    if config.accelerator == "ipu":
        config.ipu.check_blocks(len(blocks_of(model)))
    needed = sum(one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers()))
    if needed > _memory():
        raise ValueError(
            f"model.name={config.model.name}: its weights take {needed / 2**30:,.0f} GiB, more than the memory of this "
            "machine; give smaller sizes."
        )


def count_weights(config: RunConfig, embeddings: bool = True) -> int:
    """Weights of a run's model, built without values; without embeddings N of scaling laws."""
    model = _without_values(task_of(config).planned(config), config.model)
    if not embeddings:
        return parameters_without_embeddings(model)
    return sum(parameter.numel() for parameter in model.parameters())


def check_data(data: DataConfig) -> None:
    """Refuse a data section that cannot work: files that are not there, and splits that leave nothing.

    Raises:
        ValueError: names the option.
    """
    for name in ("path", "tokenizer"):
        path = getattr(data, name, "")
        if path and not os.path.exists(os.path.expanduser(str(path))):
            raise ValueError(f"data.{name}={path}: there is no such file or folder.")
    if data.name == "file" and not getattr(data, "path", ""):
        raise ValueError("data.name=file needs data.path: the file with your molecules.")
    if data.name == "file" and os.path.isdir(os.path.expanduser(str(getattr(data, "path", "")))):
        raise ValueError(f"data.path={getattr(data, 'path', '')}: this is a folder; give the file with your molecules.")
    if data.split not in RULES and not OFFICIAL.fullmatch(data.split) and not os.path.isfile(data.split):
        raise ValueError(
            f"data.split={data.split}: there is no such file; choose random, scaffold or official, or give the path of "
            "an index file (.json or .npz)."
        )


def _check_call(config: RunConfig, batching: Batching) -> None:
    """Refuse calls whose packs this machine cannot hold, by the least that they can take: nothing is known of data."""
    pack, width = config.pack, getattr(config.model, "hidden_features", 1)
    of_pack = max(7 * pack.nodes + 2 * pack.edges, 2 * pack.tokens, _BYTES_OF_PACK)
    features = 4 * width * max(pack.nodes, pack.tokens) * batching.micro_batch_size  # of one layer
    needed = of_pack * batching.packs_per_call + features
    if needed > _memory():
        shape = {name: getattr(pack, name) for name in ("nodes", "edges", "tokens")}
        sizes = {f"batching.{name}": value for name, value in vars(batching).items()}
        sizes.update({f"pack.{name}": value // _USUAL_SLOTS for name, value in shape.items()})
        name = max(sizes, key=lambda one: sizes[one])
        value = shape.get(name[len("pack.") :], sizes[name])
        raise ValueError(
            f"{name}={value}: a call takes {batching.packs_per_call:,} packs, {needed:,} bytes at the least, "
            f"and this machine has {_memory():,.0f}; make it smaller."
        )


def _without_values(task: Any, options: ModelConfig) -> nn.Module:
    """The model of a planned task on torch's meta device, or with values where it cannot be built there.

    Raises:
        ValueError: its constructor refuses the options, or fails on them.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return task.model()
        except ValueError as error:
            raise _refused(options, error) from error
        except Exception:  # perhaps for want of values
            try:
                return task.model()
            except Exception as error:
                raise _refused(options, error) from error


def _refused(options: ModelConfig, error: Exception) -> ValueError:
    """An error of a constructor, whose options have no section in their names."""
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError):
        why = f"{type(error).__name__}: {text}"
        return ValueError(f"model.name={options.name} cannot be built with these options ({why}).")
    option = re.match(r"(\w+)=", text)
    return ValueError(f"model.{text}" if option is not None and hasattr(options, option[1]) else text)


def _memory() -> float:
    """Bytes of this machine; inf where nobody knows."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return float("inf")
