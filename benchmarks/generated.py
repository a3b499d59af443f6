"""Molecules and token sequences of the published sizes, made up on the spot: data for measuring speed.

Sizes decide how packs are filled and how much a device has to do; what the molecules are made of does not.
Labels are random numbers, so a loss means nothing beyond being finite.
"""

from typing import TYPE_CHECKING, Dict, NamedTuple, Optional, Tuple

import numpy as np

from benchmarks.histograms import HYDRONET, HYDRONET_2_7M, HYDRONET_500K, QM9
from ipu_chem.backends.options import World
from ipu_chem.batches.loader import Loader, PackLoader
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.data.fixed_point import STEP, fixed_point_in_memory
from packing import Budget, PackingPlan, Ragged, make_plan
from packing.store import Store

if TYPE_CHECKING:  # the script that uses this module
    from benchmarks.throughput import Settings

HISTOGRAMS = {"qm9": QM9, "hydronet": HYDRONET, "hydronet_2_7m": HYDRONET_2_7M, "hydronet_500k": HYDRONET_500K}
# SELFIES symbols of drug-like molecules in bins of five, from a mixture of ZINC, DRD2, NCI and QM9 molecules.
_SYMBOLS = {
    5: 30, 10: 131, 15: 186, 20: 192, 25: 222, 30: 290, 35: 345, 40: 251, 45: 159, 50: 94,
    55: 55, 60: 23, 65: 11, 70: 3, 75: 5, 80: 1, 85: 1,
}  # fmt: skip
# Seconds. Takes a fraction of one; a plan that the clock has cut short would differ from process to process.
_TIME_LIMIT = 120.0


class Feed(NamedTuple):
    """Data that a benchmark trains on.

    Attributes:
        loader: has `epoch(seed, epoch)`, batches with their number of samples.
        plan: of all packs.
        sizes: atoms or tokens of every sample, [I].
        position_step: Å, of positions in 16 bits.
    """

    loader: Loader
    plan: PackingPlan
    sizes: np.ndarray
    position_step: Optional[float] = None


def graph_feed(settings: "Settings", world: World) -> Feed:
    """Packs of made-up molecules in the sizes of the data set that just fill one call.

    Args:
        settings: data set, shape of a pack, layout and batching.
        world: see `Loader`.

    Raises:
        ValueError: the data set has larger molecules than a pack has slots.
    """
    batching, dataset, nodes, neighbors = settings.batching, settings.dataset, settings.pack_nodes, settings.neighbors
    histogram = HISTOGRAMS[dataset]
    if max(histogram) > nodes:
        raise ValueError(f"{dataset} has molecules of {max(histogram)} atoms, a pack {nodes} slots; set nodes higher.")
    random = np.random.default_rng(0)
    budget = Budget(nodes=nodes, graphs=1) if settings.layout == "padded" else Budget(nodes=nodes)
    sizes, plan = _enough(random, histogram, budget, batching.packs_per_call)
    budget = budget.replace(graphs=plan.max_items_per_pack)
    if settings.edges == "host":
        budget = budget.replace(edges=nodes * neighbors)
    store = fixed_point_in_memory(_molecules(random, sizes, neighbors))
    labels = random.normal(size=(len(sizes), 1))
    loader = PackLoader(store, np.arange(len(sizes)), plan, labels, budget, batching, world)
    return Feed(loader, plan, sizes, store.info[STEP])


def token_feed(settings: "Settings", vocab_size: int, world: World) -> Feed:
    """Packs of made-up token sequences that just fill one call.

    Args:
        settings: tokens of a pack, layout and batching.
        vocab_size: ids run from 1 to this, exclusive.
        world: see `Loader`.

    Raises:
        ValueError: a sequence is longer than a pack.
    """
    random, batching, tokens = np.random.default_rng(0), settings.batching, settings.tokens
    # Any length of a bin is as likely; two more tokens mark the beginning and the end.
    histogram = {length + extra + 2: count for length, count in _SYMBOLS.items() for extra in range(5)}
    if max(histogram) > tokens:
        raise ValueError(f"sequences have up to {max(histogram)} tokens, a pack {tokens}; set tokens higher.")
    budget = Budget(tokens=tokens, segments=1) if settings.layout == "padded" else Budget(tokens=tokens)
    sizes, plan = _enough(random, histogram, budget, batching.packs_per_call)
    ids = Ragged(random.integers(1, vocab_size, sizes.sum()), np.append(0, np.cumsum(sizes)))
    loader = TokenLoader(ids, plan, budget, batching, vocab_size, world=world)
    return Feed(loader, plan, sizes)


def _enough(
    random: np.random.Generator, histogram: Dict[int, int], budget: Budget, packs: int
) -> Tuple[np.ndarray, PackingPlan]:
    """Sizes drawn from a histogram whose plan takes as many packs as asked for, or a few less, and the plan."""
    choices, counts = np.array(list(histogram)), np.array(list(histogram.values()))
    drawn = int(packs * budget.capacities()[0] / choices.min()) + 1  # more than fit by any means
    sizes = random.choice(choices, min(drawn, packs * budget.max_items), p=counts / counts.sum())
    fits = int(np.searchsorted(np.cumsum(sizes), packs * budget.capacities()[0])) or 1
    while True:
        plan = make_plan(sizes[:fits], budget, time_limit=_TIME_LIMIT)
        if plan.num_packs <= packs:
            return sizes[:fits], plan
        # Never the same again: at least as many samples less as there are packs too many.
        fits -= max(plan.num_packs - packs, fits * (plan.num_packs - packs) // plan.num_packs)


def _molecules(random: np.random.Generator, sizes: np.ndarray, neighbors: int) -> Store:
    """Molecules whose atoms see the next ones in the order of the atoms, up to ``neighbors`` of them."""
    offsets = np.append(0, np.cumsum(sizes))
    degree = np.minimum(sizes - 1, neighbors)
    per_atom = np.repeat(degree, sizes)
    target = np.repeat(np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes), per_atom)
    step = np.arange(per_atom.sum()) - np.repeat(np.cumsum(per_atom) - per_atom, per_atom) + 1
    source = (target + step) % np.repeat(sizes, sizes * degree)
    edges = Ragged(np.stack([source, target], 1).astype(np.uint8), np.append(0, np.cumsum(sizes * degree)))
    elements = np.array([1, 6, 7, 8], np.uint8)
    fields = {
        "z": random.choice(elements, offsets[-1]),
        "pos": random.uniform(0, 3, (offsets[-1], 3)).astype(np.float32),  # Å, all within any cutoff
        "edge_index": edges.values,
    }
    axis_of = {"z": "nodes", "pos": "nodes", "edge_index": "edges"}
    return Store({"nodes": offsets, "edges": edges.offsets}, fields, axis_of)
