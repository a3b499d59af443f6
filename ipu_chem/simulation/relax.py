"""Structures moved to the nearest minimum of a trained run's energy, many together in packs.

Molecules at rest leave the pack and others enter, largest first, so that whatever has left makes room for the next.
"""

from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np
from tqdm import tqdm

from ipu_chem.data.structures import read_structures, with_results, write_extxyz
from ipu_chem.run_intervals import ForceIntervals, force_intervals, uncertainties
from ipu_chem.simulation.batch import Runs, load_force_fields, say_doubts
from ipu_chem.simulation.bfgs import Bfgs
from ipu_chem.simulation.checks import check_structure
from ipu_chem.simulation.fire import Fire
from ipu_chem.simulation.moving import Found, MovingPack
from ipu_chem.simulation.options import RelaxOptions, said_of_structures
from ipu_chem.trained_run import ForceField
from packing.files import PathLike


class Relaxed(NamedTuple):
    """A structure after its relaxation."""

    name: str
    atoms: Any  # ase.Atoms with energy and forces, where the optimizer left them
    converged: bool
    fmax: float  # eV/Å, largest force on an atom
    steps: int
    reason: str  # why it did not come to rest, if not for want of steps


def relax_file(runs: Runs, source: PathLike, options: RelaxOptions) -> List[Relaxed]:
    """Relax every structure of a file and write all of them, also those that did not come to rest.

    Args:
        runs: folders of one run, or of several, whose mean forces move the atoms.
        source: .xyz, .extxyz, .sdf, .db or .npz file.
        options: of the relaxations.

    Returns:
        One entry for each structure, in the order of the file that is written: energy and forces of the end, and
        "converged", "steps" and "name" in its comment lines, "reason" of those that something stopped; of several runs
        also "energy_std" there, and columns "forces_std"; with an interval "energy_half_width" and, of runs that
        learned forces, "forces_half_width".

    Raises:
        ValueError: the runs give no forces or have no such intervals, or some structure is one that they cannot take;
            nothing is written.
    """
    if Path(options.output).suffix != ".extxyz":
        raise ValueError(f"--output {options.output}: relaxed structures are written to an .extxyz file.")
    members = load_force_fields(runs)
    intervals = force_intervals(members, options.interval)
    structures = read_structures(source, **said_of_structures(options))
    for atoms in structures:
        try:
            check_structure(atoms, members)
        except ValueError as error:
            raise ValueError(f"{atoms.info.get('name', 'a structure')}: {error}") from None
    say_doubts(members, structures)
    with tqdm(total=len(structures), desc="relaxing", disable=None) as bar:
        relaxed = _relaxed(members, structures, options, intervals, bar.update)
    write_extxyz(options.output, [one.atoms for one in relaxed])
    return relaxed


def relax_many(
    members: Sequence[ForceField],
    structures: Sequence[Any],
    options: RelaxOptions,
    finished: Callable[[], Any] = lambda: None,
) -> List[Relaxed]:
    """Relax ase.Atoms, which stay as they are; one entry for each, in their order.

    Args:
        members: one run, or several, whose mean forces move the atoms.
        structures: of any sizes.
        options: of the relaxations.
        finished: called whenever a structure has come to its end.

    Raises:
        ValueError: there is no such device, a structure is one that the runs cannot take, or they have no intervals.
    """
    return _relaxed(members, structures, options, force_intervals(members, options.interval), finished)


def _relaxed(
    members: Sequence[ForceField],
    structures: Sequence[Any],
    options: RelaxOptions,
    intervals: Optional[ForceIntervals],
    finished: Callable[[], Any],
) -> List[Relaxed]:
    """`relax_many` with intervals that are there."""
    return _Relaxations(members, structures, options, intervals, finished).run() if structures else []


class _Place(NamedTuple):
    """Positions [N, 3], Å, of a pack, and what the runs say of them."""

    positions: np.ndarray
    found: Found


class _Relaxations:
    """Structures that wait, move and have come to their end."""

    def __init__(
        self,
        members: Sequence[ForceField],
        structures: Sequence[Any],
        options: RelaxOptions,
        intervals: Optional[ForceIntervals],
        finished: Callable[[], Any],
    ) -> None:
        how: Dict[str, Any] = dict(accelerator=options.accelerator, threads=options.threads, dtype=options.dtype)
        self._pack = MovingPack(members, structures, options.atoms, **how)
        self._optimizer: Union[Bfgs, Fire] = {"bfgs": Bfgs, "fire": Fire}[options.optimizer](self._pack)
        self._structures, self._options, self._finished = structures, options, finished
        self._intervals = intervals
        largest_first = np.argsort([-len(atoms) for atoms in structures], kind="stable")
        self._waiting: Deque[int] = deque(largest_first.tolist())
        self._inside: Dict[int, int] = {}  # slot -> structure
        self._steps = np.zeros(len(self._pack.size), np.int64)
        self._relaxed: List[Any] = [None] * len(structures)

    def run(self) -> List[Relaxed]:
        """All of them, in their order."""
        before: Optional[_Place] = None
        while self._waiting or self._inside:
            self._fill()
            found = self._pack()
            here = _Place(self._pack.positions.copy(), found)
            for slot, reason in found.refused.items():  # back to where all was well
                self._finish(slot, before if self._steps[slot] else None, reason)
            largest = self._pack.greatest(np.sqrt(np.einsum("ij,ij->i", found.force, found.force)))
            ends = (largest < self._options.fmax) | (self._steps >= self._options.steps)
            for slot in [slot for slot in self._inside if ends[slot]]:
                self._finish(slot, here, "")
            for slot, reason in self._optimizer.step(found.force).items():
                self._finish(slot, here, reason)
            self._steps += 1
            before = here
        return self._relaxed

    def _fill(self) -> None:
        """Let those enter that find room."""
        while self._waiting and self._pack.fits(len(self._structures[self._waiting[0]])):
            item = self._waiting.popleft()
            slot = self._pack.enter(self._structures[item])
            self._optimizer.enter(slot)
            self._inside[slot], self._steps[slot] = item, 0

    def _finish(self, slot: int, place: Optional[_Place], reason: str) -> None:
        """Take a structure out, at a place; without one its energy was never known."""
        item, own, steps = self._inside.pop(slot), self._pack.places(slot), int(self._steps[slot])
        atoms = self._structures[item].copy()
        energy, forces, largest = np.nan, np.full((len(atoms), 3), np.nan), np.nan
        if place is not None:
            atoms.positions[:] = place.positions[own]
            energy, forces = float(place.found.energy[slot]), place.found.force[own].copy()
            largest = float(np.sqrt((forces**2).sum(1).max()))
        converged = largest <= self._options.fmax and not reason
        atoms.info.update(converged=converged, steps=steps)
        if reason:
            atoms.info["reason"] = reason
        if place is not None:
            energy_std, forces_std = None, None
            if len(place.found.energies) > 1:
                energies, forces_of_all = place.found.spread
                energy_std, forces_std = float(energies[slot]), forces_of_all[own]
            info, arrays = uncertainties(energy_std, forces_std, len(atoms), self._intervals)
            atoms.info.update(info)
            atoms.arrays.update({name: values.copy() for name, values in arrays.items()})
        with_results(atoms, energy, forces)
        name = str(atoms.info.get("name", atoms.get_chemical_formula()))
        self._relaxed[item] = Relaxed(name, atoms, converged, largest, steps, reason)
        self._optimizer.leave(slot)
        self._pack.leave(slot)
        self._finished()
