"""What all tests share: the repository on the path, and the folder of real data when it is there."""

import os
import sys
from collections import Counter
from pathlib import Path

# Small tensors gain nothing from threads, and threads of several processes that wait for each other lose a lot; also
# for the processes that tests start. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hugging Face's tokenizers warn on stderr about every process that is forked after they have run in threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings
from run_folders import make_run, text_run  # noqa: F401 (fixtures of all tests)
from run_options import cache, make_config, options, text_options  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("IPU_CHEM_SHARED") or ROOT.parent / "shared")
sys.path.append(str(ROOT))  # benchmarks are not installed with the packages, but tests use and check them

settings.register_profile("repository", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("repository")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and real data; without it the tests that ask for it are skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data: {SHARED} is not there, set IPU_CHEM_SHARED to its path")
    return SHARED


# On the SDK (`make test-sdk`, see tests/poptorch_helpers.py) PopTorch itself is tested, not its double.
ON_SDK = os.environ.get("IPU_CHEM_TEST_SDK", "0") == "1"
NOT_ON_SDK = "not on the SDK"


def pytest_collection_modifyitems(items) -> None:
    for item in items if ON_SDK else []:
        of_double = item.path.parent.name == "double"
        reasons = ["tests the double"] if of_double else [mark.args[0] for mark in item.iter_markers("not_on_sdk")]
        for reason in reasons:
            item.add_marker(pytest.mark.skip(reason=f"{NOT_ON_SDK}: {reason}"))


# What tests meet there, and why it is no failure.
MET_ON_SDK = {
    "IPU Model runs one replica": "its IPU Model runs one replica",
    "module 'poptorch' has no attribute 'Machine'": "looks inside the double",
}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    outcome = yield
    if ON_SDK and outcome.excinfo is not None:
        for words, reason in MET_ON_SDK.items():
            if words in str(outcome.excinfo[1]):
                outcome.force_exception(pytest.skip.Exception(f"{NOT_ON_SDK}: {reason}"))


def pytest_terminal_summary(terminalreporter) -> None:
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(text.split(f"{NOT_ON_SDK}: ")[1].rstrip("')") for text in skipped if NOT_ON_SDK in text)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests were NOT run on the SDK: {reason}.", yellow=True)
    missed = [reason for reason in skipped if "no shared data" in reason]
    if missed:
        terminalreporter.write_line(f"{len(missed)} tests were NOT run: no shared data at {SHARED}.", yellow=True)
    if any("Optuna is not installed" in reason for reason in skipped):
        terminalreporter.write_line("Searches with Optuna were NOT tested: it is not installed.", yellow=True)
    missing = Counter(text.split("Skipped: ")[-1].rstrip("')") for text in skipped if " was NOT " in text)
    for reason, count in sorted(missing.items()):
        terminalreporter.write_line(f"{count} tests or files: {reason}.", yellow=True)
