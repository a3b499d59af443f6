"""Corpora of molecules as text by name, encoded once and kept: `load_corpus("moses", path="dataset_v1.csv")`.

A file of SMILES of any size becomes a memory-mapped store of tokens and canonical SMILES in the cache folder, under a
name that changes with the file, the options and the versions of RDKit and of what writes the tokens. Stopped at any
time, the same call goes on where it was; the store is the same, whatever the number of processes and of interruptions.
"""

import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from ipu_chem.cache import cache_folder, content_key, open_prepared
from ipu_chem.data.corpora.assemble import PartFiles, assemble, first_of_each, on_disk
from ipu_chem.data.corpora.build import Parts, encode_file
from ipu_chem.data.corpora.encode import CANONICAL, SELFIES, Manner, encode_smiles, libraries
from ipu_chem.data.corpora.memory import corpus_in_memory
from ipu_chem.data.corpora.sources import CORPORA, find_file
from ipu_chem.data.datasets import known_options
from ipu_chem.data.files.layout import Layout, TableOptions, read_layout
from ipu_chem.data.files.table import read_rows
from ipu_chem.data.fragments import ERROR, KEEP, SEVERAL
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.representations.registry import identity
from ipu_chem.data.representations.store import representation_of
from ipu_chem.executors import PROCESSES, check_executor, opened
from ipu_chem.locks import in_turn
from ipu_chem.options import meant
from ipu_chem.parallel import core_count
from packing.files import PathLike, atomic_file, file_digest, remove_folder, sweep
from packing.store import Store

__all__ = ["CORPORA", "corpus_in_memory", "describe_corpus", "encode_smiles", "load_corpus", "with_rows"]

# Raised whenever the same file and options would give another store.
_FORMAT = 2
_SAVED = "saved"  # among parts: the name of the corpus that was made of them
_REASONS, _SAMPLE = 5, 3  # of a description


class Options(NamedTuple):
    """Options that decide what is in a corpus.

    Attributes:
        stereo, fragments, representation, atom_order: see `Manner`.
        smiles_column, delimiter, encoding: see `TableOptions`.
        duplicates: keep molecules that the file has before, for whoever must choose among their labels.
    """

    stereo: bool = True
    smiles_column: Optional[str] = None
    duplicates: bool = False
    delimiter: str = ""
    encoding: str = ""
    fragments: str = KEEP
    representation: str = SELFIES
    atom_order: str = CANONICAL


