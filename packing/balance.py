"""Balanced epochs: packs of like cost share a step, so that no rank waits for another.

A pack of fixed shape costs an IPU the same whatever it holds. Where cost varies inside a pack (attention, kernels that
skip padding, pairs of atoms), full packs differ: few large molecules have more pairs than many small ones.
"""

import math
from dataclasses import astuple, dataclass
from typing import Any, Mapping, NamedTuple, Union

import numpy as np

from packing.types import Budget

# Slots of a step are filled at this stride, the golden ratio: neighbors in cost come to ranks far apart.
_STRIDE = (math.sqrt(5) - 1) / 2
# Up to so many steps each is fitted to the sums so far; of more, the sums differ little whatever is done.
_FEW = 256


@dataclass(frozen=True)
class Cost:
    """Cost of an item of size n (in the primary dimension) with e edges: linear n + quadratic n**2 + edges e, any unit.

    Raises:
        ValueError: a weight is negative or no number, or all are 0.
    """

    linear: float = 0.0
    quadratic: float = 0.0
    edges: float = 0.0

    def __post_init__(self) -> None:
        try:
            right = all(0 <= weight < math.inf for weight in astuple(self)) and any(astuple(self))
        except TypeError:
            right = False
        if not right:
            raise ValueError(f"{self}: weights of a cost are 0 or more, and one of them is more; e.g. quadratic=1.0.")

    def of_items(self, sizes: Any) -> np.ndarray:
        """Cost of every item, [I] float64.

        Args:
            sizes: a `PackingPlan`, the sizes [I] of one dimension, or {name: [I]}, the primary one first.

        Raises:
            ValueError: there are no sizes, or edges have a weight and no sizes.
        """
        if hasattr(sizes, "budget"):  # a plan
            sizes = dict(zip(sizes.budget.measured, sizes.sizes.T))
        elif not isinstance(sizes, Mapping):
            sizes = {"size": np.asarray(sizes)}
        if not sizes:
            raise ValueError("a cost follows from sizes, and there are none; give {'nodes': [I]}, or a plan.")
        size = np.asarray(next(iter(sizes.values())), np.float64)
        cost = (self.linear + self.quadratic * size) * size
        if self.edges:
            if "edges" not in sizes:
                raise ValueError(
                    f"{self} counts edges, and there are sizes of {', '.join(sizes)} alone; "
                    "measure edges in the budget, or give a cost for every item."
                )
            cost += self.edges * np.asarray(sizes["edges"], np.float64)
        return cost


Balance = Union[Cost, np.ndarray]


def cost_of_items(balance: Balance, budget: Budget, sizes: np.ndarray) -> np.ndarray:
    """Cost of every item, [I] float64.

    Args:
        balance: a cost, or one number for every item.
        budget: of the plan.
        sizes: [I, M] of the items, in its measured dimensions.

    Raises:
        ValueError: it is not one finite number of 0 or more for every item.
    """
    cost = balance.of_items(dict(zip(budget.measured, sizes.T))) if isinstance(balance, Cost) else np.asarray(balance)
    if cost.shape != (len(sizes),) or cost.dtype.kind not in "iuf":
        raise ValueError(
            f"a cost is packing.Cost(...) or one number for each of the {len(sizes)} items, "
            f"not {cost.dtype} of shape {cost.shape}."
        )
    cost = cost.astype(np.float64)
    wrong = np.flatnonzero(~((cost >= 0) & (cost < math.inf)))
    if len(wrong):
        raise ValueError(f"item {wrong[0]} costs {cost[wrong[0]]}; costs are finite and 0 or more.")
    return cost


class Ranking(NamedTuple):
    """Packs from the cheapest to the dearest.

    Attributes:
        packs: [P] int32.
        costs: [P] float32, of these packs.
        runs: [R, 2] begin and end of each run of several packs of equal cost.
    """

    packs: np.ndarray
    costs: np.ndarray
    runs: np.ndarray


