"""Energies and forces of many structures at once, in packs of one shape, by one run or the mean of several."""

import os
import sys
from typing import Any, List, Optional, Sequence, Union

from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.structures import to_molecule
from ipu_chem.doubts import doubts_of
from ipu_chem.trained_run import EnergiesForces, ForceField, TrainedRun, energies_forces
from packing.files import PathLike

Runs = Union[PathLike, Sequence[PathLike]]


def evaluate_many(runs: Runs, structures: Sequence[Any], accelerator: Optional[str] = None) -> EnergiesForces:
    """Energies and forces of structures of any sizes; the program is compiled once, also for several runs.

    Args:
        runs: folders of one run, or of several of the same architecture.
        structures: ase.Atoms or `Molecule`, charge and spin in ``info`` or attributes where the model takes them.
        accelerator: another device than the first run was trained on.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: a run is no force field, or a structure is one that the runs cannot take; names it.
    """
    return energies_forces(load_force_fields(runs, accelerator), structures)


def load_force_fields(runs: Runs, accelerator: Optional[str] = None) -> List[ForceField]:
    """One run, or several of the same architecture, whose mean is taken.

    Raises:
        FileNotFoundError, ValueError: see `TrainedRun.force_field`; also runs that differ in their model.
    """
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not folders:
        raise ValueError("give the folder of a run, or of several.")
    members = [TrainedRun.load(folder, accelerator).force_field() for folder in folders]
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


def say_doubts(members: Sequence[ForceField], structures: Sequence[Any]) -> None:
    """Say on stderr where structures differ from all that runs were trained on, before anything moves.

    Args:
        members: of a simulation.
        structures: ase.Atoms or `Molecule`.
    """
    molecules = [to_molecule(one) for one in structures]
    store = molecules_to_store(molecules)
    for member in members:
        run = TrainedRun.load(member.folder)
        for doubt in doubts_of(run, store, lambda item: molecules[item].name or f"structure {item}"):
            print(f"warning: {member.folder}: {doubt}", file=sys.stderr)
