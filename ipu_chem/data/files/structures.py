"""Molecules of 3D files, xyz, extxyz, SDF, npz and ASE's data bases: every structure is read, or named and refused."""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.data.checks import check_atoms, check_electrons, check_forces
from ipu_chem.data.energy_units import is_energy
from ipu_chem.data.files.ase_db import db_frames
from ipu_chem.data.files.frame import Frame, listed
from ipu_chem.data.files.levels import ForceChoice, is_gradient, label
from ipu_chem.data.files.npz import npz_frames
from ipu_chem.data.files.sdf import sdf_frames
from ipu_chem.data.files.text import existing_file, plain_suffix
from ipu_chem.data.files.xyz import xyz_frames
from ipu_chem.data.lengths import length_doubt
from ipu_chem.data.molecule import Molecule
from ipu_chem.units import energy_unit, force_unit, in_angstrom, in_ev
from packing.files import PathLike
from packing.types import offsets_of

_READERS: Dict[str, Callable[[Path], Iterator[Frame]]] = {
    ".xyz": xyz_frames,
    ".extxyz": xyz_frames,
    ".sdf": sdf_frames,
    ".db": db_frames,
    ".npz": npz_frames,
}


class Wanted(NamedTuple):
    """Labels to read of a file, and what its user says of it.

    Attributes:
        targets: keys of an xyz frame's comment line, of a data base's row or its calculator, or SDF properties.
        force_key: what holds the forces of the first target; "" takes those that by name belong to a target.
        unit: of energies, to which those are converted that the file states another unit of.
        length_unit: of positions; "" takes what the file states, else Å.
        charge: e, of structures whose file does not say.
        multiplicity: 2S + 1, likewise.
        prefix: of these options on the command line, for messages.
    """

    targets: Sequence[str] = ()
    force_key: str = ""
    unit: str = ""
    length_unit: str = ""
    charge: Optional[int] = None
    multiplicity: Optional[int] = None
    prefix: str = "--"


class Structures(NamedTuple):
    """Molecules of a file, and how they were read.

    Attributes:
        molecules: in the order of the file, positions in Å.
        forces_of: the target that forces are of; "" if there are none.
        units: of targets, where they are converted or the file states them; else "".
        passed_over: columns of forces that belong to none of the targets.
        notes: sentences on what was converted or passed over.
    """

    molecules: List[Molecule]
    forces_of: str
    units: List[str]
    passed_over: List[str]
    notes: List[str]


def read_molecules(path: PathLike, target: Optional[str] = None, force_key: str = "", **wanted: Any) -> List[Molecule]:
    """All molecules of a file; see `read_labeled`.

    Args:
        path: the file.
        target: labels y, separated by commas; None reads none.
        force_key: of `Wanted`.
        wanted: other fields of `Wanted`.
    """
    names = [one.strip() for one in (target or "").split(",") if one.strip()]
    return read_labeled(path, Wanted(names, force_key, **wanted)).molecules


