"""Packed sequences for Hugging Face: data sets packed as a whole, and a collator that keeps sequences apart.

packed = pack_dataset(tokenized, 256)
Trainer(model, arguments, train_dataset=packed, data_collator=DataCollatorForPacks(256)).train()
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from packing.adapters.pack_dataset import LENGTHS, POSITIONS, STRATEGIES, pack_dataset
from packing.checks import whole
from packing.types import counted

__all__ = ["ATTENTIONS", "STRATEGIES", "DataCollatorForPacks", "pack_dataset"]
ATTENTIONS = ("mask", "cu_seq_lens", "position_ids")
_IGNORED = -100  # labels that losses leave out


class DataCollatorForPacks:
    """Packed rows as tensors of fixed length in which no sequence sees another.

    The result has input_ids, labels and position_ids [B, T] int64 and, by ``attention``,

    - "mask": attention_mask [B, 1, T, T], 0 where a token may attend and the least float elsewhere: exact with eager
      and sdpa attention. Masks of other dtypes or of two dimensions let sequences see each other, some without a word.
      It grows with T squared: above some thousand tokens take the next.
    - "cu_seq_lens": everything as one row [1, B T] with cu_seq_lens_q, cu_seq_lens_k int32, max_length_q and
      max_length_k, for flash attention.
    - "position_ids": no more, for models that find sequences by them.

    Outside of Trainer, which does so by itself, models need ``use_cache=False``. Labels are -100 in padding and at the
    first token of every sequence, as models shift them: no sequence has to predict the next one.
    """

    def __init__(
        self,
        max_length: int,
        pad_token_id: int = 0,
        attention: str = "mask",
        *,
        causal: bool = True,
        dtype: str = "float32",
        segments: Optional[int] = None,
        from_batch_sampler: bool = False,
    ) -> None:
        """Set the shape.

        Args:
            max_length: tokens of a row, T.
            pad_token_id: stands in padding; nothing depends on it.
            attention: "mask", "cu_seq_lens" or "position_ids".
            causal: a token attends to those before it alone.
            dtype: of the mask, that of the model where it is not trained in mixed precision.
            segments: sequences of a row at most; gives cu_seq_lens a fixed length, the rest of which are empty.
            from_batch_sampler: features are single sequences, all of one pack, as `PackBatchSampler` chooses them.

        Raises:
            ValueError: a word is unknown, or a number is none.
        """
        max_length = whole("max_length", max_length, 1)
        segments = None if segments is None else whole("segments", segments, 1)
        if not isinstance(pad_token_id, (int, np.integer)):
            raise ValueError(f"pad_token_id={pad_token_id!r}: give any integer, such as 0; nothing depends on it.")
        if isinstance(dtype, str) and dtype not in ("float64", "float32", "float16", "bfloat16"):
            raise ValueError(f"dtype={dtype!r}: choose float32, float16, bfloat16 or float64.")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention={attention!r}: choose one of {', '.join(ATTENTIONS)}.")
        self.max_length, self.pad_token_id, self.attention = max_length, pad_token_id, attention
        self.causal, self.dtype, self.segments, self.from_batch_sampler = causal, dtype, segments, from_batch_sampler

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
        """Collate rows.

        Raises:
            ValueError: a row is longer than ``max_length``, holds more sequences than ``segments``, or does not say
                where they end.
        """
        import torch

        if self.from_batch_sampler:
            features = [_one_row(features)] if features else []
        shape = (len(features), self.max_length)
        if not features:
            raise ValueError("a batch has no rows.")
        ids, labels = np.full(shape, self.pad_token_id, np.int64), np.full(shape, _IGNORED, np.int64)
        places, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        bounds = [0]
        for row, feature in enumerate(features):
            lengths = self._lengths(feature, row)
            total = int(lengths.sum())
            # Padding is one more sequence, where there is some.
            all_lengths = np.append(lengths, self.max_length - total)[: len(lengths) + (total < self.max_length)]
            ids[row, :total] = _array(feature, "input_ids", row, total)
            labels[row, :total] = _array(feature, "labels" if "labels" in feature else "input_ids", row, total)
            labels[row, np.cumsum(lengths) - lengths] = _IGNORED
            places[row] = counted(all_lengths)
            segments[row, :total] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
            bounds += (row * self.max_length + np.cumsum(all_lengths)).tolist()
        result = {"input_ids": ids, "labels": labels, POSITIONS: places}
        tensors: Dict[str, Any] = {name: torch.from_numpy(array) for name, array in result.items()}
        if self.attention == "cu_seq_lens":
            tensors = {name: tensor.reshape(1, -1) for name, tensor in tensors.items()}
            tensors.update(self._bounds(bounds, len(features)))
        elif self.attention == "mask":
            tensors["attention_mask"] = self._mask(torch.from_numpy(segments))
        return tensors

    def _bounds(self, bounds: List[int], rows: int) -> Dict[str, Any]:
        """Arguments of flash attention, from where sequences end."""
        import torch

        if self.segments is not None:
            bounds = bounds + bounds[-1:] * (rows * (self.segments + 1) + 1 - len(bounds))
        found = torch.tensor(bounds, dtype=torch.int32)
        return {
            "cu_seq_lens_q": found,
            "cu_seq_lens_k": found.clone(),
            "max_length_q": self.max_length,
            "max_length_k": self.max_length,
        }

    def _mask(self, segments: Any) -> Any:
        """Mask to be added to attention, [B, 1, T, T], of segments [B, T]."""
        import torch

        # Padding sees itself, so that no token of it sees nothing, which would be NaN.
        seen = segments[:, :, None] == segments[:, None, :]
        if self.causal:
            seen &= torch.ones(self.max_length, self.max_length, dtype=torch.bool).tril()
        dtype = getattr(torch, self.dtype) if isinstance(self.dtype, str) else self.dtype
        mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
        return mask.masked_fill_(seen, 0.0)[:, None]

    def _lengths(self, feature: Mapping[str, Any], row: int) -> np.ndarray:
        """Lengths of the sequences of a row."""
        if not isinstance(feature, Mapping) or "input_ids" not in feature:
            raise ValueError(f"row {row} has no input_ids; the collator takes rows of pack_dataset.")
        total = len(feature["input_ids"])
        if LENGTHS in feature:
            lengths = _array(feature, LENGTHS, row)
        elif POSITIONS in feature:
            starts = np.flatnonzero(_array(feature, POSITIONS, row, total) == 0)
            lengths = np.diff(np.append(starts, total))
        else:
            raise ValueError(
                f"row {row} says nowhere where its sequences end: Trainer leaves out {LENGTHS}, and {POSITIONS} "
                "where the model has none; TrainingArguments(remove_unused_columns=False) keeps them."
            )
        if lengths.sum() != total or lengths.min(initial=1) < 1 or total > self.max_length:
            raise ValueError(
                f"row {row} has {total} tokens in sequences of {int(lengths.sum())}, and the collator's max_length is "
                f"{self.max_length}; pack to the same number."
            )
        if self.segments is not None and len(lengths) > self.segments:
            raise ValueError(
                f"row {row} holds {len(lengths)} sequences and the collator's segments are {self.segments}; "
                f"pack to Budget(tokens={self.max_length}, segments={self.segments})."
            )
        return lengths


def _array(feature: Mapping[str, Any], name: str, row: int, length: Optional[int] = None) -> np.ndarray:
    """Integers of a row, [length] int64."""
    values = np.asarray(feature[name])
    values = values if values.size else values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu" or length not in (None, len(values)):
        wanted = "integers" if length is None else f"{length} integers, as many as input_ids"
        raise ValueError(f"{name} of row {row} are {values.dtype} of shape {values.shape}; give {wanted}.")
    return values.astype(np.int64)


def _one_row(features: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Single sequences joined to one row."""
    names = ["input_ids"]
    if any("labels" in feature for feature in features):
        names.append("labels")
    for number, feature in enumerate(features):
        missing = [name for name in names if name not in feature]
        if missing:
            raise ValueError(f"sequence {number} of a pack has no {missing[0]}, which others have; give it to all.")
    row: Dict[str, Any] = {
        name: np.concatenate([_array(one, name, number, len(one["input_ids"])) for number, one in enumerate(features)])
        for name in names
    }
    row[LENGTHS] = [len(feature["input_ids"]) for feature in features]
    return row
