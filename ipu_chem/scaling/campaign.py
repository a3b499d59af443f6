"""Training of many candidates: handed to an engine, by one process or by several that share a folder.

Every process that works on the folder goes through the same candidates. It hands out those that nobody has claimed, and
waits for those of others; what it knows of a candidate is what its folder says.
"""

import random
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from tqdm import tqdm

from ipu_chem import heartbeats
from ipu_chem.claims import holder_of
from ipu_chem.executors import PROCESSES, Engine, cancel_all, opened
from ipu_chem.scaling.candidates import PROGRESS, Candidate, Progress, read_progress
from ipu_chem.scaling.worker import NotHere, job_of, train_candidate, train_elsewhere

_POLL = 0.05  # seconds between two questions to an engine
_READ_EVERY = 1.0  # seconds between two readings of the folders
_TRIES = 3  # of a candidate whose worker dies
_AGAIN = 5.0  # seconds after which an engine that takes nothing is asked again
_STOPS_WITHIN = 60.0  # seconds


def train_all(
    candidates: Sequence[Candidate],
    budget: float,
    jobs: int = 1,
    progress: bool = True,
    finished: Callable[[Mapping[int, Progress]], None] = lambda done: None,
    engine: Optional[Engine] = None,
) -> List[Progress]:
    """Train candidates up to a fraction of their steps, or to the end where that is 1; nothing is done twice.

    Args:
        candidates: to train, of one folder; other processes may do the same at the same time.
        budget: of the steps of a run.
        jobs: processes that train side by side, where there is no ``engine``.
        progress: show a bar.
        finished: called with all that is there, by places in ``candidates``, as soon as there is more; also with what
            an earlier call or another process has trained.
        engine: to hand them to; None starts processes of this machine.

    Returns:
        How far each is, in their order.

    Raises:
        ValueError: a candidate cannot work, or its worker dies again and again; names it and says why.
        OSError: the disk is full.
        KeyboardInterrupt: stopped; the runs have written checkpoints, from which the next search goes on.
    """
    if not candidates:
        return []
    folder = candidates[0].folder.parent
    campaign = _Campaign(candidates, budget, finished)
    campaign.read()
    words = "to the end" if budget >= 1 else f"to {budget:.0%}"
    hidden = None if progress else True  # None leaves it to tqdm: a bar on terminals
    with tqdm(total=len(candidates), unit="run", desc=words, disable=hidden) as bar:
        campaign.bar = bar
        bar.update(len(campaign.done))
        if campaign.waiting():
            if engine is not None:
                campaign.run(engine, folder)
            else:
                with opened(PROCESSES, min(jobs, len(campaign.waiting())), folder) as started:
                    campaign.run(started, folder)
    return [campaign.done[index] for index in range(len(candidates))]


