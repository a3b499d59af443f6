"""Molecules as text, several to a pack: batches for language models."""

from typing import Optional

import numpy as np
import torch

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches.loader import Loader, Packs, weights_of
from ipu_chem.batches.types import TokenPack
from packing import Budget, PackingPlan, Ragged
from packing.collate import IGNORE_LABEL, collate_tokens
from packing.types import index_dtype


class TokenLoader(Loader):
    """Batches of token sequences whose labels are the next tokens."""

    def __init__(
        self,
        ids: Ragged,
        plan: PackingPlan,
        budget: Budget,
        batching: Batching,
        vocab_size: int,
        items: Optional[np.ndarray] = None,
        world: World = ALONE,
        stated: int = 0,
    ) -> None:
        """Bind a split of sequences to its plan.

        Args:
            ids: values [total] integer in 0..vocab_size-1, tokens of every sequence.
            budget: shape of a pack: tokens.
            vocab_size: V; decides how few bytes an id travels in.
            items: see `Loader`; None for all sequences.
            plan, batching, world: see `Loader`.
            stated: tokens behind the first of every sequence that are given, not predicted: labels of weight 0.

        Raises:
            ValueError: plan and split differ in length, the plan does not fit the budget, or an id is out of range.
        """
        super().__init__(np.arange(len(ids)) if items is None else items, plan, budget, batching, world)
        check_ids(ids, vocab_size)
        self.ids, self.stated = ids, stated
        self._dtype = index_dtype(vocab_size)

    def _labels_of(self, items: np.ndarray) -> np.ndarray:
        # Nothing follows the last token of a sequence.
        return np.maximum(self.ids.lengths[items] - 1 - self.stated, 0)

    def _collate(self, packs: Packs, labels_of_steps: np.ndarray) -> TokenPack:
        positions, offsets = packs
        arrays = collate_tokens((self.items[positions], offsets), self.budget, self.ids)
        # Labels there are those of the token that stands at the same place; a token predicts the next one's.
        labels = np.roll(arrays["labels"], -1, axis=1)
        labels[:, -1] = IGNORE_LABEL  # not what rolled in from the front of the pack
        counts = labels != IGNORE_LABEL
        if self.stated:  # the token behind place p stands at p + 1
            counts &= arrays["position_ids"] >= self.stated
        return TokenPack(
            ids=torch.from_numpy(arrays["input_ids"].astype(self._dtype)),
            position_ids=torch.from_numpy(arrays["position_ids"]),
            labels=torch.from_numpy(np.where(counts, labels, 0).astype(self._dtype)),
            weight=torch.from_numpy(weights_of(counts, labels_of_steps)),
        )


def check_ids(ids: Ragged, vocab_size: int) -> None:
    """Refuse token ids that are not in 0..vocab_size-1.

    Raises:
        ValueError: says what there is.
    """
    if len(ids.values) and not 0 <= int(ids.values.min()) <= int(ids.values.max()) < vocab_size:
        raise ValueError(
            f"token ids run from {ids.values.min()} to {ids.values.max()}, the vocabulary has {vocab_size}: "
            "tokenizer and model do not belong together."
        )
