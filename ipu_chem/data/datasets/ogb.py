"""ogbg-mol*: graph property prediction sets of the Open Graph Benchmark with their scaffold splits.

W. Hu et al., "Open Graph Benchmark: Datasets for Machine Learning on Graphs", NeurIPS 2020. Their library, ogb, says
which sets there are, of how many labels, and reads the splits. The graphs that it makes and pickles are neither read
nor needed: graph models get one conformer of each molecule, models of text its SMILES.
"""

import sys
import zlib
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.datasets.info import LabelTable, check_limit, class_info, failures_info, target_info
from ipu_chem.data.download import fetch
from ipu_chem.data.files.layout import find_columns
from ipu_chem.data.files.table import Line
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.smiles import embed_many
from packing.files import file_digest
from packing.store import Store

TRAIN, TEST, VALIDATION = 0, 1, 3  # of the field "official"
_NEITHER = 2
_PARTS = {"train": TRAIN, "valid": VALIDATION, "test": TEST}
_MAPPING, _LABELS, _SPLIT = "mapping/mol.csv.gz", "raw/graph-label.csv.gz", "split/scaffold"
DAMAGE = (OSError, EOFError, ValueError, zlib.error)
_FILES = (_MAPPING, _LABELS, *(f"{_SPLIT}/{part}.csv.gz" for part in _PARTS))


class Source(NamedTuple):
    """One of the sets.

    Attributes:
        level: meaning of the labels.
        targets: entries of ``info["targets"]``; none for classes called as in mapping/mol.csv.gz.
        published: metric name -> whose figure -> value, on the official test molecules.
    """

    level: str
    targets: Sequence[Dict[str, Any]] = ()
    published: Dict[str, Dict[str, float]] = {}

    @property
    def has_classes(self) -> bool:
        """Labels are classes."""
        return not self.targets or "kind" in self.targets[0]


SETS: Dict[str, Source] = {
    "ogbg-molesol": Source("measured solubility in water, log10 of mol/l", [target_info("logS", "", False)]),
    "ogbg-molfreesolv": Source(
        "measured free energy of hydration", [target_info("hydration_free_energy", "kcal/mol", False)]
    ),
    "ogbg-mollipo": Source("measured distribution between octanol and water", [target_info("logD", "", False)]),
    "ogbg-molbace": Source("measured inhibition of beta-secretase 1: 1 binds", [class_info("Class")]),
    "ogbg-molbbbp": Source("measured passage of the blood-brain barrier: 1 passes", [class_info("p_np")]),
    "ogbg-molclintox": Source("approval by the FDA, and failure of clinical trials for toxicity"),
    "ogbg-moltox21": Source("measured toxicity in 12 assays"),
    "ogbg-molsider": Source("side effects of drugs in 27 classes of organs"),
    "ogbg-molhiv": Source(
        "measured inhibition of HIV replication: 1 is active",
        [class_info("HIV_active")],
        # OGB's leaderboard, the authors' own entries: means of ten runs.
        {"rocauc_HIV_active": {"OGB's GIN with virtual node": 0.7707, "OGB's GCN": 0.7606}},
    ),
}


def ogb_module(dataset: str, module: str) -> Any:
    """A module of ogb, whose import does not ask PyPI for a newer version.

    Raises:
        ValueError: ogb is not installed.
    """
    checks = "outdated"  # the package that asks; ogb does without
    hidden = checks not in sys.modules
    if hidden:
        sys.modules[checks] = None  # type: ignore[assignment]
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{dataset} is read by the library ogb: pip install 'ipu-chem[ogb]' ({error}).") from None
    finally:
        if hidden:
            del sys.modules[checks]


def inputs(name: str, path: Optional[Path], cache: Path) -> Dict[str, Any]:
    """Checksums of the files, fetched first where ``path`` is None, and of the RDKit that embeds."""
    import rdkit

    folder = _find(name, path, cache)
    return {"rdkit": rdkit.__version__, **{file: file_digest(folder / file) for file in _FILES}}


