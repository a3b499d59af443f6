"""From a store and a plan to batches: the last host step before the device."""

from abc import ABC, abstractmethod
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import torch

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches.types import compact_kind
from ipu_chem.data.fixed_point import FIELD
from packing import Budget, Epoch, PackingPlan, Ragged
from packing.collate import collate_graphs
from packing.store import Store

Packs = Tuple[np.ndarray, np.ndarray]  # positions of molecules, one pack after the other, and offsets [P + 1]

_PACKS_AT_ONCE = 256  # laid out in one go: enough for numpy's fixed costs, and their arrays stay in the cache


class Loader(ABC):
    """Batches of one split of a data set, always of the same shape; subclasses say what a pack holds."""

    def __init__(self, items: np.ndarray, plan: PackingPlan, budget: Budget, batching: Batching, world: World) -> None:
        """Bind a split to its plan.

        Args:
            items: [K] integer, which molecules of the data make up the split.
            plan: packs of those molecules, in the order of ``items``.
            budget: shape of a pack.
            batching: how many packs a call of all processes together takes.
            world: this process among them; its batches hold the packs of its own replicas.

        Raises:
            ValueError: plan and split differ in length, or the plan does not fit the budget.
        """
        if len(items) != len(plan.sizes):
            raise ValueError(
                f"a split of {len(items)} molecules and a plan for {len(plan.sizes)}: these do not belong together."
            )
        for name, fill in plan.fills.items():
            if name in budget and len(fill) and fill.max() > budget[name]:
                raise ValueError(f"the plan fills {fill.max()} {name} of a pack, its shape has {budget[name]}.")
        self.items = np.asarray(items)
        self.plan = plan
        self.budget = budget
        self.batching = batching
        self.world = world
        self._local = batching.for_one_of(world)

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
        packs, steps_per_call = self.plan.num_packs, self.batching.device_iterations
        if packs < self.steps_per_epoch:
            size = self.batching.packs_per_step
            fitting = (n for n in range(steps_per_call - 1, 1, -1) if -(-packs // (size * n)) * n <= packs)
            raise ValueError(
                f"{packs} training packs cannot feed the {self.steps_per_epoch} optimizer steps of an epoch, "
                f"{steps_per_call} a call; use batching.device_iterations={next(fitting, 1)}."
            )

    def epoch(self, seed: int, epoch: int, first_call: int = 0) -> Iterator[Tuple[Any, int]]:
        """Training batches, each with its number of molecules in all processes together.

        The order is that of chance, whoever computes it: fixed shapes cost an IPU the same, and on CPUs, where native
        kernels skip padding, full packs cost so nearly the same that balancing them would save less than it gives up,
        the same curve on any number of processes and devices (benchmarks/results/epoch_balance.md).

        Args:
            seed, epoch: decide who shares a pack and in what order.
            first_call: calls to leave out, for a run that resumes in the middle.
        """
        size = self.batching.packs_per_call
        order = self.plan.epoch(seed, epoch, multiple=size)
        # Small calls are laid out several at a time: their arrays are views of larger ones.
        together = max(_PACKS_AT_ONCE // size, 1)
        for first in range(first_call, self.calls_per_epoch, together):
            calls = min(together, self.calls_per_epoch - first)
            packs = order.slice(first * size, (first + calls) * size)
            molecules = np.diff(packs[1][::size]).tolist()
            batch = self._training_batch(packs, calls)
            parts = zip(*(field.chunk(calls) for field in batch))  # nothing is copied
            yield from zip((type(batch)(*fields) for fields in parts), molecules)

    def evaluation(self, part: World = ALONE) -> Iterator[Tuple[Any, np.ndarray]]:
        """Every molecule once, each batch with the positions of its molecules in the split.

        ``prediction[batch.graph_mask]`` is in the order of those positions.

        Args:
            part: only the batches of this process, among those that share the evaluation.
        """
        size = self._local.packs_per_evaluation
        order = self.plan.in_order(multiple=size)
        for start in range(part.rank * size, len(order), part.size * size):
            packs = order.slice(start, start + size)
            yield self._collate(packs, self._labels_of_steps(packs, 1)), packs[0]

    def example(self, training: bool) -> Any:
        """A batch of real molecules in the shape of every other."""
        size = self.batching.packs_per_call if training else self._local.packs_per_evaluation
        order: Epoch = self.plan.in_order(multiple=size)
        packs = order.slice(0, size)
        return self._training_batch(packs, 1) if training else self._collate(packs, self._labels_of_steps(packs, 1))

    def _training_batch(self, packs: Packs, calls: int) -> Any:
        """This process's part of the packs of some calls, whose weights count the labels of all processes."""
        labels = self._labels_of_steps(packs, self.batching.device_iterations * calls)
        if self.world.size > 1:
            batching, local = self.batching, self._local.replication_factor
            order = np.arange(len(packs[1]) - 1).reshape(-1, batching.replication_factor, batching.micro_batch_size)
            mine = order[:, self.world.rank * local : (self.world.rank + 1) * local].ravel()
            taken = Ragged(packs[0], packs[1]).take(mine)
            packs = (taken.values, taken.offsets)
        return self._collate(packs, labels)

    def _labels_of_steps(self, packs: Packs, steps: int) -> np.ndarray:
        """Number of labels in each of ``steps`` equal parts of the packs, [steps], or of each kind, [steps, K]."""
        positions, offsets = packs
        labels = self._labels_of(self.items[positions])
        before = np.concatenate([np.zeros_like(labels[:1]), labels]).cumsum(0)
        return np.diff(before[offsets[:: (len(offsets) - 1) // steps]], axis=0)

    @abstractmethod
    def _labels_of(self, items: np.ndarray) -> np.ndarray:
        """Number of labels of each molecule, [K], or of each kind, [K, ...]."""

    @abstractmethod
    def _collate(self, packs: Packs, labels_of_steps: np.ndarray) -> Any:
        """Arrays of the packs as tensors; over each step, weights of all processes sum to 1."""


class LabeledLoader(Loader):
    """Batches of molecules that have labels of their own."""

    def __init__(
        self,
        items: np.ndarray,
        plan: PackingPlan,
        targets: np.ndarray,
        budget: Budget,
        batching: Batching,
        world: World,
    ) -> None:
        """Bind a split to its plan and its labels.

        Args:
            items, plan, budget, batching, world: see `Loader`.
            targets: [I, T] standardized targets of all molecules of the data; NaN where a label is missing.
        """
        super().__init__(items, plan, budget, batching, world)
        self._label_counts = np.isfinite(targets).sum(1, dtype=np.int32)
        self._y = np.asarray(targets, np.float32)

    @property
    def num_targets(self) -> int:
        """T."""
        return self._y.shape[1]

    def _labels_of(self, items: np.ndarray) -> np.ndarray:
        return self._label_counts.take(items, axis=0)

    def _weigh(self, arrays: Dict[str, np.ndarray], labels_of_steps: np.ndarray) -> None:
        """Add the weights of the labels y [B, G, T] of packs that end at graph_ends; what is missing becomes 0."""
        y, real = arrays["y"], np.diff(arrays["graph_ends"].astype(np.int32), axis=1, prepend=0) > 0
        missing = ~np.isfinite(y)
        y[missing] = 0.0
        arrays["weight"] = weights_of(real[:, :, None] & ~missing, labels_of_steps)


class PackLoader(LabeledLoader):
    """Batches of molecules as graphs."""

    def __init__(
        self,
        store: Store,
        items: np.ndarray,
        plan: PackingPlan,
        targets: np.ndarray,
        budget: Budget,
        batching: Batching,
        world: World = ALONE,
        charges: bool = False,
        forces: Optional[np.ndarray] = None,
    ) -> None:
        """Bind a split of a store to its plan and its labels.

        Args:
            store: molecules with the axes "nodes" and "edges" and the fields z, pos and edge_index; with the field
                pos_int16 (`ipu_chem.data.fixed_point`) positions travel in 16 bits.
            items, plan, batching, world: see `Loader`.
            targets: [I, T] standardized targets of the whole store; NaN where a label is missing.
            budget: shape of a pack: nodes, graphs, and edges unless the device is to find them (`CompactNodePack`).
            charges: the model takes charge and spin, fields of the store.
            forces: [total, 3] standardized forces on all atoms of the store, NaN where missing; None trains on none.

        Raises:
            ValueError: plan, targets and split differ in length, or the plan does not fit the budget.
        """
        super().__init__(items, plan, targets, budget, batching, world)
        if len(targets) != len(store):
            raise ValueError(f"a store of {len(store)} and targets for {len(targets)}: these do not belong together.")
        z = store.ragged("z")
        self.nodes = {"z": z, "pos": store.ragged(FIELD if FIELD in store else "pos")}
        self.edge_index = store.ragged("edge_index") if "edges" in budget else None
        self.kind = compact_kind(self.edge_index is not None, charges, forces is not None)
        self._per_graph = {"y": self._y}
        if charges:
            self._per_graph.update({name: np.asarray(store.fields[name]) for name in ("charge", "spin")})
        if forces is not None:
            self.nodes["forces"] = Ragged(np.asarray(forces, np.float32), z.offsets)
            known = np.concatenate([[0], np.cumsum(np.isfinite(forces).all(1))])[z.offsets]
            # Of forces every component is a label; one weight stands for the three of an atom.
            self._label_counts = np.stack([self._label_counts, 3 * np.diff(known)], 1)

    def _collate(self, packs: Packs, labels_of_steps: np.ndarray) -> Any:
        arrays = self._arrays(packs)
        if "forces" in arrays:
            self._weigh(arrays, labels_of_steps[:, 0])
            _weigh_forces(arrays, labels_of_steps[:, 1])
        else:
            self._weigh(arrays, labels_of_steps)
        return self.kind(**{name: torch.from_numpy(arrays[name]) for name in self.kind._fields})

    def _arrays(self, packs: Packs) -> Dict[str, np.ndarray]:
        """Arrays of `collate_graphs` for the packs, so many of them at a time as suit the cache."""
        positions, offsets = packs
        count, arrays = len(offsets) - 1, {}
        for start in range(0, count, _PACKS_AT_ONCE):
            bounds = offsets[start : start + _PACKS_AT_ONCE + 1]
            items = self.items[positions[bounds[0] : bounds[-1]]]
            chosen = (items, bounds - bounds[0])
            part = collate_graphs(
                chosen, self.budget, self.nodes, self.edge_index, self._per_graph, index_dtype="device"
            )
            if count <= _PACKS_AT_ONCE:
                return part
            for name, array in part.items():
                if start == 0:
                    arrays[name] = np.empty((count,) + array.shape[1:], array.dtype)
                arrays[name][start : start + len(array)] = array
        return arrays


def _weigh_forces(arrays: Dict[str, np.ndarray], labels_of_steps: np.ndarray) -> None:
    """Add the weights of forces [B, N, 3]; what is missing becomes 0."""
    forces = arrays["forces"]
    real = np.arange(forces.shape[1]) < arrays["graph_ends"][:, -1:]
    known = real & np.isfinite(forces).all(2)
    forces[~known] = 0.0
    arrays["force_weight"] = weights_of(known[:, :, None], labels_of_steps)


def weights_of(counts: np.ndarray, labels_of_steps: np.ndarray) -> np.ndarray:
    """Weight of each label in the mean of its optimizer step.

    Args:
        counts: [B, ...] bool or 0 and 1, whether there is a label; packs of step after step.
        labels_of_steps: [steps] labels of each step, in all processes together.

    Returns:
        [B, ...] float32.
    """
    weight = counts.reshape(len(labels_of_steps), -1).astype(np.float32)
    weight *= (1.0 / np.maximum(labels_of_steps, 1.0)).astype(np.float32)[:, None]
    return weight.reshape(counts.shape)
