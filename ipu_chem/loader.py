"""From a store and a plan to batches: the last host step before the device.

On data's way: Store + PackingPlan + standardised targets -> PackLoader -> GraphPack -> Backend.
"""

from typing import Iterator, Tuple

import numpy as np
import torch

from ipu_chem.backends.options import Batching
from ipu_chem.batch import GraphPack
from packing import Budget, Epoch, PackingPlan
from packing.collate import collate_graphs
from packing.store import Store


class PackLoader:
    """Batches of one split of a data set, always of the same shape."""

    def __init__(
        self,
        store: Store,
        items: np.ndarray,
        plan: PackingPlan,
        targets: np.ndarray,
        budget: Budget,
        batching: Batching,
    ) -> None:
        """Bind a split to its plan.

        Args:
            store: molecules with the axes "nodes" and "edges" and the fields z, pos and edge_index.
            items: [K] integer, which molecules of the store make up the split.
            plan: packs of those molecules, in the order of ``items``.
            targets: [I, T] standardised targets of the whole store; NaN where a label is missing.
            budget: shape of a pack: nodes, edges and graphs.
            batching: how many packs a call takes.

        Raises:
            ValueError: plan, targets and split differ in length, or the plan does not fit the budget.
        """
        if len(items) != len(plan.sizes) or len(targets) != len(store):
            raise ValueError(
                f"a split of {len(items)} molecules and a plan for {len(plan.sizes)}, a store of {len(store)} "
                f"and targets for {len(targets)}: these do not belong together."
            )
        for name, fill in plan.fills.items():
            if name in budget and len(fill) and fill.max() > budget[name]:
                raise ValueError(f"the plan fills {fill.max()} {name} of a pack, its shape has {budget[name]}.")
        self.nodes = {"z": store.ragged("z"), "pos": store.ragged("pos")}
        self.edge_index = store.ragged("edge_index")
        self.items = np.asarray(items)
        self.plan = plan
        self.budget = budget
        self.batching = batching
        self._known = np.isfinite(targets)
        self._y = np.where(self._known, targets, 0.0).astype(np.float32)

    @property
    def calls_per_epoch(self) -> int:
        """Calls of the device program in an epoch of training."""
        return -(-self.plan.num_packs // self.batching.packs_per_call)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.calls_per_epoch * self.batching.device_iterations

    def check_steps(self) -> None:
        """Refuse a batching in which some optimizer step of an epoch would get no molecule at all.

        Raises:
            ValueError: says how many packs there are and what would fit.
        """
        if self.plan.num_packs < self.steps_per_epoch:
            raise ValueError(
                f"{self.plan.num_packs} training packs cannot feed the {self.steps_per_epoch} optimizer steps of "
                f"a call; lower batching.device_iterations to {max(self.plan.num_packs, 1)} or less."
            )

    def epoch(self, seed: int, epoch: int, first_call: int = 0) -> Iterator[Tuple[GraphPack, int]]:
        """Training batches, each with its number of molecules.

        Args:
            seed, epoch: decide who shares a pack and in what order.
            first_call: calls to leave out, for a run that resumes in the middle.
        """
        size = self.batching.packs_per_call
        order = self.plan.epoch(seed, epoch, multiple=size)
        for call in range(first_call, self.calls_per_epoch):
            packs = order.slice(call * size, (call + 1) * size)
            yield self._collate(packs, steps=self.batching.device_iterations), len(packs[0])

    def evaluation(self) -> Iterator[Tuple[GraphPack, np.ndarray]]:
        """Every molecule once, each batch with the positions of its molecules in the split.

        ``prediction[batch.graph_mask]`` is in the order of those positions.
        """
        size = self.batching.packs_per_evaluation
        order = self.plan.in_order(multiple=size)
        for start in range(0, len(order), size):
            packs = order.slice(start, start + size)
            yield self._collate(packs, steps=1), packs[0]

    def example(self, training: bool) -> GraphPack:
        """A batch of real molecules in the shape of every other."""
        size = self.batching.packs_per_call if training else self.batching.packs_per_evaluation
        order: Epoch = self.plan.in_order(multiple=size)
        return self._collate(order.slice(0, size), steps=self.batching.device_iterations if training else 1)

    def _collate(self, packs: Tuple[np.ndarray, np.ndarray], steps: int) -> GraphPack:
        """Arrays of the packs as tensors; weights sum to 1 over each of ``steps`` equal parts."""
        positions, offsets = packs
        labels = {"y": self._y, "weight": self._known}
        arrays = collate_graphs((self.items[positions], offsets), self.budget, self.nodes, self.edge_index, labels)
        weight = arrays["weight"].reshape(steps, -1).astype(np.float64)
        weight = weight / np.maximum(weight.sum(1, keepdims=True), 1.0)
        arrays["weight"] = weight.reshape(arrays["weight"].shape).astype(np.float32)
        return GraphPack(**{name: torch.from_numpy(arrays[name]) for name in GraphPack._fields})
