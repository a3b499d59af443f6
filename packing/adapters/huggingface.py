"""Packed sequences for Hugging Face: data sets packed as a whole, and a collator that keeps sequences apart.

packed = pack_dataset(tokenized, 256)
Trainer(model, arguments, train_dataset=packed, data_collator=DataCollatorForPacks(256)).train()
"""

import hashlib
import sys
from importlib import import_module
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np

from packing.checks import whole
from packing.make_plan import make_plan
from packing.plan import PackingPlan
from packing.types import Budget

STRATEGIES = {"optimal": "auto", "bfd": "best_fit"}
_LENGTHS, _POSITIONS = "seq_lengths", "position_ids"
_IGNORED = -100  # labels that losses leave out
_ROWS = 10_000  # whose lengths are read at once
ATTENTIONS = ("mask", "cu_seq_lens", "position_ids")


def pack_dataset(
    dataset: Any,
    budget: Union[int, Budget],
    strategy: str = "optimal",
    map_kwargs: Optional[Mapping[str, Any]] = None,
    *,
    oversize: str = "error",
    seed: int = 0,
) -> Any:
    """Pack tokenized rows into as few rows of at most ``budget`` tokens as possible, over the whole data set.

    In the form of TRL's `pack_dataset`: every column is joined, and ``seq_lengths`` says where sequences end;
    ``position_ids``, counted from 0 in every sequence, say the same to models and are kept by Trainer.

    Args:
        dataset: `Dataset` or `DatasetDict`, whose columns are lists, as long as each other in every row.
        budget: tokens of a packed row, or ``Budget(tokens=2048, segments=64)``.
        strategy: "optimal", the fewest rows that are found, or "bfd", best fit decreasing.
        map_kwargs: for `Dataset.map`, such as num_proc.
        oversize: "error", or "skip" to leave out rows that are empty or longer than the budget, which a line counts.
        seed: of the order of the packed rows.

    Raises:
        ValueError: a row is empty or longer than the budget, a column holds no lists or ones of other lengths, or the
            data set is a stream.
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"strategy={strategy!r} is none of {', '.join(STRATEGIES)}; both keep sequences whole, "
            "so cut long ones before."
        )
    if isinstance(dataset, dict):  # a DatasetDict
        packed = {
            name: pack_dataset(part, budget, strategy, map_kwargs, oversize=oversize, seed=seed)
            for name, part in dataset.items()
        }
        return type(dataset)(packed)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "with_format"):
        raise ValueError(
            f"{type(dataset).__name__} cannot be packed as a whole; give a Dataset, or pack a stream with "
            "packing.streaming.StreamPacker."
        )
    import datasets

    if dataset.format["type"] == "custom":
        raise ValueError(
            "the data set has a transform that makes its rows when they are read; apply it once, with dataset.map(), "
            "and pack the result."
        )
    options: Dict[str, Any] = {"desc": "Packing", **(map_kwargs or {})}
    ours = {"batched", "remove_columns", "with_indices", "function", "input_columns"} & set(options)
    if ours:
        raise ValueError(f"map_kwargs has {min(ours)!r}, which packing decides; leave it out.")
    limits = budget if isinstance(budget, Budget) else Budget(tokens=budget)
    rows = dataset.with_format("arrow")
    lengths = _lengths(rows)
    kept = _kept(lengths, limits[limits.measured[0]], oversize)
    plan = make_plan(lengths[kept], limits, STRATEGIES[strategy])
    if not plan.num_packs:
        both = {_POSITIONS: datasets.Value("int32"), _LENGTHS: datasets.Value("int32")}
        features = {**dict(dataset.features or {}), **{name: datasets.Sequence(kind) for name, kind in both.items()}}
        return datasets.Dataset.from_dict({name: [] for name in features}, datasets.Features(features))
    packs = datasets.Dataset.from_dict({"pack": np.arange(plan.num_packs)})
    if not {"cache_file_name", "new_fingerprint"} & set(options):
        what = f"{plan.fingerprint} {dataset._fingerprint} {seed}"  # else all rows would be hashed
        options["new_fingerprint"] = hashlib.blake2b(what.encode(), digest_size=8).hexdigest()
    packed = packs.map(_Join(rows, kept, plan, seed), batched=True, remove_columns=["pack"], **options)
    return packed.with_format(dataset.format["type"])


class _Join:
    """Packed rows by their number, from the rows they are made of."""

    def __init__(self, rows: Any, kept: np.ndarray, plan: PackingPlan, seed: int) -> None:
        self.rows, self.kept, self.epoch = rows, kept, plan.epoch(seed, 0)

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Any:
        import pyarrow as pa

        first, last = batch["pack"][0], batch["pack"][-1] + 1
        items, ends = self.epoch.slice(first, last)
        table = self.rows[self.kept[items].tolist()]
        columns: Dict[str, Any] = {}
        lengths: np.ndarray = np.zeros(0, np.int64)
        tokens = lengths
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            lengths = np.diff(np.asarray(column.offsets, np.int64))
            values = column.flatten()
            tokens = np.append(0, np.cumsum(lengths))[ends]
            if name == _POSITIONS and not np.array_equal(values, _counted(lengths)):
                raise ValueError(f"{_POSITIONS} of a row do not count from 0; remove the column, packing adds one.")
            columns[name] = pa.ListArray.from_arrays(pa.array(tokens, pa.int32()), values)
        if _POSITIONS not in columns:
            places = pa.array(_counted(lengths).astype(np.int32))
            columns[_POSITIONS] = pa.ListArray.from_arrays(pa.array(tokens, pa.int32()), places)
        columns[_LENGTHS] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(lengths.astype(np.int32)))
        return pa.table(columns)


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, .. in each of some sequences."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _lengths(rows: Any) -> np.ndarray:
    """Tokens of every row, [I] int64."""
    import pyarrow as pa

    pc: Any = import_module("pyarrow.compute")
    found, start = [], 0
    for table in rows.iter(_ROWS):
        first: Optional[str] = None
        for name in table.column_names:
            column = table.column(name)
            if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)) or name == _LENGTHS:
                raise ValueError(
                    f"column {name!r} holds {column.type}, no tokens; take dataset.select_columns(['input_ids']), or "
                    "those that are lists of one length."
                )
            lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy().astype(np.int64)
            if first is None:
                first = name
                found.append(lengths)
            missing = int((lengths < 0).argmax())
            if (lengths < 0).any() or pc.list_flatten(column).null_count:
                where = f"row {start + missing}" if (lengths < 0).any() else f"a row from {start} on"
                raise ValueError(f"{where} has no value in {name!r}; remove such rows, with dataset.filter().")
            wrong = np.flatnonzero(lengths != found[-1])
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(
                    f"row {start + row} has {lengths[row]} values of {name!r} and {found[-1][row]} of {first!r}; "
                    "columns of a row are lists of one length."
                )
            if name == "attention_mask" and pc.min(pc.list_flatten(column)).as_py() == 0:
                raise ValueError(
                    f"rows from {start} on are padded, as their attention_mask says, and would be packed with their "
                    "padding; tokenize with padding=False."
                )
        start += len(found[-1]) if found else 0
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _kept(lengths: np.ndarray, most: int, oversize: str) -> np.ndarray:
    """Rows that can be packed, [K]."""
    if oversize not in ("error", "skip"):
        raise ValueError(f"oversize={oversize!r}: choose 'error' or 'skip'.")
    wrong = (lengths > most) | (lengths == 0)
    if wrong.any() and oversize == "error":
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"row {row} has {lengths[row]} tokens, where 1 to {most} can be packed, as {int(wrong.sum()):,} of "
            f"{len(lengths):,} rows; cut or remove them, or leave them out with oversize='skip'."
        )
    if wrong.any():
        print(
            f"{int((lengths > most).sum()):,} of {len(lengths):,} rows are longer than {most} tokens and "
            f"{int((lengths == 0).sum()):,} are empty; they are left out.",
            file=sys.stderr,
        )
    return np.flatnonzero(~wrong)


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
        bounds: List[np.ndarray] = []
        for row, feature in enumerate(features):
            lengths = self._lengths(feature, row)
            total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
            ids[row, :total] = _array(feature, "input_ids", row, total)
            labels[row, :total] = _array(feature, "labels" if "labels" in feature else "input_ids", row, total)
            labels[row, starts] = _IGNORED
            places[row] = np.arange(self.max_length)
            places[row, :total] -= np.repeat(starts, lengths)
            places[row, total:] -= total
            segments[row, :total] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
            ends = np.append(starts + lengths, [self.max_length] if total < self.max_length else [])
            bounds.append(row * self.max_length + ends)
        result = {"input_ids": ids, "labels": labels, _POSITIONS: places}
        tensors: Dict[str, Any] = {name: torch.from_numpy(array) for name, array in result.items()}
        if self.attention == "cu_seq_lens":
            tensors = {name: tensor.reshape(1, -1) for name, tensor in tensors.items()}
            counted = np.append(0, np.concatenate(bounds))
            if self.segments is not None:
                rest = len(features) * (self.segments + 1) + 1 - len(counted)
                counted = np.append(counted, np.full(rest, counted[-1]))
            for name in ("q", "k"):
                tensors[f"cu_seq_lens_{name}"] = torch.from_numpy(counted.astype(np.int32))
                tensors[f"max_length_{name}"] = self.max_length
        elif self.attention == "mask":
            one = torch.from_numpy(segments)
            # Padding sees itself, so that no token of it sees nothing, which would be NaN.
            seen = one[:, :, None] == one[:, None, :]
            if self.causal:
                seen &= torch.ones(self.max_length, self.max_length, dtype=torch.bool).tril()
            dtype = getattr(torch, self.dtype) if isinstance(self.dtype, str) else self.dtype
            mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
            tensors["attention_mask"] = mask.masked_fill_(seen, 0.0)[:, None]
        return tensors

    def _lengths(self, feature: Mapping[str, Any], row: int) -> np.ndarray:
        """Lengths of the sequences of a row."""
        if not isinstance(feature, Mapping) or "input_ids" not in feature:
            raise ValueError(f"row {row} has no input_ids; the collator takes rows of pack_dataset.")
        total = len(feature["input_ids"])
        if _LENGTHS in feature:
            lengths = _array(feature, _LENGTHS, row)
        elif _POSITIONS in feature:
            starts = np.flatnonzero(_array(feature, _POSITIONS, row, total) == 0)
            lengths = np.diff(np.append(starts, total))
        else:
            raise ValueError(
                f"row {row} says nowhere where its sequences end: Trainer leaves out {_LENGTHS}, and {_POSITIONS} "
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
    row[_LENGTHS] = [len(feature["input_ids"]) for feature in features]
    return row
