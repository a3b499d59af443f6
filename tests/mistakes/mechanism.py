"""Mutations, and their way into a process: they change what code does, not how it is written.

    @mutation("gradients are not accumulated", "poptorch", tests="tests/...py::test_...", calls_from="ipu_chem")
    def _(poptorch, wrong):
        @wrong(type(poptorch.Options().Training), "gradientAccumulation")
        def ignored(original, training, micro_batches):
            return training

The outer function gets a module right after it was loaded, before others can import names from it; ``wrong(owner,
name)`` puts the inner function in the place of a function or method, which it gets as its first argument. What is
called by that name may be rewritten, moved inside its callers, or called by others: the mutation stays what it is.

Notes on what happened are added to a file, by all processes of a test run: that the module was changed, that the
wrong code ran, and faults of the mutation itself. Mutations import nothing heavy before they are needed.
"""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

HERE = Path(__file__).resolve().parent
STARTUP = HERE / "startup"
# Which mutation a process makes, as "module that defines it:name", and the file for notes.
CHOSEN, NOTES = "IPU_CHEM_MUTATION", "IPU_CHEM_MUTATION_NOTES"

Wrong = Callable[[Any, str], Callable[[Callable[..., Any]], Callable[..., Any]]]


class Mutation(NamedTuple):
    """One mistake.

    Attributes:
        name: what it is.
        module: where the code is that it changes.
        change: function of (module, wrong), see above.
        tests: arguments of pytest: the test that is thought to catch it.
        refused: text of the error with which the program refuses it; "" when an assertion of a test fails.
        calls_from: package or module whose calls go wrong; "" for everybody's. What is changed at the seam to
            PopTorch goes wrong for the library, not for the tests of the double or for PopTorch itself.
        source: module that defines it.
    """

    name: str
    module: str
    change: Callable[[Any, Wrong], None]
    tests: str
    refused: str
    calls_from: str
    source: str


MUTATIONS: Dict[str, Mutation] = {}


def mutation(name: str, module: str, tests: str, refused: str = "", calls_from: str = "") -> Callable[[Any], Any]:
    """Decorator that registers a mutation; arguments are its attributes."""

    def register(change: Callable[[Any, Wrong], None]) -> Callable[[Any, Wrong], None]:
        assert name not in MUTATIONS, f"two mutations are called {name!r}"
        MUTATIONS[name] = Mutation(name, module, change, tests, refused, calls_from, change.__module__)
        return change

    return register


def targets(chosen: Mutation) -> List[Tuple[Any, str]]:
    """List what a mutation would change, as (owner, name), changing nothing; its module is imported.

    Raises:
        AttributeError, ImportError: there is no such code any more.
    """
    found: List[Tuple[Any, str]] = []

    def look(owner: Any, name: str) -> Callable[[Any], Any]:
        assert callable(getattr(owner, name)), f"{name} is no function"
        found.append((owner, name))
        return lambda change: change

    chosen.change(importlib.import_module(chosen.module), look)
    assert found, f"{chosen.name}: changes nothing"
    return found


def install(chosen: Mutation) -> None:
    """Make a mistake in this process, as soon as the module is loaded, and in the processes that it starts."""
    sys.meta_path.insert(0, _Finder(chosen))  # type: ignore[arg-type]
    _follow_into_processes()


def note(**what: Any) -> None:
    """Add a line to the file of notes."""
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def environment(variables: Any, chosen: Mapping[str, str]) -> Dict[str, str]:
    """Variables of a process, and those with which it makes a mistake: CHOSEN and NOTES with their values."""
    result = {**variables, **chosen}
    paths = [path for path in result.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(STARTUP)]
    result["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *paths])
    return result


class _Finder:
    """Finds the module like everybody, and has it changed at the end of its execution."""

    def __init__(self, chosen: Mutation) -> None:
        self.chosen = chosen

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.chosen.module:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module  # type: ignore[union-attr]

            def execute_and_change(module: Any) -> None:
                execute(module)
                _change(self.chosen, module)

            spec.loader.exec_module = execute_and_change  # type: ignore[union-attr, method-assign]
        return spec


def _change(chosen: Mutation, module: Any) -> None:
    """Changes a module; what goes wrong is the mutation's fault, and must not look like a test that fails."""

    def wrong(owner: Any, name: str) -> Callable[[Any], Any]:
        original = getattr(owner, name)

        def put_in_place(change: Callable[..., Any]) -> Callable[..., Any]:
            setattr(owner, name, _in_place_of(original, change, chosen.calls_from))
            return change

        return put_in_place

    try:
        chosen.change(module, wrong)
        note(changed=chosen.module)
    except Exception as error:
        note(fault=f"{type(error).__name__}: {error}")


def _in_place_of(original: Any, change: Callable[..., Any], calls_from: str) -> Callable[..., Any]:
    ran: List[int] = []

    @functools.wraps(original)
    def mistaken(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if calls_from and not f"{caller}.".startswith(f"{calls_from}."):
            return original(*args, **kwargs)
        if os.getpid() not in ran:  # a process that was forked says so itself
            ran.append(os.getpid())
            note(ran=original.__qualname__)
        try:
            return change(original, *args, **kwargs)
        except Exception as error:
            if _raised_by_mutation(error):
                note(fault=f"{type(error).__name__}: {error}")
            raise

    return mistaken


def _raised_by_mutation(error: BaseException) -> bool:
    """Tell whether a line of a mutation failed, not the code that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    source = sys.modules[os.environ[CHOSEN].split(":", 1)[0]].__file__
    return trace is not None and trace.tb_frame.f_code.co_filename in (__file__, source)


def _follow_into_processes() -> None:
    """Have the mistake made in processes that tests start, too, whatever environment they make for these."""
    start = subprocess.Popen.__init__
    chosen = {name: os.environ[name] for name in (CHOSEN, NOTES)}

    @functools.wraps(start)
    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("env") is not None:
            kwargs["env"] = environment(kwargs["env"], chosen)
        start(self, *args, **kwargs)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign]
