"""Engines that run functions elsewhere: processes of this machine, Slurm by submitit, dask, or any executor of Python.

An engine is named by a word. Whatever it is, it has ``submit(function, *arguments)``, which gives a future with
``done``, ``result`` and ``cancel``, and ``shutdown``.
"""

import importlib
import importlib.util
import multiprocessing
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ipu_chem.parallel import core_count, held_back, main_left_out, start_worker

PROCESSES = "processes"
_SUBMITIT, _DASK = "submitit", "dask"
_PACKAGES = {_SUBMITIT: ("submitit",), _DASK: ("dask", "distributed")}
_DAY = 24 * 60  # minutes
_ANSWERS_WITHIN = 20  # seconds, of a scheduler
_TRIES = 3  # to start a process
_SHOWN = 300  # characters of an error


class Engine(NamedTuple):
    """An engine that is running.

    Attributes:
        pool: has ``submit`` and ``shutdown``.
        here: its workers are processes that this one has started itself and that end with it.
        at_once: functions to submit before the first is done; 0 is any number, the engine queues them.
        threads: of a worker; 0 leaves all cores to it.
        stop: lets workers that are ``here`` stop what they do.
        chunk: small items to hand over together.
    """

    pool: Any
    here: bool
    at_once: int
    threads: int
    stop: Callable[[], None]
    chunk: int = 1


def check_executor(word: str) -> None:
    """Refuse the name of an engine that there is none of, before anything is read.

    Raises:
        ValueError: says what is wrong with it, or what to install.
    """
    kind, rest = _parts(word)
    if kind in _PACKAGES:
        missing = [name for name in _PACKAGES[kind] if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"executor={word} needs {' and '.join(missing)}: pip install 'ipu-chem[cluster]'.")
        if kind == _SUBMITIT:
            _submitit_options(word)
    elif kind == PROCESSES and word != PROCESSES:
        raise ValueError(f"executor={word}: processes takes no options; give executor=processes and jobs={rest or 2}.")
    elif word != PROCESSES:
        _factory(word)


