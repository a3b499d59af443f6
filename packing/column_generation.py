"""Column generation: the fewest packs, with a proof of how few there can be.

Packing by size classes is the cutting-stock problem. A linear program over pack patterns is solved by
adding patterns only as they pay (Gilmore and Gomory 1961, 1963), priced by a knapsack table; its value
is a lower bound that no packer can beat, and `rounding` turns it into whole packs. The work depends on
the number of size classes, not on the number of molecules.

scipy is imported on first use.
"""

import time
from dataclasses import dataclass
from typing import List, Optional, Set, Tuple

import numpy as np

from packing.classes import SizeClasses, distinct_rows
from packing.knapsack import Knapsack
from packing.types import Budget

# Cells x classes of the largest knapsack table that is filled in every round (about 0.1 s) ...
QUICK_COST = 16_000_000
# ... and of the largest that is filled at all, to finish the proof (about 2 s).
EXACT_COST = 250_000_000
# Cells of that table: 12 bytes each, and as many again while a class is added.
_MOST_CELLS = 1 << 24
# Numbers in a table of patterns, of which there are a few copies, 128 MiB each.
_MOST_PATTERNS = 1 << 25
_COLUMNS_PER_ROUND = 40
_LEAST_SECONDS = 0.1  # that a linear program is given, be the deadline what it may
_TOLERANCE = 1e-7


@dataclass
class Relaxation:
    """The solved linear program.

    Attributes:
        patterns: [K, C] int32, the pack patterns found.
        amounts: [K] float64, how many packs of each (fractions allowed).
        bound: proven lower bound on the number of packs (a fraction; round up); 0 when nothing was proven.
    """

    patterns: np.ndarray
    amounts: np.ndarray
    bound: float


def available() -> bool:
    """True if scipy (>= 1.9) is installed."""
    try:
        from scipy.optimize import linprog, milp  # noqa: F401
    except ImportError:
        return False
    return True


def affordable(classes: SizeClasses, budget: Budget) -> bool:
    """True if a round of pricing over these classes takes about a tenth of a second or less, and memory suffices."""
    columns = [budget.names.index(name) for name in budget.measured]
    cost = Knapsack.cost(classes.sizes[:, columns], budget.capacities()[columns])
    return cost <= QUICK_COST and len(classes.sizes) ** 2 <= _MOST_PATTERNS // 2


def relax(
    classes: SizeClasses,
    budget: Budget,
    start: np.ndarray,
    time_limit: float,
    max_rounds: int = 10**6,
    prove: bool = True,
    enough: float = 0.0,
    too_many: float = np.inf,
) -> Relaxation:
    """Solve the linear program over all pack patterns.

    Args:
        classes: sizes [C, D] and counts [C].
        budget: capacities of a pack.
        start: [K, C] patterns that together hold every class, e.g. those of best fit.
        time_limit: seconds; patterns found so far and the bound proven so far are returned after it.
        max_rounds: the same in rounds of pricing.
        prove: False stops where only the slow exact table could find more; nothing may be proven then.
        enough: stop as soon as this few packs, fractions of packs included, are reached.
        too_many: stop as soon as more than this many are proven to be needed.
    """
    deadline = time.monotonic() + time_limit
    pricing = _Pricing(classes, budget, prove)
    patterns = _with_pure_patterns(start, pricing.exact)
    known = {row.tobytes() for row in patterns}
    bound, amounts = 0.0, np.zeros(0)
    for rounds in range(max_rounds + 1):
        solved = solve_master(patterns, classes.counts, deadline - time.monotonic())
        if solved is None:
            amounts = amounts if len(amounts) else _any_amounts(patterns, classes.counts)
            return Relaxation(patterns[: len(amounts)], amounts, bound)
        amounts, prices = solved
        total = float(amounts.sum())
        if total <= enough or time.monotonic() > deadline:
            break
        fresh, proven = pricing.improving(prices, classes.counts, known, deadline)
        bound = max(bound, proven)
        finished = not fresh or np.ceil(bound - 1e-6) >= np.ceil(total - 1e-6) and total - bound < 1e-6 * total
        full = (len(patterns) + len(fresh)) * patterns.shape[1] > _MOST_PATTERNS
        settled = total <= enough or bound > too_many
        if finished or settled or rounds == max_rounds or full or time.monotonic() > deadline:
            break
        patterns = np.concatenate([patterns, np.stack(fresh)])
    return Relaxation(patterns, amounts, bound)


