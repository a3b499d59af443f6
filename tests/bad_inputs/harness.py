"""Runs command lines and Python expressions in this process, and keeps what each answers."""

import contextlib
import io
import os
import re
import shlex
import signal
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple, Union

# What a command loads is no part of the seconds of the first case that needs it.
import ipu_chem.embedding
import ipu_chem.generation.sampling
import ipu_chem.models.chemgpt
import ipu_chem.models.painn
import ipu_chem.models.spookynet
import ipu_chem.scaling.study_report
import ipu_chem.simulation.md
import ipu_chem.tasks.language
import ipu_chem.tasks.text_labels
import ipu_chem.train  # noqa: F401
from ipu_chem.cli import main

ANSWERS = Path(__file__).with_name("answers.txt")
SECONDS = 5.0  # of the processor, after which a case counts as hanging
WALL = 24  # times as many by the clock, for a machine that does other things and for processes that are waited for
PYTHON = ">>> "  # before an expression; other lines are command lines
HANGS, FAILS, ACCEPTED = "HANGS", "TRACEBACK", "ACCEPTED"


class Table(NamedTuple):
    """Cases of one concept.

    Attributes:
        bad: lines that must be refused.
        good: lines that must pass, to prove that not everything is refused.
        files: name -> content, written where the lines run.
        names: what expressions may use.
        runs: folders of runs that are there, "run" of a graph model and "text" of a language model.
    """

    bad: str
    good: str = ""
    files: Mapping[str, Union[str, bytes]] = {}
    names: Mapping[str, Any] = {}
    runs: Tuple[str, ...] = ()


class Hangs(BaseException):
    """A case takes too long; no handler of errors may stop it."""


def lines(text: str) -> List[str]:
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("# ")]


def write_files(folder: Path, files: Mapping[str, Union[str, bytes]]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hangs

    kinds = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, WALL * seconds))
    before = [signal.signal(kind, stop) for kind, _, _ in kinds]
    for _, timer, limit in kinds:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (kind, timer, _), handler in zip(kinds, before):
            signal.setitimer(timer, 0)
            signal.signal(kind, handler)


def answer(line: str, names: Mapping[str, Any]) -> Tuple[int, str]:
    """Status and first sentence of a line: 0 done, 1 or 2 refused, -1 not as it should be."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    failed = ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with limited(SECONDS):
                if line.startswith(PYTHON):
                    eval(line[len(PYTHON) :], dict(names))
                else:
                    status = main(shlex.split(line))
        except SystemExit as stop:
            status = stop.code
        except (ValueError, OSError) as error:
            status, failed = 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
        except Hangs:
            status, failed = -1, HANGS
        except Exception as error:
            status, failed = -1, f"{FAILS} {type(error).__name__}: {error}"
    said = [text for text in err.getvalue().splitlines() if text.startswith(("ipu-chem: ", "error: "))]
    said = [text.partition(": ")[2] for text in said] or [failed or "\n".join(out.getvalue().splitlines()[-1:])]
    if "Nobody foresaw" in said[0]:
        status = -1
    return int(status or 0), stable(failed or said[0])


def stable(text: str) -> str:
    """A sentence without what differs from machine to machine."""
    text = re.sub(r" \(Error while deserializing[^)]*\)", "", text)  # in the words of that version of safetensors
    text = re.sub(r"[0-9,]+ bytes at the least, and this machine has [0-9,]+", "... bytes ...", text)
    return re.sub(r"(/tmp|/var|/private)\S*?/(?=bad_inputs)", "", text).replace(os.getcwd() + "/", "")


def read_answers() -> Dict[str, str]:
    """Line -> answer, as answers.txt has them."""
    found: Dict[str, str] = {}
    line = ""
    for text in ANSWERS.read_text(encoding="utf-8").splitlines() if ANSWERS.is_file() else ():
        if text.startswith("    "):
            found[line] = text.strip()
        else:
            line = text
    return found


def write_answers(found: Mapping[str, Mapping[str, str]]) -> None:
    """Write answers.txt: tables, and in each a line and what it is answered."""
    text = [
        "Answers to bad inputs: the line as it is typed, and below it the first line of what it says.",
        "Written by: IPU_CHEM_WRITE_ANSWERS=1 python -m pytest tests/bad_inputs",
    ]
    for table, answers in found.items():
        text += ["", f"# {table}", ""]
        for line, said in answers.items():
            text += [line, f"    {said}"]
    ANSWERS.write_text("\n".join(text) + "\n", encoding="utf-8")
