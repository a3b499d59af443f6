"""A run put together: data, split, standardiser, plans, loaders, model and backend, from a config.

On data's way: RunConfig -> [everything] -> Trainer; the same assembly serves training and evaluation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import torch

from ipu_chem.backends import get_backend
from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import ALONE, World
from ipu_chem.config import DataConfig, PackConfig, RunConfig
from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.edges import with_edges
from ipu_chem.data.fixed_point import STEP, with_fixed_point
from ipu_chem.data.molecule import decode_texts
from ipu_chem.data.selection import dataset_options, select_targets
from ipu_chem.data.splits import file_split, random_split, scaffold_split
from ipu_chem.data.standardize import Standardizer
from ipu_chem.loader import PackLoader
from ipu_chem.losses import LOSSES
from ipu_chem.metrics import Target
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.registry import build_model
from ipu_chem.training.evaluation import Evaluator
from packing import Budget, PackingPlan, make_plan
from packing.store import Store
from packing.tune import fit_budget

SPLITS = ("train", "validation", "test")


@dataclass
class RunData:
    """Everything about molecules that a run needs.

    Attributes:
        store: molecules with edges and the chosen labels.
        targets: what is predicted.
        items: split name -> store items [K].
        standardizer: fitted on the training items.
        plans: split name -> packs of its items; empty splits have none.
        budget: shape of every pack: nodes, edges, graphs.
        neighbors: of an atom that the device looks for itself; 0 when edges come from the host.
        world: this process among those that train together.
    """

    store: Store
    targets: List[Target]
    items: Dict[str, np.ndarray]
    standardizer: Standardizer
    plans: Dict[str, PackingPlan]
    budget: Budget
    neighbors: int = 0
    world: World = ALONE

    @property
    def position_step(self) -> Optional[float]:
        """Å, what a 1 of 16-bit positions means; None when they travel in Å."""
        return self.store.info.get(STEP)

    def loader(self, split: str, config: RunConfig) -> PackLoader:
        """Batches of a split."""
        labels = np.asarray(self.store.fields["y"], np.float64)
        standardised = self.standardizer.apply(self.store.ragged("z"), labels)
        return PackLoader(
            self.store, self.items[split], self.plans[split], standardised, self.budget, config.batching, self.world
        )

    def evaluator(self, split: str, config: RunConfig) -> Optional[Evaluator]:
        """Measures a split; None when it is empty."""
        if split not in self.plans:
            return None
        labels = np.asarray(self.store.fields["y"], np.float64)[self.items[split]]
        loader = self.loader(split, config)
        return Evaluator(loader, labels, self.targets, self.standardizer.scale.tolist(), self.to_units)

    def to_units(self, items: np.ndarray, standardised: np.ndarray) -> np.ndarray:
        """Predictions for store items in real units, [K, T] float64."""
        return self.standardizer.invert(self.store.ragged("z").take(items), standardised)


def load_data(
    config: RunConfig, plans: Optional[Path] = None, standardizer: Optional[Mapping[str, Any]] = None
) -> RunData:
    """Molecules, split, standardiser and plans of a run.

    Args:
        config: of the run.
        plans: folder with the plans of an earlier start of the same run; they are taken as they are,
            because a plan made under a time limit may differ the next time.
        standardizer: of the earlier start.

    Raises:
        ValueError: anything about the data or the pack shape that cannot work; says what would.
    """
    data = config.data
    store = load_store(data, config.model.cutoff)
    if config.pack.positions == "int16":
        store = with_fixed_point(store, data.cache or None)
    targets = [Target(t["name"], t["unit"], t["extensive"]) for t in store.info["targets"]]
    items = split_items(store, data)
    if standardizer is None:
        references = None if data.references == "auto" else data.references
        fitted = Standardizer.fit(store, items["train"], references or _usual_references(targets))
    else:
        fitted = Standardizer.from_dict(standardizer)
    neighbors = _device_neighbors(store, config.pack)
    used = {split: chosen for split, chosen in items.items() if len(chosen)}
    if plans is not None:
        made = {split: PackingPlan.load(plans / f"{split}.npz") for split in used}
        for split, plan in made.items():
            plan.check(_sizes(store, used[split], neighbors))
        budget = next(iter(made.values())).budget
    else:
        print(f"packing {sum(len(chosen) for chosen in used.values()):,} molecules ...", flush=True)
        budget = choose_budget(store, np.concatenate(list(used.values())), config.pack)
        made = {
            split: make_plan(
                _sizes(store, chosen, neighbors),
                budget,
                config.pack.algorithm,
                data.split_seed,
                time_limit=config.pack.time_limit,
            )
            for split, chosen in used.items()
        }
    graphs = config.pack.graphs or max(plan.max_items_per_pack for plan in made.values())
    return RunData(store, targets, items, fitted, made, budget.replace(graphs=graphs), neighbors)


def load_store(data: DataConfig, cutoff: float) -> Store:
    """A data set with its edges and the labels asked for."""
    options = dataset_options(data.name, data.limit, data.workers, data.target, data.unit, data.extensive)
    store = load_dataset(data.name, data.path or None, data.cache or None, **options)
    store = select_targets(store, data.target)
    labelled = np.flatnonzero(np.isfinite(store.fields["y"]).any(1))
    if len(labelled) < len(store):
        print(f"{data.name}: {len(store) - len(labelled):,} molecules without a label for {data.target} left out")
        store = store.take(labelled)
    return with_edges(store, cutoff, data.cache or None)


def split_items(store: Store, data: DataConfig) -> Dict[str, np.ndarray]:
    """Store items of the training, validation and test split.

    Raises:
        ValueError: sizes do not add up, the index file is wrong, or a scaffold split lacks SMILES.
    """
    validation, test = _share_or_count(data.validation), _share_or_count(data.test)
    if data.split == "random":
        train = _share_or_count(data.train)
        train = round(train * len(store)) if isinstance(train, float) else train
        split = random_split(len(store), validation, test, data.split_seed, train or None)
    elif data.split == "scaffold":
        if "smiles" not in store:
            raise ValueError(f"data set {data.name} has no SMILES, which data.split=scaffold needs; use random.")
        split = scaffold_split(decode_texts(store, "smiles"), validation, test, data.split_seed)
    else:
        split = file_split(data.split, len(store))
    return dict(zip(SPLITS, split))


def choose_budget(store: Store, items: np.ndarray, pack: PackConfig) -> Budget:
    """The shape of a pack: what the config says, and what the molecules need where it says 0.

    Raises:
        ValueError: a molecule is larger than a capacity; names it and the capacity that would do.
    """
    sizes = _sizes(store, items, pack.device_neighbors)
    for name, capacity in (("nodes", pack.nodes), ("edges", pack.edges)):
        if capacity and name in sizes and capacity < sizes[name].max():
            item = int(items[int(np.argmax(sizes[name]))])
            raise ValueError(
                f"molecule {molecule_name(store, item)} has {sizes[name].max()} {name}, more than pack.{name}="
                f"{capacity}; set pack.{name} to {sizes[name].max()} or more, or to 0 to have it chosen."
            )
    fixed = {"nodes": pack.nodes, "edges": pack.edges, "graphs": pack.graphs}
    return fit_budget(sizes, {name: fixed[name] for name in (*sizes, "graphs")})


def make_model(
    config: RunConfig, targets: List[Target], neighbors: int = 0, position_step: Optional[float] = None
) -> CompactInputs:
    """The model with weights drawn from the run's seed; it takes compact packs (`ipu_chem.batch`).

    Args:
        config: of the run.
        targets: what it predicts.
        neighbors: of an atom that it looks for itself; 0 when edges come with the packs.
        position_step: Å, of positions in 16 bits; None when they come in Å.
    """
    sizes = {name: value for name, value in vars(config.model).items() if name not in ("name", "readout")}
    torch.manual_seed(config.training.seed)
    extensive = all(target.extensive for target in targets)
    # Edges of the host are pairs; a search on the device finds the neighbours of every atom.
    undirected = not neighbors
    model = build_model(
        config.model.name, len(targets), extensive, config.model.readout, undirected=undirected, **sizes
    )
    if neighbors:
        model = DeviceEdges(model, config.model.cutoff, neighbors)
    return CompactInputs(model, position_step)


def make_backend(config: RunConfig) -> Backend:
    """The device that the config asks for."""
    return get_backend(config.accelerator, config.torch, config.ipu, config.precision)


def loss_function(config: RunConfig) -> Any:
    """The loss by name.

    Raises:
        ValueError: unknown name.
    """
    if config.loss not in LOSSES:
        raise ValueError(f"loss={config.loss!r}: choose one of {', '.join(LOSSES)}.")
    return LOSSES[config.loss]


def molecule_name(store: Store, item: int) -> str:
    """What a molecule is called in messages: its name in the data set, else its number."""
    from ipu_chem.data.molecule import decode_text

    name = decode_text(store, "name", item) if "name" in store else ""
    return f"{name!r} (item {item})" if name else f"item {item}"


def _sizes(store: Store, items: np.ndarray, neighbors: int) -> Dict[str, np.ndarray]:
    """What fills a pack: edges too, unless the device looks for them in slots of its own."""
    return {axis: store.sizes()[axis][items] for axis in (("nodes",) if neighbors else ("nodes", "edges"))}


def _device_neighbors(store: Store, pack: PackConfig) -> int:
    """How many neighbours of an atom the device looks for; 0 for edges from the host.

    Raises:
        ValueError: some atom has more, whose edges would be lost without a word.
    """
    if pack.device_neighbors == 0:
        return 0
    if pack.device_neighbors < -1 or pack.edges:
        raise ValueError(
            f"pack.device_neighbors={pack.device_neighbors}: give 0, -1 or a number of neighbours, and pack.edges=0 "
            "with it, because the host makes no edges then."
        )
    edges = store.ragged("edge_index")
    first_atom = np.repeat(store.ragged("z").offsets[:-1], edges.lengths)
    degrees = np.bincount(np.concatenate([first_atom + edges.values[:, 0], first_atom + edges.values[:, 1]]))
    most = int(degrees.max()) if len(degrees) else 1
    if 0 < pack.device_neighbors < most:
        raise ValueError(
            f"pack.device_neighbors={pack.device_neighbors}: some atoms have {most} neighbours within the cutoff; set "
            f"{most} or more, or -1 to have it chosen."
        )
    return most if pack.device_neighbors == -1 else pack.device_neighbors


def _usual_references(targets: List[Target]) -> Dict[str, str]:
    """Least squares over the training molecules for whatever grows with them."""
    return {target.name: "linear" if target.extensive else "none" for target in targets}


def _share_or_count(value: float) -> Any:
    """Below 1 a share, else a number of molecules."""
    if value >= 1 and value != int(value):
        raise ValueError(f"data.train, data.validation and data.test: {value} is neither a share nor a whole number.")
    return int(value) if value >= 1 or value == 0 else float(value)
