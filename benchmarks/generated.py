"""Molecules and token sequences of the published sizes, made up on the spot: data for measuring speed.

Sizes decide how packs are filled and how much a device has to do; what the molecules are made of does not.
Labels are random numbers, so a loss means nothing beyond being finite.

On data's way: size histogram -> Store -> plan -> PackLoader or TokenLoader -> Backend.train_step.
"""

from typing import TYPE_CHECKING, Dict, Iterator, NamedTuple, Tuple, Union

import numpy as np
import torch

from benchmarks.histograms import HYDRONET, HYDRONET_2_7M, HYDRONET_500K, QM9
from ipu_chem.backends.options import Batching, World
from ipu_chem.batch import TokenPack
from ipu_chem.loader import PackLoader
from packing import Budget, PackingPlan, Ragged, make_plan
from packing.collate import IGNORE_LABEL, collate_tokens
from packing.store import Store

if TYPE_CHECKING:  # the script that uses this module
    from benchmarks.throughput import Settings

HISTOGRAMS = {"qm9": QM9, "hydronet": HYDRONET, "hydronet_2_7m": HYDRONET_2_7M, "hydronet_500k": HYDRONET_500K}
# SELFIES symbols of drug-like molecules in bins of five, from a mixture of ZINC, DRD2, NCI and QM9 molecules.
_SYMBOLS = {
    5: 30, 10: 131, 15: 186, 20: 192, 25: 222, 30: 290, 35: 345, 40: 251, 45: 159, 50: 94,
    55: 55, 60: 23, 65: 11, 70: 3, 75: 5, 80: 1, 85: 1,
}  # fmt: skip


class TokenLoader:
    """Batches of token packs in the shapes and with the weights that training needs, one call after the other."""

    def __init__(self, ids: Ragged, plan: PackingPlan, budget: Budget, batching: Batching, world: World) -> None:
        """Bind sequences to their plan.

        Args:
            ids: token ids of every sequence.
            plan: packs of the sequences.
            budget: shape of a pack: tokens.
            batching: how many packs a call of all processes together takes.
            world: this process among them; its batches hold the packs of its own replicas.
        """
        self.ids, self.plan, self.budget, self.batching, self.world = ids, plan, budget, batching, world
        # A sequence teaches one symbol less than it has: nothing follows the last.
        self._taught = np.maximum(ids.lengths - 1, 0)

    def epoch(self, seed: int, epoch: int) -> Iterator[Tuple[TokenPack, int]]:
        """Batches of one pass, each with its number of sequences in all processes together."""
        batching, rank = self.batching, self.world.rank
        local = batching.for_one_of(self.world).replication_factor
        grid = np.arange(batching.packs_per_call).reshape(-1, batching.replication_factor, batching.micro_batch_size)
        mine = grid[:, rank * local : (rank + 1) * local].ravel()
        order = self.plan.epoch(seed, epoch, multiple=batching.packs_per_call)
        for start in range(0, len(order), batching.packs_per_call):
            items, offsets = order.slice(start, start + batching.packs_per_call)
            taught = np.add.reduceat(np.append(self._taught[items], 0), offsets[:-1]) * (np.diff(offsets) > 0)
            totals = taught.reshape(batching.device_iterations, -1).sum(1)
            part = Ragged(items, offsets).take(mine)
            yield self._collate((part.values, part.offsets), totals), len(items)

    def _collate(self, packs: Tuple[np.ndarray, np.ndarray], totals: np.ndarray) -> TokenPack:
        """Arrays of the packs as tensors; over each step, weights of all processes sum to 1."""
        arrays = collate_tokens(packs, self.budget, self.ids)
        following = np.roll(arrays["labels"], -1, axis=1)
        following[:, -1] = IGNORE_LABEL  # what rolled in from the front of the row
        counts = following != IGNORE_LABEL
        weight = counts.reshape(len(totals), -1) / np.maximum(totals, 1)[:, None]
        return TokenPack(
            ids=torch.from_numpy(arrays["input_ids"]),
            position_ids=torch.from_numpy(arrays["position_ids"].astype(np.int32)),
            labels=torch.from_numpy(np.where(counts, following, 0).astype(np.int32)),
            weight=torch.from_numpy(weight.reshape(counts.shape).astype(np.float32)),
        )


