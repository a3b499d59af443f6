"""Splits of a data set and the packs of each: who trains, who tests, and which molecules share a pack."""

from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple, cast

import numpy as np
from tqdm import tqdm

from ipu_chem.config import DataConfig, PackConfig
from ipu_chem.data import splits
from ipu_chem.data.identity import molecule_digests, replicates, without_rows
from ipu_chem.data.molecule import decode_text, decode_texts
from packing import Budget, PackingPlan, make_plan
from packing.make_plan import expected_seconds
from packing.store import Store

SPLITS = ("train", "validation", "test")
_SHOWN = 10  # rows that are named
# A plan may take this fraction of a training in which a device gets through so many nodes or tokens a second (no model
# here is faster on any), and so many seconds at most.
_FRACTION, _RATE, _MOST_SECONDS = 0.02, 200_000, 10.0
_SHAPE_SECONDS = 0.5  # of that go to the shape of a pack and to validation and test, where packs have two dimensions


class SplitData(NamedTuple):
    """Molecules, who of them trains and who tests, and their packs.

    Attributes:
        store: molecules.
        items: split name -> store items [K].
        plans: split name -> packs of its items; empty splits have none.
    """

    store: Store
    items: Dict[str, np.ndarray]
    plans: Dict[str, PackingPlan]


NO_DATA = SplitData(cast(Store, None), {}, {})


def as_split(items: Mapping[str, np.ndarray]) -> splits.Split:
    """Items by the names of their splits as a split."""
    return splits.Split(*(items[name] for name in SPLITS))


def by_molecules(state: Mapping[str, Any]) -> bool:
    """Tell runs whose splits go by molecules; earlier ones counted items, and must find theirs again."""
    return not state or "split" in state


def split_items(store: Store, data: DataConfig, state: Mapping[str, Any] = {}) -> Dict[str, np.ndarray]:
    """Store items of the training, validation and test split.

    Args:
        store: molecules; of a file with their rows, and with ``info["rows"]``, how many those are.
        data: of the run.
        state: of the checkpoint that the run goes on from.

    Raises:
        ValueError: sizes do not add up, the index file is wrong, a scaffold split lacks SMILES, there is no official
            split, or the split is not the one that the checkpoint's run had.
    """
    validation, test = _fraction_or_count(data.validation), _fraction_or_count(data.test)
    train = _fraction_or_count(data.train) or None
    if data.split == "random":
        groups = _groups(store, data, state)
        split = splits.random_split(len(store), validation, test, data.split_seed, train, groups)
    elif splits.OFFICIAL.fullmatch(data.split):
        if data.split not in store:
            there = [field for field in sorted(store.fields) if splits.OFFICIAL.fullmatch(field)]
            raise ValueError(
                f"data set {data.name} has no split {data.split!r} here; "
                + (f"it has {', '.join(there)}." if there else "use random, or the path of an index file.")
            )
        groups = _groups(store, data, state)
        split = splits.official_split(store.fields[data.split], validation, data.split_seed, train, groups)
    elif data.split in ("scaffold", "scaffold_deepchem"):
        if "smiles" not in store:
            raise ValueError(f"data set {data.name} has no SMILES, which data.split={data.split} needs; use random.")
        smiles = decode_texts(store, "smiles")
        wanted = sum(size if isinstance(size, int) else size * len(store) for size in (train or 0, validation, test))
        if train and wanted < len(store) - len(SPLITS) and not state:
            raise ValueError(
                f"data.train={data.train:g}: data.split={data.split} trains on all that validation and test leave; "
                "leave data.train out, or set data.split=random."
            )
        if data.split == "scaffold":
            split = splits.scaffold_split(smiles, validation, test, data.split_seed)
        else:
            split = splits.deepchem_scaffold_split(smiles, validation, test)
    elif "row" in store and by_molecules(state):
        split = _split_of_rows(store, data.split)
    else:
        split = splits.file_split(data.split, len(store))
    most = store.info.get("most_training")
    if most and len(split.train) > most:
        print(f"{data.name}: {len(split.train):,} frames train; its authors advise against more than {most:,}, because")
        print("  frames of one trajectory are so alike that a test among them would say little")
    items = dict(zip(SPLITS, split))
    same = state and state.get("fingerprint") == without_rows(store).fingerprint()  # else that is what is refused
    if same and state.get("split", "") not in ("", split_fingerprint(store, items)):
        raise ValueError(
            "the split is not that of the run (another index file, or another version of the library that made it); "
            "bring that back or start a new run with another --out."
        )
    return items


