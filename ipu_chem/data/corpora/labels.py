"""Labels of molecules as text: columns of the table that a corpus was made of, or a data set that has a name.

A corpus knows on which line each of its molecules stood, and the table is read again line by line in the same way, so
that no failure, blank line or line break inside of quotes can shift a label to another molecule.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Sequence

import numpy as np

from ipu_chem.cache import cache_folder
from ipu_chem.data.corpora import load_corpus
from ipu_chem.data.datasets import DATASETS
from ipu_chem.data.datasets.info import own_targets
from ipu_chem.data.files.layout import TableOptions, read_layout
from ipu_chem.data.files.numbers import read_labels
from ipu_chem.data.files.table import read_rows
from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.representations.registry import USUAL, representation_named
from ipu_chem.metrics import BINARY
from packing.files import PathLike
from packing.store import Store


def load_labeled_corpus(
    path: PathLike,
    names: Sequence[str],
    unit: str = "",
    extensive: bool = True,
    kind: str = "number",
    cache: str = "",
    replicates: bool = True,
    limit: int = 0,
    **options: Any,
) -> Store:
    """Molecules of a table as a corpus store with labels.

    Molecules without any label are left out.

    Args:
        path: .csv, .tsv or .txt with a column of SMILES, also in .gz or .zip.
        names: T columns of numbers; empty cells are labels that are missing.
        unit, extensive, kind: of the labels; see `own_targets`.
        cache, limit, options: see `load_corpus`.
        replicates: keep all rows that are the same molecule; else the first with a label is taken.

    Returns:
        A corpus store with y [I, T] float64 and ``info["targets"]``; ``info["left out"]`` counts molecules without a
        label, and, without ``replicates``, duplicates, and how many of those have other labels than the one taken.

    Raises:
        ValueError: a column is missing or holds something else than numbers, no label is left, or see `load_corpus`.
    """
    path = Path(path).expanduser()
    targets = own_targets(names, unit, extensive, kind)
    layout = read_layout(path, TableOptions.of(SimpleNamespace(**options), "data."))
    lines, labels = read_labels(path, layout, names, limit, kind == BINARY)
    store = load_corpus("file", path, cache or None, limit=limit, duplicates=True, **options)
    places = np.searchsorted(lines, store.fields["line"])
    assert np.array_equal(lines[places], store.fields["line"]), "every molecule's line was read for its labels"
    y = labels[places]
    labeled = np.flatnonzero(np.isfinite(y).any(1))
    if not len(labeled):
        raise ValueError(f"{path}: no molecule has a label in {', '.join(names)}.")
    counts = {"without label": len(store) - len(labeled)}
    if not replicates:
        smiles, seen = decode_texts(store, "smiles"), {}
        first = np.array([seen.setdefault(smiles[item], item) for item in labeled.tolist()], np.int64)
        again, taken = labeled[first != labeled], first[first != labeled]
        differ = ~((y[again] == y[taken]) | (np.isnan(y[again]) & np.isnan(y[taken]))).all(1)
        counts.update({"duplicates": len(again), "of them with other labels": int(differ.sum())})
        labeled = labeled[first == labeled]
    if any(counts.values()):
        listed = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        print(f"{path.name}: left out: {listed}{'' if replicates else '; of duplicates the first is kept'}")
    info = {"name": path.name, "targets": targets, "left out": counts}
    chosen = store.take(labeled)
    return Store(chosen.axes, {**chosen.fields, "y": y[labeled]}, chosen.axis_of, {**store.info, **info})


def load_labeled_dataset(name: str, path: str = "", cache: str = "", **options: Any) -> Store:
    """The molecules of a data set that is SMILES with labels, as a corpus store; duplicates count, as in its figures.

    Args:
        name: one of `DATASETS` that has a table.
        path: where its raw files lie; empty lets it find or download them.
        cache, options: see `load_corpus`.

    Returns:
        As `load_labeled_corpus`, with the fields of the data set's table, such as "official".

    Raises:
        ValueError: raw files are missing or damaged.
    """
    read = DATASETS[name].table
    assert read is not None, f"{name} has no table"
    limit = options.get("limit", 0)
    table = read(Path(path).expanduser() if path else None, cache_folder(cache or None), limit or None)
    lines = np.array([number for number, _ in read_rows(table.file, read_layout(table.file), limit)], np.int64)
    if len(lines) != len(table.y):
        raise ValueError(f"{table.file} has {len(lines):,} rows for {len(table.y):,} molecules; fetch it again.")
    store = load_corpus("file", table.file, cache or None, duplicates=True, **options)
    rows = np.searchsorted(lines, store.fields["line"])
    kept = np.flatnonzero(np.isfinite(table.y[rows]).any(1))
    store, rows, failed = store.take(kept), rows[kept], store.info["failures"]["count"]
    fields = {**store.fields, "y": table.y[rows], **{field: values[rows] for field, values in table.fields.items()}}
    representation = options.get("representation", USUAL)
    counts = {
        "without label": int((~np.isfinite(table.y).any(1)).sum()),
        f"no {representation_named(representation).title}": failed,
    }
    info = {**store.info, **table.info, "failures": store.info["failures"], "left out": counts}
    return Store(store.axes, fields, store.axis_of, info)
