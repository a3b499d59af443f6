"""PackBatchSampler held to the rules of `packing.testing` in random cases: a script of ten minutes.

python tests/packing_conformance.py --count 10000
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from packing import Budget, PackingPlan, make_plan
from packing.adapters.torch import PackBatchSampler
from packing.testing import Limits, Sizes, conform

PLANS: Dict[int, PackingPlan] = {}  # of the last case, which is asked for many times


def ours(sizes: Sizes, limits: Limits, seed: int, rank: int, world: int) -> Any:
    """The sampler of one rank."""
    if seed not in PLANS:
        PLANS.clear()
        PLANS[seed] = make_plan(sizes, Budget(**limits))
    return PackBatchSampler(sizes, None, seed=seed, rank=rank, world=world, plan=PLANS[seed])


def main(arguments: List[str]) -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description="Look for broken rules.")
    parser.add_argument("--count", type=int, default=10_000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    asked = parser.parse_args(arguments)
    taken = conform(ours, asked.count, asked.seed, worlds=(1, 2, 3, 5, 8))
    print(f"{taken:,} of {asked.count:,} cases were taken, no rule was broken")


if __name__ == "__main__":
    main(sys.argv[1:])
