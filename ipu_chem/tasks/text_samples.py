"""Molecules that a trained language model writes: drawn, decoded, compared with held-out ones, kept with the run.

On data's way: best weights -> generate -> generated.csv, figures for run.json and the report.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

import numpy as np

from ipu_chem.config import RunConfig
from ipu_chem.data.molecule import decode_text
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.tasks.base import RunData

if TYPE_CHECKING:
    from ipu_chem.tasks.language import TextData

FILE = "generated.csv"
COMPARED = 10_000  # molecules that generated ones are compared with, at most


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


def write_samples(config: RunConfig, model: ChemGPT, data: "TextData", folder: Path) -> Dict[str, Any]:
    """Generate `training.samples` molecules and score them.

    Args:
        config: of the run.
        model: with its best weights, on the CPU.
        data: of the run; novelty is against its training molecules, distances to those of the test split, or of the
            validation split where there is none.
        folder: of the run.

    Returns:
        {"count", "finished", "invalid": reason -> count, "compared with", "metrics": name -> value}.
    """
    from ipu_chem.generation.metrics import score
    from ipu_chem.generation.molecules import count_reasons, decode_many, write_molecules
    from ipu_chem.generation.sampling import generate

    workers = config.data.workers or None
    samples = generate(model, data.tokenizer, config.training.samples, seed=config.training.seed)
    decoded = decode_many(samples.selfies, workers)
    write_molecules(folder / FILE, samples, decoded)
    known = known_molecules(data)
    result: Dict[str, Any] = {
        "count": len(decoded),
        "finished": int(samples.finished.sum()),
        "invalid": count_reasons(decoded),
        "compared with": f"{len(known.reference):,} molecules of {known.origin}" if known.reference else "",
        "metrics": {},
    }
    if known.reference and any(entry.smiles for entry in decoded):
        result["metrics"] = score([entry.smiles for entry in decoded], known.train, known.reference, workers)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        print(f"{len(decoded):,} molecules generated: {shown}", flush=True)
    return result


def known_molecules(data: RunData, compared: int = COMPARED) -> Known:
    """Training molecules of a run, and held-out ones: of the test split, or of the validation split without one."""

    def smiles(items: np.ndarray) -> List[str]:
        return [decode_text(data.store, "smiles", item) for item in items.tolist()]

    split = next((name for name in ("test", "validation") if len(data.items[name])), "")
    reference = smiles(some(data.items[split], compared)) if split else []
    return Known(split, smiles(data.items["train"]), reference)


def some(items: Any, count: int = COMPARED) -> Any:
    """At most ``count`` items of a list or array, in their order, drawn with a fixed seed: files are often sorted."""
    if len(items) <= count:
        return items
    chosen = np.sort(np.random.default_rng(0).choice(len(items), count, replace=False))
    return items[chosen] if isinstance(items, np.ndarray) else [items[index] for index in chosen]
