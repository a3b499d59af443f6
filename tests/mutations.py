"""Break the code in every way that has a name, one at a time, and see that the tests notice.

    python tests/mutations.py            # all, a few minutes
    python tests/mutations.py stale      # those whose name contains a word
    python tests/mutations.py --list

A mutation changes what code does while the tests run (tests/mistakes); no file is touched. One that survives is a
hole in the tests, one whose code is gone or never runs says nothing any more: both are failures, exit status 1.
"""

import sys
import time
from typing import List

from mistakes import all_mutations
from mistakes.trial import Verdict, fails_anyway, try_mutation

# Where a mutation is looked for that the test named with it does not notice; what catches most comes first.
TESTS = (
    ("tests/backends/test_poptorch_backend.py",),
    ("tests/test_loader.py", "tests/packing/test_packing_collate.py", "tests/ipu", "tests/test_optim.py"),
    ("tests/models/test_compact.py", "tests/models/test_device_edges.py", "tests/models/test_mup.py"),
    ("tests/backends", "tests/training", "--ignore-glob=*test_poptorch_double*"),
)


def main(words: List[str]) -> int:
    """Try the mutations whose names contain one of the words; all without words."""
    names = [word for word in words if word != "--list"]
    chosen = [each for name, each in all_mutations().items() if not names or any(word in name for word in names)]
    if "--list" in words:
        print("\n".join(f"{each.name}: {each.module}, {each.tests}" for each in chosen))
        return int(not chosen)
    started = time.monotonic()
    broken = fails_anyway(sorted({each.tests for each in chosen})) if chosen else ""
    if broken:
        print(f"These tests fail without a mutation, so they can catch none:\n{broken}")
        return 1
    missed = []
    for each in chosen:
        began = time.monotonic()
        verdict = try_mutation(each, ((each.tests,), *TESTS))
        if verdict.kind == "caught" and not verdict.test.startswith(each.tests) and fails_anyway([verdict.test]):
            verdict = Verdict("ERROR", verdict.test, "that test fails without a mutation too")
        told = " ".join(f"{verdict.test}: {verdict.text}".split())[:160]
        print(f"{each.name}: {verdict.kind} ({time.monotonic() - began:.0f} s) {told}", flush=True)
        if verdict.kind != "caught":
            missed.append(each.name)
        elif not verdict.test.startswith(each.tests):
            print(f"    not by {each.tests}, the test named with it", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mutations caught ({time.monotonic() - started:.0f} s)")
    return int(bool(missed) or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
