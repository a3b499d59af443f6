"""What the packing tests share: real histograms, random instances, and slow packers to compare with."""

from fractions import Fraction
from typing import Dict, Iterable, List, Sequence, Tuple

import numpy as np
from hypothesis import strategies as st

from benchmarks.histograms import HYDRONET, HYDRONET_2_7M, HYDRONET_500K, QM9, sizes_of
from packing import Budget
from packing.classes import SizeClasses, size_classes

__all__ = ["HYDRONET", "HYDRONET_2_7M", "HYDRONET_500K", "QM9", "sizes_of"]
HISTOGRAMS = {"qm9": QM9, "hydronet_4.5m": HYDRONET, "hydronet_2.7m": HYDRONET_2_7M, "hydronet_500k": HYDRONET_500K}


def classes_of(histogram: Dict[int, int], budget: Iterable[str] = ("nodes",)) -> SizeClasses:
    """Size classes of a histogram, without making its items; every dimension of the budget but nodes is a count."""
    sizes = np.array(sorted(histogram, reverse=True))
    columns = [sizes if name == "nodes" else np.ones_like(sizes) for name in budget]
    return SizeClasses(np.stack(columns, 1), np.array([histogram[size] for size in sizes]), np.zeros(0, np.uint16))


def table_classes(sizes: Dict[str, np.ndarray], budget: Budget) -> SizeClasses:
    return size_classes(np.stack([sizes[name] for name in budget.measured], 1), budget)


@st.composite
def instances(draw, max_items: int = 40, max_nodes: int = 24) -> Tuple[Dict[str, np.ndarray], Budget]:
    """Sizes and a budget that every item fits: one to three measured dimensions, with or without a count."""
    capacities = {"nodes": draw(st.integers(1, max_nodes))}
    if draw(st.booleans()):
        capacities["edges"] = draw(st.integers(1, 40))
    if draw(st.integers(0, 4)) == 0:
        capacities["angles"] = draw(st.integers(1, 20))
    if draw(st.booleans()):
        capacities["graphs"] = draw(st.integers(1, 6))
    count = draw(st.integers(0, max_items))
    sizes = {}
    for name, capacity in capacities.items():
        if name != "graphs":
            smallest = 1 if name == "nodes" else 0
            values = draw(st.lists(st.integers(smallest, capacity), min_size=count, max_size=count))
            sizes[name] = np.array(values, np.int64)
    return sizes, Budget(**capacities)


def rows_of(sizes: Dict[str, np.ndarray], budget: Budget) -> List[Tuple[int, ...]]:
    """Size of every item in every dimension of the budget, 1 in count dimensions."""
    count = len(sizes["nodes"])
    return [tuple(int(sizes[name][i]) if name in sizes else 1 for name in budget) for i in range(count)]


def check_packs(packs: Sequence[Sequence[int]], rows: List[Tuple[int, ...]], budget: Budget) -> None:
    """Every item in exactly one pack and no capacity exceeded, the slow way."""
    assert sorted(int(item) for pack in packs for item in pack) == list(range(len(rows)))
    capacities = list(budget.as_dict().values())
    for pack in packs:
        used = [sum(rows[item][d] for item in pack) for d in range(len(capacities))]
        assert all(u <= c for u, c in zip(used, capacities)), (used, capacities)


def fewest_packs(rows: List[Tuple[int, ...]], capacities: Sequence[int]) -> int:
    """The optimum by trying every assignment; for seven items or so."""
    best = len(rows)

    def place(item: int, bins: List[List[int]]) -> None:
        nonlocal best
        if len(bins) >= best:
            return
        if item == len(rows):
            best = len(bins)
            return
        for free in bins:
            if all(f >= s for f, s in zip(free, rows[item])):
                for d, s in enumerate(rows[item]):
                    free[d] -= s
                place(item + 1, bins)
                for d, s in enumerate(rows[item]):
                    free[d] += s
        place(item + 1, [*bins, [c - s for c, s in zip(capacities, rows[item])]])

    place(0, [])
    return best


def fit_one_by_one(rows: List[Tuple[int, ...]], capacities: Sequence[int], best: bool) -> List[Tuple[int, ...]]:
    """First or best fit, item by item in the given order; the contents of the packs as sorted sizes."""
    free: List[List[int]] = []
    packs: List[List[Tuple[int, ...]]] = []
    for row in rows:
        room = [i for i, f in enumerate(free) if all(a >= b for a, b in zip(f, row))]
        if not room:
            free.append(list(capacities))
            packs.append([])
            chosen = len(packs) - 1
        elif best:  # exact fractions: ties go to the pack that was opened first
            chosen = min(room, key=lambda i: (sum(Fraction(f, c) for f, c in zip(free[i], capacities)), i))
        else:
            chosen = room[0]
        free[chosen] = [a - b for a, b in zip(free[chosen], row)]
        packs[chosen].append(row)
    return sorted(tuple(sorted(pack)) for pack in packs)
