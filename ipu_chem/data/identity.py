"""Molecules of a store told apart: a number for each, and which of them are the same molecule."""

from typing import List, Optional, Tuple

import numpy as np

from ipu_chem.data.fragments import without_maps
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.splits import numbered
from packing.store import Store
from packing.types import Ragged

_AT_ONCE = 1 << 22  # bytes
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def molecule_digests(store: Store) -> np.ndarray:
    """Numbers that are equal where molecules are, wherever they stand, [I] uint64.

    A molecule is its SMILES, without atom maps, where the store has them. Else it is its elements and its name, and its
    row in the file where that is known, or its place in the store where names do not tell molecules apart.
    """
    if "smiles" in store:
        return _of_smiles(store)
    parts = [field for field in ("name", "z") if field in store]
    found = np.zeros(len(store), np.uint64)
    for place, field in enumerate(parts):
        found += _mixed(_of_ragged(store.ragged(field)) + np.uint64(place))
    if "row" in store:
        return _mixed(found + np.asarray(store.fields["row"]).astype(np.uint64) * _GOLDEN)
    if len(np.unique(found)) < len(found):
        found = _mixed(found + np.arange(len(found), dtype=np.uint64) * _GOLDEN)
    return found


def replicates(store: Store) -> Optional[np.ndarray]:
    """The molecule that each item is, [I] int64 from 0; None where no molecule is there twice.

    Structures without SMILES, such as the frames of a trajectory, are all different.
    """
    if "smiles" not in store or not len(store):
        return None
    return numbered(_of_smiles(store))


def without_rows(store: Store) -> Store:
    """The molecules alone, without their rows in the file, which earlier versions did not keep."""
    fields = {name: values for name, values in store.fields.items() if name != "row"}
    return Store(store.axes, fields, store.axis_of, store.info)


def _of_smiles(store: Store) -> np.ndarray:
    """Digests of canonical SMILES; those with atom maps, which earlier versions left in, are made anew."""
    smiles = store.ragged("smiles")
    found = _of_ragged(smiles)
    for item, text in _mapped(store, smiles):
        values = np.frombuffer(text.encode("utf-8"), np.uint8)
        found[item] = _of_ragged(Ragged(values, np.array([0, len(values)])))[0]
    return found


def _mapped(store: Store, smiles: Ragged) -> List[Tuple[int, str]]:
    """Items whose SMILES have atom maps, and their SMILES without."""
    places = np.flatnonzero(np.asarray(smiles.values) == ord(":"))
    if not len(places):
        return []
    from rdkit import Chem, rdBase

    found = []
    with rdBase.BlockLogs():
        for item in np.unique(np.searchsorted(smiles.offsets, places, side="right") - 1).tolist():
            text = decode_text(store, "smiles", item)
            plain = without_maps(text)
            mol = Chem.MolFromSmiles(plain) if plain != text else None
            if mol is not None:
                found.append((item, Chem.MolToSmiles(mol)))
    return found


def _of_ragged(items: Ragged) -> np.ndarray:
    """A number for the bytes of each item, [I] uint64: the sum of one for every byte and its place."""
    found = np.zeros(len(items), np.uint64)
    offsets = np.asarray(items.offsets, np.int64)
    start = 0
    while start < len(items):
        end = max(int(np.searchsorted(offsets, offsets[start] + _AT_ONCE, side="right")) - 1, start + 1)
        values = np.asarray(items.values[offsets[start] : offsets[end]]).astype(np.uint64)
        lengths = np.diff(offsets[start : end + 1])
        place = np.arange(len(values), dtype=np.int64) - np.repeat(offsets[start:end] - offsets[start], lengths)
        of_bytes = _mixed((place.astype(np.uint64) * np.uint64(256) + values + np.uint64(1)) * _GOLDEN)
        sums = np.append(np.uint64(0), np.cumsum(of_bytes, dtype=np.uint64))
        borders = offsets[start : end + 1] - offsets[start]
        found[start:end] = sums[borders[1:]] - sums[borders[:-1]]
        start = end
    return found


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every one of the value (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