def load_corpus(
    name: str,
    path: Optional[PathLike] = None,
    cache: Optional[PathLike] = None,
    limit: int = 0,
    workers: int = 0,
    progress: bool = True,
    executor: str = PROCESSES,
    **options: Any,
) -> Store:
    """A corpus as a memory-mapped store, encoded on first use.

    Args:
        name: one of `CORPORA`; "file" is a file of one's own.
        path: of the file, or of the folder that holds it; None takes what ships with RDKit or downloads it.
        cache: folder for encoded corpora.
        limit: only the first lines of the file; 0 takes all. A header, blank lines and comments do not count.
        workers: processes that encode; 0 takes all cores.
        progress: show a bar.
        executor: that encodes, see `ipu_chem.executors.opened`; workers elsewhere need the cache folder at the same
            path. The store is the same to the bit.
        **options: see `Options`.

    Returns:
        "symbols" uint8 or uint16 on the axis "tokens": places in ``info["symbols"]``, the tokens; "smiles": canonical
        SMILES (`decode_text`); heavy_atoms [I] uint16; line [I] int64; split [I] uint8 (0 train, 1 test, 2
        test_scaffolds) where MOSES has it. Lines without a molecule are in ``info["failures"]``.

    Raises:
        ValueError: unknown name or option, a file that is missing, damaged or holds no SMILES, or a library that the
            representation needs is not installed.
        OSError: the disk is full.
    """
    if name not in CORPORA:
        raise ValueError(f"there is no corpus {name!r}{meant(name, CORPORA)}; there are {', '.join(CORPORA)}.")
    chosen = Options(**{**known_options(f"corpus {name}", Options, options), **options})
    check_executor(executor)
    if limit < 0 or workers < 0:
        raise ValueError(f"corpus {name}: limit={limit} and workers={workers} are 0 or more.")
    root, source, versions = cache_folder(cache), CORPORA[name], libraries(chosen.representation)
    file = find_file(name, None if path is None else Path(path).expanduser(), root)
    table = TableOptions(chosen.smiles_column or "", chosen.delimiter, chosen.encoding, "data.")
    layout = read_layout(file, table, source.with_split)

    manner = {"format": _FORMAT, "stereo": chosen.stereo, "layout": layout, **versions}
    if chosen.fragments != KEEP:
        manner["fragments"] = chosen.fragments
    if chosen.representation != SELFIES:
        manner["representation"] = identity(chosen.representation)
    if chosen.atom_order != CANONICAL:
        manner["atom_order"] = chosen.atom_order
    kept = {"duplicates": True} if chosen.duplicates else {}
    folder = root / f"corpus-{name}-{content_key({**manner, **kept, 'limit': limit, 'file': file_digest(file)})}"
    # Not by content: what was encoded of a file that was cut serves the whole one, too.
    manner["layout"] = layout._replace(encoding="")  # which the lines of a file that was cut may not have shown
    parts = root / f"corpus-{name}-parts-{content_key({**manner, 'path': str(file.resolve())})}"
    store = open_prepared(folder, name)
    if store is not None:
        _tidy(parts, folder)
        return _checked(store, file, chosen.fragments)
    how = Manner(chosen.stereo, chosen.fragments, chosen.representation, chosen.atom_order)
    with in_turn(parts / "lock", f"encoding into {parts}"):
        store = open_prepared(folder, name, says_why=False)
        if store is None:  # else another process has made it meanwhile
            try:
                made = _encode(executor, file, layout, parts, limit, how, workers, progress)
            except KeyboardInterrupt:
                print(f"{name}: stopped; what is encoded lies in {parts}, the same call goes on there", file=sys.stderr)
                raise
            source_text = str(file) if name == "file" else f"{source.what}; {file.name}"
            info = {"name": name, "source": source_text, "licence": source.licence, "citation": list(source.citation)}
            info.update(versions=versions, options={"limit": limit, **chosen._asdict()})
            info["representation"] = chosen.representation
            with atomic_file(parts / _SAVED, "w") as saved:
                saved.write(folder.name)
            _save(made.paths, chosen.duplicates, layout.split >= 0, info, parts / "store", folder)
            if made.made < len(made.paths):
                print(f"{name}: {len(made.paths) - made.made:,} of {len(made.paths):,} chunks were encoded before")
        remove_folder(parts)
    store = Store.open(folder)
    if store.info["cut"]:
        print(f"{name}: of {store.info['cut']:,} molecules of several fragments the largest is taken")
    print(
        f"{name}: {len(store):,} molecules encoded, {store.info['duplicates']:,} duplicates and "
        f"{store.info['failures']['count']:,} failures left out (listed in {folder / 'meta.json'})"
    )
    return _checked(store, file, chosen.fragments)


def _encode(
    executor: str, file: Path, layout: Layout, parts: Path, limit: int, how: Manner, workers: int, progress: bool
) -> Parts:
    if executor == PROCESSES:
        return encode_file(file, layout, parts, limit, how, workers or None, progress)
    folder = parts.resolve()
    with opened(executor, workers or core_count(), folder) as engine:
        return encode_file(file, layout, folder, limit, how, None, progress, engine)


def _tidy(parts: Path, folder: Path) -> None:
    """Remove the parts of a corpus that a process has saved, and was killed before it removed them."""
    sweep(parts.parent)
    if _saved(parts) == folder.name:
        with in_turn(parts / "lock", f"encoding into {parts}"):
            if _saved(parts) == folder.name:
                remove_folder(parts)


