"""Plans where they matter: what is trained on for long is packed best, what is only evaluated is packed at once."""

import numpy as np
import pytest

from ipu_chem.config import PackConfig
from ipu_chem.tasks.splits import packing_seconds, plans_of_splits
from packing import Budget

RANDOM = np.random.default_rng(0)
NODES = RANDOM.integers(3, 30, 400)
EDGES = NODES * 4 + RANDOM.integers(0, 40, 400)
ITEMS = {"train": np.arange(300), "validation": np.arange(300, 350), "test": np.arange(350, 400)}


def made(passes, dimensions=2, few=False, **pack):
    """Algorithms by split."""

    def sizes(chosen):
        both = {"nodes": NODES[chosen], "edges": NODES[chosen] * 4 if few else EDGES[chosen]}
        return both if dimensions == 2 else {"nodes": both["nodes"]}

    budget = Budget(nodes=64, edges=256) if dimensions == 2 else Budget(nodes=64)
    plans, found = plans_of_splits(ITEMS, sizes, lambda _: budget, PackConfig(**pack), 0, None, passes)
    assert found == budget and all(plan.validate().num_items == len(ITEMS[split]) for split, plan in plans.items())
    return {split: plan.algorithm for split, plan in plans.items()}


def test_a_fiftieth_of_the_training_and_a_second_at_least():
    assert packing_seconds(1000, 10.0) == 1.0
    assert packing_seconds(2_000_000, 25.0) == pytest.approx(5.0)  # a device takes 250 s or more for these
    assert packing_seconds(2_000_000, 1000.0) == 10.0
    assert packing_seconds(2_000_000, 1000.0 / 100) == pytest.approx(2.0)  # on a hundred replicas


def test_only_what_trains_for_long_is_packed_with_care():
    evaluated = {"validation": "best_fit", "test": "best_fit"}
    assert made(10.0) == {"train": "best_fit", **evaluated}
    assert made(1e5) == {"train": "column_generation", **evaluated}
    assert made(10.0, dimensions=1) == {"train": "column_generation", **evaluated}, "one dimension takes no time"
    assert made(10.0, few=True) == {"train": "column_generation", **evaluated}, "and few sizes take none"


def test_what_is_asked_for_is_done():
    assert made(1.0, time_limit=20.0)["train"] == "column_generation"
    assert set(made(1.0, algorithm="column_generation").values()) == {"column_generation"}
    assert set(made(1e5, algorithm="first_fit").values()) == {"first_fit"}
