"""Encoded chunks to one corpus store: duplicates left out, symbols numbered by falling count.

Chunks are read one after the other and the flat arrays lie on disk, so the corpus may be larger than memory; what
is held of a molecule is its digest and two lengths, about 50 bytes while duplicates are looked for.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.data.corpora.encode import Chunk, load_chunk, load_digests
from ipu_chem.data.datasets.info import failures_info
from ipu_chem.data.files.table import Failure
from packing.files import disk_full_named
from packing.store import Store
from packing.types import offsets_of

# (name, shape, dtype) -> array to fill
Allocate = Callable[[str, Tuple[int, ...], Any], np.ndarray]


class PartFiles:
    """Chunks in files, loaded as they are gone through."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Chunk]:
        return map(load_chunk, self.paths)

    def digests(self) -> List[np.ndarray]:
        """Those of every chunk, [n, 2] uint64 each."""
        return [load_digests(path) for path in self.paths]


def on_disk(folder: Path) -> Allocate:
    """Arrays of a large corpus: files in a folder."""

    def allocate(name: str, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
        path = folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk would end the process where the array is filled
            with disk_full_named(path), open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    return allocate


def first_of_each(digests: np.ndarray) -> np.ndarray:
    """[I] bool: True for the first item of every value of [I, 2] digests."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal ones the first stays first
    again = np.ones(max(len(digests) - 1, 0), bool)
    for column in (0, 1):
        values = digests[order, column]
        again &= values[1:] == values[:-1]
    first = np.ones(len(digests), bool)
    first[order[1:][again]] = False
    return first


def assemble(
    chunks: Iterable[Chunk], keep: np.ndarray, allocate: Optional[Allocate] = None, with_split: bool = False
) -> Store:
    """Put chunks together.

    Args:
        chunks: gone through twice.
        keep: [I] bool over the molecules of all chunks; the others are counted as duplicates.
        allocate: makes the arrays of the store; None makes them in memory.
        with_split: keep the field "split".

    Returns:
        "symbols" on the axis "tokens", "smiles", heavy_atoms [I] uint16, line [I] int64, split [I] uint8;
        ``info`` holds symbols, symbol_counts, lines, duplicates, cut (molecules without their smaller fragments) and
        failures.

    Raises:
        ValueError: no molecule is left, or there are more than 65,536 symbols.
    """
    counts, lengths, failures = _count(chunks, keep)
    kept = int(keep.sum())
    if kept == 0:
        why = f"; the first failed with: {failures['list'][0][2]}" if failures["list"] else ""
        raise ValueError(f"no molecule of the corpus could be encoded{why}.")
    symbols = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    if len(symbols) > 2**16:
        raise ValueError(f"the corpus has {len(symbols):,} different symbols; 65,536 is the most.")
    allocate = allocate or (lambda name, shape, dtype: np.empty(shape, dtype))
    dtype = np.uint8 if len(symbols) <= 2**8 else np.uint16
    offsets = {axis: offsets_of(np.concatenate(parts)) for axis, parts in lengths.items()}
    fields = {
        "symbols": allocate("symbols", (int(offsets["tokens"][-1]),), dtype),
        "smiles": allocate("smiles", (int(offsets["smiles"][-1]),), np.uint8),
        "heavy_atoms": allocate("heavy_atoms", (kept,), np.uint16),
        "line": allocate("line", (kept,), np.int64),
        **({"split": allocate("split", (kept,), np.uint8)} if with_split else {}),
    }
    place = {symbol: index for index, symbol in enumerate(symbols)}
    cut = 0
    for chunk, items, start in _kept(chunks, keep):
        stop = start + len(items)
        cut += int(chunk.cut[items].sum())
        for field in set(fields) - {"symbols", "smiles"}:
            fields[field][start:stop] = getattr(chunk, field)[items]
        table = np.array([place.get(symbol, 0) for symbol in chunk.table] or [0], dtype)
        for field, axis in (("symbols", "tokens"), ("smiles", "smiles")):
            values = getattr(chunk, field).take(items).values
            fields[field][offsets[axis][start] : offsets[axis][stop]] = table[values] if axis == "tokens" else values
    info = {
        "symbols": symbols,
        "symbol_counts": [counts[symbol] for symbol in symbols],
        "lines": len(keep) + failures["count"],
        "duplicates": len(keep) - kept,
        "cut": cut,
        "failures": failures,
    }
    return Store(offsets, fields, {"symbols": "tokens", "smiles": "smiles"}, info)


def _count(
    chunks: Iterable[Chunk], keep: np.ndarray
) -> Tuple[Dict[str, int], Dict[str, List[np.ndarray]], Dict[str, Any]]:
    """Counts of every symbol, lengths of the molecules that stay, and all failures."""
    counts: Dict[str, int] = Counter()
    lengths: Dict[str, List[np.ndarray]] = {"tokens": [], "smiles": []}

    def failures() -> Iterator[Failure]:
        for chunk, items, _ in _kept(chunks, keep):
            lengths["tokens"].append(chunk.symbols.lengths[items])
            lengths["smiles"].append(chunk.smiles.lengths[items])
            found = np.bincount(chunk.symbols.take(items).values, minlength=len(chunk.table))
            for index in np.flatnonzero(found):
                counts[chunk.table[index]] += int(found[index])
            yield from chunk.failures

    return counts, lengths, failures_info(failures())


def _kept(chunks: Iterable[Chunk], keep: np.ndarray) -> Iterator[Tuple[Chunk, np.ndarray, int]]:
    """Every chunk, which of its molecules stay, and how many stayed before."""
    seen = start = 0
    for chunk in chunks:
        items = np.flatnonzero(keep[seen : seen + len(chunk.line)])
        yield chunk, items, start
        seen, start = seen + len(chunk.line), start + len(items)
