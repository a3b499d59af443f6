"""Embeddings from file to file: a row for every line, written as it is computed, so files may have any size.

    .npy       [n, F], and beside it .index.csv: line, smiles and reason of every row
    .csv       line, smiles, f0, f1, ..., reason
    .parquet   line, smiles, embedding (a list of F numbers), reason

Of log-likelihoods F is 1, and the number's column is called log_likelihood.

A row without a vector holds NaN and the reason. Files take their name when they are complete.
"""

import csv
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ipu_chem.data.files.layout import Layout, TableOptions, read_layout
from ipu_chem.data.files.table import Entry, Failure, Line, line_of, read_rows
from ipu_chem.data.files.text import as_text, count_lines
from ipu_chem.embedding.embed import LIKELIHOOD, Chunk, Embedder, failures_of, progress_bar
from packing.files import PathLike, atomic_file

_LISTED = 100  # failures that `embed_file` gives back; the output lists them all
Write = Callable[[Chunk], None]


class Summary(NamedTuple):
    """Counts of the molecules of a file.

    Attributes:
        embedded, failed: rows with and without a vector.
        dropped: how many of those without were too long.
        truncated: molecules that were too long and lost their end.
        failures: the first of those without a vector.
    """

    embedded: int
    failed: int
    dropped: int
    truncated: int
    failures: List[Failure]


def embed_file(
    embedder: Embedder,
    source: PathLike,
    output: PathLike,
    smiles_column: Optional[str] = None,
    progress: bool = True,
    delimiter: str = "",
    encoding: str = "",
) -> Summary:
    """Embed every molecule of a file.

    Args:
        embedder: model and options; it stays open.
        source: .smi, .csv, .tsv or .txt, also in .gz or .zip.
        output: .npy, .csv or .parquet.
        smiles_column, delimiter, encoding: of a table; see `TableOptions`.
        progress: show a bar on stderr.

    Raises:
        ValueError: the source cannot be read, the output's suffix is another, pyarrow is missing for .parquet, or a
            molecule is too long and ``long`` is error.
        OSError: the disk is full; what was at ``output`` before is still there.
    """
    check_output(output)
    source, output = Path(source), Path(output)
    layout = read_layout(source, TableOptions(smiles_column or "", delimiter, encoding, "--"))
    # A .npy begins with its number of rows, and a file does not say how many it has.
    exact = output.suffix == ".npy"
    notation = embedder.options.notation
    total = sum(1 for _ in read_rows(source, layout)) if exact else count_lines(source)
    failures: List[Failure] = []
    before = embedder.embedded, embedder.failed, embedder.dropped, embedder.truncated
    with _WRITERS[output.suffix](output, total, embedder.columns, embedder.dtype) as write:
        with progress_bar(progress, total) as bar:
            for chunk in embedder.chunks(_entries(source, layout, notation)):
                write(chunk)
                failures += failures_of(chunk)[: _LISTED - len(failures)]
                bar.update(len(chunk.entries))
    after = embedder.embedded, embedder.failed, embedder.dropped, embedder.truncated
    return Summary(*(now - then for now, then in zip(after, before)), failures=failures)


def check_output(output: PathLike) -> None:
    """Refuse an output that cannot be written, before hours are spent on it.

    Raises:
        ValueError: another suffix, or the library for it is missing.
    """
    suffix = Path(output).suffix
    if suffix not in _WRITERS:
        raise ValueError(f"{output}: embeddings are written to {', '.join(_WRITERS)} files.")
    if suffix == ".parquet":
        _pyarrow()


def index_path(output: PathLike) -> Path:
    """Path of the table of line, smiles and reason for the rows of a .npy."""
    return Path(output).with_suffix(".index.csv")


def _entries(source: Path, layout: Layout, notation: str) -> Iterator[Entry]:
    """Lines of a file; what is no SMILES is not asked if it could be one: [#C] is a symbol of SELFIES and of SMARTS."""
    read = line_of if notation == "smiles" else _text_of
    return (read(number, cells, layout) for number, cells in read_rows(source, layout))


def _text_of(number: int, cells: Union[Sequence[str], Failure], layout: Layout) -> Entry:
    """A row in the model's own representation."""
    return cells if isinstance(cells, Failure) else Line(number, cells[layout.smiles if layout.delimiter else 0])


@contextmanager
def _npy(path: Path, total: int, columns: List[str], dtype: np.dtype) -> Iterator[Write]:
    header: Dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (total, len(columns)),
    }
    with atomic_file(path) as file, atomic_file(index_path(path), "w") as index:
        np.lib.format.write_array_header_1_0(file, header)
        writer = csv.writer(index, lineterminator="\n")
        writer.writerow(["line", "smiles", "reason"])
        rows = 0

        def write(chunk: Chunk) -> None:
            nonlocal rows
            file.write(chunk.values.tobytes())
            rows_of = zip(chunk.entries, chunk.remarks)
            writer.writerows((entry.line, as_text(entry.smiles), remark) for entry, remark in rows_of)
            rows += len(chunk.entries)

        yield write
        if rows != total:
            raise ValueError(f"the file of molecules has changed while it was read: {total:,} rows, then {rows:,}.")


@contextmanager
def _csv(path: Path, total: int, columns: List[str], dtype: np.dtype) -> Iterator[Write]:
    digits = 9 if dtype.itemsize == 4 else 17  # enough to read the same number again
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "smiles", *columns, "reason"])

        def write(chunk: Chunk) -> None:
            for entry, values, remark in zip(chunk.entries, chunk.values.tolist(), chunk.remarks):
                numbers = [f"{value:.{digits}g}" for value in values]
                writer.writerow([entry.line, as_text(entry.smiles), *numbers, remark])

        yield write


@contextmanager
def _parquet(path: Path, total: int, columns: List[str], dtype: np.dtype) -> Iterator[Write]:
    pyarrow = _pyarrow()
    number = pyarrow.from_numpy_dtype(dtype)
    is_vector = columns != [LIKELIHOOD]
    values_as = ("embedding", pyarrow.list_(number, len(columns))) if is_vector else (LIKELIHOOD, number)
    text = pyarrow.string()
    schema = pyarrow.schema([("line", pyarrow.int64()), ("smiles", text), values_as, ("reason", text)])
    with atomic_file(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def write(chunk: Chunk) -> None:
            values = pyarrow.array(chunk.values.reshape(-1))
            if is_vector:
                values = pyarrow.FixedSizeListArray.from_arrays(values, len(columns))
            lines, smiles = [entry.line for entry in chunk.entries], [entry.smiles for entry in chunk.entries]
            arrays = [pyarrow.array(lines, pyarrow.int64()), pyarrow.array(smiles, pyarrow.string())]
            arrays += [values, pyarrow.array(chunk.remarks, pyarrow.string())]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

        yield write


def _pyarrow() -> Any:
    """The module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("parquet files are written by pyarrow: pip install pyarrow, or write .npy or .csv.") from None
    return pyarrow


_WRITERS: Dict[str, Callable[[Path, int, List[str], np.dtype], ContextManager[Write]]] = {
    ".npy": _npy,
    ".csv": _csv,
    ".parquet": _parquet,
}
