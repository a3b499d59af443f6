"""Molecules as text, several to a pack, with labels for each: batches for fine-tuning and for embeddings."""

from typing import Optional

import numpy as np
import torch

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches.loader import LabeledLoader, Packs
from ipu_chem.batches.tokens import check_ids
from ipu_chem.batches.types import TextPropertyPack
from packing import Budget, PackingPlan, Ragged
from packing.collate import collate_graphs
from packing.types import index_dtype


class TextPropertyLoader(LabeledLoader):
    """Batches of token sequences with labels for every sequence."""

    def __init__(
        self,
        ids: Ragged,
        plan: PackingPlan,
        targets: np.ndarray,
        budget: Budget,
        batching: Batching,
        vocab_size: int,
        items: Optional[np.ndarray] = None,
        world: World = ALONE,
    ) -> None:
        """Bind a split of sequences to its plan and its labels.

        Args:
            ids: values [total] integer in 0..vocab_size-1, tokens of every sequence, its begin and end included.
            targets: [I, T] standardized targets of all sequences; NaN where a label is missing.
            budget: shape of a pack: tokens, and segments, the molecules that it holds at most.
            vocab_size: V; decides how few bytes an id travels in.
            items: see `Loader`; None for all sequences.
            plan, batching, world: see `Loader`.

        Raises:
            ValueError: plan, targets and split differ in length, the plan does not fit the budget, the budget does not
                limit the molecules of a pack, an id is out of range, or a sequence is empty.
        """
        super().__init__(np.arange(len(ids)) if items is None else items, plan, targets, budget, batching, world)
        if len(targets) != len(ids):
            raise ValueError(f"{len(ids)} sequences and targets for {len(targets)}: these do not belong together.")
        if "segments" not in budget:
            raise ValueError(f"the budget ({budget}) must say how many molecules a pack has slots for: segments=16.")
        check_ids(ids, vocab_size)
        # Sequences are graphs without edges to it: what is laid out of each token, and of each molecule, is the same.
        self._shape = Budget(nodes=budget["tokens"], graphs=budget["segments"])
        places = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
        self._tokens = {
            "ids": Ragged(ids.values.astype(index_dtype(vocab_size), copy=False), ids.offsets),
            "position_ids": Ragged(places.astype(index_dtype(budget["tokens"])), ids.offsets),
        }

    def _collate(self, packs: Packs, labels_of_steps: np.ndarray) -> TextPropertyPack:
        positions, offsets = packs
        chosen, labels = (self.items[positions], offsets), {"y": self._y}
        arrays = collate_graphs(chosen, self._shape, self._tokens, None, labels, index_dtype="device")
        self._weigh(arrays, labels_of_steps)
        arrays["ends"] = arrays["graph_ends"]
        return TextPropertyPack(**{name: torch.from_numpy(arrays[name]) for name in TextPropertyPack._fields})
