"""Predictions of a trained run, or the mean of several, for the molecules of a file: a CSV row or a frame for each."""

import csv
import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ipu_chem.data.corpora.memory import corpus_of, encode_in_memory
from ipu_chem.data.files.layout import FOUND, TableOptions
from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.files.table import Line, Row, read_table
from ipu_chem.data.files.text import as_text, existing_file, holds_smiles
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.smiles import embed_many
from ipu_chem.data.standardize import unfit
from ipu_chem.data.structures import to_atoms, with_results, write_extxyz
from ipu_chem.doubts import doubts_of
from ipu_chem.outputs import check_file
from ipu_chem.prediction import SUFFIXES
from ipu_chem.run_intervals import ForceIntervals, intervals_of, uncertainties
from ipu_chem.trained_run import ForceField, TrainedRun, energies_forces
from ipu_chem.uncertainty.intervals import Intervals, spread_of
from packing.files import PathLike, atomic_file
from packing.store import Store

_SHOWN = 80  # characters of a name in messages
Runs = Union[PathLike, Sequence[PathLike]]


class Refused(NamedTuple):
    """A molecule without a prediction, and why."""

    line: int
    name: str
    reason: str


class _Read(NamedTuple):
    """Molecules of a file.

    Attributes:
        rows: all of them; the line of a structure is its frame, from 1.
        store: those that can be read; None where there are none.
        places: [K] the rows that those are.
        reasons: row -> why it is none of them.
        molecules: the K in 3D; none of text.
        header: names of the input's columns.
    """

    rows: List[Row]
    store: Optional[Store]
    places: List[int]
    reasons: Dict[int, str]
    molecules: List[Molecule]
    header: Sequence[str] = ()

    def name(self, item: int) -> str:
        """A molecule of the store in messages."""
        row = self.rows[self.places[item]]
        return f"line {row.line} ({_called(row)})"

    def refused(self, reasons: Mapping[int, str]) -> List[Refused]:
        """Rows without a prediction, in order."""
        return [Refused(self.rows[place].line, _called(self.rows[place]), reasons[place]) for place in sorted(reasons)]


def predict_file(
    runs: Runs,
    source: PathLike,
    output: PathLike,
    smiles_column: Optional[str] = None,
    strict: bool = False,
    workers: Optional[int] = None,
    accelerator: Optional[str] = None,
    structures: Mapping[str, Any] = MappingProxyType({}),
    columns: str = "",
    table: TableOptions = FOUND,
    interval: Optional[float] = None,
) -> Tuple[int, List[Refused]]:
    """Predict every molecule of a file.

    Args:
        runs: folder of a finished run, or of several that learned the same, whose mean is taken.
        source: .smi or .csv (SMILES, which graph models embed in 3D), for those also .xyz, .extxyz or .sdf; all also
            gzipped.
        output: CSV to write: line, name, SMILES, one column per target with its unit, or the probability of a class, of
            several runs another with their standard deviation, and the reason where a molecule could not be predicted.
            Or, of runs that learned an energy, an .extxyz file, which has energies in eV and forces in eV/Å of the
            molecules that could be predicted, of several runs also "energy_std" and "forces_std".
        smiles_column: of a table.
        strict: stop at the first molecule that cannot be predicted instead of listing it.
        workers: processes that read SMILES; None takes all cores.
        accelerator: another device than the run was trained on.
        structures: what a 3D file leaves unsaid, as of `read_molecules`.
        columns: "all" also writes all columns of the input.
        table: what the user knows of a file of SMILES.
        interval: the probability that a label lies between the two more columns that each target then has, or, of an
            .extxyz file, by no more than "energy_half_width" and "forces_half_width" from its prediction.

    Returns:
        (molecules predicted, molecules refused).

    Raises:
        FileNotFoundError: no run or no such file.
        ValueError: the file holds nothing usable, the output cannot be written or is the input, the runs learned
            different things, have no such intervals, or ``strict`` and a molecule was refused.
    """
    check_file("--output", output, SUFFIXES, [existing_file(source)])
    if columns not in ("", "all"):
        raise ValueError(f"--columns {columns}: give all, or leave it out.")
    table = table._replace(smiles_column=smiles_column or table.smiles_column, prefix="--")
    _check_options(source, table, structures)
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    members = [TrainedRun.load(folder, accelerator) for folder in folders]
    _check_alike(members)
    with_forces = Path(output).suffix == ".extxyz"
    fields = [member.force_field() for member in members] if with_forces else []
    first = members[0]
    intervals = None if interval is None else intervals_of(members, interval)
    if with_forces and intervals is not None and intervals.forces is None:
        raise ValueError(
            f"{output} would hold forces, of which {first.folder} has no intervals, as it learned none; intervals of "
            "its energy go into --output predictions.csv."
        )
    if first.task.reads_text:
        read = _read_texts(Path(source), first, table, workers)
    else:
        read = _read_molecules(Path(source), first, table, strict, workers, structures)
    for member in members if read.store is not None else ():
        for doubt in doubts_of(member, read.store, read.name):  # type: ignore[arg-type]
            print(f"warning: {member.folder}: {doubt}", file=sys.stderr)
    if with_forces:
        return _predict_forces(fields, output, read, strict, intervals)
    return _predict(members, read, output, strict, columns, intervals)


