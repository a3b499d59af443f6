"""Predictions for new molecules from a trained run: SMILES or 3D files in, one CSV row or frame per molecule out."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ipu_chem.backends import get_backend
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.data.edges import edges_in_memory
from ipu_chem.data.files.structures import read_molecules
from ipu_chem.data.files.table import read_smiles_file
from ipu_chem.data.files.text import plain_suffix
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.smiles import embed_many
from ipu_chem.data.standardize import Standardizer
from ipu_chem.prediction.tables import Predictions, Refused, check_strict, write_predictions
from ipu_chem.tasks.evaluation import predict_split
from ipu_chem.tasks.graphs import GraphTask, check_charges
from ipu_chem.tasks.registry import task_of
from packing import Budget
from packing.files import PathLike
from packing.store import Store


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
        source: .smi or .csv (SMILES, which graph models embed in 3D), for those also .xyz, .extxyz or .sdf; all also
            gzipped.
        output: CSV to write: line, name, one column per target with its unit, or the probability of a class, and the
            reason where a molecule could not be predicted. Or, of runs that learnt an energy, an .extxyz file, which
            has energies in eV and forces in eV/Å of the molecules that could be predicted.
        smiles_column: of a .csv file.
        strict: stop at the first molecule that cannot be predicted instead of listing it.
        workers: processes that read SMILES; None takes all cores.
        accelerator: another device than the run was trained on.

    Returns:
        (molecules predicted, molecules refused).

    Raises:
        FileNotFoundError: no run or no such file.
        ValueError: the file holds nothing usable, or ``strict`` and a molecule was refused.
    """
    tensors, state = load_checkpoint(Path(folder) / "checkpoints" / "best.safetensors")
    config = from_dict(state["config"])
    if accelerator is not None:
        config = replace(config, accelerator=accelerator)
    task = task_of(config)
    if "standardizer" not in state:
        raise ValueError(
            f"{folder} is a run of {config.model.name} that learnt no labels; `ipu-chem generate` writes molecules "
            "with it, `ipu-chem embed` turns molecules into features."
        )
    if task.reads_text:
        from ipu_chem.prediction.text import predict_text

        restored: Any = task.restored(config, state)
        found = predict_text(restored, tensors["model"], source, smiles_column, strict, workers)
    else:
        restored = task.restored(config, state)
        molecules = _read(source, smiles_column, strict, workers)
        if Path(output).suffix == ".extxyz":
            return _predict_forces(folder, output, restored.labels.standardizer, molecules, strict, accelerator)
        found = _predict_graphs(restored, tensors["model"], molecules, strict)
    check_strict(found.refused, strict)
    write_predictions(output, restored.targets, found)
    return len(found.lines), found.refused


def _predict_graphs(
    task: GraphTask,
    weights: Dict[str, Any],
    read: Tuple[List[int], List[Molecule], List[Refused]],
    strict: bool,
) -> Predictions:
    """Predict the molecules that were read."""
    lines, molecules, refused = read
    model, standardizer = task.config.model, task.labels.standardizer
    store = edges_in_memory(molecules_to_store(molecules), model.cutoff) if molecules else None
    kept = np.zeros(0, np.int64)
    predictions = np.zeros((0, len(task.targets)))
    if store is not None:
        check_charges(store, model)
        budget = _with_edges(task.budget, store)
        kept, reasons = _fitting(store, standardizer, budget.as_dict())
        refused += [Refused(lines[item], molecules[item].name, reason) for item, reason in sorted(reasons.items())]
    check_strict(refused, strict)
    if store is not None and len(kept):
        predictions = _predict(task, weights, store, kept, budget)
    names = [molecules[item].name for item in kept.tolist()]
    return Predictions([lines[item] for item in kept.tolist()], names, predictions, refused)


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


def _predict(task: GraphTask, weights: Dict[str, Any], store: Store, items: np.ndarray, budget: Budget) -> np.ndarray:
    """[K, T] float64 in real units."""
    config, loader = task.config, task.unlabelled_loader(store, items, budget)
    with closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision)) as backend:
        backend.compile(task.model(), task.loss(), None, config.batching, loader.example(training=False))
        backend.load_state_dict({"model": weights})
        standardized = predict_split(backend, loader)
    return task.labels.standardizer.invert(store.ragged("z").take(items), standardized)


def _predict_forces(
    folder: PathLike,
    output: PathLike,
    standardizer: Standardizer,
    read: Tuple[List[int], List[Molecule], List[Refused]],
    strict: bool,
    accelerator: Optional[str],
) -> Tuple[int, List[Refused]]:
    """Energies and forces, in packs that the molecules themselves fit."""
    from ipu_chem.simulation.batch import evaluate_many, write_extxyz

    lines, molecules, refused = read
    kept = np.zeros(0, np.int64)
    if molecules:
        kept, reasons = _fitting(molecules_to_store(molecules), standardizer, {})
        refused += [Refused(lines[item], molecules[item].name, reason) for item, reason in sorted(reasons.items())]
    check_strict(refused, strict)
    taken = [molecules[item] for item in kept.tolist()]
    if taken:
        write_extxyz(output, taken, evaluate_many(folder, taken, accelerator))
    return len(kept), refused