def rank_packs(items: np.ndarray, offsets: np.ndarray, costs: np.ndarray) -> Ranking:
    """Rank packs, none of which is empty, by the costs [I] of their items."""
    if len(offsets) < 2:
        return Ranking(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, 2), np.int64))
    sums = np.add.reduceat(costs.take(items), offsets[:-1]).astype(np.float32)
    # Bits of floats that are not negative are in their order, and 16 bits are sorted in linear time.
    bits = sums.view(np.uint32)
    packs = np.argsort(bits.astype(np.uint16), kind="stable").astype(np.int32)
    packs = packs.take(np.argsort((bits >> 16).astype(np.uint16).take(packs), kind="stable"))
    sums = sums.take(packs)
    cuts = np.flatnonzero(np.diff(sums)) + 1
    runs = np.stack([np.append(0, cuts), np.append(cuts, len(packs))], 1)
    return Ranking(packs, sums, runs[runs[:, 1] - runs[:, 0] > 1])


def balanced_order(ranking: Ranking, total: int, multiple: int, random: np.random.Generator) -> np.ndarray:
    """Order of packs in which each step of ``multiple`` in a row holds packs of like cost, and steps come at random.

    Chance decides among packs of equal cost. Empty packs are spread over steps, and over the places in them. Sums of a
    place over all steps are alike, so those of ranks are for every number of ranks that divides ``multiple``.

    Args:
        ranking: of P packs.
        total: places, a multiple of ``multiple``; -1 is an empty pack.

    Returns:
        [total] int32.
    """
    packs = ranking.packs.copy()
    for start, stop in ranking.runs.tolist():
        random.shuffle(packs[start:stop])
    steps = total // multiple
    bounds = np.arange(steps + 1) * len(packs) // max(steps, 1)
    row_of = random.permutation(steps)
    stride = max(round(_STRIDE * multiple), 1)
    while math.gcd(stride, multiple) > 1:
        stride += 1
    places = (np.arange(multiple) * stride + random.integers(multiple)) % multiple
    result = np.full((steps, multiple), -1, np.int32)
    if steps > _FEW:
        _by_turns(result, packs, bounds, places, row_of)
    else:
        _by_sums(result, packs, ranking.costs, bounds, places, row_of)
    return result.ravel()


def _by_sums(
    result: np.ndarray, packs: np.ndarray, costs: np.ndarray, bounds: np.ndarray, places: np.ndarray, row_of: np.ndarray
) -> None:
    """Fill steps one by one, those of the most different packs first: the dearest pack for the smallest sum so far."""
    sums = np.zeros(len(places))
    cost_of = [costs[start:stop][::-1] for start, stop in zip(bounds[:-1], bounds[1:])]
    missing = [0.0 if len(cost) == len(places) else 1e30 for cost in cost_of]
    width = [float(cost[:1].sum() - cost[-1:].sum()) + more for cost, more in zip(cost_of, missing)]
    for step in np.argsort(width, kind="stable")[::-1]:
        chosen = places[np.argsort(sums[places], kind="stable")][: len(cost_of[step])]
        result[row_of[step], chosen] = packs[bounds[step] : bounds[step + 1]][::-1]
        sums[chosen] += cost_of[step]


def _by_turns(
    result: np.ndarray, packs: np.ndarray, bounds: np.ndarray, places: np.ndarray, row_of: np.ndarray
) -> None:
    """Fill all steps at once: costs rise with the place in half of them and fall in the others.

    Halves by the parity of bits (Thue-Morse) cancel whatever changes smoothly from step to step.
    """
    multiple, count = len(places), np.diff(bounds)
    falls = np.arange(len(count))
    for shift in (32, 16, 8, 4, 2, 1):
        falls ^= falls >> shift
    falls &= 1
    index = np.empty(multiple, np.int64)
    index[places] = np.arange(multiple)
    full = np.flatnonzero(count == multiple)
    both = np.stack([index, multiple - 1 - index])
    result[row_of[full]] = packs.take(bounds[full, None] + both[falls[full]])
    # Empty places are the next ones in turn, those behind them move up.
    short = np.flatnonzero(count < multiple)
    empty = multiple - count[short]
    begin = ((np.cumsum(empty) - empty) % multiple)[:, None]
    first = np.maximum(begin + empty[:, None] - multiple, 0)  # real place, where the empty ones go on at the front
    among = index - first - np.clip(index - begin, 0, empty[:, None])
    real = (index - begin) % multiple >= empty[:, None]
    among = np.where(falls[short, None], count[short, None] - 1 - among, among)
    rows = result[row_of[short]]
    rows[real] = packs[(bounds[short, None] + among)[real]]
    result[row_of[short]] = rows
