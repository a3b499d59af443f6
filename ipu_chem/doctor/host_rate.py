"""Rate at which this host turns molecules into batches: measured here, on made-up molecules in the run's shape.

The loader is the one that a run would have, over a store and a plan as a run would have them; only what the molecules
consist of is made up.
"""

import math
import time
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.timing.span import Span
from ipu_chem.batches.loader import Loader, PackLoader
from ipu_chem.data.fixed_point import fixed_point_in_memory
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.graphs import GraphTask
from packing import Budget, make_plan
from packing.store import Store

MEAN_ATOMS = 18.0  # of a molecule where nobody says: QM9's
_SPREAD = 1 / 6  # of sizes, relative; QM9's, too
_LEAST_PACKS, _MOST_PACKS = 64, 2_048  # of an epoch, which is made over and over
_PIECE = 0.1  # seconds of a measurement that give one rate
_WIDTH = 4 / 8  # bytes of a 64-bit number on the device, of those here


class HostRate(NamedTuple):
    """Sizes of a loader's packs, and its rate.

    Attributes:
        molecules_per_pack, units_per_pack: means over the packs of a plan; units are atoms, or symbols of text.
        bytes_per_pack: that are transferred to the device.
        molecules: a second: slowest, middle and fastest piece of the measurement; None without one.
    """

    molecules_per_pack: float
    units_per_pack: float
    bytes_per_pack: int
    molecules: Optional[Span]


def host_rate(task: Task, seconds: float, atoms: float = MEAN_ATOMS) -> HostRate:
    """Make batches for so many seconds.

    Args:
        task: planned.
        seconds: 0 measures nothing.
        atoms: of a molecule on average; text has sequences of drug-like molecules instead.

    Raises:
        ValueError: seconds or atoms make no sense, or no molecule of that size fits a pack.
    """
    if not 0 <= seconds <= 3600:
        raise ValueError(f"loader_seconds={seconds:g}: give 0, which measures nothing, or seconds up to 3600.")
    loader = example_loader(task, atoms)
    batch = next(loader.epoch(0, 0))[0]
    size = sum(
        field.numel() * field.element_size() * (_WIDTH if field.element_size() == 8 else 1) for field in batch
    ) / len(batch[0])
    packs = loader.plan.num_packs
    units = int(next(iter(loader.plan.fills.values())).sum())
    molecules = measure(loader, seconds) if seconds else None
    return HostRate(len(loader.plan.items) / packs, units / packs, int(size), molecules)


def measure(loader: Loader, seconds: float) -> Span:
    """Molecules a second of a loader, in shuffled epochs one after the other."""
    rates: List[float] = []
    count, epoch = 0, 0
    next(loader.epoch(0, 0))  # brings everything into memory
    started = begun = time.perf_counter()
    while True:
        epoch += 1
        for _, molecules in loader.epoch(0, epoch):
            count += molecules
            now = time.perf_counter()
            if now - begun >= min(_PIECE, seconds):
                rates.append(count / (now - begun))
                count, begun = 0, now
                if now - started >= seconds:
                    return Span(min(rates), float(np.median(rates)), max(rates))


def example_loader(task: Task, atoms: float = MEAN_ATOMS) -> Loader:
    """A loader over made-up molecules in the shape of a planned task.

    Raises:
        ValueError: no molecule of that size fits a pack.
    """
    batching = task.config.batching
    if batching.packs_per_call > _MOST_PACKS:  # what a pack costs does not depend on how many a call has
        batching = Batching(batching.micro_batch_size)
    packs = min(max(2 * batching.packs_per_call, _LEAST_PACKS), _MOST_PACKS)
    if not isinstance(task, GraphTask):
        return task.random_loader(packs, batching)  # type: ignore[attr-defined]
    budget = task.budget
    if not 1 <= atoms <= budget["nodes"]:
        raise ValueError(
            f"atoms={atoms:g}: give the atoms of a molecule on average, from 1 to the {budget['nodes']} of a pack."
        )
    if task.neighbors:
        budget = Budget(nodes=budget["nodes"], graphs=budget["graphs"])
    store = _made_up(task, packs, budget, atoms)
    sizes, count = store.sizes(), len(store)
    plan = make_plan({name: sizes[name] for name in budget.measured}, budget, algorithm="best_fit")
    random = np.random.default_rng(1)
    labels = random.normal(size=(count, len(task.labels.targets)))
    forces = None if task.forces is None else random.normal(size=(int(sizes["nodes"].sum()), 3))
    return PackLoader(store, np.arange(count), plan, labels, budget, batching, charges=task.takes_charge, forces=forces)


def _made_up(task: GraphTask, packs: int, budget: Budget, atoms: float) -> Store:
    """Molecules for so many packs, with pairs of neighbors where those come from the host."""
    random = np.random.default_rng(0)
    in_a_pack = min(budget["nodes"] / atoms, budget["graphs"])
    sizes = np.rint(random.normal(atoms, _SPREAD * atoms, math.ceil(packs * in_a_pack) + 1))
    sizes = np.clip(sizes, 1, budget["nodes"]).astype(np.int64)
    offsets = np.append(0, np.cumsum(sizes))
    axes, axis_of = {"nodes": offsets}, {"z": "nodes", "pos": "nodes"}
    fields: Dict[str, Any] = {
        "z": random.integers(1, 10, offsets[-1]).astype(np.uint8),
        "pos": random.normal(0.0, 2.0, (offsets[-1], 3)).astype(np.float32),
    }
    if "edges" in budget:
        most = 0.95 * budget["edges"] / budget["nodes"] * sizes
        pairs = np.minimum(sizes * (sizes - 1) // 2, most.astype(np.int64))
        axes["edges"], axis_of["edge_index"] = np.append(0, np.cumsum(pairs)), "edges"
        ends = random.random((int(pairs.sum()), 2)) * np.repeat(sizes, pairs)[:, None]
        fields["edge_index"] = ends.astype(np.uint16)
    if task.takes_charge:
        fields["charge"] = np.zeros(len(sizes), np.int8)
        fields["spin"] = np.zeros(len(sizes), np.uint8)
    store = Store(axes, fields, axis_of)
    return store if task.position_step is None else fixed_point_in_memory(store)