def _saved(parts: Path) -> str:
    """Name of the folder of the corpus that was made of parts, "" if none was."""
    try:
        return (parts / _SAVED).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _checked(store: Store, file: Path, fragments: str) -> Store:
    """The store, unless molecules of several fragments are an error and there are some."""
    listed = store.info["failures"]["list"] if fragments == ERROR else []
    several = [failure for failure in listed if failure[2].startswith(SEVERAL)]
    if several:
        line, smiles, reason, *_ = several[0]
        raise ValueError(
            f"{file} line {line} ({smiles}): {reason}, as {len(several):,} lines have; set data.fragments to largest "
            "or keep, or correct them."
        )
    return store


def _save(
    paths: List[Path], duplicates: bool, with_split: bool, info: Dict[str, Any], scratch: Path, folder: Path
) -> None:
    """Part files to a store in a folder."""
    if not paths:
        raise ValueError(f"{info['source']} holds no SMILES.")
    chunks = PartFiles(paths)
    scratch.mkdir(exist_ok=True)
    digests = np.concatenate(chunks.digests())
    keep = np.ones(len(digests), bool) if duplicates else first_of_each(digests)
    store = assemble(chunks, keep, on_disk(scratch), with_split)
    store.info.update(info)
    store.save(folder)


def with_rows(store: Store, path: PathLike) -> Store:
    """A corpus of a file with row [I] int64, places of its molecules among all rows from 0, and info["rows"]."""
    path, options = Path(path).expanduser(), store.info["options"]
    table = TableOptions(*(options[name] or "" for name in TableOptions._fields[:3]), "data.")
    lines = np.array([number for number, _ in read_rows(path, read_layout(path, table))], np.int64)
    fields = {**store.fields, "row": np.searchsorted(lines, store.fields["line"])}
    return Store(store.axes, fields, store.axis_of, {**store.info, "rows": len(lines)})


def describe_corpus(store: Store) -> List[str]:
    """Size, failures by reason, duplicates, tokens, lengths, and a few molecules, one line each.

    Args:
        store: from `load_corpus` or `corpus_in_memory`.
    """
    info = store.info
    failures, counts = info["failures"], info["symbol_counts"]
    tokens, heavy = store.sizes()["tokens"], np.asarray(store.fields["heavy_atoms"])
    lines = [
        f"molecules: {len(store):,} of {info['lines']:,} lines of {info['source']}",
        f"duplicates left out: {info['duplicates']:,}",
        f"failures: {failures['count']:,}",
    ]
    reasons = list(failures["by_reason"].items())
    lines += [f"  {count:,} {reason}" for reason, count in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        others = sum(count for _, count in reasons[_REASONS:])
        lines.append(f"  {others:,} for {len(reasons) - _REASONS} other reasons")
    common = ", ".join(f"{symbol} {100 * n / sum(counts):.1f}%" for symbol, n in zip(info["symbols"][:5], counts))
    rare = sum(count < 10 for count in counts)
    lines.append(
        f"tokens of {representation_of(store)}: {len(counts)} different ({rare} of them fewer than 10 times), {common}"
    )
    lines.append(f"tokens of a molecule: {_spread(tokens)}, {int(tokens.sum()):,} in all, without BOS and EOS")
    lines.append(f"heavy atoms: {_spread(heavy)}")
    for item in np.linspace(0, len(store) - 1, min(_SAMPLE, len(store))).astype(int).tolist():
        smiles = decode_text(store, "smiles", item)
        text = "".join(info["symbols"][index] for index in store.ragged("symbols")[item])
        lines.append(f"sample: {smiles}{'' if text == smiles else f'  {text}'}")
    return lines


def _spread(values: np.ndarray) -> str:
    median, high = np.percentile(values, [50, 99])
    return f"mean {values.mean():.1f}, median {median:g}, 99% up to {high:g}, at most {values.max()}"
