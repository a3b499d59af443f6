"""Packs as items of a data set, for loaders that batch items of constant shape, such as `poptorch.DataLoader`.

packs = PackedDataset(plan, collate, multiple=packs_per_step(options, 4))
loader = poptorch.DataLoader(options, packs, batch_size=4)
for epoch in range(10):
    packs.set_epoch(epoch)
    for batch in loader: ...

The loader's order is that of the packs, so leave its shuffle alone. `DataLoaderMode.Async` needs
``async_options={"load_indefinitely": False}``, else it reads the next epoch before it knows which.
"""

import os
from typing import Any, Callable, Dict, Tuple

import numpy as np

from packing.adapters.torch import batches_per_call
from packing.make_plan import make_plan
from packing.plan import PackingPlan

__all__ = ["Collate", "PackedDataset", "make_plan", "packs_per_step"]

# Of (items [S], offsets [B + 1]), such as a function that calls `packing.collate.collate_graphs`.
Collate = Callable[[Tuple[np.ndarray, np.ndarray]], Dict[str, np.ndarray]]


class PackedDataset:
    """Map-style data set whose items are collated packs; they are in a new order after `set_epoch`.

    Empty packs round their number up, so that no loader drops or repeats the last ones; their masks are false.
    The epoch is in memory that copies in a loader's processes share, where torch is installed: workers that outlive an
    epoch follow it.
    """

    def __init__(
        self, plan: PackingPlan, collate: Collate, *, multiple: int = 1, seed: int = 0, shuffle: bool = True
    ) -> None:
        """Begin with epoch 0.

        Args:
            plan: of the items.
            collate: arrays [B, ...] of B packs; a function of a module where processes are started for the loader.
            multiple: the number of packs is one of this: see `packs_per_step`.
            seed: of the epochs.
            shuffle: deal the items anew in every epoch.
        """
        self.plan, self.collate, self.multiple = plan, collate, multiple
        self.seed, self.shuffle = seed, shuffle
        self._wanted = _shared_number()
        self._owner, self._reader, self._last = os.getpid(), -1, -1
        self._deal(0)

    def set_epoch(self, epoch: int) -> None:
        """Deal the items anew, here and in every copy that a loader's processes hold."""
        self._owner = os.getpid()
        self._wanted[0] = epoch
        self._deal(epoch)

    def _deal(self, epoch: int) -> None:
        self._epoch = epoch
        if self.shuffle:
            self.packs = self.plan.epoch(self.seed, epoch, self.multiple)
        else:
            self.packs = self.plan.in_order(self.multiple)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, pack: int) -> Dict[str, np.ndarray]:
        """Arrays of a pack.

        Raises:
            IndexError: there are fewer.
            ValueError: the epoch has changed while a process of the loader was amid one.
        """
        if not 0 <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}.")
        if os.getpid() != self._owner:
            self._follow(pack)
        return {name: array[0] for name, array in self.collate(self.packs.slice(pack, pack + 1)).items()}

    def _follow(self, pack: int) -> None:
        """Take up the epoch that the process of the training loop has set."""
        if self._reader != os.getpid():  # a copy that has read nothing
            self._reader, self._last = os.getpid(), -1
        wanted = int(self._wanted[0])
        if wanted != self._epoch:
            if -1 < self._last < pack:
                raise ValueError(
                    f"set_epoch({wanted}) came when the loader had read ahead to pack {self._last} of another epoch; "
                    "packs would be lost and repeated: give poptorch.DataLoader shuffle=False and "
                    "async_options={'load_indefinitely': False}."
                )
            self._deal(wanted)
        self._last = pack


def _shared_number() -> Any:
    """One integer in memory that copies of this process share, [1] int64."""
    try:
        import torch
    except ImportError:
        return np.zeros(1, np.int64)
    return torch.zeros(1, dtype=torch.int64).share_memory_()


def packs_per_step(options: Any, batch_size: int = 1) -> int:
    """Packs of one step: batch size x device iterations x replicas x accumulated batches x processes.

    Args:
        options: `poptorch.Options`.
        batch_size: packs of a batch.
    """
    return int(batch_size * batches_per_call(options) * options.Distributed.numProcesses)
