"""Structures that a simulation starts from."""

from typing import Any, List, Sequence

from ipu_chem.data.structures import read_structures
from ipu_chem.simulation.batch import say_doubts
from ipu_chem.simulation.checks import check_structure
from ipu_chem.simulation.options import MOST_COPIES, MdOptions, said_of_structures, slice_of
from ipu_chem.simulation.velocities import degrees_of_freedom
from ipu_chem.trained_run import ForceField


def structures_of(options: MdOptions, members: Sequence[ForceField]) -> List[Any]:
    """Molecules that shall move, ase.Atoms: the copies of a frame one behind the other, frame after frame.

    Warns on stderr of those that the runs know nothing about.

    Raises:
        ValueError: no such frame, or a molecule that the runs cannot take or that cannot be simulated; names it.
    """
    structures = read_structures(options.structure, **said_of_structures(options))
    frames = _frames(options, len(structures))
    most = MOST_COPIES // len(frames)
    if options.copies > most:
        fewer = f"give --copies {most} or less" if most else "choose fewer --frames"
        raise ValueError(
            f"copies={options.copies} of {len(frames):,} structures are {options.copies * len(frames):,} molecules, "
            f"each with a file of its own, and {MOST_COPIES:,} move at once: {fewer}."
        )
    chosen = [structures[frame] for frame in frames]
    for frame, atoms in zip(frames, chosen):
        try:
            check_structure(atoms, members)
            degrees_of_freedom(atoms.positions, options.thermostat)
        except ValueError as error:
            if len(chosen) == 1:
                raise
            raise ValueError(f"structure {frame} of {options.structure}: {error}") from None
    say_doubts(members, chosen)
    return [atoms.copy() for atoms in chosen for _ in range(options.copies)]


def _frames(options: MdOptions, count: int) -> List[int]:
    """Places of the structures asked for in a file of so many."""
    if not options.frames:
        if not -count <= options.frame < count:
            has = "1 structure" if count == 1 else f"{count:,} structures"
            raise ValueError(f"frame={options.frame}: {options.structure} has {has}, from 0 on.")
        return [options.frame]
    frames = list(range(count))[slice_of(options.frames)]
    if not frames:
        raise ValueError(f"frames={options.frames}: no structure of {options.structure} is there, it has {count}.")
    return frames