def prepare(
    name: str,
    path: Optional[Path],
    cache: Path,
    limit: Optional[int] = None,
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
) -> Store:
    """Embed the molecules; those that fail are listed, and those of the official splits also counted.

    Args:
        name: one of `SETS`.
        path: the set's folder (with mapping/, raw/ and split/), or one that it lies in; None downloads it.
        cache: folder in which a download is kept.
        limit: take the first molecules only.
        seed: of the embeddings.
        workers: processes that embed; None takes all cores.
        progress: show a bar.

    Returns:
        z, pos, y [I, T], name, smiles (canonical), and official [I] (0 training, 1 test, 3 validation).

    Raises:
        ValueError: files are missing or do not belong together.
    """
    check_limit(name, limit)
    read = table(name, path, cache, limit)
    lines = _molecules(read.file)[0][:limit]
    embeddings, failures = embed_many(lines, seed, workers, progress)
    if not embeddings:
        raise ValueError(f"{name}: no molecule could be embedded; the first failed with: {failures[0].reason}.")
    rows = np.array([entry.line - lines[0].line for entry in embeddings])
    info = {
        **read.info,
        "level": f"{read.info['level']}; geometry from ETKDGv3 and MMFF94, one conformer per molecule",
        "options": {"limit": limit, "seed": seed},
        "failures": failures_info(failures),
        "notes": missing_notes(read.fields["official"], rows),
    }
    molecules = [entry.molecule._replace(y=read.y[row]) for entry, row in zip(embeddings, rows)]
    fields = {field: values[rows] for field, values in read.fields.items()}
    return molecules_to_store(molecules, info, [entry.smiles for entry in embeddings], fields)


def table(name: str, path: Optional[Path], cache: Path, limit: Optional[int] = None) -> LabelTable:
    """SMILES, labels [I, T] and official splits [I] of a set, in the order of its files; raises as `prepare`."""
    folder, source = _find(name, path, cache), SETS[name]
    y, tasks = _labels(folder / _LABELS), int(_meta(name)["num tasks"])
    lines, names = _molecules(folder / _MAPPING)
    if y.shape[1] != tasks:
        raise ValueError(
            f"{folder / _LABELS} has {y.shape[1]} labels a molecule, {name} has {tasks}; is it another set's?"
        )
    if not source.targets and len(names) != tasks:
        raise ValueError(f"{folder / _MAPPING} names {len(names)} labels, {name} has {tasks}; is it another set's?")
    if len(lines) != len(y):
        raise ValueError(f"{folder} has {len(lines):,} SMILES and {len(y):,} labels; they do not belong together.")
    info = {
        "name": name,
        "targets": list(source.targets) or [class_info(word) for word in names],
        "level": source.level,
        "source": f"{_MAPPING}, {_LABELS} and {_SPLIT} of {name}",
        "licence": "MIT (OGB)",
        "citation": [
            "W. Hu et al., NeurIPS 2020, arXiv:2005.00687 (Open Graph Benchmark)",
            "Z. Wu et al., Chem. Sci. 9, 513 (2018) (MoleculeNet)",
        ],
        "published": source.published,
    }
    return LabelTable(folder / _MAPPING, y[:limit], {"official": _official(name, folder, len(y))[:limit]}, info)


def _official(name: str, folder: Path, count: int) -> np.ndarray:
    """[I] uint8: the split of every molecule, as ogb reads them."""
    dataset = ogb_module(name, "ogb.graphproppred").GraphPropPredDataset
    reader = object.__new__(dataset)  # its constructor makes graphs, and may ask questions on the terminal
    reader.root, reader.meta_info = str(folder), _meta(name)
    shortcut = folder / _SPLIT / "split_dict.pt"
    if shortcut.is_file():  # of torch.save: ogb would run what it says
        raise ValueError(f"{shortcut} may run code when it is read; delete it, the splits are in the csv.gz beside it.")
    official = np.full(count, _NEITHER, np.uint8)
    try:
        parts = reader.get_idx_split()
    except DAMAGE as error:
        raise ValueError(f"{folder / _SPLIT} holds no numbers of molecules ({error}); fetch it again.") from None
    for part, value in _PARTS.items():
        file, items = folder / _SPLIT / f"{part}.csv.gz", np.asarray(parts[part])
        if items.dtype.kind not in "iu" or items.min() < 0 or items.max() >= count:
            raise ValueError(f"{file} names molecules other than 0 to {count - 1}.")
        if (official[items] != _NEITHER).any() or len(np.unique(items)) < len(items):
            raise ValueError(f"{file} names a molecule that is in a split already; splits must not overlap.")
        official[items] = value
    return official


