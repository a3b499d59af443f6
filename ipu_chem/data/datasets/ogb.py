"""ogbg-mol*: graph property prediction sets of the Open Graph Benchmark with their scaffold splits.

W. Hu et al., "Open Graph Benchmark: Datasets for Machine Learning on Graphs", NeurIPS 2020. The raw folders are read as
they are published: SMILES of mapping/mol.csv.gz, labels of raw/graph-label.csv.gz, parts of split/scaffold. What OGB's
own loader pickles beside them is neither read nor needed, so that any version of torch does. Graph models get one
conformer of each molecule, embedded as SMILES of one's own are; models of text read the SMILES.
"""

import csv
import gzip
import zlib
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ipu_chem.data.datasets.info import LabelTable, class_info, failures_info, target_info
from ipu_chem.data.datasets.rmd17 import check_limit
from ipu_chem.data.download import download, unpack
from ipu_chem.data.files import open_text
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.smiles import Failure, SmilesLine, embed_many, find_columns
from packing.files import file_digest
from packing.store import Store

URL = "http://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download"
TRAIN, TEST, VALIDATION = 0, 1, 3  # of the field "official"
_NEITHER = 2
_PARTS = {"train": TRAIN, "valid": VALIDATION, "test": TEST}
_MAPPING, _LABELS, _SPLIT = "mapping/mol.csv.gz", "raw/graph-label.csv.gz", "split/scaffold"
_DAMAGE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


class Source(NamedTuple):
    """One of the sets.

    Attributes:
        archive: name of its zip, without suffix.
        target: entry of ``info["targets"]``.
        level: what the labels are.
        published: metric name -> whose figure -> value, on the official test molecules.
    """

    archive: str
    target: Dict[str, Any]
    level: str
    published: Dict[str, Dict[str, float]] = {}


SETS: Dict[str, Source] = {
    "ogbg-molesol": Source("esol", target_info("logS", "", False), "measured solubility in water, log10 of mol/l"),
    "ogbg-molfreesolv": Source(
        "freesolv",
        target_info("hydration_free_energy", "kcal/mol", False),
        "measured free energy of hydration",
    ),
    "ogbg-molbace": Source("bace", class_info("Class"), "measured inhibition of beta-secretase 1: 1 binds"),
    "ogbg-molbbbp": Source("bbbp", class_info("p_np"), "measured passage of the blood-brain barrier: 1 passes"),
    "ogbg-molhiv": Source(
        "hiv",
        class_info("HIV_active"),
        "measured inhibition of HIV replication: 1 is active",
        # OGB's leaderboard, the authors' own entries: means of ten runs.
        {"rocauc_HIV_active": {"OGB's GIN with virtual node": 0.7707, "OGB's GCN": 0.7606}},
    ),
}


def inputs(name: str, path: Optional[Path], cache: Path) -> Dict[str, Any]:
    """Checksums of the files, fetched first where ``path`` is None, and of the RDKit that embeds."""
    import rdkit

    folder = _find(name, path, cache)
    files = [_MAPPING, _LABELS, *(f"{_SPLIT}/{part}.csv.gz" for part in _PARTS)]
    return {"rdkit": rdkit.__version__, **{file: file_digest(folder / file) for file in files}}


def prepare(
    name: str,
    path: Optional[Path],
    cache: Path,
    limit: Optional[int] = None,
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
) -> Store:
    """Embed the molecules; those that fail are listed, and those of the official parts also counted.

    Args:
        name: one of `SETS`.
        path: the set's folder (with mapping/, raw/ and split/), or one that it lies in; None downloads it.
        cache: folder in which a download is kept.
        limit: take the first molecules only.
        seed: of the embeddings.
        workers: processes that embed; None takes all cores.
        progress: show a bar.

    Returns:
        z, pos, y [I, 1], name, smiles (canonical), and official [I] (0 training, 1 test, 3 validation).

    Raises:
        ValueError: files are missing or do not belong together.
    """
    check_limit(name, limit)
    read = table(name, path, cache, limit)
    lines = _lines(read.file, limit)
    embeddings, failures = embed_many(lines, seed, workers, progress)
    if not embeddings:
        raise ValueError(f"{name}: no molecule could be embedded; the first failed with: {failures[0].reason}.")
    first = lines[0].line
    rows = np.array([entry.line - first for entry in embeddings])
    info = {
        **read.info,
        "level": f"{read.info['level']}; geometry from ETKDGv3 and MMFF94, one conformer per molecule",
        "options": {"limit": limit, "seed": seed},
        "failures": failures_info(failures),
        "notes": missing_notes(read.fields["official"], rows, failures),
    }
    molecules = [entry.molecule._replace(y=read.y[row]) for entry, row in zip(embeddings, rows)]
    fields = {field: values[rows] for field, values in read.fields.items()}
    return molecules_to_store(molecules, info, [entry.smiles for entry in embeddings], fields)


