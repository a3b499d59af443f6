"""From fractions of packs to whole packs: the linear program's solution made real.

The whole part of every amount is kept; the few items that are left over (a pack or so per size class)
form a small problem that an integer program over the known patterns solves, with some whole packs handed
back when the first try is not good enough.

scipy is imported on first use.
"""

import time
from typing import List, Optional, Tuple

import numpy as np

from packing.best_fit import fit_decreasing
from packing.classes import PackTypes, SizeClasses, distinct_rows
from packing.column_generation import Relaxation, relax
from packing.types import Budget

# How many whole packs of each pattern are handed back to the leftover problem, try by try.
_HANDED_BACK = (0, 1, 3, 8)
# The integer program stops after so many nodes, not by the clock: every rank must arrive at the same plan.
_TRY_NODES = 20
_TRY_SECONDS = 4.0
# With more size classes than this a try takes seconds and handing packs back no longer helps.
_MANY_CLASSES = 100
# A rest of fewer packs than this goes to the integer program; a larger one is dived into, a share at a time.
# Among more size classes the known patterns hold no good integer answer: the dive goes down to the last packs.
_SMALL_REST = 30
_LAST_PACKS = 2
_SOME_CLASSES = 50
_DIVE_SHARE = 0.05
_DIVE_ROUNDS = 5
# Packs times classes that the integer program's answer is written out over, 4 bytes each.
_MOST_NUMBERS = 1 << 24


def round_up(
    relaxation: Relaxation,
    classes: SizeClasses,
    budget: Budget,
    deadline: float,
    target: int,
) -> PackTypes:
    """Whole packs that hold every item, as close to ``target`` as the bounded search gets.

    Args:
        relaxation: patterns and amounts.
        classes: sizes [C, D] and counts [C].
        budget: capacities of a pack.
        deadline: time.monotonic() at which the best answer so far is returned.
        target: stop as soon as this few packs are reached (the proven lower bound).
    """
    best: Optional[PackTypes] = None
    # Where the last pack above the bound would take seconds to save, if it can be saved at all, it may stay.
    goal = target + (len(classes.counts) > _SOME_CLASSES)
    for handed_back in _HANDED_BACK:
        whole = np.maximum(np.floor(relaxation.amounts + 1e-7).astype(np.int64) - handed_back, 0)
        whole = without_surplus(relaxation.patterns, whole, classes.counts)
        left = classes.counts - whole @ relaxation.patterns
        rest = _leftover(relaxation.patterns, left, classes, budget, deadline, goal - int(whole.sum()))
        rows = list(zip(whole.tolist(), relaxation.patterns)) + list(zip(rest.counts.tolist(), rest.multiplicity))
        types = PackTypes.from_rows(rows, len(classes.counts))
        if best is None or types.num_packs < best.num_packs:
            best = types
        if best.num_packs <= goal or time.monotonic() > deadline or len(classes.counts) > _MANY_CLASSES:
            break
    assert best is not None
    return best


def round_down(relaxation: Relaxation, classes: SizeClasses, budget: Budget) -> PackTypes:
    """Whole packs by the whole parts of amounts, and best fit of what is left: many times quicker than `round_up`."""
    whole = np.floor(relaxation.amounts + 1e-7).astype(np.int64)
    whole = without_surplus(relaxation.patterns, whole, classes.counts)
    rest = _pack_rest(classes.counts - whole @ relaxation.patterns, classes, budget)
    rows = list(zip(whole.tolist(), relaxation.patterns)) + list(zip(rest.counts.tolist(), rest.multiplicity))
    return PackTypes.from_rows(rows, len(classes.counts))


