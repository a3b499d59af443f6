"""Entries of `Store.info` that every data set has."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.data.energy_units import check_energy_unit
from ipu_chem.data.files.table import Failure
from ipu_chem.metrics import BINARY

_LISTED = 100_000


class LabelTable(NamedTuple):
    """A table of SMILES whose rows have labels.

    Attributes:
        file: .csv with a column of SMILES, I rows below its header.
        y: [I, T] float64, NaN where missing.
        fields: of one value a row each, [I], such as "official".
        info: what a store of these molecules says of itself.
    """

    file: Path
    y: np.ndarray
    fields: Dict[str, np.ndarray]
    info: Dict[str, Any]


def target_info(name: str, unit: str, extensive: bool) -> Dict[str, Any]:
    """One entry of ``info["targets"]``; an extensive target grows with the molecule and is a sum over atoms."""
    return {"name": name, "unit": unit, "extensive": extensive}


def class_info(name: str) -> Dict[str, Any]:
    """One entry of ``info["targets"]`` for a label that is a class, 0 or 1."""
    return {"name": name, "unit": "", "extensive": False, "kind": BINARY}


def own_targets(names: Sequence[str], unit: str, extensive: bool, kind: str) -> List[Dict[str, Any]]:
    """``info["targets"]`` of labels that a user says what they are.

    Raises:
        ValueError: a unit of classes, or one that is unknown of an energy.
    """
    if kind == BINARY and unit:
        raise ValueError(f"data.unit={unit}: {', '.join(names)} are classes, which have no unit; leave it out.")
    if kind != BINARY:
        check_energy_unit(names, unit, extensive)
        unit = "eV" if unit.strip().lower() == "ev" else unit
    return [class_info(name) if kind == BINARY else target_info(name, unit, extensive) for name in names]


def failures_info(failures: Iterable[Failure]) -> Dict[str, Any]:
    """Molecules left out: how many, how many for which reason, and a list [line, molecule, reason] of them.

    The molecule is its SMILES, or its name where there are none.
    The list ends after 100,000, so that a corpus read by its wrong column does not fill memory; the counts do not.
    """
    by_reason: Counter = Counter()
    listed: List[List[Any]] = []
    for failure in failures:
        by_reason[failure.reason] += 1
        if len(listed) < _LISTED:
            listed.append([failure.line, failure.smiles or failure.name, failure.reason])
    return {"count": sum(by_reason.values()), "by_reason": dict(by_reason.most_common()), "list": listed}


def check_limit(dataset: str, limit: Optional[int]) -> None:
    """Refuse a limit below 1; None is no limit."""
    if limit is not None and limit < 1:
        raise ValueError(f"{dataset}: limit={limit} is 1 or more.")
