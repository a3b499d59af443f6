"""Predictions for new molecules from a trained run: SMILES or 3D files in, one CSV row or frame per molecule out.

On data's way: file -> molecules -> edges -> packs -> Backend.evaluate -> real units -> CSV, or forces -> .extxyz.
"""

import csv
import io
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.config import RunConfig, from_dict
from ipu_chem.data.edges import edges_in_memory
from ipu_chem.data.files import plain_suffix, read_molecules
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.smiles import embed_many, read_smiles_file
from ipu_chem.data.standardize import Standardizer
from ipu_chem.loader import PackLoader
from ipu_chem.metrics import Target
from ipu_chem.models.registry import reads_text
from ipu_chem.training.checkpoint import load_checkpoint
from ipu_chem.training.evaluation import predict_split
from ipu_chem.training.filter_guard import with_filters_of
from ipu_chem.training.graph_run import loss_function, make_model
from ipu_chem.training.run import make_backend
from packing import Budget, make_plan
from packing.files import PathLike, atomic_file
from packing.store import Store


class Refused(NamedTuple):
    """A molecule without a prediction, and why."""

    line: int
    name: str
    reason: str


def predict_file(
    folder: PathLike,
    source: PathLike,
    output: PathLike,
    smiles_column: Optional[str] = None,
    strict: bool = False,
    workers: Optional[int] = None,
    accelerator: Optional[str] = None,
) -> Tuple[int, List[Refused]]:
    """Predict every molecule of a file.

    Args:
        folder: of a finished run.
        source: .smi or .csv (SMILES, embedded in 3D), .xyz, .extxyz or .sdf, all also gzipped.
        output: CSV to write: line, name, one column per target with its unit, and the reason where a
            molecule could not be predicted. Or, of runs that learnt an energy, an .extxyz file, which has energies in
            eV and forces in eV/Å of the molecules that could be predicted.
        smiles_column: of a .csv file.
        strict: stop at the first molecule that cannot be predicted instead of listing it.
        workers: processes that embed SMILES; None takes all cores.
        accelerator: another device than the run was trained on.

    Returns:
        (molecules predicted, molecules refused).

    Raises:
        FileNotFoundError: no run or no such file.
        ValueError: the file holds nothing usable, or ``strict`` and a molecule was refused.
    """
    tensors, state = load_checkpoint(Path(folder) / "checkpoints" / "best.safetensors")
    values = dict(state["config"])
    if accelerator is not None:
        values["accelerator"] = accelerator
    config = with_filters_of(state, from_dict(values))
    if reads_text(config.model.name):
        raise ValueError(
            f"{folder} is a run of {config.model.name}, which predicts no labels; `ipu-chem generate` writes molecules "
            "with it, `ipu-chem embed` turns molecules into features."
        )
    standardizer = Standardizer.from_dict(state["standardizer"])
    targets = [Target(t["name"], t["unit"], t["extensive"]) for t in standardizer.targets]
    lines, molecules, refused = _read(source, smiles_column, strict, workers)
    store = edges_in_memory(molecules_to_store(molecules), config.model.cutoff) if molecules else None
    kept = np.zeros(0, np.int64)
    predictions = np.zeros((0, len(targets)))
    with_forces = Path(output).suffix == ".extxyz"
    budget = Budget(**state["budget"])
    if store is not None:
        budget = _with_edges(budget, store)
        kept, reasons = _fitting(store, standardizer, {} if with_forces else budget.as_dict())
        refused += [Refused(lines[item], molecules[item].name, reason) for item, reason in sorted(reasons.items())]
    if strict and refused:
        raise ValueError(f"line {refused[0].line} ({refused[0].name}): {refused[0].reason}.")
    if with_forces:
        _write_forces(folder, output, [molecules[item] for item in kept.tolist()], accelerator)
        return len(kept), refused
    if store is not None and len(kept):
        predictions = _predict(config, tensors["model"], store, kept, standardizer, targets, budget)
    rows: Dict[int, Tuple[str, Any, str]] = {
        lines[item]: (molecules[item].name, row, "") for item, row in zip(kept.tolist(), predictions)
    }
    rows.update({entry.line: (entry.name, None, entry.reason) for entry in refused})
    _write(output, targets, rows)
    return len(kept), refused