class _Pricing:
    """Finds patterns that pay, with small tables while that works and the exact table to finish.

    The small table forgets how many items a pack may hold; a toll on every item, adjusted from round to
    round, keeps most of its packs within that limit, and the others are dropped.
    """

    def __init__(self, classes: SizeClasses, budget: Budget, prove: bool) -> None:
        capacities = budget.capacities()
        self.exact = Knapsack(classes.sizes, capacities)
        self.exact_cost = Knapsack.cost(classes.sizes, capacities)
        self.affordable = self.exact_cost <= min(EXACT_COST, _MOST_CELLS * len(classes.sizes))
        self.max_items = budget.max_items
        self.quick: Optional[Knapsack] = None
        if self.exact_cost > QUICK_COST // 4 and len(budget.measured) < len(budget.names):
            columns = [budget.names.index(name) for name in budget.measured]
            self.quick = Knapsack(classes.sizes[:, columns], capacities[columns])
        self.toll = 0.0
        self.prove = prove or self.quick is None

    def improving(
        self, prices: np.ndarray, counts: np.ndarray, known: Set[bytes], deadline: float
    ) -> Tuple[List[np.ndarray], float]:
        """New patterns worth more than one pack (also added to ``known``) and a proven lower bound, until then."""
        if self.quick is not None:
            _, packs = self.quick.solve(prices - self.toll, deadline)
            within = [row for row in packs if row.sum() <= self.max_items]
            # Aim for half of the packs within the limit: there the toll separates the two kinds best.
            self.toll = max(self.toll, 1e-3) * (1.5 if 2 * len(within) < len(packs) else 0.7)
            fresh = _worth_adding(within, prices, known)
            if fresh:
                return fresh, 0.0
        if not self.affordable or not self.prove:
            return [], 0.0
        value, packs = self.exact.solve(prices, deadline)
        # Prices scaled so that no pattern is worth more than one pack are a feasible dual (Farley 1990).
        return _worth_adding(packs, prices, known), float(prices @ counts) / max(value, 1.0)


def _worth_adding(packs: List[np.ndarray], prices: np.ndarray, known: Set[bytes]) -> List[np.ndarray]:
    fresh: List[np.ndarray] = []
    for row in packs:
        if len(fresh) < _COLUMNS_PER_ROUND and prices @ row > 1 + _TOLERANCE and row.tobytes() not in known:
            known.add(row.tobytes())
            fresh.append(row)
    return fresh


def solve_master(patterns: np.ndarray, demand: np.ndarray, seconds: float) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Fewest packs, in fractions, of the given patterns that hold at least ``demand``.

    Returns:
        (amounts [K], prices [C]); None if the solver gives up, or has not come to an end in ``seconds``.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    result = linprog(
        np.ones(len(patterns)),
        A_ub=-csr_matrix(patterns.T).astype(np.float64),
        b_ub=-demand.astype(np.float64),
        method="highs-ds",
        options={"time_limit": max(seconds, _LEAST_SECONDS)},
    )
    if result.status != 0:
        return None
    return result.x, np.maximum(-result.ineqlin.marginals, 0.0)


def _any_amounts(patterns: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Amounts [K] that hold ``demand``, without a solver: of every class in the pattern that holds most of it."""
    amounts = np.zeros(len(patterns))
    richest = patterns.argmax(0)
    np.maximum.at(amounts, richest, demand / patterns[richest, np.arange(len(demand))])
    return amounts


def _with_pure_patterns(start: np.ndarray, knapsack: Knapsack) -> np.ndarray:
    """The starting patterns and, so that every demand can be met, a full pack of each class alone."""
    pure = np.diag(knapsack.most).astype(np.int32)
    rows = np.concatenate([start.astype(np.int32), pure])
    return distinct_rows(rows)
