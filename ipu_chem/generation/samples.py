"""Molecules that a language model writes after its run: drawn, decoded, compared with held-out ones, kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
import torch

from ipu_chem.backends.base import Backend
from ipu_chem.data.molecule import decode_text
from ipu_chem.generation.molecules import some
from ipu_chem.parallel import core_count
from ipu_chem.tasks.base import Task
from packing.files import atomic_file

FILE = "generated.csv"
TABLE = "generated_metrics.csv"
PROPERTIES = "generated_properties.npz"  # of generated and reference molecules, see `Described.properties`


class Known(NamedTuple):
    """Molecules as canonical SMILES.

    Attributes:
        origin: of the reference: split or file.
        train: what the model has seen; None if that is not known.
        reference: what it has not seen.
    """

    origin: str
    train: Optional[List[str]]
    reference: List[str]


def write_samples(
    task: Task, backend: Backend, folder: Path, count: int, workers: Optional[int] = None, published: bool = False
) -> Dict[str, Any]:
    """Generate molecules after a run and score them.

    Args:
        task: of the run, whose model writes molecules; novelty is against its training molecules, distances to those
            of the test split, or of the validation split where there is none.
        backend: with the best weights.
        folder: of the run.
        count: molecules.
        workers: threads that write, processes that decode and score; None takes all cores.
        published: the molecules are MOSES', whose published models go beside.

    Returns:
        {"samples": {"count", "finished", "invalid": reason -> count, "compared with", "metrics": name -> value,
        "notes", "published"}}, or nothing where none are asked for, and in processes other than the first.
    """
    # Weights that are sharded over processes come together only where all of them ask.
    weights = backend.state_dict(weights_only=True)["model"] if count else {}
    if not weights or backend.world.rank > 0:
        return {}
    from ipu_chem.generation.metrics import compare
    from ipu_chem.generation.molecules import count_reasons, decode_many, write_molecules
    from ipu_chem.generation.sampling import generate
    from ipu_chem.generation.table import write_table

    fresh: Any = replace(task, start_from="")  # whatever the run has started from, its weights are loaded now
    with torch.random.fork_rng(devices=[]):
        model = fresh.model()
    model.load_state_dict(weights)
    jobs = workers or core_count()
    samples = generate(model.model.eval(), fresh.tokenizer, count, seed=task.seed, jobs=jobs)
    representation = fresh.tokenizer.representation.name
    decoded = decode_many(samples.texts, workers, representation=representation)
    write_molecules(folder / FILE, samples, decoded, representation)
    known = known_molecules(task)
    result: Dict[str, Any] = {
        "count": len(decoded),
        "finished": int(samples.finished.sum()),
        "invalid": count_reasons(decoded),
        "compared with": f"{len(known.reference):,} molecules of {known.origin}" if known.reference else "",
        "metrics": {},
        "notes": [],
        "published": published,
    }
    if known.reference and any(entry.smiles for entry in decoded):
        found = compare([entry.smiles for entry in decoded], known.train, known.reference, workers=workers)
        result["metrics"], result["notes"] = found.values, found.notes
        write_table(folder / TABLE, found.values, published)
        with atomic_file(folder / PROPERTIES) as file:
            np.savez(file, generated=found.properties[0], reference=found.properties[1])
        shown = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        print(f"{len(decoded):,} molecules generated: {shown}", flush=True)
    return {"samples": result}


def known_molecules(task: Task) -> Known:
    """Training molecules of a run, and held-out ones: of the test split, or of the validation split without one."""

    def smiles(items: np.ndarray) -> List[str]:
        return [decode_text(task.store, "smiles", item) for item in items.tolist()]

    split = next((name for name in ("test", "validation") if len(task.items[name])), "")
    reference = smiles(some(task.items[split])) if split else []
    return Known(split, smiles(task.items["train"]), reference)