def _read(
    source: PathLike, smiles_column: Optional[str], strict: bool, workers: Optional[int]
) -> Tuple[List[int], List[Molecule], List[Refused]]:
    """Line or frame numbers from 1, molecules, and those that could not be read."""
    if plain_suffix(Path(source)) not in (".smi", ".csv"):
        molecules = read_molecules(source)
        return list(range(1, len(molecules) + 1)), molecules, []
    embeddings, failures = embed_many(read_smiles_file(source, smiles_column), workers=workers, strict=strict)
    refused = [Refused(failure.line, failure.smiles, failure.reason) for failure in failures]
    named = [e.molecule._replace(y=None, name=e.molecule.name or e.smiles) for e in embeddings]
    return [e.line for e in embeddings], named, refused


def _with_edges(budget: Budget, store: Store) -> Budget:
    """The budget, with room for any pack's edges where the run's device looked for them itself."""
    if "edges" in budget:
        return budget
    sizes = store.sizes()
    return budget.replace(edges=int(np.ceil(budget["nodes"] * (sizes["edges"] / sizes["nodes"]).max())) or 1)


def _fitting(store: Store, standardizer: Standardizer, limits: Mapping[str, int]) -> Tuple[np.ndarray, Dict[int, str]]:
    """Items that the model can take, and for the others the reason; no limits where packs follow the molecules."""
    reasons: Dict[int, str] = {}
    for name in sorted({"nodes", "edges"} & set(limits), reverse=True):
        for item in np.flatnonzero(store.sizes()[name] > limits[name]).tolist():
            size = store.sizes()[name][item]
            reasons[item] = f"{size} {name} do not fit the run's packs of {limits[name]}"
    if not limits or any(kind != "none" for kind in standardizer.references):
        for item in np.flatnonzero(standardizer.unseen(store.ragged("z"))).tolist():
            reasons[item] = "it holds an element that no training molecule had"
    return np.array([item for item in range(len(store)) if item not in reasons], np.int64), reasons


def _predict(
    config: RunConfig,
    weights: Dict[str, Any],
    store: Store,
    items: np.ndarray,
    standardizer: Standardizer,
    targets: Sequence[Target],
    budget: Budget,
) -> np.ndarray:
    """[K, T] float64 in real units.

    Positions cross as they are: a new molecule may be larger than the steps of a run's 16 bits reach.
    """
    sizes = {axis: store.sizes()[axis][items] for axis in ("nodes", "edges")}
    plan = make_plan(sizes, budget, "best_fit")
    labels = np.full((len(store), len(targets)), np.nan)
    loader = PackLoader(store, items, plan, labels, budget, config.batching)
    backend = make_backend(config)
    model = make_model(config, list(targets))
    backend.compile(model, loss_function(config), None, config.batching, loader.example(training=False))
    backend.load_state_dict({"model": weights})
    standardised = predict_split(backend, loader)
    backend.close()
    return standardizer.invert(store.ragged("z").take(items), standardised)


def _write_forces(
    folder: PathLike, output: PathLike, molecules: Sequence[Molecule], accelerator: Optional[str]
) -> None:
    """Energies and forces, in packs that the molecules themselves fit."""
    from ipu_chem.simulation.batch import evaluate_many, write_extxyz

    if molecules:
        write_extxyz(output, molecules, evaluate_many(folder, molecules, accelerator))


def _write(output: PathLike, targets: Sequence[Target], rows: Dict[int, Tuple[str, Any, str]]) -> None:
    columns = [f"{target.name} ({target.unit})" if target.unit else target.name for target in targets]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", "name", *columns, "reason"])
    for line in sorted(rows):
        name, values, reason = rows[line]
        shown = [""] * len(targets) if values is None else [f"{value:.8g}" for value in values]
        writer.writerow([line, name, *shown, reason])
    with atomic_file(output, "w") as file:
        file.write(text.getvalue())
