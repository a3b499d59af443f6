"""Molecules that a model wrote: texts of a representation to canonical SMILES, or why they are no molecules."""

import csv
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.data.corpora.encode import libraries
from ipu_chem.data.representations.registry import USUAL, representation_named
from ipu_chem.parallel import in_parallel
from packing.files import PathLike, atomic_file

if TYPE_CHECKING:
    from ipu_chem.generation.sampling import Samples

COMPARED = 10_000  # molecules that generated ones are compared with, at most
EMPTY = "empty: no atom"
NO_MOLECULE = "RDKit cannot parse the SMILES"


class Decoded(NamedTuple):
    """One molecule, or the reason why it is none.

    Attributes:
        smiles: canonical; "" where there is no molecule.
        reason: "" where there is one.
    """

    smiles: str
    reason: str


def decode_many(
    texts: Sequence[str], workers: Optional[int] = None, progress: bool = False, representation: str = USUAL
) -> List[Decoded]:
    """Molecules in a representation as canonical SMILES, in the order given, in parallel processes.

    Args:
        texts: N molecules as a model wrote them.
        workers: processes; None takes the cores this process may use.
        progress: show a bar on stderr.
        representation: of the texts, its name.

    Raises:
        ValueError: there is no such representation, or a library is not installed.
    """
    libraries(representation)
    decode = partial(_decode, representation=representation)
    return list(in_parallel(decode, texts, workers, title="decoding" if progress else None))


def canonical_smiles(
    smiles: Sequence[str], workers: Optional[int] = None, title: Optional[str] = None
) -> List[Decoded]:
    """SMILES as RDKit's canonical ones, in the order given, in parallel processes (None: all cores).

    With a title, a bar of it is shown on stderr.
    """
    return list(in_parallel(_canonical, smiles, workers, title=title))


def is_molecule(smiles: str) -> bool:
    """True of SMILES that RDKit can parse, of one atom or more."""
    return not _canonical(smiles).reason


def count_reasons(decoded: Sequence[Decoded]) -> Dict[str, int]:
    """Counts of entries without a molecule, by reason, the most frequent first."""
    return dict(Counter(entry.reason for entry in decoded if entry.reason).most_common())


def some(items: Any, most: int = COMPARED) -> Any:
    """At most so many items of a list or array, in their order, drawn with a fixed seed: files are often sorted."""
    if len(items) <= most:
        return items
    chosen = np.sort(np.random.default_rng(0).choice(len(items), most, replace=False))
    return items[chosen] if isinstance(items, np.ndarray) else [items[index] for index in chosen]


def write_molecules(
    path: PathLike, samples: "Samples", decoded: Sequence[Decoded], representation: str = USUAL
) -> None:
    """Write generated molecules, atomically.

    Args:
        path: .smi takes the valid molecules, each with its number from 1; any other name takes a CSV of all: smiles,
            selfies (text, of other representations), finished (1 or 0), log_likelihood in nats, reason.
        samples: N molecules as the model wrote them.
        decoded: the same N.
        representation: of the samples, its name.
    """
    with atomic_file(path, "w") as file:
        if Path(path).suffix == ".smi":
            file.writelines(f"{entry.smiles} {i}\n" for i, entry in enumerate(decoded, start=1) if entry.smiles)
            return
        writer = csv.writer(file, lineterminator="\n")
        column = representation_named(representation).column
        writer.writerow(["smiles", column, "finished", "log_likelihood", "reason"])
        for (smiles, reason), text, finished, nats in zip(decoded, *samples):
            writer.writerow([smiles, text, int(finished), f"{nats:.4f}", reason])


def _decode(text: str, representation: str) -> Decoded:
    try:
        return _canonical(representation_named(representation).read(text))
    except ValueError as error:
        return Decoded("", str(error))


def _canonical(smiles: str) -> Decoded:
    from rdkit import Chem, rdBase

    if not smiles:
        return Decoded("", EMPTY)
    try:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
            text = "" if mol is None else Chem.MolToSmiles(mol)
    except RuntimeError:  # an invariant of RDKit is violated
        mol, text = None, ""
    if mol is None:
        return Decoded("", NO_MOLECULE)
    return Decoded(text, "")
