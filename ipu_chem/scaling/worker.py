"""Workers of a search: one candidate is trained by one process at a time, here or on another machine.

A worker elsewhere (dask, Slurm, an executor of one's own) trains in a process that it starts for it, so that neither
threads nor earlier candidates of the worker can change what comes out. It goes on while the process that has handed it
out keeps a file in the folder of the search, and stops with a checkpoint when that file is gone or no longer touched.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Tuple

import ipu_chem
from ipu_chem import heartbeats
from ipu_chem.claims import Claim, Claimed, ClaimLost, claimed
from ipu_chem.config import from_dict
from ipu_chem.locks import FolderInUse
from ipu_chem.parallel import is_stopped, signal_at_end_of_parent, start_worker
from ipu_chem.scaling import lost_time
from ipu_chem.scaling.candidates import PROGRESS, Candidate, Progress, budget_steps, read_progress, write_progress
from ipu_chem.scaling.counted import counted_metric, names_of, value_of
from packing.files import disk_full_named, host_name

_ANSWER = "ipu-chem answer: "  # before the line of a child that its parent reads
_STOPS_WITHIN = 60.0  # seconds
_ASKED_EVERY = 2.0  # seconds, at the file of who has handed the work out


class NotHere(Exception):
    """The candidate cannot be trained now, since another process has it or took it over; the text says which."""


class WorkerFailed(Exception):
    """The process that trained a candidate ended without an answer."""


def train_candidate(candidate: Candidate, budget: float, threads: int) -> Progress:
    """Train one candidate up to a fraction of its steps and write down how far it came.

    Args:
        candidate: to train.
        budget: of the steps of its run; 1 is the end.
        threads: of torch where the config leaves them open; 0 takes all cores.

    Raises:
        NotHere: another process trains it.
        KeyboardInterrupt: stopped; a checkpoint is written.
        ValueError: it cannot work.
        OSError: the disk is full. Whatever ends it, others may have the candidate then.
    """
    if is_stopped():
        raise KeyboardInterrupt
    try:
        with claimed(candidate.folder) as claim:
            before = read_progress(candidate)
            if before is not None and before.reaches(budget):  # by another process, a moment ago
                return before
            return _train(candidate, budget, threads, claim)
    except (Claimed, ClaimLost, FolderInUse) as error:
        raise NotHere(str(error)) from None


def train_elsewhere(job: Dict[str, Any]) -> Dict[str, Any]:
    """Train a candidate in a process of its own, for a worker of any engine.

    Args:
        job: of `job_of`.

    Returns:
        "progress", values of `Progress`; or "waits", "stopped", "refused" or "full" (of a disk) with a sentence.

    Raises:
        WorkerFailed: the process died; names its signal or its last words.
    """
    if job["version"] != ipu_chem.__version__:
        return {
            "refused": f"the worker on {host_name()} has ipu-chem {ipu_chem.__version__}, and {job['version']} is "
            "needed: install the same version everywhere."
        }
    if not Path(job["cwd"], job["folder"]).is_dir():
        return {
            "refused": f"{job['folder']} of {job['cwd']} is not there on {host_name()}: give an --out on a file system "
            "that all workers share."
        }
    paths = [str(Path(ipu_chem.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "ipu_chem.scaling.worker"]
    with subprocess.Popen(command, text=True, cwd=job["cwd"], env=environment, **pipes) as done:
        try:
            said, wrong = done.communicate(json.dumps(job))
        except BaseException:  # Ctrl-C of a terminal, or an engine's: time to write a checkpoint
            done.terminate()
            with suppress(subprocess.TimeoutExpired):
                done.wait(_STOPS_WITHIN)
            done.kill()
            raise
    answers = [line[len(_ANSWER) :] for line in said.splitlines() if line.startswith(_ANSWER)]
    if answers:
        return json.loads(answers[-1])
    if done.returncode < 0:
        raise WorkerFailed(f"its process on {host_name()} was ended by {signal.Signals(-done.returncode).name}")
    words = (wrong.strip().splitlines() or [f"status {done.returncode}"])[-1]
    raise WorkerFailed(f"its process on {host_name()} ended: {words[:300]}")


def job_of(candidate: Candidate, budget: float, threads: int, at_work: Path) -> Dict[str, Any]:
    """Everything that a worker elsewhere needs, as JSON values.

    Args:
        candidate: to train.
        budget: of its steps.
        threads: see `train_candidate`.
        at_work: file of the process that hands it out.
    """
    return {
        "candidate": asdict(candidate),
        "budget": budget,
        "threads": threads,
        "folder": str(at_work.parent),
        "at_work": str(at_work),
        "cwd": os.getcwd(),
        "version": ipu_chem.__version__,
    }


class WhileAtWork:
    """An event that is set once the file of the process that has handed the work out is gone or old, or by a signal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        self.asked = False

    def is_set(self) -> bool:
        """True when the worker is to stop."""
        if not self.asked and time.monotonic() >= self._next:
            self.asked = not heartbeats.is_live(self._path)
            self._next = time.monotonic() + _ASKED_EVERY
        return self.asked


