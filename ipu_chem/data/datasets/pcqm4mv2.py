"""pcqm4mv2: HOMO-LUMO gaps of 3.7 million molecules of PubChemQC (B3LYP/6-31G*), from the OGB Large-Scale Challenge.

W. Hu et al., "OGB-LSC: A Large-Scale Challenge for Machine Learning on Graphs", NeurIPS 2021; M. Nakata, T. Shimazaki,
"PubChemQC Project", J. Chem. Inf. Model. 57, 1300 (2017). The metric of the challenge is the mean absolute error, which
is that of every run. Gaps of its two test splits were never published: the official validation split is the test of
the split "official" here, and validation is taken from the training ones.
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from tqdm import tqdm

from ipu_chem.data.datasets.info import LabelTable, check_limit, failures_info, target_info
from ipu_chem.data.datasets.ogb import DAMAGE, ogb_module
from ipu_chem.data.datasets.pcqm4mv2_geometries import GEOMETRIES_URL, Geometries, read_geometries
from ipu_chem.data.download import download, fetch, find_file
from ipu_chem.data.files.table import Line
from ipu_chem.data.files.torch_files import load_torch
from ipu_chem.data.molecule import arrays_to_store
from ipu_chem.data.smiles import Embedding, embed_many
from packing.files import file_digest
from packing.store import Store
from packing.types import offsets_of

URL = "https://dgl-data.s3-accelerate.amazonaws.com/dataset/OGB-LSC/pcqm4m-v2.zip"
TARGET = "homolumogap"
# meV on the official validation molecules, of models that trained on all 3,378,606 others.
PUBLISHED = {
    f"{model} (3.4 million molecules)": error
    for model, error in (("OGB-LSC's GIN with virtual node", 108.3), ("Transformer-M", 78.7), ("GEM-2", 79.3))
}
KINDS = ("auto", "dft", "etkdg")
_TRAIN, _TEST, _NEITHER = 0, 1, 2
_FOLDERS = ("", "pcqm4m-v2", "raw", "pcqm4m-v2/raw")
_SDF = ("pcqm4m-v2-train.sdf", "pcqm4m-v2-train.sdf.gz", "pcqm4m-v2-train.sdf.tar.gz")


class _Files(NamedTuple):
    table: Path
    split: Path
    geometries: Optional[Path]


def inputs(path: Optional[Path], cache: Path, geometry: str = "auto") -> Dict[str, Any]:
    """Checksums of the files, fetched first where ``path`` is None, and of the RDKit that embeds."""
    import rdkit

    files = [file for file in _find(path, cache, geometry) if file is not None]
    return {"rdkit": rdkit.__version__, **{file.name: file_digest(file) for file in files}}


def prepare(
    path: Optional[Path],
    cache: Path,
    geometry: str = "auto",
    limit: Optional[int] = None,
    seed: int = 0,
    workers: Optional[int] = None,
    progress: bool = True,
) -> Store:
    """Read or embed the molecules whose gap is known.

    Args:
        path: folder with raw/data.csv.gz and split_dict.pt, and geometries: pcqm4m-v2-train.sdf, also in .gz or
            .tar.gz, or a table of CXSMILES (*cxsmiles*.csv.gz); None downloads all.
        cache: folder in which a download is kept.
        geometry: dft takes molecules with a published geometry, which are those for training; etkdg embeds all;
            auto embeds those without.
        limit: take the first rows of data.csv.gz only.
        seed: of the embeddings.
        workers: processes that embed; None takes all cores.
        progress: show bars.

    Returns:
        z, pos, y [I, 1] (eV), name (idx), smiles (as published), and official [I] (0 training, 1 the official
        validation molecules, 2 neither).

    Raises:
        ValueError: files are missing, damaged or do not belong together.
    """
    check_limit("pcqm4mv2", limit)
    files = _find(path, cache, geometry)
    smiles, gaps = _read(files.table, limit)
    read = _table(files, gaps, limit)
    known = np.isfinite(read.y[:, 0])
    found = Geometries()
    if files.geometries is not None and geometry != "etkdg":
        found = read_geometries(files.geometries, smiles, tqdm(None, "geometries", disable=not progress))
    wanted = known.copy()
    wanted[[*found.rows, *(failure.line - 2 for failure in found.failures)]] = False
    lines = [] if geometry == "dft" else [Line(row + 2, smiles[row], str(row)) for row in np.flatnonzero(wanted)]
    embedded, failures = embed_many(lines, seed, workers, progress) if lines else ([], [])
    rows = np.array([*found.rows, *(entry.line - 2 for entry in embedded)], np.int64)
    if not len(rows):
        raise ValueError(f"pcqm4mv2: {files.table} has no molecule with a gap and a geometry; raise data.limit.")
    store = _store(found, embedded, rows, smiles, read)
    of_dft = np.isin(rows, found.rows)
    official = read.fields["official"]
    counts = [f"{int(of_dft.sum()):,} DFT", f"{int((~of_dft).sum()):,} ETKDGv3 and MMFF94"]
    notes = list(read.info["notes"])
    if of_dft.any() and not of_dft.all():
        notes.append(
            f"geometries are of two kinds: {' and '.join(counts)}; of the test molecules "
            f"{int((of_dft & (official[rows] == _TEST)).sum()):,} have DFT's, of those that train "
            f"{int((of_dft & (official[rows] == _TRAIN)).sum()):,}"
        )
    store.info.update(
        level=f"{read.info['level']}; geometries: {', '.join(counts)}",
        options={"geometry": geometry, "limit": limit, "seed": seed},
        failures=failures_info(sorted([*found.failures, *failures])),
        notes=notes,
    )
    # In the order of the table, and only molecules with a gap.
    order = np.argsort(rows, kind="stable")
    return store.take(order[known[rows[order]]])


def table(path: Optional[Path], cache: Path, limit: Optional[int] = None) -> LabelTable:
    """SMILES, gaps [I, 1] in eV and official splits [I], in the order of data.csv.gz; raises as `prepare`."""
    files = _find(path, cache, "etkdg")
    return _table(files, _read(files.table, limit)[1], limit)


def _table(files: _Files, gaps: np.ndarray, limit: Optional[int]) -> LabelTable:
    """`table` of gaps that are read."""
    arrays = load_split(files.split)
    missing = [part for part in ("train", "valid") if part not in arrays]
    if missing:
        raise ValueError(f"{files.split} has no split {missing[0]!r}; it has {', '.join(arrays) or 'nothing'}.")
    official = np.full(len(gaps), _NEITHER, np.uint8)
    for part, value in (("train", _TRAIN), ("valid", _TEST)):
        items = arrays[part]
        if items.ndim != 1 or items.dtype.kind not in "iu" or len(items) and items.min() < 0:
            raise ValueError(f"{files.split}: {part} is no list of row numbers.")
        if limit is None and len(items) and items.max() >= len(gaps):
            raise ValueError(
                f"{files.split} names row {items.max():,}, but {files.table} has {len(gaps):,} rows; they do not "
                "belong together."
            )
        official[items[items < len(gaps)]] = value
    info = {
        "name": "pcqm4mv2",
        "targets": [target_info(TARGET, "eV", False)],
        "level": "HOMO-LUMO gap, B3LYP/6-31G*",
        "source": f"{files.table.name} and {files.split.name}"
        + (f", {files.geometries.name}" if files.geometries is not None else ""),
        "licence": "CC BY 4.0",
        "citation": [
            "W. Hu et al., NeurIPS 2021 Datasets and Benchmarks, arXiv:2103.09430 (OGB-LSC)",
            "M. Nakata, T. Shimazaki, J. Chem. Inf. Model. 57, 1300 (2017) (PubChemQC)",
        ],
        "published": {f"mae_{TARGET}_meV": PUBLISHED},
        "notes": [
            "gaps of the official test molecules are not published: the test of split=official is the official "
            "validation split, and validation is taken from the training split"
        ],
    }
    return LabelTable(files.table, gaps[:, None], {"official": official}, info)


def _store(
    found: Geometries, embedded: List[Embedding], rows: np.ndarray, smiles: List[str], read: LabelTable
) -> Store:
    """Molecules with published geometries, then the embedded ones."""
    molecules = [entry.molecule for entry in embedded]
    z = [np.frombuffer(found.z, np.uint8), *(one.z for one in molecules)]
    pos = [np.frombuffer(found.pos, np.float32).reshape(-1, 3), *(one.pos.astype(np.float32) for one in molecules)]
    return arrays_to_store(
        np.concatenate(z),
        np.concatenate(pos),
        offsets_of([*found.counts, *(len(one.z) for one in molecules)]),
        [str(row) for row in rows],
        read.y[rows],
        info=read.info,
        smiles=[smiles[row] for row in rows],
        fields={field: values[rows] for field, values in read.fields.items()},
    )


def _read(file: Path, limit: Optional[int]) -> Tuple[List[str], np.ndarray]:
    """SMILES and gaps [I] float64 of data.csv.gz, NaN where they are not published, as ogb reads them."""
    dataset = ogb_module("pcqm4mv2", "ogb.lsc").PCQM4Mv2Dataset
    reader = object.__new__(dataset)  # its constructor may ask questions on the terminal
    reader.folder = str(file.parents[1])
    try:
        reader.prepare_smiles()
        return list(map(str, reader.graphs[:limit])), np.asarray(reader.labels[:limit], np.float64)
    except (*DAMAGE, KeyError) as error:
        raise ValueError(f"{file} is no table of SMILES and gaps ({error}); fetch it again.") from None


def load_split(file: Path) -> Dict[str, np.ndarray]:
    """Arrays of a file of torch.save, which torch reads without running what else such a file may say.

    Raises:
        ValueError: it is damaged, or asks for anything but tensors (before torch 2.6 also for numpy's arrays).
    """
    code = f"d = torch.load({str(file)!r}, weights_only=False); "
    code += f"torch.save({{k: torch.as_tensor(v) for k, v in d.items()}}, {str(file)!r})"
    remedy = f'fetch it again, or, if you trust it, make tensors of its arrays: python -c "import torch; {code}"'
    found = load_torch(file, remedy)
    try:
        return {str(name): np.asarray(values) for name, values in found.items()}
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no file of tensors ({error}); fetch it again.") from None


def _find(path: Optional[Path], cache: Path, geometry: str) -> _Files:
    """The files in a folder, or in a download."""
    if geometry not in KINDS:
        raise ValueError(f"pcqm4mv2 has no data.geometry={geometry!r}; choose one of {', '.join(KINDS)}.")
    sdf = cache / _SDF[-1]
    if path is None:
        path = fetch("pcqm4mv2", URL, cache / "pcqm4m-v2.zip", cache / "pcqm4mv2-raw")
        if geometry != "etkdg":
            download("pcqm4mv2", GEOMETRIES_URL, sdf)
    geometries = find_file(path, _SDF, _FOLDERS) or (sdf if sdf.is_file() and path.parent == cache else None)
    if geometries is None and path.is_dir():
        tables = sorted(one for place in _FOLDERS for one in (path / place).glob("*cxsmiles*.csv*"))
        geometries = tables[0] if tables else None
    if geometry == "etkdg":
        geometries = None
    elif geometries is None and geometry == "dft":
        raise ValueError(f"pcqm4mv2: {path} holds no {_SDF[-1]}; fetch {GEOMETRIES_URL} and put it there.")
    table, split = (find_file(path, [name], _FOLDERS) for name in ("raw/data.csv.gz", "split_dict.pt"))
    if table is None or split is None:
        name = "split_dict.pt" if table else "raw/data.csv.gz"
        raise ValueError(f"pcqm4mv2: {path} holds no {name}, nor pcqm4m-v2/ in it; unpack {URL} there.")
    return _Files(table, split, geometries)
