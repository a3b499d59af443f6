"""A file of SMILES to part files, in parallel processes and so that it can be stopped at any time.

Every chunk of lines has one part file, named by its place and by what its lines say. It is written atomically by
the process that encodes it; a part that is there is not made again. So a kill costs the chunks in work, a file that
was cut and is fetched anew goes on after its last whole chunk, and how many processes there are changes nothing.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Set

from tqdm import tqdm

from ipu_chem.data.corpora.encode import encode_records, save_chunk
from ipu_chem.data.corpora.lines import Layout, Record, read_chunks
from ipu_chem.data.corpora.text_file import DAMAGE, count_lines

_LOCK = "lock"


class Parts(NamedTuple):
    """Part files in the order of the lines, and how many of them were made now."""

    paths: List[Path]
    made: int


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder of parts and keep other processes out of it; a second one waits for the first.

    The system lifts the lock when the process and its workers end, however they do.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is encoding into {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # forked workers share it


def encode_file(
    path: Path, layout: Layout, folder: Path, limit: int, stereo: bool, workers: int, progress: bool
) -> Parts:
    """Make the part files that a folder lacks.

    Args:
        path: file of SMILES.
        layout: of its lines.
        folder: of the parts; `alone` in it.
        limit: only so many lines; 0 takes all.
        stereo: see `encode_smiles`.
        workers: processes; with 1 it is this one.
        progress: show a bar on stderr.

    Raises:
        ValueError: the file is cut short or damaged (whole chunks before that are kept), or a worker died.
        OSError: the disk is full.
    """
    total = (limit or count_lines(path)) if progress else None
    paths: List[Path] = []
    made = 0
    damage: List[str] = []
    try:
        with tqdm(None, "encoding", total, unit="line", disable=not progress, mininterval=0.5) as bar:
            with _HeldBack() as interrupt, _Workers(workers, bar, interrupt) as pool:
                for records in _until_damage(read_chunks(path, layout, limit), damage):
                    interrupt.check()
                    part = folder / _part_name(len(paths), records)
                    paths.append(part)
                    if part.is_file():
                        bar.update(len(records))
                    else:
                        made += 1
                        pool.submit(part, records, layout, stereo)
    except BrokenProcessPool:
        raise ValueError(
            f"{path}: a process that encodes has died, perhaps for want of memory; what is encoded is kept, call "
            "again with fewer workers."
        ) from None
    if damage:
        raise ValueError(
            f"{path} is cut short or damaged ({damage[0]}); fetch it again to the same place: its first "
            f"{len(paths):,} chunks of lines are encoded and kept."
        )
    return Parts(paths, made)


def worker_pool(count: int) -> ProcessPoolExecutor:
    """Processes that leave Ctrl-C to this one and end with it."""
    return ProcessPoolExecutor(count, initializer=start_worker)


def _until_damage(chunks: Iterator[List[Record]], damage: List[str]) -> Iterator[List[Record]]:
    """Whole chunks; what ends a damaged file is noted, so that those before it are still encoded."""
    try:
        yield from chunks
    except DAMAGE as error:
        damage.append(f"{type(error).__name__}: {error}")


def _part_name(index: int, records: List[Record]) -> str:
    digest = hashlib.blake2b(repr(records).encode(), digest_size=16).hexdigest()
    return f"{index:08d}-{digest}.npz"


def _make_part(part: Path, records: List[Record], layout: Layout, stereo: bool) -> int:
    save_chunk(part, encode_records(records, layout, stereo))
    return len(records)


class _Workers:
    """Processes with a short queue, so that reading the file does not run ahead of them."""

    def __init__(self, count: int, bar: Any, interrupt: "_HeldBack") -> None:
        self.bar, self.interrupt = bar, interrupt
        self.pool = worker_pool(count) if count > 1 else None
        self.most = 2 * count
        self.pending: Set["Future[int]"] = set()

    def submit(self, *job: Any) -> None:
        """Encode a chunk, now or as soon as a process is free."""
        if self.pool is None:
            self.bar.update(_make_part(*job))
            return
        self._collect(self.most)
        self.pending.add(self.pool.submit(_make_part, *job))

    def _collect(self, most: int) -> None:
        while len(self.pending) > most:
            done, self.pending = wait(self.pending, return_when=FIRST_COMPLETED)
            for job in done:
                self.bar.update(job.result())
            self.interrupt.check()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.pool is None:
            return
        try:
            if error is None:
                self._collect(0)
        finally:
            for job in self.pending:
                job.cancel()
            self.pool.shutdown()  # chunks in work are finished and kept


class _HeldBack:
    """Ctrl-C that takes effect between two chunks; a pool interrupted anywhere else may wait for itself forever.

    A second one takes effect at once. What else the program does with the signal is done then.
    """

    def __enter__(self) -> "_HeldBack":
        self.asked: Any = None
        self.handler: Any = signal.getsignal(signal.SIGINT)
        # Python lets the main thread alone change it; one that is ignored stays so.
        self.held = callable(self.handler) and threading.current_thread() is threading.main_thread()
        if self.held:
            signal.signal(signal.SIGINT, self._hold)
        return self

    def _hold(self, *arguments: Any) -> None:
        self.asked = arguments
        signal.signal(signal.SIGINT, self.handler)

    def check(self) -> None:
        """Do now what was asked for."""
        if self.asked is not None:
            arguments, self.asked = self.asked, None
            self.handler(*arguments)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.held:
            signal.signal(signal.SIGINT, self.handler)
        if error is None:
            self.check()


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed: its end of the queue would stay open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