def without_surplus(patterns: np.ndarray, whole: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Take whole packs back until no class is held more often than it occurs."""
    whole = whole.copy()
    surplus = whole @ patterns - demand
    while (surplus > 0).any():
        cls = int(np.argmax(surplus))
        pattern = int(np.argmax(patterns[:, cls] * (whole > 0)))
        back = min(int(whole[pattern]), -(-int(surplus[cls]) // int(patterns[pattern, cls])))
        whole[pattern] -= back
        surplus -= back * patterns[pattern]
    return whole


def _leftover(
    patterns: np.ndarray,
    left: np.ndarray,
    classes: SizeClasses,
    budget: Budget,
    deadline: float,
    target: int,
) -> PackTypes:
    """Pack the remaining items: best fit if that meets the target, else a dive and an integer program."""
    greedy = _pack_rest(left, classes, budget)
    if greedy.num_packs <= max(target, 0):
        return greedy
    fixed, left, patterns = _dive(patterns, left, classes, budget, deadline, target)
    seconds = min(_TRY_SECONDS, deadline - time.monotonic())
    rest = _pack_rest(left, classes, budget)
    present = np.flatnonzero(left)
    if rest.num_packs > max(target - len(fixed), 0) and seconds > 0 and len(present):
        small = SizeClasses(classes.sizes[present], left[present], classes.of_item)
        own = relax(small, budget, _restrict(patterns, present), seconds / 2)
        exact = _integer_program(own.patterns, small.counts, seconds / 2, int(np.ceil(own.bound - 1e-6)))
        if exact is not None and exact.num_packs < rest.num_packs:
            rest = _widen(exact, present, len(left))
    rows = [(1, row) for row in fixed] + list(zip(rest.counts.tolist(), rest.multiplicity))
    dived = PackTypes.from_rows(rows, len(left))
    return min(greedy, dived, key=lambda types: types.num_packs)


def _dive(
    patterns: np.ndarray, left: np.ndarray, classes: SizeClasses, budget: Budget, deadline: float, target: int
) -> Tuple[List[np.ndarray], np.ndarray, np.ndarray]:
    """With many size classes most amounts are below one pack, so flooring keeps little: fix the packs that
    the program wants most, solve it again for what is left, and so on until the rest is small, or so little
    that best fit meets the target with it.

    Returns:
        (packs fixed, items per class still left, patterns known by then).
    """
    fixed: List[np.ndarray] = []
    left = left.copy()
    small_rest = _SMALL_REST if len(left) <= _SOME_CLASSES else _LAST_PACKS
    while time.monotonic() < deadline:
        present = np.flatnonzero(left)
        small = SizeClasses(classes.sizes[present], left[present], classes.of_item)
        seconds = deadline - time.monotonic()
        own = relax(small, budget, _restrict(patterns, present), seconds, max_rounds=_DIVE_ROUNDS)
        total = float(own.amounts.sum())
        if total < small_rest:
            break
        wide = np.zeros((len(own.patterns), len(left)), np.int32)
        wide[:, present] = own.patterns
        patterns = wide
        goal = max(int(total * _DIVE_SHARE), 1)
        before = len(fixed)
        for row, amount in sorted(zip(wide, own.amounts), key=lambda pair: -pair[1]):
            if goal <= 0 or amount < 1e-6:
                break
            for _ in range(max(int(amount), 1)):
                if (row <= left).all():
                    fixed.append(row)
                    left -= row
                    goal -= 1
        if len(fixed) + _pack_rest(left, classes, budget).num_packs <= target:
            break
        if len(fixed) == before:  # every wanted pack holds an item more often than it is left
            break
    return fixed, left, patterns


def _pack_rest(left: np.ndarray, classes: SizeClasses, budget: Budget) -> PackTypes:
    """Best fit for the items left, in terms of all classes."""
    present = np.flatnonzero(left)
    small = SizeClasses(classes.sizes[present], left[present], classes.of_item)
    return _widen(fit_decreasing(small, budget.capacities()), present, len(left))


def _widen(types: PackTypes, present: np.ndarray, num_classes: int) -> PackTypes:
    """Pack types over some of the classes, written over all of them."""
    wide = np.zeros((len(types.counts), num_classes), np.int32)
    wide[:, present] = types.multiplicity
    return PackTypes.of_dense(wide, types.counts)


def _restrict(patterns: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The patterns seen by a subset of the classes; dropping items from a pack keeps it valid."""
    rows = patterns[:, present]
    return distinct_rows(rows[rows.any(1)])


def _integer_program(patterns: np.ndarray, demand: np.ndarray, seconds: float, bound: int) -> Optional[PackTypes]:
    """Fewest whole packs of the given patterns; None when none was found in time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    result = milp(
        np.ones(len(patterns)),
        constraints=LinearConstraint(csr_matrix(patterns.T).astype(np.float64), demand, np.inf),  # pyright: ignore[reportArgumentType]
        integrality=np.ones(len(patterns)),
        bounds=Bounds(0, float(demand.max())),
        # Any answer within one pack of the bound is as good as the optimum of the whole problem.
        options={"time_limit": max(seconds, 0.01), "node_limit": _TRY_NODES, "mip_rel_gap": 0.5 / max(bound, 1)},
    )
    if result.x is None:
        return None
    amounts = np.round(result.x).astype(np.int64)
    if amounts.sum() * len(demand) > _MOST_NUMBERS:
        return None
    rows = [row for row, times in zip(patterns, amounts.tolist()) for _ in range(times)]
    held = np.array(rows, np.int32).reshape(len(rows), len(demand))
    surplus = held.sum(0) - demand
    for row in held:  # the program may hold an item twice; take the copies out again
        extra = np.minimum(row, np.maximum(surplus, 0))
        row -= extra.astype(np.int32)
        surplus -= extra
    return PackTypes.from_rows([(1, row) for row in held], len(demand))
