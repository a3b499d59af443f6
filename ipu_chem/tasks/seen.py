"""Charges, unpaired electrons and composition that training molecules had, and molecules asked about that differ."""

import re
from typing import Any, Callable, Dict, List, Mapping, Optional

import numpy as np

from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.molecule import decode_texts
from packing.store import Store

_MOST = 100  # different values that are kept; with more, nothing is foreign
_CHARGE = re.compile(r"([+-])(\d*)(?::\d+)?\]")
_WORDS = {"charges": "a charge", "spins": "a number of unpaired electrons"}


def seen(store: Store, train: np.ndarray) -> Dict[str, Any]:
    """Values of the training molecules, for a checkpoint; None for what is not known, or varies without end."""
    found: Dict[str, Any] = {}
    for word, values in _electrons(store).items():
        distinct = [] if values is None else np.unique(values[train]).tolist()
        found[word] = distinct if 0 < len(distinct) <= _MOST else None
    return {**found, "composition": _one_composition(store, train)}


def doubts(store: Store, state: Mapping[str, Any], name: Callable[[int], str]) -> List[str]:
    """Sentences on molecules that differ from all that a run was trained on in what it may not know.

    Args:
        store: molecules asked about.
        state: of the run's checkpoint; those of earlier versions do not say, and there is no doubt.
        name: of a molecule by its number.
    """
    known: Mapping[str, Any] = state.get("seen") or {}
    sentences = []
    for word, values in _electrons(store).items():
        if known.get(word) and values is not None:
            other = np.flatnonzero(~np.isin(values, known[word]))
            form = "{:+d}" if word == "charges" else "{}"
            had = ", ".join(form.format(value) if value else "0" for value in known[word])
            if len(other):
                sentences.append(
                    f"{len(other):,} of {len(store):,} molecules have {_WORDS[word]} that no training molecule had "
                    f"(those had {had}); the first is {name(int(other[0]))} with {form.format(int(values[other[0]]))}"
                )
    composition = known.get("composition")
    if composition and "z" in store:
        z = store.ragged("z")
        wanted = np.repeat([int(number) for number in composition], list(composition.values()))
        other = np.array([item for item in range(len(z)) if not np.array_equal(np.sort(z[item]), wanted)], np.int64)
        if len(other):
            sentences.append(
                f"{len(other):,} of {len(store):,} molecules are no {_formula(composition)}, which all training "
                f"molecules were; the first is {name(int(other[0]))}"
            )
    return sentences


def _electrons(store: Store) -> Dict[str, Optional[np.ndarray]]:
    """Charges and unpaired electrons of all molecules, [I] integer; None where they are not known."""
    if "z" not in store and "smiles" in store:
        charges = [
            sum(map(_charge, _CHARGE.findall(text))) if "]" in text else 0 for text in decode_texts(store, "smiles")
        ]
        return {"charges": np.array(charges, np.int64), "spins": None}
    fields = {"charges": "charge", "spins": "spin"}
    return {word: np.asarray(store.fields[one], np.int64) if one in store else None for word, one in fields.items()}


def _charge(found: Any) -> int:
    """Charge of an atom from its sign and number."""
    sign, number = found
    return int(number or 1) * (1 if sign == "+" else -1)


def _one_composition(store: Store, train: np.ndarray) -> Optional[Dict[str, int]]:
    """Atoms by atomic number, rising, if all training molecules have the same; else None."""
    if "z" not in store or not len(train):
        return None
    lengths = store.sizes()["nodes"][train]
    if len(train) < 2 or (lengths != lengths[0]).any():
        return None
    z = store.ragged("z")
    first = np.sort(z[int(train[0])])
    if not all(np.array_equal(np.sort(z[item]), first) for item in train.tolist()):
        return None
    numbers, counts = np.unique(first, return_counts=True)
    return {str(number): count for number, count in zip(numbers.tolist(), counts.tolist())}


def _formula(composition: Mapping[str, int]) -> str:
    return "".join(f"{SYMBOLS[int(number)]}{count if count > 1 else ''}" for number, count in composition.items())
