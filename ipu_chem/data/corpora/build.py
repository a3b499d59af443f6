"""A file of SMILES to part files, in parallel processes and so that it can be stopped at any time.

Every chunk of lines has one part file, named by its place and by what its lines say. It is written atomically by
the process that encodes it; a part that is there is not made again. So a kill costs the chunks in work, a file that
was cut and is fetched anew goes on after its last whole chunk, and how many processes there are changes nothing.
"""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from tqdm import tqdm

from ipu_chem.data.corpora.encode import Manner, encode_lines, save_chunk
from ipu_chem.data.files.layout import Layout
from ipu_chem.data.files.table import Record, parse, read_chunks
from ipu_chem.data.files.text import DAMAGE, count_lines
from ipu_chem.parallel import WorkerDied, in_parallel

_SEEN_WITHIN = 60.0  # seconds


class Parts(NamedTuple):
    """Part files in the order of the lines, and how many of them were made now."""

    paths: List[Path]
    made: int


def encode_file(
    path: Path,
    layout: Layout,
    folder: Path,
    limit: int,
    manner: Manner,
    workers: Optional[int],
    progress: bool,
    engine: Any = None,
) -> Parts:
    """Make the part files that a folder lacks.

    Args:
        path: file of SMILES.
        layout: of its lines.
        folder: of the parts, in which no other process is.
        limit: only so many lines; 0 takes all.
        manner: see `Manner`.
        workers: processes; None takes all cores, with 1 it is this one.
        progress: show a bar on stderr.
        engine: `ipu_chem.executors.Engine` whose workers share the folder, instead of processes.

    Raises:
        ValueError: the file is cut short or damaged (whole chunks before that are kept), or a worker died.
        OSError: the disk is full.
    """
    total = (limit or count_lines(path)) if progress else None
    paths: List[Path] = []
    damage: List[str] = []
    made = 0
    with tqdm(None, "encoding", total, unit="line", disable=not progress, mininterval=0.5) as bar:

        def missing() -> Iterator[Tuple[Path, List[Record]]]:
            for records in _until_damage(read_chunks(path, layout, limit), damage):
                digest = hashlib.blake2b(repr(records).encode(), digest_size=16).hexdigest()
                paths.append(folder / f"{len(paths):08d}-{digest}.npz")
                if paths[-1].is_file():
                    bar.update(len(records))
                else:
                    yield paths[-1], records

        make = partial(_make_part, layout=layout, manner=manner)
        try:
            for lines in in_parallel(make, missing(), workers, chunk=1, engine=engine):
                made += 1
                bar.update(lines)
        except WorkerDied as error:
            raise ValueError(f"{path}: {error} What is encoded is kept.") from None
    if engine is not None:
        _wait_for(paths)
    if damage:
        raise ValueError(
            f"{path} is cut short or damaged ({damage[0]}); fetch it again to the same place: its first "
            f"{len(paths):,} chunks of lines are encoded and kept."
        )
    return Parts(paths, made)


def _wait_for(paths: List[Path]) -> None:
    """Wait until this machine sees what others have written, which file systems of networks show late.

    Raises:
        ValueError: it does not.
    """
    until = time.monotonic() + _SEEN_WITHIN
    missing = [path for path in paths if not path.is_file()]
    while missing and time.monotonic() < until:
        time.sleep(0.1)
        missing = [path for path in missing if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(paths):,} parts that workers have encoded are not in {missing[0].parent}: give "
            "a cache folder (--cache) that all workers share."
        )


def _until_damage(chunks: Iterator[List[Record]], damage: List[str]) -> Iterator[List[Record]]:
    """Whole chunks; what ends a damaged file is noted, so that those before it are still encoded."""
    try:
        yield from chunks
    except DAMAGE as error:
        damage.append(f"{type(error).__name__}: {error}")


def _make_part(job: Tuple[Path, List[Record]], layout: Layout, manner: Manner) -> int:
    part, records = job
    lines = (found for record in records for found in parse(record, layout))
    save_chunk(part, encode_lines(lines, manner))
    return len(records)