def _train(candidate: Candidate, budget: float, threads: int, claim: Claim) -> Progress:
    """Train a candidate that nobody else trains."""
    from ipu_chem.checkpoint import LAST
    from ipu_chem.train import train
    from ipu_chem.training.callbacks import Callback

    values = deepcopy(candidate.config)
    if not values["torch"]["threads"]:
        values["torch"]["threads"] = threads
    before = read_progress(candidate)
    seen = {"step": before.step if before else 0, "total": before.total if before else 0}
    timed: List[Tuple[int, float]] = []  # step and time after the first call of this part, and after the last one

    class Follow(Callback):
        """Notes how far the run is and stops it at the budget, when the search stops, or when the claim is lost."""

        def on_step(self, step: int, total: int, losses: List[float]) -> bool:
            claim.check(always=False)
            seen.update(step=step, total=total)
            timed[1:] = [(step, time.monotonic())]
            return self.is_enough() or is_stopped()

        def on_resume(self, step: int, total: int) -> bool:
            seen.update(step=step, total=total)
            return self.is_enough()  # killed between the checkpoint of the budget and the candidate's own file

        def on_metrics(self, kind: str, step: int, epoch: int, values: Dict[str, float]) -> None:
            claim.check(always=False)  # before the row is written
            if kind == "validation":  # a metric that is not there is refused by the first of them
                value_of(counted_metric(names_of(values), candidate.metric), values)

        def state(self) -> Dict[str, Any]:
            claim.check()  # before a checkpoint is written
            return {}

        def is_enough(self) -> bool:
            return budget < 1 and budget_steps(seen["total"], budget) <= seen["step"] < seen["total"]

    started = time.monotonic()
    lost = lost_time.start(candidate.folder, candidate.folder / PROGRESS)  # seconds of parts that were killed
    status, message = "stopped", ""
    metrics: Dict[str, float] = {}
    path = candidate.folder / "log.txt"
    with disk_full_named(path), open(path, "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            resume = (candidate.folder / LAST).is_file()
            result = train(from_dict(values), resume, [Follow()])
            metrics = result["metrics"]
            if result["finished"]:
                status = "finished"
            elif result["stopped_by"] or seen["step"] < budget_steps(seen["total"], budget):
                raise KeyboardInterrupt
        except FloatingPointError as error:
            status, message = "diverged", str(error)
        except FolderInUse:
            raise
        except ValueError as error:
            raise ValueError(f"candidate {candidate.folder.name}: {error}") from error
    seconds = time.monotonic() - started + lost + (before.seconds if before else 0.0)
    per_step = before.per_step if before else None
    if len(timed) > 1:
        (first, begun), (last, ended) = timed
        per_step = (ended - begun) / (last - first)
    reached = Progress(status, seen["step"], seen["total"], seconds, metrics, message, per_step)
    claim.check()
    write_progress(candidate, reached)
    lost_time.finish(candidate.folder)
    return reached


def _answer(job: Dict[str, Any]) -> Dict[str, Any]:
    stop = WhileAtWork(Path(job["at_work"]))
    start_worker(stop)
    signal_at_end_of_parent(signal.SIGTERM)
    for name in ("SIGUSR1", "SIGUSR2"):  # which Slurm sends before the time of a job is over
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: setattr(stop, "asked", True))
    try:
        return {"progress": asdict(train_candidate(Candidate(**job["candidate"]), job["budget"], job["threads"]))}
    except KeyboardInterrupt:
        return {"stopped": f"stopped on {host_name()}"}
    except NotHere as error:
        return {"waits": str(error)}
    except ValueError as error:
        return {"refused": str(error)}
    except OSError as error:
        return {"full": f"{error} ({host_name()})"}


if __name__ == "__main__":
    print(_ANSWER + json.dumps(_answer(json.loads(sys.stdin.read()))), flush=True)
