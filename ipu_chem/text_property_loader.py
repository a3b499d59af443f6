"""Molecules as text, several to a pack, with labels for each: batches for fine-tuning and for embeddings.

On data's way: token ids + PackingPlan + standardised targets -> TextPropertyLoader -> TextPropertyPack -> Backend.
"""

from typing import Optional

import numpy as np
import torch

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batch import TextPropertyPack
from ipu_chem.loader import Loader, Packs, weights_of
from ipu_chem.token_loader import check_ids
from packing import Budget, PackingPlan, Ragged
from packing.collate import collate_graphs
from packing.types import index_dtype


class TextPropertyLoader(Loader):
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
            plan: see `Loader`.
            targets: [I, T] standardised targets of all sequences; NaN where a label is missing.
            budget: shape of a pack: tokens, and segments, the molecules that it holds at most.
            batching: see `Loader`.
            vocab_size: V; decides how few bytes an id travels in.
            items: see `Loader`; None for all sequences.
            world: see `Loader`.

        Raises:
            ValueError: plan, targets and split differ in length, the plan does not fit the budget, the budget does not
                limit the molecules of a pack, an id is out of range, or a sequence is empty.
        """
        super().__init__(np.arange(len(ids)) if items is None else items, plan, budget, batching, world)
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
        self._label_counts = np.isfinite(targets).sum(1, dtype=np.int32)
        self._y = np.asarray(targets, np.float32)

    @property
    def num_targets(self) -> int:
        """T."""
        return self._y.shape[1]

    def _labels_of(self, items: np.ndarray) -> np.ndarray:
        return self._label_counts.take(items)

    def _collate(self, packs: Packs, labels_of_steps: np.ndarray) -> TextPropertyPack:
        positions, offsets = packs
        arrays = collate_graphs((self.items[positions], offsets), self._shape, self._tokens, None, {"y": self._y})
        ends = arrays["graph_ends"]
        lengths: np.ndarray = np.diff(ends.astype(np.int32), axis=1, prepend=0)
        known = np.isfinite(arrays["y"]) & (lengths > 0)[:, :, None]
        return TextPropertyPack(
            ids=torch.from_numpy(arrays["ids"]),
            position_ids=torch.from_numpy(arrays["position_ids"]),
            ends=torch.from_numpy(ends),
            y=torch.from_numpy(np.where(known, arrays["y"], np.float32(0))),
            weight=torch.from_numpy(weights_of(known, labels_of_steps)),
        )