def split_fingerprint(store: Store, items: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of the molecules of every split."""
    return splits.fingerprint(as_split(items), molecule_digests(store))


def plans_of_splits(
    items: Mapping[str, np.ndarray],
    sizes: Callable[[np.ndarray], Dict[str, np.ndarray]],
    choose_budget: Callable[[np.ndarray], Budget],
    pack: PackConfig,
    seed: int,
    folder: Optional[Path],
    passes: float = 1.0,
) -> Tuple[Dict[str, PackingPlan], Budget]:
    """Make a plan for every split that is not empty, and the shape of their packs.

    Args:
        items: split name -> store items.
        sizes: what fills a pack, of store items.
        choose_budget: the shape that given items need.
        pack: algorithm and time limit.
        seed: of the algorithm.
        folder: plans of an earlier start of the same run, which are taken as they are: made under a time limit, a
            plan may differ the next time.
        passes: over the training molecules, of each replica its part: epochs / replicas.
    """
    used = {split: chosen for split, chosen in items.items() if len(chosen)}
    if folder is not None:
        try:
            made = {split: PackingPlan.load(folder / f"{split}.npz") for split in used}
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"{str(error).partition(';')[0]}; a run goes on with the plans of its start alone: begin again with "
                "another --out (predict needs no plans)."
            ) from None
        for split, plan in made.items():
            plan.check(sizes(used[split]))
        return made, next(iter(made.values())).budget
    print(f"packing {sum(len(chosen) for chosen in used.values()):,} molecules ...", flush=True)
    made = {}
    with tqdm(total=1 + len(used), desc="packing", leave=False, disable=None) as bar:
        budget = choose_budget(np.concatenate(list(used.values())))
        for split, chosen in used.items():
            bar.update()
            measured = sizes(chosen)
            algorithm = pack.algorithm
            if algorithm == "auto" and (split != "train" or not (pack.time_limit or _pays(measured, budget, passes))):
                algorithm = "best_fit"
            made[split] = make_plan(measured, budget, algorithm, seed, time_limit=pack.time_limit or _MOST_SECONDS)
        bar.update()
    return made, budget


def packing_seconds(size: int, passes: float) -> float:
    """Seconds that packing may take, the choice of a shape included: a fiftieth of the training, and at least one.

    Args:
        size: nodes or tokens of the training molecules.
        passes: over them.
    """
    return min(max(_FRACTION * passes * size / _RATE, 1.0), _MOST_SECONDS)


def _pays(sizes: Mapping[str, np.ndarray], budget: Budget, passes: float) -> bool:
    """Tell whether column generation is through in that time; expected, not measured, so that all machines agree."""
    measured = {name: sizes[name] for name in budget.measured}
    seconds = packing_seconds(int(measured[budget.measured[0]].sum()), passes)
    return expected_seconds(measured, budget) <= seconds - _SHAPE_SECONDS * (len(measured) > 1)


def reads_rows(data: DataConfig) -> bool:
    """Tell runs whose split is an index file of rows of a user's own file."""
    return data.name == "file" and data.split not in splits.RULES and not splits.OFFICIAL.fullmatch(data.split)


def _groups(store: Store, data: DataConfig, state: Mapping[str, Any]) -> Optional[np.ndarray]:
    """Replicates that stay together, said; None where there are none, or they need not."""
    if data.replicates == "apart" or not by_molecules(state):
        return None
    groups = replicates(store)
    if groups is not None:
        counts = np.bincount(groups)
        several = counts[counts > 1]
        print(
            f"replicates: {int(several.sum()):,} of {len(groups):,} molecules are {len(several):,} different ones, "
            "each on one side of the split (data.replicates=apart lets them straddle)"
        )
    return groups


def _split_of_rows(store: Store, path: str) -> splits.Split:
    """The items of an index file, after saying which of its rows were left out."""
    rows = np.asarray(store.fields["row"])
    wanted = splits.file_split(path, int(store.info["rows"]) or 2**31 - 1)
    try:
        split, left = splits.items_of_rows(wanted, rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name, missing in left.items():
        shown = ", ".join(map(str, missing[:_SHOWN].tolist())) + (" ..." if len(missing) > _SHOWN else "")
        count = len(getattr(wanted, name))
        print(f"{path}: {len(missing):,} of the {count:,} rows of the {name} split were left out: rows {shown}")
    return split


def molecule_name(store: Store, item: int) -> str:
    """Name of a molecule in messages: its name in the data set, else its number."""
    name = decode_text(store, "name", item) if "name" in store else ""
    return f"{name!r} (item {item})" if name else f"item {item}"


def _fraction_or_count(value: float) -> Any:
    """Below 1 a fraction, else a number of molecules."""
    if value >= 1 and value != int(value):
        raise ValueError(
            f"data.train, data.validation and data.test: {value} is neither a fraction nor a whole number."
        )
    return int(value) if value >= 1 or value == 0 else float(value)
