"""Random budgets and sizes over all packing algorithms, checked by a packer's enemy that shares no code with them.

    python tests/packing_campaign.py                # 10,000 budgets, then 100,000 sizes that are all different
    python tests/packing_campaign.py --count 200 --seed 7

Budgets have one to five measured dimensions and perhaps limits on the number of items; capacities and sizes reach
2**31 - 1, in every magnitude. Exit status 1 if a plan is invalid, a time limit is passed by more than is said below,
or a process takes a gigabyte.
"""

import argparse
import resource
import sys
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from packing import ALGORITHMS, Budget, make_plan
from packing.streaming import StreamPacker

LARGEST = 2**31 - 1
TIME_LIMIT = 1.0
LATE = 2.0  # seconds that plans of a few items may take beyond their limit, on a busy machine
MEBIBYTES = 1024
Sizes = Dict[str, np.ndarray]


def main(arguments: List[str]) -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description="Look for invalid plans.")
    parser.add_argument("--count", type=int, default=10_000, help="budgets")
    parser.add_argument("--seed", type=int, default=0, help="of the first budget")
    parser.add_argument("--items", type=int, default=100_000, help="different sizes of the large plans")
    asked = parser.parse_args(arguments)
    make_plan(np.arange(1, 20), Budget(nodes=30))  # import scipy outside the seconds
    wrong = small_plans(asked.count, asked.seed)
    for dimensions, algorithm in [(1, name) for name in ALGORITHMS] + [(5, "auto"), (5, "first_fit")]:
        wrong += large_plan(asked.items, dimensions, algorithm)
    return int(wrong > 0)


def small_plans(count: int, seed: int) -> int:
    """Plans of up to a few hundred items; returns the number of wrong ones."""
    wrong, slowest, made = 0, 0.0, Counter()
    for index in range(seed, seed + count):
        random = np.random.default_rng([2, index])
        sizes, budget = instance(random)
        for algorithm in (*ALGORITHMS, "stream"):
            if algorithm == "lpfhp" and len(budget.measured) > 1:
                continue
            started = time.monotonic()
            problem = problem_of(packs_of(sizes, budget, algorithm, index), sizes, budget)
            seconds = time.monotonic() - started
            made[algorithm] += 1
            slowest = max(slowest, seconds)
            if problem or (algorithm != "stream" and seconds > TIME_LIMIT + LATE):
                wrong += 1
                print(f"budget {index}, {algorithm}: {problem or f'{seconds:.1f} s'} ({budget})", flush=True)
        if (index + 1 - seed) % 1000 == 0:
            print(f"{index + 1 - seed:,} budgets: {wrong} wrong, slowest {slowest:.2f} s", flush=True)
    per_algorithm = ", ".join(f"{name} {number:,}" for name, number in made.items())
    print(f"{count:,} budgets, {sum(made.values()):,} plans ({per_algorithm}): {wrong} wrong, slowest {slowest:.2f} s")
    return wrong


def instance(random: np.random.Generator) -> Tuple[Sizes, Budget]:
    """A budget and sizes that fit it: of few values or of many, small or large in proportion."""
    names = [f"d{index}" for index in range(int(random.integers(1, 6)))]
    capacities = {name: max(int(LARGEST >> int(random.integers(0, 31))), 1) for name in names}
    if random.integers(8) == 0:
        capacities[names[0]] = LARGEST
    count = int(random.choice([0, 1, 2, 7, 40, 300], p=[0.02, 0.04, 0.04, 0.3, 0.5, 0.1]))
    sizes = {}
    for place, (name, capacity) in enumerate(capacities.items()):
        highest = max(capacity >> int(random.integers(0, 8)), 1)
        values = random.integers(int(place == 0), highest + 1, count)
        if random.integers(2):
            values = random.choice(random.integers(int(place == 0), highest + 1, int(random.integers(1, 9))), count)
        if random.integers(4) == 0:
            values = np.maximum(values >> random.integers(0, 31, count), int(place == 0))
        sizes[name] = values.astype(random.choice([np.int64, np.int32, np.uint32]))
    for name in ("graphs", "segments"):
        if random.integers(3) == 0:
            capacities[name] = int(LARGEST >> int(random.integers(0, 31))) or 1
    return sizes, Budget(**capacities)


def packs_of(sizes: Sizes, budget: Budget, algorithm: str, seed: int) -> List[List[int]]:
    """Packs as lists of items."""
    if algorithm != "stream":
        plan = make_plan(sizes, budget, algorithm, seed, time_limit=TIME_LIMIT)
        assert plan.lower_bound <= plan.num_packs
        return [pack.tolist() for pack in plan.epoch(seed, 0, 3) if len(pack)]
    packer = StreamPacker(budget, buffer_size=64, seed=seed)
    count = len(next(iter(sizes.values())))
    pushed = [packer.push(np.arange(count), sizes), packer.flush()]
    return [pack.tolist() for epoch in pushed for pack in epoch]


def problem_of(packs: Sequence[Sequence[int]], sizes: Sizes, budget: Budget) -> str:
    """In words, what is wrong with packs, by plain loops over Python's integers; "" for nothing."""
    columns = {name: sizes[name].tolist() for name in budget.measured}
    count, seen = len(next(iter(columns.values()))), set()
    for number, pack in enumerate(packs):
        for item in pack:
            if item in seen or not 0 <= item < count:
                return f"item {item} is packed twice, or is none"
            seen.add(item)
        for name, capacity in budget.as_dict().items():
            used = sum(columns[name][item] for item in pack) if name in columns else len(pack)
            if used > capacity:
                return f"pack {number} holds {used} {name} of {capacity}"
    return "" if len(seen) == count else f"{count - len(seen)} items are in no pack"


def large_plan(items: int, dimensions: int, algorithm: str) -> int:
    """One plan of different sizes up to a million, in a process of its own; returns 1 if it is wrong."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_large_plan, args=(items, dimensions, algorithm, sender))
    child.start()
    sender.close()
    try:
        text, wrong = receiver.recv()
    except EOFError:
        text, wrong = "the process died", True
    child.join()
    print(f"{items:,} different sizes, {dimensions} dimensions, {algorithm}: {text}", flush=True)
    return int(wrong)


def _large_plan(items: int, dimensions: int, algorithm: str, sender: "object") -> None:
    random = np.random.default_rng(dimensions)
    sizes = {f"d{place}": random.permutation(10**6)[:items] + 1 for place in range(dimensions)}
    budget = Budget(**{name: 2_500_000 for name in sizes})
    make_plan(np.arange(1, 20), Budget(nodes=30))  # import scipy outside the seconds
    started = time.monotonic()
    plan = make_plan(sizes, budget, algorithm)
    seconds = time.monotonic() - started
    problem = problem_of([pack.tolist() for pack in plan.in_order()], sizes, budget)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = f"{plan.num_packs:,} packs, at least {plan.lower_bound:,}; {seconds:.1f} s of 10, {memory:.0f} MiB {problem}"
    sender.send((text, bool(problem) or seconds > 10.0 or memory > MEBIBYTES))  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