def read_labeled(path: PathLike, wanted: Wanted, limit: Optional[int] = None) -> Structures:
    """Molecules of a file; its suffix (.xyz, .extxyz, .sdf, also with .gz, .db or .npz) says how to read it.

    Args:
        path: the file, which is read and checked to its end.
        wanted: labels, and statements of the user.
        limit: give the first molecules only; None gives all.

    Raises:
        ValueError: no such file, nothing in it, another suffix, a structure that cannot be used, periodic or without a
            target, or units that contradict each other; names the structure and its line.
    """
    suffix = plain_suffix(Path(path))
    if suffix not in _READERS:
        hint = "; SMILES have no coordinates, embed them first (ipu_chem.data.smiles)"
        hint = hint if suffix in (".smi", ".csv") else ""
        kinds = ".xyz, .extxyz, .sdf (also gzipped), .db and .npz"
        raise ValueError(f"{path}: molecules are read from {kinds} files{hint}.")
    path = existing_file(path)
    forces = ForceChoice(wanted.targets, wanted.force_key, f"{wanted.prefix}force_key")
    units = _Units(wanted)
    molecules: List[Molecule] = []
    wheres: List[str] = []
    known: Dict[str, Dict[bool, str]] = {"charge": {}, "multiplicity": {}}  # stated or not -> the first such structure
    forces_of = ""
    for frame in _READERS[suffix](path):
        y = label(frame, wanted.targets, f"{wanted.prefix}target") if wanted.targets else None
        length = units.length(frame)
        found = forces.of(frame) if wanted.targets else {}
        forces_of = forces_of or next((name for name in forces.energies if name in found), "")
        column = found.get(forces_of, "")
        force = frame.arrays.get(column)
        if y is not None and len(y) == len(wanted.targets):
            y = units.labels(frame, y)
            if force is not None:
                force = force * units.force(frame, forces_of, column, length)
                if is_gradient(column):
                    force = -force
                    units.note(f"{column} is by its name the gradient of {forces_of}; forces are its negative")
        spin = frame.spin if frame.spin is not None or wanted.multiplicity is None else wanted.multiplicity - 1
        charge = frame.charge if frame.charge is not None else wanted.charge
        for what, value in (("charge", charge), ("multiplicity", spin)):
            if value != 0 or value is None:
                known[what].setdefault(value is not None, frame.where)
        pos = frame.pos if length == 1.0 else frame.pos * length
        molecules.append(Molecule(frame.z, pos, y, frame.name, force, charge, spin))
        wheres.append(frame.where if frame.where.startswith(frame.name) else f"{frame.name} ({frame.where})")
    _check_known(known, wanted.prefix)
    if wanted.force_key and not any(one.forces is not None for one in molecules):
        having = f"its columns are {listed(forces.columns)}" if forces.columns else "it has none under any name"
        raise ValueError(f"{path} has no forces called {wanted.force_key!r} ({wanted.prefix}force_key); {having}.")
    if not (wanted.length_unit or units.states_length):
        say_length_doubt(path.name, [one.z for one in molecules], [one.pos for one in molecules], wanted.prefix)
    _check(molecules, wheres)
    note = forces.note(forces_of)
    notes = [f"{path.name}: {note}"] if note else []
    notes += [f"{path.name}: {one}" for one in units.notes]
    typed = [one._replace(z=one.z.astype(np.uint8)) for one in molecules[:limit]]
    return Structures(typed, forces_of, units.of_targets, forces.passed_over, notes)


def _check_known(known: Dict[str, Dict[bool, str]], prefix: str) -> None:
    """Refuse a file of which some structures state a charge or unpaired electrons, and others nothing."""
    for (what, where), usual in zip(known.items(), ("0", "1")):
        if len(where) == 2:
            raise ValueError(
                f"{where[True]} states its {what}, but {where[False]} does not; state it in all, or give "
                f"{prefix}{what} {usual} if that is meant where nothing stands."
            )


def say_length_doubt(file: str, z: Sequence[np.ndarray], pos: Sequence[np.ndarray], prefix: str) -> None:
    """Warn on stderr if positions are likely not in Å."""
    doubt = length_doubt(z, pos)
    if doubt is not None:
        unit, sentence = doubt
        print(
            f"warning: {file}: {sentence}: give {prefix}length_unit {unit}, or {prefix}length_unit A if they are in Å.",
            file=sys.stderr,
        )


def _check(molecules: Sequence[Molecule], wheres: Sequence[str]) -> None:
    """All checks of molecules, of many at once."""
    offsets = offsets_of([len(one.z) for one in molecules])
    check_atoms(
        np.concatenate([one.z for one in molecules]), np.concatenate([one.pos for one in molecules]), offsets, wheres
    )
    if any(one.forces is not None for one in molecules):
        rows = [np.full(one.pos.shape, np.nan) if one.forces is None else one.forces for one in molecules]
        check_forces(np.concatenate(rows), offsets, wheres)
    for one, where in zip(molecules, wheres):
        if one.charge is not None or one.spin is not None:
            charge, spin = (None if value is None else np.array([value]) for value in (one.charge, one.spin))
            check_electrons(one.z, np.array([0, len(one.z)]), charge, spin, [where])