class Feed(NamedTuple):
    """What a benchmark trains on.

    Attributes:
        loader: has `epoch(seed, epoch)`, batches with their number of samples.
        plan: of all packs.
        sizes: atoms or tokens of every sample, [I].
    """

    loader: Union[PackLoader, TokenLoader]
    plan: PackingPlan
    sizes: np.ndarray


def graph_feed(settings: "Settings", world: World, seed: int = 0) -> Feed:
    """Packs of made-up molecules in the sizes of the data set that just fill one call.

    Args:
        settings: data set, shape of a pack, layout and batching.
        world: see `PackLoader`.

    Raises:
        ValueError: the data set has larger molecules than a pack has slots.
    """
    batching, dataset, nodes, neighbours = settings.batching, settings.dataset, settings.pack_nodes, settings.neighbours
    histogram = HISTOGRAMS[dataset]
    if max(histogram) > nodes:
        raise ValueError(f"{dataset} has molecules of {max(histogram)} atoms, a pack {nodes} slots; set nodes higher.")
    random = np.random.default_rng(seed)
    budget = Budget(nodes=nodes, graphs=1) if settings.padded else Budget(nodes=nodes)
    sizes, plan = _enough(random, histogram, budget, batching.packs_per_call)
    budget = budget.replace(graphs=plan.max_items_per_pack)
    if settings.edges == "host":
        budget = budget.replace(edges=nodes * neighbours)
    store = _molecules(random, sizes, neighbours)
    labels = random.normal(size=(len(sizes), 1))
    loader = PackLoader(store, np.arange(len(sizes)), plan, labels, budget, batching, world)
    return Feed(loader, plan, sizes)


def token_feed(settings: "Settings", vocab_size: int, world: World, seed: int = 0) -> Feed:
    """Packs of made-up token sequences that just fill one call.

    Args:
        settings: tokens of a pack, layout and batching.
        vocab_size: ids run from 1 to this, exclusive.
        world: see `TokenLoader`.

    Raises:
        ValueError: a sequence is longer than a pack.
    """
    random, batching, tokens = np.random.default_rng(seed), settings.batching, settings.tokens
    # Any length of a bin is as likely; two more tokens mark the beginning and the end.
    histogram = {length + extra + 2: count for length, count in _SYMBOLS.items() for extra in range(5)}
    if max(histogram) > tokens:
        raise ValueError(f"sequences have up to {max(histogram)} tokens, a pack {tokens}; set tokens higher.")
    budget = Budget(tokens=tokens, segments=1) if settings.padded else Budget(tokens=tokens)
    sizes, plan = _enough(random, histogram, budget, batching.packs_per_call)
    ids = Ragged(random.integers(1, vocab_size, sizes.sum()), np.append(0, np.cumsum(sizes)))
    loader = TokenLoader(ids, plan, budget, batching, world)
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
        plan = make_plan(sizes[:fits], budget, "auto", time_limit=2.0)
        if plan.num_packs <= packs:
            return sizes[:fits], plan
        # Never the same again: at least as many samples less as there are packs too many.
        fits -= max(plan.num_packs - packs, fits * (plan.num_packs - packs) // plan.num_packs)


def _molecules(random: np.random.Generator, sizes: np.ndarray, neighbours: int) -> Store:
    """Molecules whose atoms see the next ones in the order of the atoms, up to ``neighbours`` of them."""
    offsets = np.append(0, np.cumsum(sizes))
    degree = np.minimum(sizes - 1, neighbours)
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
