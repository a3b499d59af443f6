"""One mutation put to the tests: caught, survived, or not to be judged because of the mutation itself."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

from mistakes.mechanism import CHOSEN, NOTES, STARTUP, Mutation, environment

ROOT = STARTUP.parents[2]
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
# Errors of an assertion, pytest's own for an error that was expected and did not come among them.
_ASSERTIONS = ("AssertionError", "Failed")


class Verdict(NamedTuple):
    """Outcome of a trial.

    Attributes:
        kind: caught, SURVIVED or ERROR.
        test: that failed.
        text: of its error; or what is wrong with the mutation.
    """

    kind: str
    test: str
    text: str


def try_mutation(mutation: Mutation, groups: Sequence[Sequence[str]], root: Path = ROOT) -> Verdict:
    """Run groups of tests, one after the other, until one fails.

    Args:
        mutation: to be made.
        groups: arguments of pytest.
        root: folder to run in, which tests import from.
    """
    ran = False
    for tests in groups:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "notes"
            chosen = {CHOSEN: f"{mutation.source}:{mutation.name}", NOTES: str(file)}
            result = _run([*PYTEST, "-p", "mistakes.report", *tests], root, chosen)
            notes = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        said = _merged(notes)
        if "fault" in said:
            return Verdict("ERROR", "", f"the mutation itself fails: {said['fault']}")
        if result.returncode == 1 and "test" in said:
            return _judge(mutation, said)
        if result.returncode:
            return Verdict("ERROR", "", f"the tests did not run:\n{result.stdout[-2000:]}")
        ran = ran or "ran" in said
    if not ran:
        return Verdict("ERROR", "", "its code never ran in the tests")
    return Verdict("SURVIVED", "", "")


def fails_anyway(tests: Sequence[str], root: Path = ROOT) -> str:
    """Run tests without a mutation; returns what pytest says where they fail, "" when they pass."""
    result = _run([*PYTEST, *tests], root, {})
    return result.stdout if result.returncode else ""


def _run(command: List[str], root: Path, chosen: Dict[str, str]) -> Any:
    variables = {**os.environ, "PYTHONPATH": str(root)}  # not an installed checkout
    variables = environment(variables, chosen) if chosen else variables
    return subprocess.run(
        command, cwd=str(root), env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _merged(notes: List[Dict[str, Any]]) -> Dict[str, Any]:
    """The first word of every kind."""
    merged: Dict[str, Any] = {}
    for each in reversed(notes):
        merged.update(each)
    return merged


def _judge(mutation: Mutation, said: Dict[str, Any]) -> Verdict:
    text = said["text"]
    if "ran" not in said:
        return Verdict("ERROR", said["test"], f"a test fails though the mutation's code never ran: {text}")
    expected = mutation.refused in text if mutation.refused else said["error"] in _ASSERTIONS
    if said["phase"] != "call" or not expected:
        wanted = f"an error that says {mutation.refused!r}" if mutation.refused else "an assertion that fails"
        return Verdict("ERROR", said["test"], f"{said['phase']} fails otherwise than by {wanted}: {text}")
    return Verdict("caught", said["test"], text)