class _Campaign:
    """Candidates that are done, in work here, or to do."""

    def __init__(
        self, candidates: Sequence[Candidate], budget: float, finished: Callable[[Mapping[int, Progress]], None]
    ) -> None:
        self.candidates = candidates
        self.budget = budget
        self.finished = finished
        self.done: Dict[int, Progress] = {}
        self.work: Dict[int, Any] = {}  # futures of an engine
        self.bar: Any = None
        self._read: Dict[int, Tuple[int, int, int]] = {}  # identities of files that were read
        self._tries: "Counter[int]" = Counter()
        self._failed: Dict[int, str] = {}
        self._refusals, self._not_before = 0, 0.0  # of an engine that takes nothing
        self._paused: Dict[int, float] = {}  # until when, of what another process has

    def waiting(self) -> List[int]:
        """Candidates that are neither done nor in work here."""
        every = range(len(self.candidates))
        return [index for index in every if index not in self.done and index not in self.work]

    def read(self) -> None:
        """Read what has come to the budget, by whomever."""
        found = {}
        for index in self.waiting():
            candidate = self.candidates[index]
            with suppress(OSError):
                now = (candidate.folder / PROGRESS).stat()
                identity = now.st_ino, now.st_mtime_ns, now.st_size
                if self._read.get(index) == identity:
                    continue
                self._read[index] = identity
            reached = read_progress(candidate)
            if reached is not None and reached.reaches(self.budget):
                found[index] = reached
        self._add(found)

    def run(self, engine: Engine, folder: Path) -> None:
        """Hand out and wait until all is done."""
        asked = -_READ_EVERY
        with _at_work(folder, engine.here) as at_work:
            try:
                while len(self.done) < len(self.candidates):
                    answered = [index for index, future in self.work.items() if future.done()]
                    for index in answered:
                        self._take(index, engine.here)
                    if time.monotonic() - asked >= _READ_EVERY:
                        self.read()
                        asked = time.monotonic()
                        self._submit(engine, folder, at_work)
                    elif answered:
                        self._submit(engine, folder, at_work)
                    if not self.work and self._failed and set(self.waiting()) <= set(self._failed):
                        raise ValueError(next(iter(self._failed.values())))
                    time.sleep(_POLL)
            except BaseException:
                engine.stop()
                with suppress(OSError):
                    at_work.unlink()  # by which workers elsewhere stop
                self._leave()
                raise

    def _submit(self, engine: Engine, folder: Path, at_work: Path) -> None:
        """Hand out what nobody has, as much as the engine takes."""
        if time.monotonic() < self._not_before:
            return
        waiting = [index for index in self.waiting() if index not in self._failed]
        if self._paused:  # others are at work: not all of them try the same one next
            random.shuffle(waiting)
        now = heartbeats.clock(folder) if waiting else None
        for index in waiting:
            if engine.at_once and len(self.work) >= engine.at_once:
                break
            if self._paused.get(index, 0.0) > time.monotonic() or holder_of(self.candidates[index].folder, now):
                continue
            arguments = self.candidates[index], self.budget, engine.threads
            if engine.here:
                self.work[index] = engine.pool.submit(train_candidate, *arguments)
                continue
            try:
                self.work[index] = engine.pool.submit(train_elsewhere, job_of(*arguments, at_work))
                self._refusals = 0
            except Exception as error:  # of an engine, such as a busy scheduler
                self._refusals += 1
                self._not_before = time.monotonic() + _AGAIN
                if self._refusals < _TRIES:
                    break
                raise ValueError(
                    f"the executor takes no work, asked {_TRIES} times ({_words(error)}); nothing is lost, and the "
                    "same command goes on."
                ) from None

    def _take(self, index: int, here: bool) -> None:
        """Take the answer of a worker."""
        future = self.work.pop(index)
        answer: Any  # a run's progress, or that of a worker elsewhere as JSON
        name = self.candidates[index].folder.name
        try:
            answer = future.result()
        except NotHere as error:
            answer = {"waits": str(error)}
        except Exception as error:  # of an engine, in words of its own
            if here and isinstance(error, (ValueError, OSError)):
                # Without the frames of the pool, a sentence for the user looks like a failure inside a library.
                raise error.with_traceback(None) from error.__cause__
            answer = {"died": _words(error)}
        if isinstance(answer, Progress):
            self._add({index: answer})
        elif "progress" in answer:
            values: Mapping[str, Any] = answer["progress"]
            self._add({index: Progress(**values)})
        elif "refused" in answer:
            raise ValueError(answer["refused"])
        elif "waits" in answer or "stopped" in answer:  # the latter where the time of a job was over
            self._paused[index] = time.monotonic() + _READ_EVERY
        else:
            self._tries[index] += 1
            if self._tries[index] >= _TRIES:
                self._failed[index] = (
                    f"candidate {name}: its worker failed {_TRIES} times ({next(iter(answer.values()))}); the others "
                    f"are done, {self.candidates[index].folder / 'log.txt'} has its words, and the same command tries "
                    "it again."
                )

    def _add(self, found: Mapping[int, Progress]) -> None:
        if found:
            self.done.update(found)
            if self.bar is not None:
                self.bar.update(len(found))
            self.finished(dict(sorted(self.done.items())))

    def _leave(self) -> None:
        """Wait until workers have stopped, so that what they have done is written."""
        cancel_all(list(self.work.values()))
        until = time.monotonic() + _STOPS_WITHIN
        while time.monotonic() < until and not all(future.done() for future in self.work.values()):
            time.sleep(_POLL)


def _words(error: Exception) -> str:
    """The end of an engine's error, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"


@contextmanager
def _at_work(folder: Path, here: bool) -> Iterator[Path]:
    """A file that is there while this process waits for workers elsewhere."""
    values = heartbeats.whoami()
    path = folder / f".work.{values['token']}"
    if here:  # which end with this process
        yield path
        return
    heartbeats.make(path, values)
    heart = heartbeats.Heartbeat(path)
    try:
        yield path
    finally:
        heart.stop()
        with suppress(OSError):
            path.unlink()
