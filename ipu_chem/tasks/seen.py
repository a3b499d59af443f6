"""Charges, electrons, sizes and composition that training molecules had, and molecules asked about that differ."""

import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.molecule import decode_text, decode_texts
from packing.store import Store

_MOST = 100  # different values that are kept; with more, nothing is foreign
_CHARGE = re.compile(r"([+-])(\d*)(?::\d+)?\]")
# Atoms in brackets that have no unpaired electron in canonical SMILES of organic molecules.
_PAIRED = re.compile(r"\[N\+\]\(=O\)\[O-\]|\[(?:C@{1,2}H?|nH|NH\d?\+|O-|S-|n-|Na\+|K\+|Cl-|Br-)\]")
_WORDS = {"charges": "a charge", "spins": "a number of unpaired electrons"}


def seen(store: Store, train: np.ndarray) -> Dict[str, Any]:
    """Values of the training molecules, for a checkpoint; None for what is not known, or varies without end."""
    found: Dict[str, Any] = {}
    for word, values in _electrons(store).items():
        distinct = [] if values is None else np.unique(values[train]).tolist()
        found[word] = distinct if 0 < len(distinct) <= _MOST else None
    sizes = _sizes(store)[train]
    found["sizes"] = [int(sizes.min()), int(sizes.max())] if len(sizes) else None
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
    if known.get("sizes") and not composition:
        least, most = known["sizes"]
        sizes, atoms = _sizes(store), "atoms" if "z" in store else "heavy atoms"
        other = np.flatnonzero((sizes < least) | (sizes > most))
        if len(other):
            had = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            sentences.append(
                f"{len(other):,} of {len(store):,} molecules have fewer or more {atoms} than any training molecule "
                f"(those had {had}); the first is {name(int(other[0]))} with {int(sizes[other[0]]):,}"
            )
    if composition:
        atoms = _atoms(store)
        wanted = np.repeat([int(number) for number in composition], list(composition.values()))
        other = np.array([item for item in range(len(store)) if not np.array_equal(atoms(item), wanted)], np.int64)
        if len(other):
            sentences.append(
                f"{len(other):,} of {len(store):,} molecules are no {_formula(composition)}, which all training "
                f"molecules were; the first is {name(int(other[0]))}"
            )
    return sentences


def _electrons(store: Store) -> Dict[str, Optional[np.ndarray]]:
    """Charges and unpaired electrons of all molecules, [I] integer; None where they are not known."""
    if "z" not in store and "smiles" in store:
        texts = decode_texts(store, "smiles")
        charges = [sum(map(_charge, _CHARGE.findall(text))) if "]" in text else 0 for text in texts]
        spins = [_unpaired(text) if "]" in text else 0 for text in texts]
        return {"charges": np.array(charges, np.int64), "spins": np.array(spins, np.int64)}
    fields = {"charges": "charge", "spins": "spin"}
    return {word: np.asarray(store.fields[one], np.int64) if one in store else None for word, one in fields.items()}


def _charge(found: Any) -> int:
    """Charge of an atom from its sign and number."""
    sign, number = found
    return int(number or 1) * (1 if sign == "+" else -1)


def _unpaired(smiles: str) -> int:
    """Unpaired electrons of a molecule, as RDKit counts them for graphs."""
    if "[" not in _PAIRED.sub("", smiles):
        return 0
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles)
    return sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) if mol is not None else 0


def _atoms(store: Store) -> Callable[[int], np.ndarray]:
    """Function that gives the atomic numbers of a molecule, [n], rising; hydrogens of SMILES included."""
    if "z" in store:
        z = store.ragged("z")
        return lambda item: np.sort(z[item])
    from rdkit import Chem

    def of_smiles(item: int) -> np.ndarray:
        mol = Chem.MolFromSmiles(decode_text(store, "smiles", item))
        atoms: Sequence[Any] = [] if mol is None else mol.GetAtoms()
        hydrogens = sum(atom.GetTotalNumHs() for atom in atoms)
        return np.sort([1] * hydrogens + [atom.GetAtomicNum() for atom in atoms]).astype(np.uint8)

    return of_smiles


def _sizes(store: Store) -> np.ndarray:
    """Atoms of every molecule, of those as text without hydrogens, [I] integer."""
    return store.sizes()["nodes"] if "z" in store else np.asarray(store.fields["heavy_atoms"])


def _one_composition(store: Store, train: np.ndarray) -> Optional[Dict[str, int]]:
    """Atoms by atomic number, rising, if all training molecules have the same; else None."""
    if len(train) < 2:
        return None
    sizes = _sizes(store)[train]
    if (sizes != sizes[0]).any():
        return None
    atoms = _atoms(store)
    first = atoms(int(train[0]))
    if not all(np.array_equal(atoms(item), first) for item in train.tolist()):
        return None
    numbers, counts = np.unique(first, return_counts=True)
    return {str(number): count for number, count in zip(numbers.tolist(), counts.tolist())}


def _formula(composition: Mapping[str, int]) -> str:
    return "".join(f"{SYMBOLS[int(number)]}{count if count > 1 else ''}" for number, count in composition.items())
