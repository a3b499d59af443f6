"""Runs that begin with the weights of an earlier one."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Sequence

import numpy as np
from torch import nn

from ipu_chem.checkpoint import BEST, load_checkpoint
from ipu_chem.config import RunConfig
from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target


class EarlierRun(NamedTuple):
    """Legacy of a run of a graph model to the next one."""

    weights: Dict[str, Any]
    standardizer: Standardizer


def earlier_run(config: RunConfig, targets: Sequence[Target], elements: np.ndarray) -> EarlierRun:
    """The best checkpoint of the run that ``config.training.start_from`` names.

    Its weights mean its own standardized units. With data.references=auto the new run goes on with its standardizer,
    so that at first it predicts what the earlier run does, in real units. With references given, as another level of
    theory needs, offsets are fitted anew and the unit stays.

    Args:
        config: of the new run.
        targets: of the new run.
        elements: atomic numbers in its data.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: another model, cutoff or unit, or elements that the earlier run's offsets do not know.
    """
    folder = config.training.start_from
    tensors, state = load_checkpoint(Path(folder) / BEST)
    begin = f"training.start_from={folder}:"
    for name in ("name", "cutoff"):
        theirs, ours = state["config"]["model"][name], getattr(config.model, name)
        if theirs != ours:
            raise ValueError(f"{begin} that run has model.{name}={theirs}, this one {ours}; choose the same.")
    standardizer = Standardizer.from_dict(state["standardizer"])
    theirs, ours = ([(one["unit"], one["extensive"]) for one in some] for some in (
        standardizer.targets, [vars(target) for target in targets]
    ))  # fmt: skip
    if theirs != ours:
        units = " and ".join(", ".join(f"{unit or 'no unit'}" for unit, _ in some) for some in (theirs, ours))
        raise ValueError(f"{begin} labels of that run and of this one differ in number, unit or extent ({units}).")
    new = sorted(set(elements.tolist()) - set(standardizer.elements))
    if new and config.data.references == "auto":
        raise ValueError(
            f"{begin} that run knows no {', '.join(SYMBOLS[z] for z in new)}, which these data hold; leave such "
            "molecules out, or have offsets fitted anew with data.references=linear."
        )
    standardizer.targets = [dict(vars(target)) for target in targets]
    return EarlierRun(tensors["model"], standardizer)


def load_weights(model: nn.Module, weights: Mapping[str, Any], folder: str) -> None:
    """Load weights of an earlier run.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape; names the first one.
    """
    wanted = model.state_dict()
    for name in sorted(set(weights) | set(wanted)):
        ours, theirs = (tuple(state[name].shape) if name in state else None for state in (wanted, weights))
        if ours != theirs:
            raise ValueError(f"training.start_from={folder}: {name} has shape {theirs}, this run's model {ours}.")
    model.load_state_dict(weights)
