"""Choosing an algorithm and making a plan: the one function most users call."""

import math
import time
from typing import Callable, Mapping, Optional, Tuple, Union

import numpy as np

from packing import column_generation, rounding
from packing.balance import Balance, cost_of_items
from packing.best_fit import fit_decreasing
from packing.checks import seconds, whole
from packing.classes import PackTypes, SizeClasses, deal, round_sizes, size_classes
from packing.full_packs import improve_by_draws
from packing.histogram import longest_pack_first
from packing.knapsack import Knapsack
from packing.plan import PackingPlan, size_table
from packing.shuffled_fit import MOST_ITEMS, fit_shuffled
from packing.spread import even_out
from packing.types import COUNT_DIMENSIONS, Budget

ALGORITHMS = ("auto", "column_generation", "best_fit", "first_fit", "lpfhp")
# Above this many size classes the linear program gets slow, and above this many best fit does; sizes in
# the further dimensions are rounded up.
MAX_CLASSES = 400
MAX_GREEDY_CLASSES = 10_000
ESTIMATE_ROUNDS = 200
# Best fit on nearly as many sizes as items may take this fraction of the time, then a quicker rule ends it.
_GREEDY_FRACTION = 0.5
# Rounds of column generation are about as many as classes, twice as many where tables are large, each with a linear
# program and a table of cells x classes.
_CLASS_SECONDS, _CELL_SECONDS = 2e-3, 2.5e-9
_SOME_CLASSES = 100  # of more, column generation ends sooner with patterns that were drawn; of fewer, it needs none
_SPREAD_SECONDS = 10.0  # for safety: exchanges are counted, and end by themselves
_FEW_CLASSES = 1000  # of which best fit takes less than a second whatever the number of items