def table(name: str, path: Optional[Path], cache: Path, limit: Optional[int] = None) -> LabelTable:
    """SMILES, labels [I, 1] and official parts [I] of a set, in the order of its files; raises as `prepare`."""
    folder, source = _find(name, path, cache), SETS[name]
    y = _labels(folder / _LABELS)
    if y.shape[1] != 1:
        raise ValueError(f"{folder / _LABELS} has {y.shape[1]} labels a molecule, {name} has 1; is it another set's?")
    count = len(_lines(folder / _MAPPING, None))
    if count != len(y):
        raise ValueError(f"{folder} has {count:,} SMILES and {len(y):,} labels; they do not belong together.")
    official = np.full(count, _NEITHER, np.uint8)
    for part, value in _PARTS.items():
        file = folder / _SPLIT / f"{part}.csv.gz"
        items = _numbers(file).reshape(-1)
        if not len(items) or (items != items.astype(np.int64)).any() or items.min() < 0 or items.max() >= count:
            raise ValueError(f"{file} names molecules other than 0 to {count - 1}.")
        items = items.astype(np.int64)
        if (official[items] != _NEITHER).any() or len(np.unique(items)) < len(items):
            raise ValueError(f"{file} names a molecule that is in a part already; parts must not overlap.")
        official[items] = value
    info = {
        "name": name,
        "targets": [source.target],
        "level": source.level,
        "source": f"{_MAPPING}, {_LABELS} and {_SPLIT} of {name}",
        "licence": "MIT (OGB)",
        "citation": [
            "W. Hu et al., NeurIPS 2020, arXiv:2005.00687 (Open Graph Benchmark)",
            "Z. Wu et al., Chem. Sci. 9, 513 (2018) (MoleculeNet)",
        ],
        "reference_energies": {},
        "published": source.published,
    }
    return LabelTable(folder / _MAPPING, y[:limit], {"official": official[:limit]}, info)


def missing_notes(official: np.ndarray, rows: np.ndarray, failures: List[Failure]) -> List[str]:
    """A sentence on the molecules of official parts that have no 3D structure; none if all have."""
    counts = {part: int((official == value).sum()) for part, value in _PARTS.items()}
    left = {part: int((official[rows] == value).sum()) for part, value in _PARTS.items()}
    lost = [f"{counts[part] - left[part]:,} of {counts[part]:,} {part}" for part in counts if left[part] < counts[part]]
    return [f"no 3D structure of {', '.join(lost)} molecules; figures are of the others"] if lost else []


def _find(name: str, path: Optional[Path], cache: Path) -> Path:
    """The folder with mapping/, raw/ and split/."""
    archive = SETS[name].archive
    url = f"{URL}/{archive}.zip"
    if path is None:
        path = cache / f"{name}-raw"
        if not path.is_dir():
            unpack(name, download(name, url, cache / f"{name}.zip"), path)
    places = (path, path / name.replace("-", "_"), path / archive, path / "ogb" / name.replace("-", "_"))
    folder = next((place for place in places if (place / "mapping").is_dir()), None)
    if folder is None:
        raise ValueError(f"{name}: {path} holds no folder mapping/; unpack {url} there, or pass the folder of the set.")
    files = (_MAPPING, _LABELS, *(f"{_SPLIT}/{part}.csv.gz" for part in _PARTS))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{name}: {folder} lacks {', '.join(missing)}; unpack {url} there.")
    return folder


def _lines(file: Path, limit: Optional[int]) -> List[SmilesLine]:
    """SMILES with the number of their line, and their mol_id or number as name."""
    try:
        with open_text(file) as text:
            reader = csv.reader(text)
            smiles, name = find_columns(next(reader, []), file)
            rows = [row for row in reader if row][:limit]
    except _DAMAGE as error:
        raise ValueError(f"{file} cannot be read ({error}); fetch it again.") from None
    short = next((row for row in rows if len(row) <= max(smiles, name)), None)
    if short is not None or not rows:
        raise ValueError(f"{file} has no SMILES in {short}; fetch it again." if rows else f"{file} holds no SMILES.")
    return [
        SmilesLine(number + 2, row[smiles].strip(), row[name].strip() or f"mol_{number}")
        for number, row in enumerate(rows)
    ]


def _labels(file: Path) -> np.ndarray:
    """[I, T] float64, NaN where missing."""
    y = _numbers(file)
    if np.isinf(y).any():
        raise ValueError(f"{file}: the label of molecule {int(np.argwhere(np.isinf(y))[0][0])} is infinite.")
    return y


def _numbers(file: Path) -> np.ndarray:
    """[rows, columns] float64 of a gzipped table without a header, NaN for an empty cell."""
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            rows: Tuple[List[float], ...] = tuple([float(cell or "nan") for cell in row] for row in csv.reader(text))
    except (*_DAMAGE, ValueError) as error:
        raise ValueError(f"{file} is no table of numbers ({error}); fetch it again.") from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{file} holds nothing, or rows of different lengths; fetch it again.")
    return np.array(rows, np.float64)
