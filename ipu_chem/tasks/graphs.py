"""Runs of graph models: molecules with edges and labels, standardised targets, errors in real units.

On data's way: RunConfig -> store with edges, split, standardiser, plans -> PackLoader, Evaluator, graph model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import torch

from ipu_chem.batches.loader import PackLoader
from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig
from ipu_chem.data.edges import with_edges
from ipu_chem.data.energy_units import unit_in_ev
from ipu_chem.data.fixed_point import STEP, with_fixed_point
from ipu_chem.data.selection import load_chosen, select_targets
from ipu_chem.data.standardize import Standardizer, composition_baseline
from ipu_chem.metrics import Target, targets_of
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.dispersion import check_dispersion_elements
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import build_model, needs_charge
from ipu_chem.models.wrapper import wrapped_name
from ipu_chem.tasks.base import molecule_name, plans_of_splits, split_items
from ipu_chem.tasks.evaluation import Evaluator
from ipu_chem.tasks.kinds import GRAPHS
from ipu_chem.tasks.labels import LabelledData
from ipu_chem.tasks.start_from import EarlierRun, earlier_run, load_weights
from packing import Budget, Ragged
from packing.store import Store
from packing.tune import fit_budget


@dataclass
class GraphData(LabelledData):
    """Molecules with edges and the chosen labels; packs have nodes, edges and graphs.

    Attributes:
        neighbors: of an atom that the device looks for itself; 0 when edges come from the host.
        first_weights: of an earlier run, to begin with; None begins with fresh ones.
    """

    neighbors: int = 0
    first_weights: Optional[Dict[str, Any]] = None

    gives_forces = False

    baseline_name = "per-composition linear"

    @property
    def atoms(self) -> Ragged:
        """See `LabelledData.atoms`."""
        return self.store.ragged("z")

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
        items, plan = self.items[split], self.plans[split]
        return PackLoader(
            self.store,
            items,
            plan,
            self.standardised(),
            self.budget,
            config.batching,
            self.world,
            needs_charge(config.model.name),
            self.standardised_forces(),
        )

    def standardised_forces(self) -> Optional[np.ndarray]:
        """[total, 3] of all atoms of the store; None for runs that learn none."""
        return None

    def model(self, config: RunConfig) -> CompactInputs:
        """See `RunData.model`."""
        model = make_model(
            config, self.targets, self.neighbors, self.position_step, self.gives_forces, self.standardizer
        )
        if self.first_weights is not None:
            load_weights(model, self.first_weights, config.training.start_from)
        return model

    def describe(self, config: RunConfig) -> Dict[str, Any]:
        """See `RunData.describe`."""
        step = self.position_step
        positions = "float32" if step is None else f"int16, steps of {step:.3g} Å, off by at most {step / 2:.3g} Å"
        described = super().describe(config)
        announced = [*described["announced"], f"positions: {positions}"]
        return {"kind": GRAPHS, **described, "positions": positions, "announced": announced}

    def baseline(self, evaluator: Evaluator) -> Dict[str, float]:
        """See `LabelledData.baseline`: a linear model of the composition."""
        errors = composition_baseline(self.store, self.items["train"], evaluator.loader.items)
        return {target.metric("mae"): errors[target.name] * target.error_factor for target in self.targets}


def load_graphs(config: RunConfig, plans: Optional[Path], state: Mapping[str, Any]) -> GraphData:
    """See `ipu_chem.tasks.registry.load_data`."""
    data = config.data
    store = load_store(data, config.model.cutoff)
    if config.short_positions:
        store = with_fixed_point(store, data.cache or None)
    targets = targets_of(store.info["targets"])
    check_charges(store, config.model)
    kind: Any = GraphData
    if config.force_share:
        from ipu_chem.tasks.forces import ForceData as kind  # which is made of this module's parts

        kind.check(store, targets)
    items = split_items(store, data)
    earlier: Optional[EarlierRun] = None
    if config.model.freeze and not config.training.start_from:
        raise ValueError(
            "model.freeze=true trains the head alone, on features that nobody has trained; name an earlier run with "
            "training.start_from, or leave it out."
        )
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


def check_charges(store: Store, model: ModelConfig) -> None:
    """Refuse molecules that a model with charges cannot take.

    Raises:
        ValueError: their charges are not known, which says how to give them, or dispersion does not know an element.
    """
    if needs_charge(model.name) and not ("charge" in store and "spin" in store):
        raise ValueError(
            f"{model.name} takes the charge and the unpaired electrons of every molecule, which these data lack; "
            "write charge and spin into the comment lines of an .extxyz file, or train schnet or painn."
        )
    if getattr(model, "use_dispersion", False):
        check_dispersion_elements(np.unique(store.fields["z"]).tolist())


def load_store(data: DataConfig, cutoff: float) -> Store:
    """A data set with its edges and the labels asked for."""
    store = load_chosen(data.name, data.arguments(), data.cache, data.limit, data.workers, data.target)
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
    standardizer: Optional[Standardizer] = None,
) -> CompactInputs:
    """The model with weights drawn from the run's seed; it takes compact packs (`ipu_chem.batches.types`).

    Args:
        config: of the run.
        targets: what it predicts.
        neighbors: of an atom that it looks for itself; 0 when edges come with the packs.
        position_step: Å, of positions in 16 bits; None when they come in Å.
        forces: give forces beside energies.
        standardizer: of the labels, for models that add energies of their own in real units.
    """
    filter = config.model.filter
    if config.force_share and filter == "auto":
        filter = "exact"  # packs of force fields are small: a table has more points than they have edges
    torch.manual_seed(config.training.seed)
    extensive = all(target.extensive for target in targets)
    # Edges of the host are pairs; a search on the device finds the neighbours of every atom.
    undirected = not neighbors
    model = build_model(
        config.model.name,
        len(targets),
        extensive,
        config.model.readout,
        filter,
        undirected,
        _energy_scale(config, targets, standardizer),
        **config.model.arguments(),
    )
    if config.model.freeze:
        for name, weight in model.named_parameters():
            weight.requires_grad_(wrapped_name(name).startswith("head."))
    if forces:
        model = EnergyForces(model)
    if neighbors:
        model = DeviceEdges(model, config.model.cutoff, neighbors)
    return CompactInputs(model, position_step)


def _energy_scale(config: RunConfig, targets: List[Target], standardizer: Optional[Standardizer]) -> float:
    """eV that a prediction of 1 means.

    Raises:
        ValueError: the model adds physical energies to what is none.
    """
    sizes = config.model
    if standardizer is None or sizes.name != "spookynet":
        return 1.0
    unit = unit_in_ev(targets[0].unit)
    if unit is not None:
        return float(standardizer.scale[0]) * unit
    if sizes.use_zbl or sizes.use_electrostatics or sizes.use_dispersion:
        raise ValueError(
            f"{sizes.name} adds repulsion, electrostatics and dispersion to an energy, but {targets[0].name} is in "
            f"{targets[0].unit or 'no unit'}; set data.unit, or model.use_zbl, use_electrostatics and "
            "use_dispersion to false."
        )
    return 1.0


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
