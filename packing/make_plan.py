"""Choosing an algorithm and making a plan: the one function most users call."""

import time
from typing import Callable, Mapping, Tuple, Union

import numpy as np

from packing import column_generation, rounding
from packing.best_fit import fit_decreasing
from packing.classes import PackTypes, SizeClasses, deal, size_classes
from packing.histogram import longest_pack_first
from packing.plan import PackingPlan, size_table
from packing.types import COUNT_DIMENSIONS, Budget

ALGORITHMS = ("auto", "column_generation", "best_fit", "first_fit", "lpfhp")
# Above this many size classes the linear program gets slow, and above this many best fit does; sizes in
# the further dimensions are rounded up.
MAX_CLASSES = 400
MAX_GREEDY_CLASSES = 10_000
_ESTIMATE_ROUNDS = 200


def make_plan(
    sizes: Union[np.ndarray, Mapping[str, np.ndarray]],
    budget: Budget,
    algorithm: str = "auto",
    seed: int = 0,
    oversize: str = "error",
    time_limit: float = 10.0,
) -> PackingPlan:
    """Pack items into as few fixed-size packs as possible.

    Args:
        sizes: [I] integer when the budget measures one dimension, else {name: [I]}.
        budget: capacities of a pack, e.g. ``Budget(nodes=128, edges=2304, graphs=8)``.
        algorithm: "auto" takes column generation where scipy is installed and the table is affordable,
            else best fit; or one of "column_generation", "best_fit", "first_fit", "lpfhp" (the last for
            one measured dimension).
        seed: decides which items of equal size share a pack in the plan itself.
        oversize: "error", or "skip" to leave out items larger than the budget (listed in the plan).
        time_limit: seconds for column generation; the best packs and bound so far are used after it.

    Raises:
        ValueError: an item is larger than the budget, sizes are malformed, or the algorithm is unknown.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown packing algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}.")
    table = size_table(sizes, budget)
    kept, skipped = _within(table, budget, oversize)
    deadline = time.monotonic() + time_limit
    exact = size_classes(table[kept], budget)
    used = _rounded(table[kept], budget, exact, lambda classes: len(classes.counts) <= MAX_GREEDY_CLASSES)
    if algorithm == "auto":
        algorithm = "column_generation" if column_generation.available() else "best_fit"
    if algorithm == "column_generation" and not column_generation.available():
        raise ValueError("algorithm='column_generation' needs scipy >= 1.9: pip install scipy.")
    if algorithm == "column_generation":
        coarse = _rounded(table[kept], budget, exact, lambda classes: _affordable(classes, budget))
        types, used, bound = _generate(coarse, used, exact, budget, deadline)
    else:
        types, bound = _greedy(used, budget, algorithm), continuous_bound(exact, budget)
    items, offsets = deal(types, used.of_item, np.random.Generator(np.random.PCG64(seed)))
    classes = used.of_item
    if len(skipped):
        items = kept[items]
        classes = np.zeros(len(table), used.of_item.dtype)
        classes[kept] = used.of_item
    return PackingPlan(
        budget=budget,
        sizes=table,
        items=items,
        offsets=offsets,
        classes=classes,
        algorithm=algorithm,
        lower_bound=min(bound, types.num_packs),
        skipped=skipped,
    )


def estimate_packs(sizes: Union[np.ndarray, Mapping[str, np.ndarray]], budget: Budget, enough: float = 0.0) -> float:
    """About how many packs `make_plan` will need, without making them; the same on every machine.

    Args:
        sizes, budget: as for `make_plan`.
        enough: a value at or below this need not be improved further.

    Returns:
        the value of the linear program after a bounded number of rounds, or best fit's packs without scipy.
    """
    table = size_table(sizes, budget)
    exact = size_classes(table, budget)
    coarse = _rounded(table, budget, exact, lambda classes: _affordable(classes, budget))
    start = fit_decreasing(coarse, budget.capacities())
    if not column_generation.available() or not column_generation.affordable(coarse, budget):
        return float(start.num_packs)
    relaxation = column_generation.relax(
        coarse, budget, start.multiplicity, 3600.0, _ESTIMATE_ROUNDS, prove=False, enough=enough
    )
    return float(relaxation.amounts.sum())


def continuous_bound(classes: SizeClasses, budget: Budget) -> int:
    """Least packs by total size alone, ceil(sum / capacity), the largest over all dimensions.

    Capacity that no combination of sizes can use (their greatest common divisor) does not count.
    """
    if len(classes.counts) == 0:
        return 0
    units = np.maximum(np.gcd.reduce(classes.sizes, axis=0), 1)
    usable = budget.capacities() // units * units
    totals = classes.counts @ classes.sizes
    return int((-(-totals // np.maximum(usable, 1))).max())


def _within(table: np.ndarray, budget: Budget, oversize: str) -> Tuple[np.ndarray, np.ndarray]:
    """Items that fit and items that do not, both [.] int32.

    Raises:
        ValueError: something does not fit and ``oversize`` is "error"; names the item and the remedy.
    """
    if oversize not in ("error", "skip"):
        raise ValueError(f"oversize={oversize!r}: choose 'error' or 'skip'.")
    limits = np.array([budget[name] for name in budget.measured])
    too_large = (table > limits).any(1)
    if too_large.any() and oversize == "error":
        item = int(np.flatnonzero(too_large)[0])
        size = ", ".join(f"{value} {name}" for name, value in zip(budget.measured, table[item]))
        enough = budget.replace(**{n: max(budget[n], int(m)) for n, m in zip(budget.measured, table.max(0))})
        raise ValueError(
            f"item {item} ({size}) is larger than the budget ({budget}), as are {int(too_large.sum()) - 1} others; "
            f"a budget of {enough} would hold every item, oversize='skip' leaves them out."
        )
    return np.flatnonzero(~too_large).astype(np.int32), np.flatnonzero(too_large).astype(np.int32)


def _rounded(
    table: np.ndarray, budget: Budget, exact: SizeClasses, enough: Callable[[SizeClasses], bool]
) -> SizeClasses:
    """Round sizes up in the further dimensions, more and more, until there are few enough classes."""
    step, classes = 1, exact
    while not enough(classes) and step < max((budget[name] for name in budget.measured[1:]), default=0):
        step *= 2
        classes = size_classes(table, budget, round_to=step)
    return classes


def _affordable(classes: SizeClasses, budget: Budget) -> bool:
    """True if column generation is quick on these classes."""
    return len(classes.counts) <= MAX_CLASSES and column_generation.affordable(classes, budget)


def _greedy(classes: SizeClasses, budget: Budget, algorithm: str) -> PackTypes:
    if algorithm == "lpfhp":
        primary, *others = budget.measured
        if others:
            raise ValueError(f"lpfhp packs one measured dimension, not {', '.join(budget.measured)}; use best_fit.")
        return longest_pack_first(classes, budget[primary], budget.max_items)
    return fit_decreasing(classes, budget.capacities(), best=algorithm == "best_fit")


def _generate(
    coarse: SizeClasses, fine: SizeClasses, exact: SizeClasses, budget: Budget, deadline: float
) -> Tuple[PackTypes, SizeClasses, int]:
    """Column generation on the ``coarse`` classes or best fit on the ``fine`` ones, whichever needs fewer packs.

    Returns:
        (packs, the classes they are made of, lower bound for the ``exact`` classes).
    """
    bound = continuous_bound(exact, budget)
    greedy = fit_decreasing(fine, budget.capacities())
    if greedy.num_packs <= bound or not column_generation.affordable(coarse, budget):
        return greedy, fine, bound
    if coarse is not exact:
        bound = max(bound, _primary_bound(exact, budget, deadline))
        # Rounding up can cost more than column generation gains: with large budgets, or many edge counts.
        if greedy.num_packs <= max(bound, continuous_bound(coarse, budget)):
            return greedy, fine, bound
    start = greedy if coarse is fine else fit_decreasing(coarse, budget.capacities())
    relaxation = column_generation.relax(coarse, budget, start.multiplicity, deadline - time.monotonic())
    proven = int(np.ceil(relaxation.bound - 1e-6))
    bound = max(bound, proven) if coarse is exact else bound
    if start.num_packs > bound:
        rounded = rounding.round_up(relaxation, coarse, budget, deadline, max(bound, proven))
        start = min(start, rounded, key=lambda types: types.num_packs)
    return (start, coarse, bound) if start.num_packs <= greedy.num_packs else (greedy, fine, bound)


def _primary_bound(classes: SizeClasses, budget: Budget, deadline: float) -> int:
    """Lower bound from the primary and the count dimensions alone: forgetting a limit keeps it valid."""
    names = [name for name in budget if name in COUNT_DIMENSIONS or name == budget.measured[0]]
    sizes, inverse = np.unique(
        classes.sizes[:, [budget.names.index(name) for name in names]], axis=0, return_inverse=True
    )
    counts = np.bincount(inverse.ravel(), classes.counts).astype(np.int64)
    simple = SizeClasses(sizes[::-1].copy(), counts[::-1].copy(), classes.of_item)
    fewer = Budget(**{name: budget[name] for name in names})
    if not column_generation.affordable(simple, fewer):
        return continuous_bound(simple, fewer)
    start = fit_decreasing(simple, fewer.capacities()).multiplicity
    relaxation = column_generation.relax(simple, fewer, start, max(deadline - time.monotonic(), 0.1))
    return int(np.ceil(relaxation.bound - 1e-6))