@contextmanager
def opened(word: str, jobs: int, folder: Path) -> Iterator[Engine]:
    """An engine by its name; it ends with the block.

    Args:
        word: ``processes``; ``submitit``, ``submitit:local`` or ``submitit:timeout_min=60,slurm_partition=gpu``;
            ``dask``, a cluster of processes of this machine, or ``dask:tcp://host:8786``; ``module:factory``, where
            the factory takes nothing and returns an executor in the form of `concurrent.futures`.
        jobs: functions at once, for engines of this machine.
        folder: that all workers share; submitit writes its files there.

    Raises:
        ValueError: see `check_executor`; or a scheduler does not answer.
    """
    check_executor(word)
    kind, rest = _parts(word)
    threads = 0 if jobs == 1 else max(1, core_count() // jobs)
    with _sigterm_is_ctrl_c():
        if word == PROCESSES:
            stop = multiprocessing.get_context("spawn").Event()
            engine = Engine(_Processes(jobs, stop), True, jobs, threads, stop.set)
        elif kind == _SUBMITIT:
            pool, is_local = _submitit(word, folder)
            engine = Engine(pool, False, jobs if is_local else 0, threads if is_local else 0, _nothing, 16)
        elif kind == _DASK:
            engine = Engine(_dask(rest, jobs), False, 0, 0 if rest else threads, _nothing)
        else:
            engine = Engine(_executor_of(word), False, 0, 0, _nothing)
        try:
            yield engine
        except BaseException:
            engine.stop()
            raise
        finally:
            engine.pool.shutdown()


class _Processes:
    """Processes of this machine, each in a pool of its own: one that dies takes no other one's work with it."""

    def __init__(self, count: int, stop: Any) -> None:
        self._slots: List[Tuple[Optional[ProcessPoolExecutor], Any]] = [(None, None)] * count
        self._stop = stop

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The future of a function at the top level of a module, on a process that is free."""
        place = next(place for place, (_, last) in enumerate(self._slots) if last is None or last.done())
        pool, _ = self._slots[place]
        # torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with held_back(), main_left_out(function.__module__):
            for _ in range(_TRIES):
                pool = pool or ProcessPoolExecutor(1, context, start_worker, (self._stop,))
                try:
                    future = pool.submit(function, *arguments)
                    break
                except BrokenProcessPool:  # its process died at work, or later, while it had none
                    pool.shutdown(wait=False)
                    pool = None
            else:
                raise ValueError("processes end as soon as they start: is there too little memory?")
        self._slots[place] = (pool, future)
        return future

    def shutdown(self) -> None:
        """End the processes; what is in work is finished, or stopped where it was asked to."""
        for pool, _ in self._slots:
            if pool is not None:
                pool.shutdown()


class _Submitit:
    """Jobs of submitit, which has no ``shutdown``."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments)

    def shutdown(self) -> None:
        """Nothing: jobs end by themselves."""


class _Dask:
    """A client of dask, and the cluster that it has started."""

    def __init__(self, client: Any, cluster: Any) -> None:
        self._client, self._cluster = client, cluster

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        # pure: the same arguments again are another try
        return self._client.submit(function, *arguments, pure=False)

    def shutdown(self) -> None:
        """Leave the scheduler; a cluster of this process ends."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _parts(word: str) -> Tuple[str, str]:
    kind, _, rest = word.partition(":")
    return kind, rest


def _nothing() -> None:
    """Stop workers elsewhere by nothing: they see in their folder that they are to stop."""


def _submitit_options(word: str) -> Tuple[Optional[str], Dict[str, Any]]:
    """Cluster (None: what there is) and parameters of ``submitit:local,timeout_min=60``."""
    import yaml

    cluster: Optional[str] = None
    values: Dict[str, Any] = {}
    for part in filter(None, _parts(word)[1].split(",")):
        name, equals, value = part.partition("=")
        if equals and name:
            try:
                values[name.strip()] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ValueError(f"executor={word}: {value!r} is no value of {name}; commas end one.") from None
        elif part in ("local", "slurm") and cluster is None:
            cluster = part
        else:
            raise ValueError(
                f"executor={word}: {part!r} is neither local, slurm nor NAME=VALUE of submitit, as in "
                "submitit:slurm,timeout_min=60,slurm_partition=NAME."
            )
    return cluster, values


def _submitit(word: str, folder: Path) -> Tuple[_Submitit, bool]:
    import submitit

    cluster, values = _submitit_options(word)
    values = {"timeout_min": _DAY, **values}  # else five minutes
    try:
        executor = submitit.AutoExecutor(folder=str(folder / ".submitit"), cluster=cluster)
        executor.update_parameters(**values)
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"executor={word}: submitit refuses it ({text}).") from None
    return _Submitit(executor), executor.cluster == "local"


def _dask(address: str, jobs: int) -> _Dask:
    import distributed

    if not address:
        with main_left_out(__name__):
            cluster = distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None
            )
        return _Dask(distributed.Client(cluster), cluster)
    try:
        return _Dask(distributed.Client(address, timeout=_ANSWERS_WITHIN), None)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ValueError(
            f"executor=dask:{address}: no scheduler of dask answers there ({type(error).__name__}); start one with "
            "`dask scheduler`, or give its address, such as dask:tcp://host:8786."
        ) from None


def _factory(word: str) -> Callable[[], Any]:
    """The factory that a word of the form ``module:factory`` names."""
    module, name = _parts(word)
    if not module or not name:
        raise ValueError(
            f"executor={word!r}: choose processes, submitit, dask, dask:ADDRESS or module:factory, which returns an "
            "executor."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"executor={word}: {error}; give a module that Python finds, by PYTHONPATH.") from None
    except AttributeError as error:
        text = f"{module} has no {name}" if module in sys.modules else f"{module} cannot be imported ({error})"
        raise ValueError(f"executor={word}: {text}.") from None
    except Exception as error:  # of that module
        raise ValueError(f"executor={word}: {module} cannot be imported ({_words(error)}).") from None
    if not callable(found):
        raise ValueError(f"executor={word}: {name} cannot be called; give a function that returns an executor.")
    return found


def _words(error: Exception) -> str:
    """An exception of code that is not ours, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"


def _executor_of(word: str) -> Any:
    factory = _factory(word)
    try:
        made = factory()
    except Exception as error:  # of that function
        raise ValueError(
            f"executor={word}: it gives no executor ({_words(error)}); it is called without arguments."
        ) from None
    missing = [name for name in ("submit", "shutdown") if not callable(getattr(made, name, None))]
    if missing:
        raise ValueError(
            f"executor={word}: what it returns has no {' and no '.join(missing)}; give an executor in the form of "
            "concurrent.futures."
        )
    return made


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """Stop by SIGTERM, which schedulers send, as by Ctrl-C."""
    before: Any = signal.getsignal(signal.SIGTERM)
    # One that somebody else handles or ignores stays theirs.
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)


def cancel_all(futures: List[Any]) -> None:
    """Cancel what has not begun, as far as an engine can.

    Args:
        futures: of an engine's ``submit``.
    """
    for future in futures:
        with suppress(Exception):
            if getattr(future, "state", "") != "RUNNING":  # of submitit, which would end a job before it has written
                future.cancel()