def make_plan(
    sizes: Union[np.ndarray, Mapping[str, np.ndarray]],
    budget: Budget,
    algorithm: str = "auto",
    seed: int = 0,
    oversize: str = "error",
    time_limit: float = 10.0,
    spread_cost: Optional[Balance] = None,
) -> PackingPlan:
    """Pack items into as few fixed-size packs as possible.

    Args:
        sizes: [I] integer when the budget measures one dimension, else {name: [I]}.
        budget: capacities of a pack, e.g. ``Budget(nodes=128, edges=2304, graphs=8)``.
        algorithm: "auto" takes column generation where scipy is installed, the table is affordable and quicker packers
            miss the bound, else the best of them; or one of "column_generation", "best_fit", "first_fit", "lpfhp"
            (the last for one measured dimension).
        seed: decides which items of equal size share a pack in the plan itself.
        oversize: "error", or "skip" to leave out items larger than the budget (listed in the plan).
        time_limit: seconds, those to load scipy apart; after them the best packs and bound so far are used, and where
            best fit has not placed all items by half of them (or one second), the smallest are packed by a quicker
            rule.
        spread_cost: a `Cost`, or the cost of every item, [I]: of as few packs as without it those whose costs differ
            less are made.

    Raises:
        ValueError: an item is larger than the budget, sizes or costs are malformed, or the algorithm is unknown.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown packing algorithm {algorithm!r}; choose one of {', '.join(ALGORITHMS)}.")
    # Asked before the clock starts: on a busy machine it takes seconds to load scipy for the first time.
    exactly = algorithm in ("auto", "column_generation") and column_generation.available()
    started, time_limit = time.monotonic(), seconds("time_limit", time_limit)
    seed = whole("seed", seed)
    deadline = started + time_limit
    greedy_deadline = started + max(_GREEDY_FRACTION * time_limit, 1.0)
    table = size_table(sizes, budget)
    kept, skipped = _within(table, budget, oversize)
    exact = size_classes(table[kept], budget)
    if len(exact.counts) <= _FEW_CLASSES:  # a busy machine must not decide
        greedy_deadline = math.inf
    used = rounded_classes(exact, budget, MAX_GREEDY_CLASSES, greedy_deadline)
    if algorithm == "column_generation" and not exactly:
        raise ValueError("algorithm='column_generation' needs scipy >= 1.9: pip install scipy.")
    if exactly:
        coarse = rounded_classes(exact, budget, MAX_CLASSES, greedy_deadline, column_generation.affordable)
        types, used, bound = _generate(coarse, used, exact, budget, deadline, greedy_deadline)
        algorithm = "column_generation"
    elif algorithm == "auto":
        bound = continuous_bound(exact, budget)
        types = _fewest(_quick(used, budget, greedy_deadline), used, budget, bound, greedy_deadline)
        algorithm = "best_fit"
    else:
        types, bound = _greedy(used, budget, algorithm, greedy_deadline), continuous_bound(exact, budget)
    if spread_cost is not None and len(kept):
        cost = np.bincount(used.of_item, cost_of_items(spread_cost, budget, table)[kept]) / used.counts
        types = even_out(types, used, budget.capacities(), cost, max(deadline, time.monotonic() + _SPREAD_SECONDS))
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
    ).validate()


def estimate_packs(
    sizes: Union[np.ndarray, Mapping[str, np.ndarray]],
    budget: Budget,
    enough: float = 0.0,
    time_limit: float = 60.0,
    too_many: float = math.inf,
) -> float:
    """About how many packs `make_plan` will need, without making them; the same on every machine.

    Args:
        sizes, budget: as for `make_plan`.
        enough: a value at or below this need not be improved further.
        time_limit: seconds after which the value so far is returned.
        too_many: a value that is proven to stay above this need not be improved further.

    Returns:
        the value of the linear program after a bounded number of rounds, or best fit's packs without scipy.
    """
    table = size_table(sizes, budget)
    _within(table, budget, "error")
    if not len(table):
        return 0.0
    exact = size_classes(table, budget)
    deadline = time.monotonic() + time_limit
    coarse = rounded_classes(exact, budget, MAX_CLASSES, deadline, column_generation.affordable)
    start = fit_decreasing(coarse, budget.capacities(), deadline=deadline)
    if start.num_packs <= enough or not (
        column_generation.available() and column_generation.affordable(coarse, budget)
    ):
        return float(start.num_packs)
    left, limits = deadline - time.monotonic(), (enough, too_many)
    relaxation = column_generation.relax(coarse, budget, start.multiplicity, left, ESTIMATE_ROUNDS, False, *limits)
    return float(relaxation.amounts.sum())


def expected_seconds(sizes: Union[np.ndarray, Mapping[str, np.ndarray]], budget: Budget) -> float:
    """About how long column generation takes for a plan, from the sizes alone: the same on every machine."""
    exact = size_classes(size_table(sizes, budget), budget)
    coarse = rounded_classes(exact, budget, MAX_CLASSES, math.inf, column_generation.affordable)
    columns = [budget.names.index(name) for name in budget.measured]
    cost = Knapsack.cost(coarse.sizes[:, columns], budget.capacities()[columns])
    return len(coarse.counts) * (_CLASS_SECONDS + _CELL_SECONDS * cost)


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
            f"item {item} ({size}) is larger than the budget ({budget}), in all {int(too_large.sum()):,} of "
            f"{len(table):,} items; a budget of {enough} would hold every item, oversize='skip' leaves them out."
        )
    return np.flatnonzero(~too_large).astype(np.int32), np.flatnonzero(too_large).astype(np.int32)


def rounded_classes(
    exact: SizeClasses,
    budget: Budget,
    most: int,
    deadline: float,
    affordable: Callable[[SizeClasses, Budget], bool] = lambda classes, budget: True,
) -> SizeClasses:
    """Round sizes up in the further dimensions, more and more, until ``most`` classes are left and affordable.

    Where that cannot be reached, the primary dimension alone having more classes, nothing is rounded.
    """
    step, classes = 1, exact
    widest = max((budget[name] for name in budget.measured[1:]), default=0)
    if len(np.unique(exact.sizes[:, budget.names.index(budget.measured[0])])) > most:
        return exact
    while not (len(classes.counts) <= most and affordable(classes, budget)) and step < widest:
        if time.monotonic() > deadline:
            return exact
        step *= 2
        classes = round_sizes(exact, budget, step)
    return classes


def _greedy(classes: SizeClasses, budget: Budget, algorithm: str, deadline: float) -> PackTypes:
    if algorithm == "lpfhp":
        if len(budget.measured) > 1:
            raise ValueError(f"lpfhp packs one measured dimension, not {', '.join(budget.measured)}; use best_fit.")
        return _by_space(classes, budget, deadline)
    if algorithm == "best_fit":
        return best_fit(classes, budget, deadline)
    return fit_decreasing(classes, budget.capacities(), False, deadline)


def best_fit(classes: SizeClasses, budget: Budget, deadline: float) -> PackTypes:
    """Best fit; of very many sizes in one dimension by space alone, which finds the pack without a search."""
    if len(classes.counts) > MAX_GREEDY_CLASSES and len(budget.measured) == 1:
        return _by_space(classes, budget, deadline)
    return fit_decreasing(classes, budget.capacities(), deadline=deadline)


def _by_space(classes: SizeClasses, budget: Budget, deadline: float) -> PackTypes:
    primary = budget.measured[0]
    columns = classes.sizes[:, [budget.names.index(primary)]]  # counts may stand before it
    one = SizeClasses(columns, classes.counts, classes.of_item)
    return longest_pack_first(one, budget[primary], budget.max_items, deadline)


def _generate(
    coarse: SizeClasses,
    fine: SizeClasses,
    exact: SizeClasses,
    budget: Budget,
    deadline: float,
    greedy_deadline: float = math.inf,
) -> Tuple[PackTypes, SizeClasses, int]:
    """Column generation on the ``coarse`` classes or best fit on the ``fine`` ones, whichever needs fewer packs.

    Returns:
        (packs, the classes they are made of, lower bound for the ``exact`` classes).
    """
    bound, greedy = continuous_bound(exact, budget), _quick(fine, budget, greedy_deadline)
    many = len(budget.measured) > 1
    if many:  # there the linear program takes long, and classes may have to be rounded for it
        greedy = _fewest(greedy, fine, budget, bound, greedy_deadline)
    if greedy.num_packs <= bound:
        return greedy, fine, bound
    too_many = len(coarse.counts) > MAX_CLASSES and len(budget.measured) > 1
    if too_many or not column_generation.affordable(coarse, budget):
        return (greedy if many else _fewest(greedy, fine, budget, bound, greedy_deadline)), fine, bound
    if coarse is not exact:
        bound = max(bound, _primary_bound(exact, budget, deadline))
        # Rounding up can cost more than column generation gains: with large budgets, or many edge counts.
        if greedy.num_packs <= max(bound, continuous_bound(coarse, budget)):
            return greedy, fine, bound
    start = greedy if coarse is fine else fit_decreasing(coarse, budget.capacities(), deadline=deadline)
    start, drawn = improve_by_draws(start, coarse, budget, bound, deadline)
    if start.num_packs <= bound:
        return start, coarse, bound
    greedy = greedy if many else _fewest(greedy, fine, budget, bound, greedy_deadline)
    if greedy.num_packs <= bound:
        return greedy, fine, bound
    start = min(start, greedy, key=lambda types: types.num_packs) if coarse is fine else start
    patterns = start.multiplicity
    if len(coarse.counts) > _SOME_CLASSES:
        patterns = np.concatenate([patterns, drawn])
    relaxation = column_generation.relax(coarse, budget, patterns, deadline - time.monotonic())
    proven = int(np.ceil(relaxation.bound - 1e-6))
    bound = max(bound, proven) if coarse is exact else bound
    if start.num_packs > bound:
        rounded = rounding.round_up(relaxation, coarse, budget, deadline, max(bound, proven))
        start = min(start, rounded, key=lambda types: types.num_packs)
    return (start, coarse, bound) if start.num_packs <= greedy.num_packs else (greedy, fine, bound)


def _quick(classes: SizeClasses, budget: Budget, deadline: float) -> PackTypes:
    """Good packs in the least time: by space alone where one dimension is measured, else by best fit."""
    return (_by_space if len(budget.measured) == 1 else best_fit)(classes, budget, deadline)


def _fewest(quick: PackTypes, classes: SizeClasses, budget: Budget, bound: int, deadline: float) -> PackTypes:
    """Packs of best fit, or where these are fewer those of first fit, in random order too, or of `_quick`."""
    if quick.num_packs <= bound or len(classes.counts) > MAX_GREEDY_CLASSES:
        return quick
    best = quick
    if len(budget.measured) == 1:  # else they are of best fit
        best = fit_decreasing(classes, budget.capacities(), True, deadline)
    first = best if best.num_packs <= bound else fit_decreasing(classes, budget.capacities(), False, deadline)
    fewest = min(best, first, quick, key=lambda types: types.num_packs)
    if fewest.num_packs > bound and len(budget.measured) > 1 and classes.counts.sum() <= MOST_ITEMS:
        fewest = min(fewest, fit_shuffled(classes, budget.capacities()), key=lambda types: types.num_packs)
    return fewest


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
