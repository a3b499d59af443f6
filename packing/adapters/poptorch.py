"""Packs as items of a data set, for loaders that batch items of constant shape, such as `poptorch.DataLoader`.

packs = PackedDataset(plan, collate, multiple=packs_per_step(options, 4))
loader = poptorch.DataLoader(options, packs, batch_size=4, shuffle=False)
for epoch in range(10):
    packs.set_epoch(epoch)  # with the loader's workers not persistent
    for batch in loader: ...
"""

from typing import Any, Callable, Dict, Tuple

import numpy as np

from packing.plan import PackingPlan

# Of (items [S], offsets [B + 1]), such as a function that calls `packing.collate.collate_graphs`.
Collate = Callable[[Tuple[np.ndarray, np.ndarray]], Dict[str, np.ndarray]]


class PackedDataset:
    """Map-style data set whose items are collated packs; they are in a new order after `set_epoch`.

    Empty packs round their number up, so that no loader drops or repeats the last ones; their masks are false.
    """

    def __init__(
        self, plan: PackingPlan, collate: Collate, *, multiple: int = 1, seed: int = 0, shuffle: bool = True
    ) -> None:
        """Begin with epoch 0.

        Args:
            plan: of the items.
            collate: arrays [B, ...] of B packs.
            multiple: the number of packs is one of this: see `packs_per_step`.
            seed: of the epochs.
            shuffle: deal the items anew in every epoch.
        """
        self.plan, self.collate, self.multiple = plan, collate, multiple
        self.seed, self.shuffle = seed, shuffle
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Deal the items anew."""
        if self.shuffle:
            self.packs = self.plan.epoch(self.seed, epoch, self.multiple)
        else:
            self.packs = self.plan.in_order(self.multiple)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, pack: int) -> Dict[str, np.ndarray]:
        if not 0 <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}.")
        return {name: array[0] for name, array in self.collate(self.packs.slice(pack, pack + 1)).items()}


def packs_per_step(options: Any, batch_size: int = 1) -> int:
    """Packs of one step: batch size x device iterations x replicas x accumulated batches x processes.

    Args:
        options: `poptorch.Options`.
        batch_size: packs of a batch.
    """
    counts = (
        options.device_iterations, options.replication_factor, options.Training.gradient_accumulation,
        options.Distributed.numProcesses,
    )  # fmt: skip
    return batch_size * int(np.prod(counts))