class _Units:
    """Units that a file states, against those that its user says.

    Attributes:
        of_targets: [T] units of labels after conversion; "" where the file states none.
        states_length: some structure states the unit of its positions.
        notes: what was converted.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.of_targets = [""] * len(wanted.targets)
        self.states_length = False
        self.notes: List[str] = []
        self._given = in_angstrom(wanted.length_unit) if wanted.length_unit else None
        self._silent: Dict[str, str] = {}  # what -> the first structure that states no unit of it

    def length(self, frame: Frame) -> float:
        """Å of the structure's unit of length."""
        stated = frame.units.get("length")
        self._all_or_none("length", stated, frame)
        if stated is None:
            return self._given or 1.0
        try:
            found = in_angstrom(stated)
        except ValueError as error:
            raise ValueError(f"{frame.where}: {error}") from None
        if self._given is not None and found != self._given:
            option = f"{self._wanted.prefix}length_unit {self._wanted.length_unit}"
            raise ValueError(f"{frame.where} states {stated} as its unit of length, not {option}; leave that out.")
        self.states_length = True
        if found != 1.0:
            self.note(f"positions are converted from {stated}, as the file states, to Å")
        return found

    def labels(self, frame: Frame, y: np.ndarray) -> np.ndarray:
        """[T] in the unit that the user wants."""
        factors = [self._energy(frame, place, name) for place, name in enumerate(self._wanted.targets)]
        return y * factors

    def force(self, frame: Frame, energy: str, column: str, length: float) -> float:
        """Factor of forces: to the unit of their energy by Å."""
        place = self._wanted.targets.index(energy)
        stated = frame.units.get(column) or frame.units.get("forces")
        if stated is None:
            return self._energy(frame, place, energy) / length
        factor, unit = force_unit(stated), self.of_targets[place] or self._wanted.unit
        if factor is None:
            raise ValueError(
                f"{frame.where} states {stated!r} as its unit of forces, which is not known here; write energy/length, "
                "such as eV/Å or Hartree/bohr."
            )
        if energy_unit(unit) is None:
            raise ValueError(
                f"{frame.where} states {stated} as its unit of forces, but none of {energy}; give it: "
                f"{self._wanted.prefix}unit eV, if it is in eV."
            )
        factor /= in_ev(unit)
        if abs(factor - 1.0) > 1e-9:
            self.note(f"forces are converted from {stated}, as the file states, to {unit}/Å")
        return factor

    def _energy(self, frame: Frame, place: int, name: str) -> float:
        stated = frame.units.get(name) or (frame.units.get("energy") if is_energy(name) else None)
        if not is_energy(name):
            return 1.0
        self._all_or_none(name, stated, frame)
        if stated is None:
            return 1.0
        found = energy_unit(stated)
        if found is None:
            raise ValueError(f"{frame.where} states {stated!r} as its unit of energy, which is not known here.")
        self.of_targets[place] = self.of_targets[place] or self._wanted.unit or stated
        unit = self.of_targets[place]
        factor = found / in_ev(unit)
        if factor != 1.0:
            self.note(f"{name} is converted from {stated}, as the file states, to {unit}")
        return factor

    def _all_or_none(self, what: str, stated: Optional[str], frame: Frame) -> None:
        """Refuse a file some of whose structures state a unit and others do not."""
        silent, said = f"{what} without", f"{what} with"
        self._silent.setdefault(silent if stated is None else said, frame.where)
        if silent in self._silent and said in self._silent:
            raise ValueError(
                f"{self._silent[said]} states a unit of {what}, but {self._silent[silent]} does not; state it in all."
            )

    def note(self, sentence: str) -> None:
        """Keep a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)
