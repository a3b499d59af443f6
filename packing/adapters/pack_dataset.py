"""Tokenized data sets of Hugging Face packed as a whole, in the form of TRL's `pack_dataset`."""

import hashlib
import sys
from importlib import import_module
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import numpy as np

from packing.epoch import Epoch
from packing.make_plan import make_plan
from packing.types import Budget, counted, offsets_of

STRATEGIES = {"optimal": "auto", "bfd": "best_fit"}
LENGTHS, POSITIONS = "seq_lengths", "position_ids"  # columns that packing adds
_ROWS = 10_000  # whose lengths are read at once


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
    _check(dataset)
    options: Dict[str, Any] = {"desc": "Packing", **(map_kwargs or {})}
    ours = {"batched", "remove_columns", "with_indices", "function", "input_columns"} & set(options)
    if ours:
        raise ValueError(f"map_kwargs has {min(ours)!r}, which packing decides; leave it out.")
    import datasets

    limits = budget if isinstance(budget, Budget) else Budget(tokens=budget)
    rows = dataset.with_format("arrow")
    lengths = _lengths(rows)
    kept = _kept(lengths, limits[limits.measured[0]], oversize)
    plan = make_plan(lengths[kept], limits, STRATEGIES[strategy])
    if not plan.num_packs:
        added = dict.fromkeys((POSITIONS, LENGTHS), datasets.Sequence(datasets.Value("int32")))
        features = datasets.Features({**dict(dataset.features or {}), **added})
        return datasets.Dataset.from_dict({name: [] for name in features}, features)
    packs = datasets.Dataset.from_dict({"pack": np.arange(plan.num_packs)})
    if not {"cache_file_name", "new_fingerprint"} & set(options):
        what = f"{plan.fingerprint} {dataset._fingerprint} {seed}"  # else all rows would be hashed
        options["new_fingerprint"] = hashlib.blake2b(what.encode(), digest_size=8).hexdigest()
    join = _Join(rows, kept, lengths[kept], plan.epoch(seed, 0))
    packed = packs.map(join, batched=True, remove_columns=["pack"], **options)
    return packed.with_format(dataset.format["type"])


def _check(dataset: Any) -> None:
    """Refuse what is no data set of Hugging Face, or makes its rows when they are read."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "with_format"):
        raise ValueError(
            f"{type(dataset).__name__} cannot be packed as a whole; give a Dataset, or pack a stream with "
            "packing.streaming.StreamPacker."
        )
    if dataset.format["type"] == "custom":
        raise ValueError(
            "the data set has a transform that makes its rows when they are read; apply it once, with dataset.map(), "
            "and pack the result."
        )


class _Join:
    """Packed rows by their number, from the rows they are made of."""

    def __init__(self, rows: Any, kept: np.ndarray, lengths: np.ndarray, epoch: Epoch) -> None:
        self.rows, self.kept, self.lengths, self.epoch = rows, kept, lengths, epoch

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> Any:
        import pyarrow as pa

        items, ends = self.epoch.slice(batch["pack"][0], batch["pack"][-1] + 1)
        table, lengths = self.rows[self.kept[items].tolist()], self.lengths[items]
        tokens, places = offsets_of(lengths)[ends], counted(lengths)
        columns = {name: table.column(name).combine_chunks().flatten() for name in table.column_names}
        if not np.array_equal(columns.get(POSITIONS, places), places):
            raise ValueError(f"{POSITIONS} of a row do not count from 0; remove the column, packing adds one.")
        columns.setdefault(POSITIONS, pa.array(places, pa.int32()))
        arrays = {
            name: pa.ListArray.from_arrays(pa.array(tokens, pa.int32()), column) for name, column in columns.items()
        }
        arrays[LENGTHS] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(lengths, pa.int32()))
        return pa.table(arrays)


def _lengths(rows: Any) -> np.ndarray:
    """Tokens of every row, [I] int64."""
    import pyarrow as pa

    pc: Any = import_module("pyarrow.compute")
    found, start = [], 0
    for table in rows.iter(_ROWS):
        first: Optional[str] = None
        for name in table.column_names:
            column = table.column(name)
            if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)) or name == LENGTHS:
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
