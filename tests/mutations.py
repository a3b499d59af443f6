"""Break the code in every way that has a name, one at a time, and see that the tests notice.

    python tests/mutations.py            # all, a few minutes
    python tests/mutations.py stale      # those whose name contains a word
    python tests/mutations.py --list

A mutation changes what code does while the tests run (tests/mistakes); no file is touched. One that survives is a
hole in the tests, one whose code is gone or never runs says nothing any more: both are failures, exit status 1.
"""

import argparse
import sys
import time
from typing import List

from mistakes import all_mutations
from mistakes.mechanism import Mutation
from mistakes.trial import Verdict, fails_anyway, try_mutation

# Where a mutation is looked for that the test named with it does not notice; what catches most comes first.
TESTS = (
    ("tests/backends/poptorch/test_backend.py",),
    (
        "tests/batches/test_loader.py",
        "tests/packing/test_packing_collate.py",
        "tests/backends/poptorch/operators",
        "tests/test_optim.py",
    ),
    ("tests/models/test_compact.py", "tests/models/test_device_edges.py", "tests/models/test_mup.py"),
    ("tests/backends", "tests/training", "--ignore=tests/backends/poptorch/double"),
)


def main(arguments: List[str]) -> int:
    """Try the mutations that were asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Break the code on purpose, and see that the tests notice.")
    parser.add_argument("word", nargs="*", help="only mutations whose names contain one of these")
    parser.add_argument(
        "--list", action="store_true", help="print the names, what is changed, and by which test caught"
    )
    asked = parser.parse_args(arguments)
    chosen = [
        mutation
        for name, mutation in all_mutations().items()
        if not asked.word or any(word in name for word in asked.word)
    ]
    if asked.list:
        print("\n".join(f"{mutation.name}: {mutation.module}, {mutation.tests}" for mutation in chosen))
        return int(not chosen)
    started = time.monotonic()
    broken = fails_anyway(sorted({mutation.tests for mutation in chosen})) if chosen else ""
    if broken:
        print(f"These tests fail without a mutation, so they can catch none:\n{broken}")
        return 1
    caught = sum([try_and_tell(mutation) for mutation in chosen])
    print(f"{caught} of {len(chosen)} mutations caught ({time.monotonic() - started:.0f} s)")
    return int(caught < len(chosen) or not chosen)


def try_and_tell(mutation: Mutation) -> bool:
    """Try a mutation and print by what it is caught; returns whether it is."""
    started = time.monotonic()
    verdict = try_mutation(mutation, ((mutation.tests,), *TESTS))
    named = verdict.test.startswith(mutation.tests)
    if verdict.kind == "caught" and not named and fails_anyway([verdict.test]):
        verdict = Verdict("ERROR", verdict.test, "that test fails without a mutation, too")
    told = " ".join(f"{verdict.test} {verdict.text}".split())[:200]
    print(f"{mutation.name}: {verdict.kind} ({time.monotonic() - started:.0f} s) {told}", flush=True)
    if verdict.kind == "caught" and not named:
        print(f"    not by the test that is named with it, {mutation.tests}", flush=True)
    return verdict.kind == "caught"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
