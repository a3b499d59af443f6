"""A trained run as a potential energy: weights, the way back to eV, and what it refuses."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import numpy as np
import torch
from torch import nn

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.standardize import Standardizer
from ipu_chem.data.units import in_ev
from ipu_chem.metrics import Target
from ipu_chem.tasks.graphs import make_model, with_filters_of
from ipu_chem.tasks.registry import task_of
from packing.files import PathLike
from packing.types import Ragged

Runs = Union[PathLike, Sequence[PathLike]]


@dataclass(frozen=True)
class ForceField:
    """The best checkpoint of a run that learnt one energy.

    Attributes:
        folder: of the run.
        config: of the run; its filters are exact if the run had to leave their table.
        weights: of the model.
        standardizer: between standardised energies and the run's unit.
        ev: eV, one of the run's unit of energy.
    """

    folder: Path
    config: RunConfig
    weights: Dict[str, Any]
    standardizer: Standardizer
    ev: float

    @property
    def target(self) -> Target:
        """The energy, in the run's own unit."""
        return Target(**self.standardizer.targets[0])

    @property
    def scale(self) -> float:
        """eV, and by Å eV/Å, for each standardised energy and force."""
        return float(self.standardizer.scale[0]) * self.ev

    def offsets(self, z: Ragged) -> np.ndarray:
        """What a standardised 0 stands for, [I] float64, eV."""
        return self.standardizer.offset(z)[:, 0] * self.ev

    def model(self, exact: bool = True) -> nn.Module:
        """`CompactInputs` around `EnergyForces` with the run's weights; takes every pair of atoms once.

        Args:
            exact: evaluate filters for every edge, also where the run reads them from a table, which says the same to
                the last digits of float32: a table has more points than a small molecule has edges, and its filters
                beyond the cutoff are small, not 0.
        """
        config = self.config
        if exact:
            config = replace(config, model=replace(config.model, filter="exact"))
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, which is nobody's business
            model = make_model(config, [self.target], forces=True, standardizer=self.standardizer)
        model.load_state_dict(self.weights)
        return model

    def check_elements(self, z: np.ndarray, who: str) -> None:
        """Refuse elements that no training molecule had, whatever the references are.

        Args:
            z: [n] integer.
            who: the molecule in the error message.

        Raises:
            ValueError: names them.
        """
        new = sorted(set(np.asarray(z).tolist()) - set(self.standardizer.elements))
        if new:
            have = ", ".join(SYMBOLS[number] for number in self.standardizer.elements)
            lacking = ", ".join(SYMBOLS[number] if 0 < number < len(SYMBOLS) else str(number) for number in new)
            raise ValueError(f"{who} holds {lacking}, but {self.folder} was trained on molecules of {have} alone.")


def load_force_field(folder: PathLike) -> ForceField:
    """The force field of a run; one trained without forces has them, too, as slopes of its energy.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: the run reads text, or what it learnt is not one energy in a known unit that adds up over atoms.
    """
    folder = Path(folder)
    tensors, state = load_checkpoint(folder / "checkpoints" / "best.safetensors")
    config = with_filters_of(state, from_dict(state["config"]))
    if task_of(config).reads_text or "standardizer" not in state:
        raise ValueError(f"{folder} is a run of {config.model.name} on text, which knows no positions and no forces.")
    standardizer = Standardizer.from_dict(state["standardizer"])
    names = ", ".join(target["name"] for target in standardizer.targets)
    if len(standardizer.targets) != 1 or not standardizer.targets[0]["extensive"] or config.model.readout == "mean":
        raise ValueError(
            f"{folder} learnt {names}; forces are slopes of one energy that adds up over atoms, so train on one alone."
        )
    try:
        ev = in_ev(standardizer.targets[0]["unit"])
    except ValueError as error:
        raise ValueError(f"{folder} learnt {names}, but {error}") from None
    return ForceField(folder, config, tensors["model"], standardizer, ev)


def load_force_fields(runs: Runs) -> List[ForceField]:
    """One run, or several of the same architecture, whose mean is taken and whose spread says how sure they are.

    Raises:
        FileNotFoundError, ValueError: see `load_force_field`; also runs that differ in their model.
    """
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not folders:
        raise ValueError("give the folder of a run, or of several.")
    members = [load_force_field(folder) for folder in folders]
    for other in members[1:]:
        ours, theirs = (vars(one.config.model) for one in (members[0], other))
        # The name first: another model has options of its own.
        for name in (one for one in ours if one not in ("filter", "table_points")):
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{other.folder} has model.{name}={theirs[name]}, {members[0].folder} has {ours[name]}; runs that "
                    "are averaged have the same model."
                )
    return members
