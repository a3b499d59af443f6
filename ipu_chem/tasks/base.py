"""What a run learns from, whatever its model reads: molecules, split, packs, and what is particular to graphs or text.

On data's way: RunConfig -> GraphData or TextData -> model, loaders, evaluators -> Trainer -> results of the run.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
from torch import nn

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import ALONE, World
from ipu_chem.batches.loader import Loader
from ipu_chem.config import DataConfig, RunConfig
from ipu_chem.data import splits
from ipu_chem.data.molecule import decode_text, decode_texts
from packing import Budget, PackingPlan, make_plan
from packing.store import Store

SPLITS = ("train", "validation", "test")


class Measures(ABC):
    """Measures a model on a split."""

    loader: Loader

    @property
    @abstractmethod
    def metric_names(self) -> List[str]:
        """Names that `metrics` returns."""

    @abstractmethod
    def metrics(self, backend: Backend) -> Tuple[Dict[str, float], float]:
        """Figures of the split, and the one number that checkpoints are chosen by; lower is better."""


@dataclass
class RunData(ABC):
    """Everything about molecules that a run needs.

    Attributes:
        store: molecules.
        items: split name -> store items [K].
        plans: split name -> packs of its items; empty splits have none.
        budget: shape of every pack.
        world: this process among those that train together.
    """

    store: Store
    items: Dict[str, np.ndarray]
    plans: Dict[str, PackingPlan]
    budget: Budget
    world: World = field(default=ALONE, init=False)

    @abstractmethod
    def loader(self, split: str, config: RunConfig) -> Loader:
        """Batches of a split."""

    @abstractmethod
    def measures(self, split: str, config: RunConfig) -> Measures:
        """Measures a split that is not empty."""

    @abstractmethod
    def model(self, config: RunConfig) -> nn.Module:
        """The model with weights drawn from the run's seed."""

    @abstractmethod
    def loss(self, config: RunConfig) -> Callable[..., Any]:
        """What training lowers.

        Raises:
            ValueError: there is no such loss.
        """

    @abstractmethod
    def state(self) -> Dict[str, Any]:
        """What a checkpoint needs besides weights for the same predictions, as JSON values."""

    @abstractmethod
    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """What run.json says of these data besides what all runs have; "announced" are lines for the start."""

    @abstractmethod
    def results(self, config: RunConfig, backend: Backend, folder: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
        """Measure the splits that were held out; writes what belongs beside the figures into the run's folder.

        Returns:
            {"results": split -> metrics, "baseline": split -> metrics of something simpler}.
        """

    def evaluator(self, split: str, config: RunConfig) -> Optional[Measures]:
        """Measures a split; None when it is empty."""
        return self.measures(split, config) if split in self.plans else None

    def check_same(self, state: Mapping[str, Any]) -> None:
        """Refuse other molecules than a checkpoint's: items and plans are numbers, and would mean another split.

        Raises:
            ValueError: says what may have changed.
        """
        if state["fingerprint"] != self.store.fingerprint():
            raise ValueError(
                "the molecules are not those that the run was trained on (other raw files, or another version of the "
                "library that prepared them); bring those back or start a new run with another --out."
            )


def split_items(store: Store, data: DataConfig) -> Dict[str, np.ndarray]:
    """Store items of the training, validation and test split.

    Raises:
        ValueError: sizes do not add up, the index file is wrong, a scaffold split lacks SMILES, or there is no official
            split.
    """
    validation, test = _share_or_count(data.validation), _share_or_count(data.test)
    train = _share_or_count(data.train) or None
    if data.split == "random":
        split = splits.random_split(len(store), validation, test, data.split_seed, train)
    elif splits.OFFICIAL.fullmatch(data.split):
        if data.split not in store:
            there = [field for field in sorted(store.fields) if splits.OFFICIAL.fullmatch(field)]
            raise ValueError(
                f"data set {data.name} has no split {data.split!r} here; "
                + (f"it has {', '.join(there)}." if there else "use random, or the path of an index file.")
            )
        split = splits.official_split(store.fields[data.split], validation, data.split_seed, train)
    elif data.split == "scaffold":
        if "smiles" not in store:
            raise ValueError(f"data set {data.name} has no SMILES, which data.split=scaffold needs; use random.")
        split = splits.scaffold_split(decode_texts(store, "smiles"), validation, test, data.split_seed)
    else:
        split = splits.file_split(data.split, len(store))
    most = store.info.get("most_training")
    if most and len(split.train) > most:
        print(f"{data.name}: {len(split.train):,} frames train; its authors advise against more than {most:,}, because")
        print("  frames of one trajectory are so alike that a test among them would say little")
    return dict(zip(SPLITS, split))


def plans_of_splits(
    items: Mapping[str, np.ndarray],
    sizes: Callable[[np.ndarray], Dict[str, np.ndarray]],
    choose_budget: Callable[[np.ndarray], Budget],
    config: RunConfig,
    folder: Optional[Path],
) -> Tuple[Dict[str, PackingPlan], Budget]:
    """A plan for every split that is not empty, and the shape of their packs.

    Args:
        items: split name -> store items.
        sizes: what fills a pack, of store items.
        choose_budget: the shape that given items need.
        config: of the run.
        folder: plans of an earlier start of the same run, which are taken as they are: made under a time limit, a
            plan may differ the next time.
    """
    used = {split: chosen for split, chosen in items.items() if len(chosen)}
    if folder is not None:
        made = {split: PackingPlan.load(folder / f"{split}.npz") for split in used}
        for split, plan in made.items():
            plan.check(sizes(used[split]))
        return made, next(iter(made.values())).budget
    print(f"packing {sum(len(chosen) for chosen in used.values()):,} molecules ...", flush=True)
    budget = choose_budget(np.concatenate(list(used.values())))
    pack, seed = config.pack, config.data.split_seed
    made = {
        split: make_plan(sizes(chosen), budget, pack.algorithm, seed, time_limit=pack.time_limit)
        for split, chosen in used.items()
    }
    return made, budget


def molecule_name(store: Store, item: int) -> str:
    """What a molecule is called in messages: its name in the data set, else its number."""
    name = decode_text(store, "name", item) if "name" in store else ""
    return f"{name!r} (item {item})" if name else f"item {item}"


def _share_or_count(value: float) -> Any:
    """Below 1 a share, else a number of molecules."""
    if value >= 1 and value != int(value):
        raise ValueError(f"data.train, data.validation and data.test: {value} is neither a share nor a whole number.")
    return int(value) if value >= 1 or value == 0 else float(value)