def _check_options(source: PathLike, table: TableOptions, structures: Mapping[str, Any]) -> None:
    """Refuse options that the kind of file makes nothing of."""
    if holds_smiles(Path(source)):
        given, kind = [name for name, value in structures.items() if value not in ("", None)], "structures"
    else:
        given, kind = list(table.given()), "SMILES"
    if given:
        raise ValueError(f"{source}: --{given[0]} is for files of {kind}; leave it out.")


def _check_alike(members: Sequence[TrainedRun]) -> None:
    """Refuse runs without labels, and several that cannot be averaged.

    Raises:
        ValueError: see `TrainedRun.standardizer`; or names the two runs, and what differs.
    """
    learned = [
        {
            "targets": [(target["name"], target["unit"]) for target in member.standardizer.targets],
            "molecules as text": member.task.reads_text,
            "data.stereo and data.fragments": (member.config.data.stereo, member.config.data.fragments),
        }
        for member in members
    ]
    for member, other in zip(members[1:], learned[1:]):
        for what, value in other.items():
            if value != learned[0][what]:
                raise ValueError(
                    f"{member.folder} has {what} {value}, {members[0].folder} has {learned[0][what]}; runs that are "
                    "averaged agree."
                )


def _predict(
    members: Sequence[TrainedRun],
    read: _Read,
    output: PathLike,
    strict: bool,
    columns: str,
    intervals: Optional[Intervals],
) -> Tuple[int, List[Refused]]:
    """Labels of the molecules that were read, and reasons for the others, in one table."""
    prepared = [member.prepare([] if read.store is None else read.store) for member in members]
    reasons = dict(read.reasons)
    for one in reversed(prepared):
        reasons.update({read.places[item]: why for item, why in one.reasons.items()})
    refused = read.refused(reasons)
    _check_strict(refused, strict)
    found: Dict[int, List[np.ndarray]] = {}
    for member, one in zip(members, prepared):
        for item, values in zip(one.items.tolist(), member.predict(one)):
            found.setdefault(read.places[item], []).append(values)
    header = ["line", "name", "smiles"]
    for target in members[0].task.targets:
        unit = "probability" if target.binary else target.unit
        kinds = ["", *(["_std"] if len(members) > 1 else []), *(["_low", "_high"] if intervals is not None else [])]
        header += [f"{target.name}{kind} ({unit})" if unit else f"{target.name}{kind}" for kind in kinds]
    count = len(header) - 3
    header.append("reason")
    more = [name if name not in header else f"input_{name}" for name in read.header] if columns else []
    with atomic_file(output, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *more])
        for place, row in enumerate(read.rows):
            why = reasons.get(place, "")
            shown = [""] * count if why else _shown(found[place], intervals)
            texts = map(as_text, row.cells if columns else ())
            writer.writerow([row.line, as_text(row.name), as_text(row.smiles), *shown, why, *texts])
    return len(read.rows) - len(refused), refused


