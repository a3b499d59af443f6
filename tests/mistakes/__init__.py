"""Mistakes that the tests must notice, and how they are made; `python tests/mutations.py` tries them.

mechanism.py    what a mutation is; changes code while it is loaded
startup/        on PYTHONPATH, makes the mistake in every process of a test run
report.py       plugin of pytest: which test failed, and how
trial.py        runs the tests with a mistake, and judges
the others      the mistakes
"""

import importlib
from typing import Dict

from mistakes.mechanism import MUTATIONS, Mutation

_MISTAKES = ("packs", "molecules", "calls", "layouts", "optimizers", "programs", "predictions")


def all_mutations() -> Dict[str, Mutation]:
    """Every mutation, by name."""
    for name in _MISTAKES:
        importlib.import_module(f"mistakes.{name}")
    return dict(MUTATIONS)
