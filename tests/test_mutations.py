"""Mutations fit the code that they change, and their verdicts are earned; `python tests/mutations.py` tries them."""

import ast
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest
from mistakes import all_mutations, mechanism
from mistakes.mechanism import Mutation
from mistakes.trial import ROOT, fails_anyway, try_mutation
from poptorch_helpers import installed_double

ALL = all_mutations()


@pytest.mark.parametrize("name", ALL)
def test_every_mutation_has_code_to_change(name: str) -> None:
    mutation = ALL[name]
    with installed_double() if mutation.module.startswith("poptorch") else nullcontext():
        assert mechanism.targets(mutation)


@pytest.mark.parametrize("name", ALL)
def test_every_mutation_names_a_test_that_is_there(name: str) -> None:
    file, _, test = ALL[name].tests.partition("::")
    defined = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert not test or test.split("[")[0] in defined


def test_a_test_fails_with_its_mutation_and_passes_without() -> None:
    mutation = ALL["offsets in a dtype that is too small"]
    assert fails_anyway([mutation.tests]) == ""
    verdict = try_mutation(mutation, [[mutation.tests]])
    assert verdict.kind == "caught" and verdict.test.startswith(mutation.tests) and "uint8" in verdict.text


THING = "def double(x):\n    return 2 * x\n\n\ndef untouched(x):\n    if x < 0:\n        raise ValueError('below 0')\n"
IN_PROCESS = "import thing\n\n\ndef test_it():\n    assert thing.double(2) == 4\n"
IN_ANOTHER = """
    import os
    import subprocess
    import sys


    def test_it():
        program = "from thing import double; assert double(2) == 4, 'not doubled'"
        command, path = [sys.executable, "-c", program], os.path.dirname(__file__)
        result = subprocess.run(command, env={"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
        assert result.returncode == 0, result.stderr
"""
BROKEN = "import thing\n\n\ndef test_it():\n    assert thing.double(2) == 4\n    thing.missing\n"
WRONG = "lambda original, x: 3 * x"


SAME = "lambda original, x: original(x)"
BELOW = "lambda original, x: thing.untouched(-1)"
VERDICTS = {
    "an assertion fails": ("double", WRONG, IN_PROCESS, "", "caught", "assert 6 == 4"),
    "in a process that the test starts": ("double", WRONG, IN_ANOTHER, "", "caught", "not doubled"),
    "refused as expected": ("double", BELOW, IN_PROCESS, "below 0", "caught", "ValueError: below 0"),
    "nothing fails": ("double", SAME, IN_PROCESS, "", "SURVIVED", ""),
    "never called": ("untouched", WRONG, IN_PROCESS, "", "ERROR", "its code never ran in the tests"),
    "never called, and yet": ("untouched", WRONG, BROKEN, "", "ERROR", "fails though the mutation's code never ran"),
    "no such code": ("gone", WRONG, IN_PROCESS, "", "ERROR", "has no attribute 'gone'"),
    "a fault of its own": ("double", "lambda original, x: x.gone", IN_PROCESS, "", "ERROR", "mutation itself fails"),
    "wrong arguments": ("double", "lambda original: 0", IN_PROCESS, "", "ERROR", "mutation itself fails: TypeError"),
    "refused unexpectedly": ("double", BELOW, IN_PROCESS, "", "ERROR", "than by an assertion that fails: ValueError"),
    "not refused": ("double", WRONG, IN_PROCESS, "below 0", "ERROR", "an error that says 'below 0': AssertionError"),
    "an error of the test": ("double", SAME, BROKEN, "", "ERROR", "than by an assertion that fails: AttributeError"),
    "tests that cannot be read": ("double", WRONG, "import nothing_like_it\n", "", "ERROR", "the tests did not run"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts(case: str, tmp_path: Path) -> None:
    target, change, test, refused, kind, text = VERDICTS[case]
    mutation = make_module(tmp_path, target, change, test, refused)
    verdict = try_mutation(mutation, [["test_thing.py"]], tmp_path)
    assert verdict.kind == kind and text in verdict.text, verdict


def test_only_the_calls_of_a_package_go_wrong(tmp_path: Path) -> None:
    test = (
        "import caller\nimport thing\n\n\n"
        "def test_it():\n    assert thing.double(2) == 4\n    assert caller.four() == 4, 'called by caller'\n"
    )
    (tmp_path / "caller.py").write_text("from thing import double\n\n\ndef four():\n    return double(2)\n")
    mutation = make_module(tmp_path, "double", WRONG, test, calls_from="caller")
    verdict = try_mutation(mutation, [["test_thing.py"]], tmp_path)
    assert verdict.kind == "caught" and "called by caller" in verdict.text


def make_module(folder: Path, target: str, change: str, test: str, refused: str = "", calls_from: str = "") -> Mutation:
    """thing.py, a mutation of it and a test of it."""
    faults = f"""
        from mistakes.mechanism import mutation


        @mutation("m", "thing", tests="", calls_from={calls_from!r})
        def _(thing, wrong):
            wrong(thing, {target!r})({change})
    """
    for name, content in (("thing", THING), ("faults", faults), ("test_thing", test)):
        (folder / f"{name}.py").write_text(textwrap.dedent(content))
    return Mutation("m", "thing", lambda *_: None, "", refused, calls_from, "faults")
