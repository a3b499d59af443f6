"""Raw folders as the Open Graph Benchmark publishes them, with molecules of ours."""

import csv
import gzip
from importlib.util import find_spec

import numpy as np
import pytest
from support import CHAINS

needs_ogb = pytest.mark.skipif(find_spec("ogb") is None, reason="the library ogb is not installed: pip install ogb")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file).writerows(rows)


def made_up(folder, smiles=tuple(CHAINS), labels=None, parts=None, header="p_np"):
    """A raw folder of the published form: whether there is nitrogen, one label missing."""
    labels = [int("N" in one) for one in smiles] if labels is None else labels
    rows = [[label, f"{one} ", f"name, {i}" if i else ""] for i, (one, label) in enumerate(zip(smiles, labels))]
    write(folder / "mapping" / "mol.csv.gz", [[header, "smiles", "mol_id"], *rows])
    write(folder / "raw" / "graph-label.csv.gz", [[label] for label in labels])
    order = np.random.default_rng(9).permutation(len(smiles))
    parts = parts or {"train": order[24:], "valid": order[:12], "test": order[12:24]}
    for part, items in parts.items():
        write(folder / "split" / "scaffold" / f"{part}.csv.gz", [[item] for item in items])
    return parts
