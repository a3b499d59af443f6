"""Peers, written anew: packers that the packing benchmark compares with, item by item in Python.

Each function prepares (loads the sizes) and returns what is to be measured, for `benchmarks.common.in_child`.
The work is the same for all: sizes in random order in, index lists of all packs out.
"""

from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from benchmarks import histograms
from packing import Budget, make_plan
from packing.classes import size_classes
from packing.histogram import longest_pack_first

Work = Callable[[], Dict[str, Any]]


def load_sizes(dataset: str, share: float = 1.0, seed: int = 0) -> np.ndarray:
    """Sizes of a set in random order, [I] int64, or of a random fraction of it."""
    sizes = histograms.sizes_of(getattr(histograms, dataset))
    np.random.default_rng(seed).shuffle(sizes)
    return sizes[: int(len(sizes) * share)].copy()


def ours(dataset: str, capacity: int, depth: int, algorithm: str = "auto") -> Work:
    """This package: plan, then one shuffled epoch."""
    sizes, budget = load_sizes(dataset), Budget(nodes=capacity, graphs=depth)

    def work() -> Dict[str, Any]:
        plan = make_plan(sizes, budget, algorithm)
        epoch = plan.epoch(0, 0)
        return {"packs": len(epoch), "items": len(epoch.items)}

    return work


def epoch_only(dataset: str, capacity: int, depth: int) -> Work:
    """This package: one more epoch of a plan that is there."""
    plan = make_plan(load_sizes(dataset), Budget(nodes=capacity, graphs=depth))
    plan.epoch(0, 0)

    def work() -> Dict[str, Any]:
        epoch = plan.epoch(0, 1)
        return {"packs": len(epoch), "items": len(epoch.items)}

    return work


def lpfhp_lists(dataset: str, capacity: int, depth: int) -> Work:
    """Histogram strategy, then Python lists: a dict of index lists, a tuple of indices for every pack."""
    sizes = load_sizes(dataset)

    def work() -> Dict[str, Any]:
        classes = size_classes(sizes[:, None], Budget(nodes=capacity))
        types = longest_pack_first(classes, capacity, depth)
        waiting: Dict[int, List[int]] = {}
        for index, size in enumerate(sizes.tolist()):
            waiting.setdefault(size, []).append(index)
        packs: List[Tuple[int, ...]] = []
        for row, count in zip(types.multiplicity, types.counts.tolist()):
            wanted = [int(size) for size, times in zip(classes.sizes[:, 0], row) for _ in range(times)]
            for _ in range(count):
                packs.append(tuple(waiting[size].pop() for size in wanted))
        return {"packs": len(packs), "items": sum(map(len, packs))}

    return work


def best_fit_one_by_one(dataset: str, capacity: int, depth: int, share: float = 1.0) -> Work:
    """Best-fit decreasing with a tree over the free space: the tightest open pack in log(capacity) steps."""
    sizes = load_sizes(dataset, share)

    def work() -> Dict[str, Any]:
        leaves = 1 << capacity.bit_length()
        open_packs: List[List[List[int]]] = [[] for _ in range(leaves)]  # by free space
        largest = [0] * (2 * leaves)  # of each subtree: the largest free space of an open pack
        packs: List[List[int]] = []

        def update(space: int) -> None:
            node = space + leaves
            largest[node] = space if open_packs[space] else 0
            node >>= 1
            while node:
                left, right = largest[2 * node], largest[2 * node + 1]
                largest[node] = left if left > right else right
                node >>= 1

        def tightest(size: int) -> int:
            """The smallest free space of at least ``size``, 0 if there is none."""
            if open_packs[size]:
                return size
            node = size + leaves
            while node > 1:
                if not node & 1 and largest[node + 1]:
                    node += 1
                    break
                node >>= 1
            else:
                return 0
            while node < leaves:
                node = 2 * node if largest[2 * node] else 2 * node + 1
            return node - leaves

        values = sizes.tolist()
        for index in np.argsort(-sizes, kind="stable").tolist():
            size = values[index]
            space = tightest(size)
            if space:
                pack = open_packs[space].pop()
                update(space)
            else:
                pack, space = [], capacity
                packs.append(pack)
            pack.append(index)
            if space > size and len(pack) < depth:
                open_packs[space - size].append(pack)
                update(space - size)
        return {"packs": len(packs), "items": len(values)}

    return work


def next_fit(dataset: str, capacity: int, depth: int) -> Work:
    """One open pack; it is closed when the next item does not fit (jraph, PyG, GPS++, torchtune)."""
    sizes = load_sizes(dataset)

    def work() -> Dict[str, Any]:
        packs = next_fit_packs([sizes], [capacity], depth)
        return {"packs": len(packs), "items": len(sizes)}

    return work


def next_fit_packs(columns: List[np.ndarray], capacities: List[int], depth: int) -> List[List[int]]:
    """Next fit over several dimensions; index lists of the packs."""
    packs: List[List[int]] = []
    pack: List[int] = []
    used = [0] * len(capacities)
    for index, row in enumerate(zip(*[column.tolist() for column in columns])):
        wanted = [u + r for u, r in zip(used, row)]
        if len(pack) == depth or any(w > c for w, c in zip(wanted, capacities)):
            packs.append(pack)
            pack, wanted = [], list(row)
        pack.append(index)
        used = wanted
    if pack:
        packs.append(pack)
    return packs
