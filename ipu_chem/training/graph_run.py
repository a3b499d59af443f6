"""Runs of graph models: molecules with edges and labels, standardised targets, errors in real units.

On data's way: RunConfig -> store with edges, split, standardiser, plans -> PackLoader, Evaluator, graph model.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import torch

from ipu_chem.backends.base import Backend
from ipu_chem.config import DataConfig, PackConfig, RunConfig
from ipu_chem.data.datasets import load_dataset
from ipu_chem.data.edges import with_edges
from ipu_chem.data.fixed_point import STEP, with_fixed_point
from ipu_chem.data.molecule import decode_text
from ipu_chem.data.selection import dataset_options, select_targets
from ipu_chem.data.standardize import Standardizer, composition_baseline
from ipu_chem.loader import PackLoader
from ipu_chem.losses import LOSSES, Loss
from ipu_chem.metrics import Target
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import build_model, needs_charge
from ipu_chem.training.evaluation import Evaluator
from ipu_chem.training.run_data import RunData, molecule_name, plans_of_splits, split_items
from ipu_chem.training.start_from import EarlierRun, earlier_run, load_weights
from packing import Budget
from packing.files import atomic_file
from packing.store import Store
from packing.tune import fit_budget


@dataclass
class GraphData(RunData):
    """Molecules with edges and the chosen labels; packs have nodes, edges and graphs.

    Attributes:
        targets: what is predicted.
        standardizer: fitted on the training items.
        neighbors: of an atom that the device looks for itself; 0 when edges come from the host.
        first_weights: of an earlier run, to begin with; None begins with fresh ones.
    """

    targets: List[Target]
    standardizer: Standardizer
    neighbors: int = 0
    first_weights: Optional[Dict[str, Any]] = None

    gives_forces = False

    @property
    def position_step(self) -> Optional[float]:
        """Å, what a 1 of 16-bit positions means; None when they travel in Å."""
        return self.store.info.get(STEP)

    @staticmethod
    def fit(store: Store, items: np.ndarray, references: Any) -> Standardizer:
        """The standardiser of a run, from its training items."""
        return Standardizer.fit(store, items, references)

    def loader(self, split: str, config: RunConfig) -> PackLoader:
        """See `RunData.loader`."""
        labels = np.asarray(self.store.fields["y"], np.float64)
        standardised = self.standardizer.apply(self.store.ragged("z"), labels)
        return PackLoader(
            self.store,
            self.items[split],
            self.plans[split],
            standardised,
            self.budget,
            config.batching,
            self.world,
            needs_charge(config.model.name),
            self.standardised_forces(),
        )

    def standardised_forces(self) -> Optional[np.ndarray]:
        """[total, 3] of all atoms of the store; None for runs that learn none."""
        return None

    def measures(self, split: str, config: RunConfig) -> Evaluator:
        """See `RunData.measures`."""
        labels = np.asarray(self.store.fields["y"], np.float64)[self.items[split]]
        loader = self.loader(split, config)
        return Evaluator(loader, labels, self.targets, self.standardizer.scale.tolist(), self.to_units)

    def model(self, config: RunConfig) -> CompactInputs:
        """See `RunData.model`."""
        model = make_model(config, self.targets, self.neighbors, self.position_step, self.gives_forces)
        if self.first_weights is not None:
            load_weights(model, self.first_weights, config.training.start_from)
        return model

    def loss(self, config: RunConfig) -> Loss:
        """See `RunData.loss`."""
        return loss_function(config)

    def state(self) -> Dict[str, Any]:
        """See `RunData.state`."""
        return {"standardizer": self.standardizer.to_dict()}

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        step = self.position_step
        positions = "float32" if step is None else f"int16, steps of {step:.3g} Å, off by at most {step / 2:.3g} Å"
        targets = [{"name": one.name, "unit": one.unit, "mae": one.metric("mae")} for one in self.learnt]
        names = ", ".join(target.name for target in self.learnt)
        return {
            "kind": "graphs",
            "targets": targets,
            "positions": positions,
            "announced": [f"targets: {names}", f"positions: {positions}"],
        }

    def results(self, config: RunConfig, backend: Backend, folder: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
        """See `RunData.results`; the baseline is a linear model of the composition."""
        found: Dict[str, Dict[str, Dict[str, float]]] = {"results": {}, "baseline": {}}
        for split in ("validation", "test"):
            if split not in self.plans:
                continue
            evaluator = self.measures(split, config)
            predictions = evaluator.predictions(backend)
            if backend.world.rank == 0:
                self.write_predictions(folder, split, evaluator, predictions)
            found["results"][split] = evaluator.errors(predictions)
            found["baseline"][split] = self.baseline(evaluator)
            for name, value in found["results"][split].items() if backend.world.rank == 0 else ():
                print(f"{split}: {name} {value:.4g}{self._beside(name, value, found['baseline'][split])}")
        return found

    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """Errors of what knows compositions and no shapes."""
        errors = composition_baseline(self.store, self.items["train"], evaluator.loader.items)
        return {target.metric("mae"): errors[target.name] * target.error_factor for target in self.targets}

    def _beside(self, name: str, value: float, baseline: Mapping[str, float]) -> str:
        """What a printed error is to be compared with: itself in another unit, the baseline, published errors."""
        notes = [target.other_unit(value) for target in self.learnt if name.endswith(target.metric(""))]
        notes += [f"baseline {baseline[name]:.4g}"] if name in baseline else []
        notes += [f"{who} {error:.4g}" for who, error in self.store.info.get("published", {}).get(name, {}).items()]
        notes = [note for note in notes if note]
        return f" ({'; '.join(notes)})" if notes else ""

    @property
    def learnt(self) -> List[Target]:
        """All quantities whose errors are told."""
        return self.targets

    def to_units(self, items: np.ndarray, standardised: np.ndarray) -> np.ndarray:
        """Predictions for store items in real units, [K, T] float64."""
        return self.standardizer.invert(self.store.ragged("z").take(items), standardised)

    def write_predictions(self, folder: Path, split: str, evaluator: Evaluator, predictions: Any) -> None:
        """predictions_<split>.csv: labels and predictions of every molecule, for tables and the report."""
        header = ["item", "name"]
        for target in self.targets:
            header += [f"{target.name}_label", f"{target.name}_prediction"]
        with atomic_file(folder / f"predictions_{split}.csv", "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row, item in enumerate(evaluator.loader.items.tolist()):
                values = np.stack([evaluator.labels[row], predictions[row]], 1).ravel()
                name = decode_text(self.store, "name", item) if "name" in self.store else ""
                writer.writerow([item, name, *(f"{value:.8g}" for value in values)])


def load_graphs(config: RunConfig, plans: Optional[Path], state: Mapping[str, Any]) -> GraphData:
    """See `ipu_chem.training.run.load_data`."""
    data = config.data
    store = load_store(data, config.model.cutoff)
    if config.short_positions:
        store = with_fixed_point(store, data.cache or None)
    targets = [Target(t["name"], t["unit"], t["extensive"]) for t in store.info["targets"]]
    check_charges(store, config.model.name)
    kind: Any = GraphData
    if config.force_share:
        from ipu_chem.training.force_run import ForceData as kind  # which is made of this module's parts

        kind.check(store, targets)
    items = split_items(store, data)
    earlier: Optional[EarlierRun] = None
    if config.training.start_from and not state:
        earlier = earlier_run(config, targets, np.unique(store.fields["z"]))
    if "standardizer" in state:
        fitted = Standardizer.from_dict(state["standardizer"])
    elif earlier is not None and data.references == "auto":
        fitted = earlier.standardizer
    else:
        references = None if data.references == "auto" else data.references
        fitted = kind.fit(store, items["train"], references or _usual_references(targets))
        if earlier is not None:
            fitted.scale = earlier.standardizer.scale
    neighbors = _device_neighbors(store, config.pack)
    made, budget = plans_of_splits(
        items,
        lambda chosen: _sizes(store, chosen, neighbors),
        lambda chosen: choose_budget(store, chosen, config.pack),
        config,
        plans,
    )
    graphs = config.pack.graphs or max(plan.max_items_per_pack for plan in made.values())
    weights = earlier.weights if earlier is not None else None
    return kind(store, items, made, budget.replace(graphs=graphs), targets, fitted, neighbors, weights)


def check_charges(store: Store, model: str) -> None:
    """Refuse molecules of unknown charge where a model takes it.

    Raises:
        ValueError: says how to give them.
    """
    if needs_charge(model) and not ("charge" in store and "spin" in store):
        raise ValueError(
            f"{model} takes the charge and the unpaired electrons of every molecule, which these data do not have; "
            "write charge and spin into the comment lines of an .extxyz file, or train schnet or painn."
        )


def load_store(data: DataConfig, cutoff: float) -> Store:
    """A data set with its edges and the labels asked for."""
    options = dataset_options(
        data.name, data.limit, data.workers, data.target, data.unit, data.extensive, data.molecule, data.subset
    )
    store = load_dataset(data.name, data.path or None, data.cache or None, **options)
    store = select_targets(store, data.target)
    labelled = np.flatnonzero(np.isfinite(store.fields["y"]).any(1))
    if len(labelled) < len(store):
        print(f"{data.name}: {len(store) - len(labelled):,} molecules without a label for {data.target} left out")
        store = store.take(labelled)
    return with_edges(store, cutoff, data.cache or None)


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
    config: RunConfig,
    targets: List[Target],
    neighbors: int = 0,
    position_step: Optional[float] = None,
    forces: bool = False,
) -> CompactInputs:
    """The model with weights drawn from the run's seed; it takes compact packs (`ipu_chem.batch`).

    Args:
        config: of the run.
        targets: what it predicts.
        neighbors: of an atom that it looks for itself; 0 when edges come with the packs.
        position_step: Å, of positions in 16 bits; None when they come in Å.
        forces: give forces beside energies.
    """
    sizes = {name: value for name, value in vars(config.model).items() if name not in ("name", "readout")}
    if config.force_share and sizes["filter"] == "auto":
        sizes["filter"] = "exact"  # packs of force fields are small: a table has more points than they have edges
    torch.manual_seed(config.training.seed)
    extensive = all(target.extensive for target in targets)
    # Edges of the host are pairs; a search on the device finds the neighbours of every atom.
    undirected = not neighbors
    model = build_model(
        config.model.name, len(targets), extensive, config.model.readout, undirected=undirected, **sizes
    )
    if forces:
        model = EnergyForces(model)
    if neighbors:
        model = DeviceEdges(model, config.model.cutoff, neighbors)
    return CompactInputs(model, position_step)


def loss_function(config: RunConfig) -> Any:
    """The loss by name.

    Raises:
        ValueError: unknown name.
    """
    if config.loss not in LOSSES:
        raise ValueError(f"loss={config.loss!r}: choose one of {', '.join(LOSSES)}.")
    return LOSSES[config.loss]


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