def missing_notes(official: np.ndarray, rows: np.ndarray) -> List[str]:
    """A sentence on the molecules of official splits that have no 3D structure; none if all have."""
    counts = {part: int((official == value).sum()) for part, value in _PARTS.items()}
    left = {part: int((official[rows] == value).sum()) for part, value in _PARTS.items()}
    lost = [f"{counts[part] - left[part]:,} of {counts[part]:,} {part}" for part in counts if left[part] < counts[part]]
    return [f"no 3D structure of {', '.join(lost)} molecules; figures are of the others"] if lost else []


@lru_cache(maxsize=None)
def _meta(name: str) -> Any:
    """Entry of ogb's table: a set's address, number of tasks, kind of split."""
    import pandas

    package = Path(ogb_module(name, "ogb.graphproppred").__file__).parent
    return pandas.read_csv(package / "master.csv", index_col=0, keep_default_na=False)[name]


def _find(name: str, path: Optional[Path], cache: Path) -> Path:
    """The folder with mapping/, raw/ and split/."""
    meta = _meta(name)
    archive, url = meta["download_name"], meta["url"].replace("http://snap.stanford.edu", "https://snap.stanford.edu")
    if path is None:
        path = fetch(name, url, cache / f"{name}.zip", cache / f"{name}-raw")
    places = (path, path / name.replace("-", "_"), path / archive, path / "ogb" / name.replace("-", "_"))
    folder = next((place for place in places if (place / "mapping").is_dir()), None)
    if folder is None:
        raise ValueError(f"{name}: {path} holds no folder mapping/; unpack {url} there, or pass the folder of the set.")
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{name}: {folder} lacks {', '.join(missing)}; unpack {url} there.")
    return folder


def _molecules(file: Path) -> Tuple[List[Line], List[str]]:
    """SMILES with the number of their line and their mol_id, or number, as name; and the names of the other columns."""
    frame = _frame(file, dtype=str, na_filter=False)
    columns = [str(column) for column in frame.columns]
    smiles, name = find_columns(columns, file)
    texts = list(map(str.strip, map(str, frame.iloc[:, smiles])))
    if not all(texts):
        raise ValueError(f"{file} has no SMILES in line {texts.index('') + 2}; fetch it again.")
    if not texts:
        raise ValueError(f"{file} holds no SMILES.")
    names = list(map(str.strip, map(str, frame.iloc[:, name]))) if name >= 0 else [""] * len(texts)
    lines = [Line(row + 2, *pair) for row, pair in enumerate(zip(texts, names))]
    others = [column.replace(",", "") for place, column in enumerate(columns) if place not in (smiles, name)]
    return [line if line.name else line._replace(name=f"mol_{row}") for row, line in enumerate(lines)], others


def _labels(file: Path) -> np.ndarray:
    """[I, T] float64, NaN where missing."""
    frame = _frame(file, header=None, skip_blank_lines=False, dtype=str)  # numbers of pandas before 3 are not exact
    try:
        y = frame.to_numpy(object).astype(np.float64)
    except ValueError as error:
        raise ValueError(f"{file} is no table of numbers ({error}); fetch it again.") from None
    if np.isinf(y).any():
        raise ValueError(f"{file}: the label of molecule {int(np.argwhere(np.isinf(y))[0][0])} is infinite.")
    return y


def _frame(file: Path, **options: Any) -> Any:
    """A table as pandas reads it."""
    import pandas

    try:
        return pandas.read_csv(file, index_col=False, **options)
    except DAMAGE as error:
        raise ValueError(f"{file} cannot be read ({error}); fetch it again.") from None
