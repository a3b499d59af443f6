"""In-flight batching: as soon as a molecule has ended, the next one begins in its row."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch

from ipu_chem.generation.chance import uniforms
from ipu_chem.generation.writers import Writer


class Wanted(NamedTuple):
    """Molecules to write.

    Attributes:
        count: molecules.
        length: tokens of the longest, first and last included.
        starts: ids that each begins with, or one array for all.
        seed: with a molecule's index it decides all of the molecule's draws.
        end: the token that ends molecules.
    """

    count: int
    length: int
    starts: Sequence[np.ndarray]
    seed: int
    end: int

    def start(self, molecule: int) -> np.ndarray:
        """Ids that a molecule begins with."""
        return self.starts[molecule if len(self.starts) > 1 else 0]


class Written(NamedTuple):
    """A molecule that is complete.

    Attributes:
        molecule: its index.
        ids: [n] int64, the first token included.
        finished: False where it has as many tokens as there may be, and no end.
        log_likelihood: of all tokens after the first, nats.
    """

    molecule: int
    ids: np.ndarray
    finished: bool
    log_likelihood: float


def write_all(wanted: Wanted, new_writer: Callable[[], Writer], rows: int, jobs: int) -> Iterator[List[Written]]:
    """Molecules in the order in which they end.

    Args:
        wanted: molecules.
        new_writer: makes a writer for each job.
        rows: of a writer.
        jobs: threads; native kernels and torch's operators run beside each other in them.
    """
    waiting = iter(range(wanted.count))
    if jobs == 1:
        yield from _write(wanted, new_writer(), rows, waiting)
        return
    ended: List[Written] = []
    news = threading.Condition()
    running = jobs

    def work() -> None:
        nonlocal running
        try:
            for some in _write(wanted, new_writer(), rows, waiting):
                with news:
                    ended.extend(some)
                    news.notify()
        finally:
            for _ in waiting:  # after an error the others have nothing left to begin
                pass
            with news:
                running -= 1
                news.notify()

    with _threads_of_torch(jobs), ThreadPoolExecutor(jobs) as pool:
        try:
            futures = [pool.submit(work) for _ in range(jobs)]
            busy = True
            while busy:
                with news:
                    while not ended and running:
                        news.wait()
                    some, busy = ended[:], running > 0
                    ended.clear()
                yield some
            for future in futures:
                future.result()
        finally:
            for _ in waiting:
                pass


def _write(wanted: Wanted, writer: Writer, rows: int, waiting: Iterator[int]) -> Iterator[List[Written]]:
    """Molecules of one writer; it takes from those waiting as its rows become free."""
    length = wanted.length
    ids = np.zeros((rows, length), np.int64)
    uniform = np.zeros((rows, length))  # one more than there are draws
    molecule, position, begun = (np.full(rows, -1), np.zeros(rows, np.int64), np.zeros(rows, np.int64))
    nats = np.zeros(rows)

    def take(row: int) -> Iterator[Written]:
        """Begin in a row; molecules that are complete at once need none."""
        for index in waiting:
            start = np.asarray(wanted.start(index), np.int64)
            uniform[row, : length - 1] = uniforms(wanted.seed, index, length - 1)
            tokens, likelihood = writer.begin(row, start, uniform[row, : length - 1], wanted.end)
            finished = tokens[-1] == wanted.end
            if finished or len(tokens) == length:
                yield Written(index, tokens, bool(finished), likelihood)
                continue
            ids[row, : len(start)], begun[row] = start, len(start)
            ids[row, : len(tokens)], position[row] = tokens, len(tokens) - 1
            molecule[row], nats[row] = index, likelihood
            return

    done = [one for row in range(rows) for one in take(row)]
    while True:
        active = np.flatnonzero(molecule >= 0)
        if done:
            yield done
        if not len(active):
            return
        at = position[active]
        given = np.where(at + 1 < begun[active], ids[active, at + 1], -1)
        tokens, likelihoods = writer.step(active, ids[active, at], at, uniform[active, at], given)
        nats[active] += likelihoods
        ids[active, at + 1] = tokens
        position[active] = at + 1
        ends = tokens == wanted.end
        done = []
        for row, finished in zip(active[ends | (at + 2 == length)].tolist(), ends[ends | (at + 2 == length)].tolist()):
            done.append(Written(int(molecule[row]), ids[row, : position[row] + 1].copy(), finished, float(nats[row])))
            molecule[row] = -1
            done += take(row)


@contextmanager
def _threads_of_torch(jobs: int) -> Iterator[None]:
    """Give every job its part of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)
