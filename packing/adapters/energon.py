"""Choice of samples that share a pack, for the task encoders of Megatron-Energon.

class Encoder(DefaultTaskEncoder):
    select = SampleSelector(Budget(tokens=4096), lambda sample: len(sample.tokens))

    def select_samples_to_pack(self, samples):
        return self.select(samples)
"""

from typing import Any, Callable, List, Mapping, Sequence, Union

import numpy as np

from packing.streaming import StreamPacker
from packing.types import Budget


class SampleSelector:
    """Groups of a buffer of samples, every sample in one of them.

    A buffer's groups depend on its samples alone: Energon saves the samples of a position, and nothing of this.
    """

    def __init__(
        self, budget: Budget, size: Callable[[Any], Union[int, Mapping[str, int]]], *, buffer_size: int = 10_000
    ) -> None:
        """Set up.

        Args:
            budget: capacities of a pack.
            size: of a sample, a number where the budget measures one dimension, else {name: number}.
            buffer_size: samples that are packed at once; energon's packing_buffer_size, unless that is larger.
        """
        self.budget, self.size, self.buffer_size = budget, size, buffer_size

    def __call__(self, samples: Sequence[Any]) -> List[List[Any]]:
        """Group the samples.

        Raises:
            ValueError: a sample is larger than the budget.
        """
        if not samples:
            return []
        sizes: List[Any] = [self.size(sample) for sample in samples]
        names = self.budget.measured
        if isinstance(sizes[0], Mapping):
            table = {name: np.array([one[name] for one in sizes]) for name in names}
        else:
            table = {names[0]: np.array(sizes)}
        packer = StreamPacker(self.budget, min(self.buffer_size, len(samples)))
        # Energon asks for no more after the last buffer, so that nothing may be kept back.
        ready = (packer.push(np.arange(len(samples)), table), packer.flush())
        return [[samples[item] for item in packs[pack]] for packs in ready for pack in range(len(packs))]
