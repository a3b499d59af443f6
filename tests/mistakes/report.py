"""Plugin of pytest in runs with a mutation: which test failed, in which phase, with what error."""

import sys
from typing import Any

import pytest

from mistakes.mechanism import note


@pytest.hookimpl(trylast=True)
def pytest_configure(config: Any) -> None:
    """Examples that fail for a mutation's sake are not kept for later runs."""
    hypothesis = sys.modules.get("hypothesis")  # there where tests/conftest.py uses it
    if hypothesis is not None:
        hypothesis.settings.register_profile("mutation", parent=hypothesis.settings.default, database=None)
        hypothesis.settings.load_profile("mutation")


def pytest_exception_interact(node: Any, call: Any, report: Any) -> None:
    error = call.excinfo.value
    while hasattr(error, "exceptions"):  # hypothesis found several, all of one mistake
        error = error.exceptions[0]
    note(test=node.nodeid, phase=call.when, error=type(error).__name__, text=f"{type(error).__name__}: {error}")
