"""Predictions of a trained run for the molecules of a file: one CSV row or one frame for each."""

import csv
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ipu_chem.data.corpora.memory import corpus_of, encode_in_memory
from ipu_chem.data.files.layout import TableOptions
from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.files.table import Table, read_table
from ipu_chem.data.files.text import holds_smiles
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.smiles import embed_many
from ipu_chem.data.structures import to_atoms, with_results, write_extxyz
from ipu_chem.trained_run import TrainedRun, unfit
from packing.files import PathLike, atomic_file
from packing.store import Store


class Refused(NamedTuple):
    """A molecule without a prediction, and why."""

    line: int
    name: str
    reason: str


class _Read(NamedTuple):
    """Molecules of a file.

    Attributes:
        store: of those that can be read, in the order of ``lines``; None where there are none.
        lines: numbers of their lines or frames, from 1.
        names: theirs.
        refused: the others.
    """

    store: Optional[Store]
    lines: List[int]
    names: List[str]
    refused: List[Refused]


def predict_file(
    folder: PathLike,
    source: PathLike,
    output: PathLike,
    smiles_column: Optional[str] = None,
    strict: bool = False,
    workers: Optional[int] = None,
    accelerator: Optional[str] = None,
    structures: Mapping[str, Any] = MappingProxyType({}),
) -> Tuple[int, List[Refused]]:
    """Predict every molecule of a file.

    Args:
        folder: of a finished run.
        source: .smi or .csv (SMILES, which graph models embed in 3D), for those also .xyz, .extxyz or .sdf; all also
            gzipped.
        output: CSV to write: line, name, one column per target with its unit, or the probability of a class, and the
            reason where a molecule could not be predicted. Or, of runs that learned an energy, an .extxyz file, which
            has energies in eV and forces in eV/Å of the molecules that could be predicted.
        smiles_column: of a .csv file.
        strict: stop at the first molecule that cannot be predicted instead of listing it.
        workers: processes that read SMILES; None takes all cores.
        accelerator: another device than the run was trained on.
        structures: what a 3D file leaves unsaid, as of `read_molecules`.

    Returns:
        (molecules predicted, molecules refused).

    Raises:
        FileNotFoundError: no run or no such file.
        ValueError: the file holds nothing usable, or ``strict`` and a molecule was refused.
    """
    run = TrainedRun.load(folder, accelerator)
    run.standardizer  # noqa: B018 (refuses runs that have learned no labels)
    if run.task.reads_text:
        read = _read_texts(Path(source), smiles_column, workers)
    else:
        molecules, lines, refused = _read_molecules(source, smiles_column, strict, workers, structures)
        if Path(output).suffix == ".extxyz":
            return _predict_forces(run, output, molecules, lines, refused, strict)
        store = molecules_to_store(molecules) if molecules else None
        read = _Read(store, lines, [molecule.name for molecule in molecules], refused)
    return _predict(run, read, output, strict)


def _predict(run: TrainedRun, read: _Read, output: PathLike, strict: bool) -> Tuple[int, List[Refused]]:
    """Labels of the molecules that were read, and reasons for the others, in one table."""
    prepared = run.prepare([] if read.store is None else read.store)
    reasons = sorted(prepared.reasons.items())
    refused = sorted(read.refused + [Refused(read.lines[item], read.names[item], why) for item, why in reasons])
    _check_strict(refused, strict)
    rows: Dict[int, Tuple[str, List[str], str]] = {}
    for item, values in zip(prepared.items.tolist(), run.predict(prepared)):
        rows[read.lines[item]] = read.names[item], [f"{value:.8g}" for value in values], ""
    rows.update({one.line: (one.name, [""] * len(run.task.targets), one.reason) for one in refused})
    units = [(target.name, "probability" if target.binary else target.unit) for target in run.task.targets]
    with atomic_file(output, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "name", *(f"{name} ({unit})" if unit else name for name, unit in units), "reason"])
        writer.writerows([line, name, *shown, reason] for line, (name, shown, reason) in sorted(rows.items()))
    return len(prepared.items), refused


def _predict_forces(
    run: TrainedRun, output: PathLike, molecules: List[Molecule], lines: List[int], refused: List[Refused], strict: bool
) -> Tuple[int, List[Refused]]:
    """Energies and forces, in packs that the molecules themselves fit."""
    reasons: Dict[int, str] = {}
    if molecules:
        reasons = unfit(molecules_to_store(molecules), run.standardizer)
    refused = refused + [Refused(lines[item], molecules[item].name, why) for item, why in sorted(reasons.items())]
    _check_strict(refused, strict)
    taken = [molecule for item, molecule in enumerate(molecules) if item not in reasons]
    if taken:
        found = run.energies_forces(taken)
        results = zip(taken, found.energies, found.forces)
        write_extxyz(output, [with_results(to_atoms(one), float(energy), forces) for one, energy, forces in results])
    return len(taken), refused


def _read_molecules(
    source: PathLike, smiles_column: Optional[str], strict: bool, workers: Optional[int], structures: Mapping[str, Any]
) -> Tuple[List[Molecule], List[int], List[Refused]]:
    """Molecules in 3D, numbers of their lines or frames from 1, and those that could not be read."""
    if not holds_smiles(Path(source)):
        molecules = read_molecules(source, **structures)
        return molecules, list(range(1, len(molecules) + 1)), []
    table = read_table(source, TableOptions(smiles_column or "", prefix="--"))
    embeddings, failures = embed_many([row.entry for row in table.rows], workers=workers, strict=strict)
    names = _names(table)
    refused = [Refused(failure.line, names[failure.line], failure.reason) for failure in failures]
    named = [e.molecule._replace(y=None, name=e.molecule.name or e.smiles) for e in embeddings]
    return named, [e.line for e in embeddings], refused


def _read_texts(source: Path, smiles_column: Optional[str], workers: Optional[int]) -> _Read:
    """Molecules as text, called by their names, else by the numbers of their lines."""
    table = read_table(source, TableOptions(smiles_column or "", prefix="--"))
    names = _names(table)
    chunks = encode_in_memory([row.entry for row in table.rows], workers or 0)
    refused = [Refused(one.line, names[one.line], one.reason) for chunk in chunks for one in chunk.failures]
    store: Any = corpus_of(chunks) if any(len(chunk.line) for chunk in chunks) else None
    lines = [] if store is None else store.fields["line"].tolist()
    return _Read(store, lines, [names[line] for line in lines], refused)


def _names(table: Table) -> Dict[int, str]:
    """Names by line; the number of the line where there is none."""
    return {row.line: row.name for row in table.rows}


def _check_strict(refused: List[Refused], strict: bool) -> None:
    """Stop at the first molecule that cannot be predicted.

    Raises:
        ValueError: ``strict`` and there is one; names it.
    """
    if strict and refused:
        first = refused[0]
        raise ValueError(f"line {first.line} ({first.name}): {first.reason}.")
