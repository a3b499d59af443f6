"""Parallel processes: one function over many items, results in their order, workers that end with their parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple

from tqdm import tqdm

_FEW = 256
_POLL = 0.2  # seconds until Ctrl-C takes effect
_BETWEEN = 0.02  # seconds between two questions to an engine
_AHEAD = 256  # chunks that an engine has at a time
_TRIES = 3  # of a chunk whose worker dies
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
_SHOWN = 200  # characters of an item in an error

_stop: Any = None  # in a worker: see `start_worker`

Answer = Tuple[List[Any], Optional[Exception], str]  # results, then what ended them and its traceback


class WorkerDied(ValueError):
    """A process of the pool has ended from outside, most often for want of memory."""


class FailedItem(Exception):
    """The cause of an exception that a function has raised: names the item, and holds the worker's traceback."""


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: Optional[int] = None,
    chunk: int = 64,
    few: Optional[int] = None,
    ahead: int = 0,
    title: Optional[str] = None,
    engine: Any = None,
) -> Iterator[Any]:
    """Results in the order of the items, whatever the number of processes.

    Args:
        function: of one item, at the top level of a module.
        items: read no further ahead than the processes need.
        workers: processes; None takes the cores this process may use, with one it is this one.
        chunk: items sent to a process at once.
        few: a sequence of fewer items than this (None: 256) stays in this process: starting others costs more.
        ahead: items given out before their results are taken; at least four chunks a process.
        title: of a progress bar of molecules on stderr; None shows none.
        engine: `ipu_chem.executors.Engine` that works elsewhere, instead of processes; ``workers`` does not count then.

    Raises:
        WorkerDied: a process has died.
        Exception: of the function, as it was raised; its cause is a `FailedItem`.
    """
    workers = core_count() if workers is None else workers
    known = len(items) if isinstance(items, Sequence) else None
    alone = workers <= 1 or known is not None and known < (_FEW if few is None else few)
    if engine is not None:
        answers = _answers_of(engine, function, iter(items), max(chunk, engine.chunk))
    elif alone:
        answers = (_answer(function, [item]) for item in items)
    else:
        answers = _answers(function, iter(items), workers, chunk, max(ahead // chunk, 4 * workers))
    place = 0
    bar = tqdm(None, title, known, unit="molecule", disable=title is None, mininterval=0.5)
    with bar, closing(answers):  # processes end with an error, whoever keeps its traceback
        for results, error, where in answers:
            for result in results:
                bar.update()
                yield result
            place += len(results)
            if error is not None:
                raise error from FailedItem(f"item {place}: {where}")


def _answers(
    function: Callable[[Any], Any], items: Iterator[Any], workers: int, chunk: int, most: int
) -> Iterator[Answer]:
    """Answers of processes to chunks of items, in order; ``most`` chunks are given out at a time."""
    # A fork of this process may wait forever for a lock that one of its threads (torch's, RDKit's) held.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    module = getattr(function, "func", function).__module__  # a partial has none of its own
    if sys.platform == "linux":
        context.set_forkserver_preload([module])  # imported once, not by every worker
    pool = ProcessPoolExecutor(workers, context, start_worker)
    pending: Deque["Future[Answer]"] = deque()
    try:
        for part in iter(lambda: list(islice(items, chunk)), []):
            with held_back(), main_left_out(module):
                pending.append(pool.submit(_answer, function, part))
            if len(pending) >= most:
                yield _next(pending)
        while pending:
            yield _next(pending)
    except BrokenProcessPool:
        raise WorkerDied("a process has died, perhaps for want of memory; call again with fewer workers.") from None
    finally:
        with held_back(), main_left_out(module):
            cancel(pool, pending)
        pool.shutdown()  # what is in work is finished


def _answers_of(engine: Any, function: Callable[[Any], Any], items: Iterator[Any], chunk: int) -> Iterator[Answer]:
    """Answers of an engine to chunks of items, in order; what its workers lose is handed out again, a few times."""
    pending: Deque[List[Any]] = deque()  # future, items, tries
    try:
        for part in iter(lambda: list(islice(items, chunk)), []):
            pending.append([engine.pool.submit(_answer, function, part), part, 1])
            while len(pending) >= (engine.at_once or _AHEAD):
                yield _answer_of(engine, function, pending)
        while pending:
            yield _answer_of(engine, function, pending)
    finally:
        for future, *_ in pending:
            with suppress(Exception):
                future.cancel()


def _answer_of(engine: Any, function: Callable[[Any], Any], pending: "Deque[List[Any]]") -> Answer:
    """The answer to what was handed out first."""
    while True:
        future, part, tries = pending[0]
        while not future.done():
            time.sleep(_BETWEEN)
        try:
            answer: Answer = future.result()
        except Exception as error:  # of the engine: those of the function are in its answer
            if tries == _TRIES:
                raise WorkerDied(
                    f"a worker has died {tries} times ({type(error).__name__}: {str(error)[-_SHOWN:]}); its "
                    "executor's own records say why, and the same call goes on."
                ) from None
            pending[0] = [engine.pool.submit(_answer, function, part), part, tries + 1]
            continue
        pending.popleft()
        return answer


def _next(pending: "Deque[Future[Answer]]") -> Answer:
    while not pending[0].done():
        with held_back():
            wait([pending[0]], _POLL)
    return pending.popleft().result()


def _answer(function: Callable[[Any], Any], part: Sequence[Any]) -> Answer:
    """Results of a chunk of items up to the first exception."""
    results: List[Any] = []
    for item in part:
        try:
            results.append(function(item))
        except Exception as error:
            shown = repr(item)
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
            return results, error, f"{shown}\n{traceback.format_exc()}"
    return results, None, ""


def cancel(pool: ProcessPoolExecutor, jobs: Iterable["Future[Any]"]) -> None:
    """Cancel jobs that have not begun; until Python 3.11 a pool whose last jobs are canceled may wait forever."""
    if any([job.cancel() for job in jobs]):
        with suppress(BrokenProcessPool):
            pool.submit(int)  # a last job that is not


@contextmanager
def main_left_out(module: str) -> Iterator[None]:
    """Keep processes that start inside from importing the script, which would run again if nothing guards it."""
    main = sys.modules["__main__"]
    names = [] if module == "__main__" else [name for name in ("__spec__", "__file__") if hasattr(main, name)]
    kept = {name: getattr(main, name) for name in names}
    for name in names:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done: a pool that is interrupted inside may wait for itself forever."""
    asked: List[Any] = []
    handler: Any = signal.getsignal(signal.SIGINT)
    # Python lets the main thread alone change it; one that is ignored stays so.
    held = callable(handler) and threading.current_thread() is threading.main_thread()
    if held:
        signal.signal(signal.SIGINT, lambda *arguments: asked.append(arguments))
    try:
        yield
    finally:
        if held:
            signal.signal(signal.SIGINT, handler)
    if asked:
        handler(*asked[0])


def start_worker(stop: Any = None) -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed: its end of the queue would stay open.

    A worker comes here before it imports what it will run, which may take longer than its parent lives.

    Args:
        stop: event by which the parent stops what the worker does (`is_stopped`).
    """
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal_at_end_of_parent(signal.SIGKILL)  # or of the fork server: a thread cannot while C code computes
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def is_stopped() -> bool:
    """True in a worker whose parent wants it to stop."""
    return _stop is not None and _stop.is_set()


def signal_at_end_of_parent(number: int) -> None:
    """Have Linux send this process a signal when the thread that has started it ends, be it killed."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
