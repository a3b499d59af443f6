"""Rate at which this host turns molecules into batches: measured here, on random molecules in the run's shape.

The loader is the one that a run would have, over a store and a plan as a run would have them; only what the molecules
consist of is made up.
"""

import time
from typing import List, NamedTuple, Optional

import numpy as np

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.timing.span import Span
from ipu_chem.batches.loader import Loader
from ipu_chem.tasks.base import Task

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


def host_rate(task: Task, seconds: float, atoms: Optional[float] = None) -> HostRate:
    """Make batches for so many seconds.

    Args:
        task: planned.
        seconds: 0 measures nothing.
        atoms: of a molecule on average; None takes QM9's, or for text sequences of drug-like molecules.

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


def example_loader(task: Task, atoms: Optional[float] = None) -> Loader:
    """A loader over random molecules in the shape of a planned task.

    Raises:
        ValueError: no molecule of that size fits a pack.
    """
    batching = task.batching
    if batching.packs_per_call > _MOST_PACKS:  # what a pack costs does not depend on how many a call has
        batching = Batching(batching.micro_batch_size)
    packs = min(max(2 * batching.packs_per_call, _LEAST_PACKS), _MOST_PACKS)
    return task.random_loader(packs, batching, atoms=atoms)