def _shown(found: Sequence[np.ndarray], intervals: Optional[Intervals]) -> List[str]:
    """Values of one run, or means and standard deviations of several, and the ends of intervals, in all digits."""
    mean, spread = np.mean(found, 0), spread_of(found)
    columns = [mean] if spread is None else [mean, spread]
    if intervals is not None:
        half = intervals.of_labels(None if spread is None else spread[None], 1)[0]
        columns += [mean - half, mean + half]
    return list(map(repr, np.stack(columns, 1).ravel().tolist()))


def _predict_forces(
    members: Sequence[ForceField], output: PathLike, read: _Read, strict: bool, intervals: Optional[Intervals]
) -> Tuple[int, List[Refused]]:
    """Energies and forces, in packs that the molecules themselves fit."""
    reasons = dict(read.reasons)
    for member in reversed(members) if read.store is not None else ():
        lacking = unfit(read.store, member.standardizer)  # type: ignore[arg-type]
        reasons.update({read.places[item]: why for item, why in lacking.items()})
    refused = read.refused(reasons)
    _check_strict(refused, strict)
    taken = [molecule for place, molecule in zip(read.places, read.molecules) if place not in reasons]
    if taken:
        found = energies_forces(members, taken)
        widths = None if intervals is None else ForceIntervals(intervals, members[0].ev)
        frames = []
        for item, one in enumerate(taken):
            atoms = with_results(to_atoms(one), float(found.energies[item]), found.forces[item])
            energy_std = None if found.energies_std is None else float(found.energies_std[item])
            forces_std = None if found.forces_std is None else found.forces_std[item]
            info, arrays = uncertainties(energy_std, forces_std, len(atoms), widths)
            atoms.info.update(info)
            atoms.arrays.update(arrays)
            frames.append(atoms)
        write_extxyz(output, frames)
    return len(taken), refused


def _read_molecules(
    source: Path,
    run: TrainedRun,
    table: TableOptions,
    strict: bool,
    workers: Optional[int],
    structures: Mapping[str, Any],
) -> _Read:
    """Molecules in 3D, and rows of SMILES that cannot be embedded."""
    if not holds_smiles(source):
        molecules = read_molecules(source, **structures)
        lines = [Line(frame, "", molecule.name) for frame, molecule in enumerate(molecules, 1)]
        rows = [Row(line.line, "", line.name, [], line) for line in lines]
        return _Read(rows, molecules_to_store(molecules), list(range(len(rows))), {}, molecules)
    content = read_table(source, table)
    how: Dict[str, Any] = {"fragments": run.config.data.fragments, "title": "3D conformers"}
    embeddings, failures = embed_many([row.entry for row in content.rows], 0, workers, True, strict, **how)
    place = {row.line: place for place, row in enumerate(content.rows)}
    named = [one.molecule._replace(y=None, name=one.molecule.name or one.smiles) for one in embeddings]
    reasons = {place[failure.line]: failure.reason for failure in failures}
    store = molecules_to_store(named) if named else None
    return _Read(content.rows, store, [place[one.line] for one in embeddings], reasons, named, content.header)


def _read_texts(source: Path, run: TrainedRun, table: TableOptions, workers: Optional[int]) -> _Read:
    """Molecules as text."""
    content = read_table(source, table)
    chunks = encode_in_memory([row.entry for row in content.rows], workers or 0, run.manner)
    place = {row.line: place for place, row in enumerate(content.rows)}
    reasons = {place[failure.line]: failure.reason for chunk in chunks for failure in chunk.failures}
    store = corpus_of(chunks, run.manner) if any(len(chunk.line) for chunk in chunks) else None
    lines = [] if store is None else store.fields["line"].tolist()
    return _Read(content.rows, store, [place[line] for line in lines], reasons, [], content.header)


def _called(row: Row) -> str:
    """Name of a row in messages, or its SMILES where it has none."""
    name = row.smiles if row.smiles and row.name == str(row.line) else row.name
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def _check_strict(refused: List[Refused], strict: bool) -> None:
    """Stop at the first molecule that cannot be predicted.

    Raises:
        ValueError: ``strict`` and there is one; names it.
    """
    if strict and refused:
        first = refused[0]
        raise ValueError(f"line {first.line} ({first.name}): {first.reason}.")
