"""Balanced epochs: how unevenly ranks share work that grows with the square of molecules' sizes, and what order costs.

    python benchmarks/epoch_balance.py [--quick] [--shared PATH] [--no-goals]

Imbalance is largest over mean of the sums of n**2 of ranks: over steps, sum of the largest by sum of the means, that is
what waiting for the slowest rank costs a synchronous training; and over the epoch. Every rank has a pack in a step.
The last table tells what there is to gain in trainings of this library on CPUs, from CPU seconds of real steps.
"""

import os
import sys
from itertools import count
from pathlib import Path
from typing import List, Tuple

if __package__ in (None, ""):  # run as a file: its folder would hide the package of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks import histograms
from benchmarks.common import Goals, arguments, interleaved, machine_line, median_ratio, print_table
from packing import Budget, Cost, Epoch, PackingPlan, make_plan

COST = Cost(quadratic=1.0)
RANKS = (16, 64, 1024)
SETS = [("QM9", "QM9", Budget(nodes=128)), ("HydroNet 4.46M", "HYDRONET", Budget(nodes=192))]
MOST = 1.02
WORTH = 1.05  # from where on the training loader should balance


def imbalance(plan: PackingPlan, epoch: Epoch, ranks: int) -> Tuple[float, float]:
    """(over steps, over the epoch)."""
    sums = np.append(0.0, np.cumsum(COST.of_items(plan)[epoch.items]))[epoch.offsets]
    steps = np.diff(sums).reshape(-1, ranks)
    return steps.max(1).sum() / steps.mean(1).sum(), steps.sum(0).max() / steps.sum(0).mean()


def ranks_and_steps(quick: bool, goals: Goals) -> None:
    """Imbalance of an epoch in chance order, balanced, and balanced of packs that are alike."""
    rows: List[List[str]] = []
    for name, histogram, budget in SETS:
        sizes = histograms.sizes_of(getattr(histograms, histogram))[:: 10 if quick else 1]
        plain = make_plan(sizes, budget, time_limit=300.0)
        alike = make_plan(sizes, budget, time_limit=300.0, spread_cost=COST)
        assert alike.num_packs == plain.num_packs
        for ranks in RANKS:
            cells = [
                imbalance(plan, plan.epoch(0, 1, ranks, balance), ranks)
                for plan, balance in ((plain, None), (plain, COST), (alike, None), (alike, COST))
            ]
            rows.append(
                [name, f"{plain.num_packs:,}", str(ranks), *(f"{step:.4f} / {all_:.4f}" for step, all_ in cells)]
            )
            if not quick:  # of few steps, each takes in packs of many costs: packs themselves must be alike
                few = plain.num_packs < 64 * ranks
                goals.at_most(f"{name}, {ranks} ranks, imbalance of steps", cells[3 if few else 1][0], MOST)
                goals.at_most(f"{name}, {ranks} ranks, imbalance of the epoch", cells[1][1], MOST)
    header = ["set", "packs", "ranks", "chance: steps / epoch", "balanced", "spread_cost", "spread_cost, balanced"]
    print_table("1. Imbalance of n**2, one pack of each rank in a step", header, rows)


def order_of_millions(quick: bool, goals: Goals) -> None:
    """CPU seconds of the order of an epoch of 4,464,740 graphs, in turns."""
    sizes = histograms.sizes_of(histograms.HYDRONET)[:: 100 if quick else 1]
    given = COST.of_items(sizes)
    # A plan each: it remembers the order by cost of the epoch before.
    plans = [make_plan(sizes, Budget(nodes=154, graphs=5), time_limit=300.0) for _ in range(3)]
    numbers = count()
    contestants = {
        "chance": lambda: len(plans[0].epoch(0, next(numbers), 64)),
        "balance=Cost(quadratic=1)": lambda: len(plans[1].epoch(0, next(numbers), 64, COST)),
        "balance=[I] costs": lambda: len(plans[2].epoch(0, next(numbers), 64, given)),
    }
    timings = interleaved(contestants, 3 if quick else 9)
    chance = timings["chance"]
    rows = [
        [name, f"{timing.result:,}", f"{timing.median:.3f}", f"{median_ratio(timing, chance):.2f}x"]
        for name, timing in timings.items()
    ]
    print_table(f"2. Order of an epoch of {len(sizes):,} graphs", ["order", "packs", "CPU s", "/ chance"], rows)
    ratio = median_ratio(timings["balance=Cost(quadratic=1)"], chance)
    goals.at_most("balanced order of 4.46M graphs: ratio to chance", ratio, 1.3)


def cost_of_packs(shared: Path, quick: bool, goals: Goals) -> None:
    """Steps of real models on packs of least and most work, and what ranks would wait for each other."""
    from benchmarks import pack_cost

    measured, origin = pack_cost.settings(shared, quick)
    rows = []
    for setting in measured:
        cells, wait = pack_cost.row_of(setting, quick)
        rows.append(cells)
        goals.at_most(f"{setting.name}: 16 ranks wait", wait, WORTH)
    print_table(f"3. Cost of packs of equal shape, / that of packs of most work; {origin}", pack_cost.header(), rows)


def main() -> int:
    """Print the tables; 1 when a goal is missed."""
    options = arguments(__doc__)
    goals = Goals()
    print(machine_line("float64, models float32", "numpy", "scipy", "torch"))
    ranks_and_steps(options.quick, goals)
    order_of_millions(options.quick, goals)
    cost_of_packs(options.shared, options.quick, goals)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
