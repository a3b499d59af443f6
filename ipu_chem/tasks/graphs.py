"""Graph tasks: molecules in 3D with edges within a cutoff, labels of molecules and forces on atoms as outputs."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import torch
from torch import Tensor

from ipu_chem.backends.options import Batching
from ipu_chem.batches.loader import PackLoader
from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.data.edges import with_edges
from ipu_chem.data.fixed_point import STEP, step_for, with_fixed_point
from ipu_chem.data.selection import load_chosen, select_targets
from ipu_chem.data.standardize import Standardizer, composition_baseline
from ipu_chem.losses import with_forces
from ipu_chem.metrics import Target, targets_of
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.device_edges import DeviceEdges
from ipu_chem.models.forces import EnergyForces
from ipu_chem.models.registry import MODELS, build_model, graph_model_class, needs_charge
from ipu_chem.models.wrapper import wrapped_name
from ipu_chem.tasks.base import FILTERS, State, Task
from ipu_chem.tasks.example_graphs import random_loader
from ipu_chem.tasks.forces import Forces, check_forces, fit_with_forces
from ipu_chem.tasks.graph_shape import assumed_shape, choose_budget, device_neighbors, pack_sizes
from ipu_chem.tasks.labels import KnownLabels, Labels, check_classes, planned_targets
from ipu_chem.tasks.moments import check_moment_labels, check_moment_options, fit_moments, is_moment
from ipu_chem.tasks.splits import SplitData, plans_of_splits, split_items
from ipu_chem.tasks.start_from import EarlierRun, earlier_run, load_weights
from ipu_chem.units import energy_unit
from packing import Budget, make_plan
from packing.store import Store


@dataclass
class GraphTask(Task):
    """Labels of molecules in 3D, and forces on their atoms where `force_share` asks for them.

    Attributes:
        outputs: `Labels`, and `Forces` behind them.
        neighbors: of an atom that the device looks for itself; 0 when edges come from the host.
        position_step: Å, a 1 of 16-bit positions; None when positions are transferred in Å.
        first_weights: of an earlier run, to begin with; None begins with fresh ones.
        start_from: folder of that run.
    """

    kind = "graphs"
    has_filters = True

    neighbors: int = 0
    position_step: Optional[float] = None
    first_weights: Optional[Dict[str, Any]] = None
    start_from: str = ""

    @classmethod
    def load(cls, config: RunConfig, plans: Optional[Path] = None, state: Optional[State] = None) -> "GraphTask":
        model, data, start = model_section(config, state), config.data, config.training.start_from
        check_features(model, start)
        check_moment_options(config)
        store = load_store(data, model.cutoff)
        if config.short_positions:
            store = with_fixed_point(store, data.cache or None)
        targets = targets_of(store.info["targets"])
        check_charges(store, model)
        check_moment_labels(config, targets, store)
        if config.force_share:
            check_forces(store, targets)
        items = split_items(store, data, state or {})
        earlier: Optional[EarlierRun] = None
        if start and not state:
            earlier = earlier_run(config, targets, np.unique(store.fields["z"]))
        if state and "standardizer" in state:
            fitted = Standardizer.from_dict(state["standardizer"])
        else:
            fitted = _fit(store, items["train"], targets, config, earlier)
        neighbors = device_neighbors(store, config.pack)
        made, budget = plans_of_splits(
            items,
            lambda chosen: pack_sizes(store, chosen, neighbors),
            lambda chosen: choose_budget(store, chosen, config.pack),
            config.pack,
            data.split_seed,
            plans,
            config.training.epochs / config.batching.replication_factor,
        )
        budget = budget.replace(graphs=config.pack.graphs or max(plan.max_items_per_pack for plan in made.values()))
        outputs = outputs_of(config, targets, fitted)
        outputs[0].known = _known_labels(store, items["train"], targets, data.split)
        check_classes(targets, outputs[0].known.y, items)
        if config.force_share:
            outputs[1].known = store.ragged("forces")
        weights = earlier.weights if earlier is not None else None
        split = SplitData(store, items, made)
        known = (model, config.batching, config.training.seed, budget, outputs, split)
        return cls(*known, (), neighbors, store.info.get(STEP), weights, start)

    @classmethod
    def planned(cls, config: RunConfig) -> "GraphTask":
        check_features(config.model, config.training.start_from)
        check_moment_options(config)
        budget, neighbors, assumed = assumed_shape(config.pack)
        step = step_for(config.model.cutoff) if config.short_positions else None
        outputs = outputs_of(config, planned_targets(config.data))
        known = (model_section(config), config.batching, config.training.seed, budget, outputs)
        return cls(*known, assumed=assumed, neighbors=neighbors, position_step=step)

    @classmethod
    def restored(cls, config: RunConfig, state: State, forces: bool = False) -> "GraphTask":
        """See `Task.restored`: for molecules with edges of the host and positions in Å, whatever the run had.

        Args:
            config: of the run.
            state: of its checkpoint.
            forces: give forces beside the energy, also where the run has not learned them.
        """
        fitted = Standardizer.from_dict(state["standardizer"])
        outputs = outputs_of(config, targets_of(fitted.targets), fitted, forces)
        budget = Budget(**state["budget"])
        return cls(model_section(config, state), config.batching, config.training.seed, budget, outputs)

    @property
    def labels(self) -> Labels:
        """The first output."""
        return self.outputs[0]  # type: ignore[return-value]

    @property
    def forces(self) -> Optional[Forces]:
        """The second output, if there is one."""
        return self.outputs[1] if len(self.outputs) > 1 else None  # type: ignore[return-value]

    @property
    def takes_charge(self) -> bool:
        """The model takes charge and spin of molecules."""
        return needs_charge(self.model_config.name)

    def model(self) -> CompactInputs:
        labels, seen = self.labels, (self.neighbors, self.position_step, self.forces is not None)
        model = make_model(self.model_config, self.seed, labels.targets, *seen, labels.standardizer)
        if self.first_weights is not None:
            load_weights(model, self.first_weights, self.start_from)
        return model

    def use_exact_filters(self) -> None:
        self.model_config = replace(self.model_config, filter="exact")

    def loss(self) -> Callable[..., Tensor]:
        """See `Task.loss`: of energies and forces the weighted sum."""
        loss = self.labels.loss()
        return loss if self.forces is None else with_forces(loss, self.forces.weight)

    def loader(self, split: str) -> PackLoader:
        known = (self.items[split], self.plans[split], self.labels.standardized(), self.budget, self.batching)
        forces = None if self.forces is None else self.forces.standardized()
        return PackLoader(self.store, *known, self.world, self.takes_charge, forces)

    def prediction_loader(self, store: Store, items: np.ndarray, budget: Budget) -> PackLoader:
        """Batches of other molecules, for predictions.

        Args:
            store: molecules with edges, positions in Å.
            items: [K] of them, all of which fit.
            budget: nodes, edges, and graphs if packs shall not have as many as the fullest one needs.
        """
        sizes = {axis: store.sizes()[axis][items] for axis in ("nodes", "edges")}
        plan = make_plan(sizes, budget, "best_fit")
        if "graphs" not in budget:
            budget = budget.replace(graphs=plan.max_items_per_pack)
        nothing = np.full((len(store), len(self.labels.targets)), np.nan)
        forces = None if self.forces is None else np.full((len(store.fields["z"]), 3), np.nan)
        return PackLoader(store, items, plan, nothing, budget, self.batching, charges=self.takes_charge, forces=forces)

    def random_loader(self, packs: int, batching: Batching, seed: int = 0, atoms: Optional[float] = None) -> PackLoader:
        budget, cutoff = self.budget, self.model_config.cutoff
        if self.neighbors:
            budget = Budget(nodes=budget["nodes"], graphs=budget["graphs"])
        how = (budget, len(self.labels.targets), cutoff, batching, seed, atoms, self.position_step)
        return random_loader(packs, *how, charges=self.takes_charge, forces=self.forces is not None)

    def state(self) -> Dict[str, Any]:
        return {"standardizer": self.labels.standardizer.to_dict()}

    def describe(self) -> Dict[str, Any]:
        step = self.position_step
        positions = "float32" if step is None else f"int16, steps of {step:.3g} Å, off by at most {step / 2:.3g} Å"
        described = self.labels.describe(self.targets, self.items)
        announced = [*described["announced"], f"positions: {positions}"]
        return {"kind": self.kind, **described, "positions": positions, "announced": announced}


def outputs_of(
    config: RunConfig, targets: List[Target], standardizer: Optional[Standardizer] = None, forces: Optional[bool] = None
) -> List[Any]:
    """`Labels`, and `Forces` where the run learns them or ``forces`` says so."""
    weight = config.force_share or 0.5
    both = bool(config.force_share) if forces is None else forces
    labels = Labels(targets, config.loss, standardizer, 1.0 - weight if both else 1.0)
    return [labels, Forces(labels, weight)] if both else [labels]


def _known_labels(store: Store, train: np.ndarray, targets: List[Target], split: str) -> KnownLabels:
    def linear(items: np.ndarray) -> Dict[str, float]:
        errors = composition_baseline(store, train, items)
        return {target.metric("mae"): errors[target.name] * target.error_factor for target in targets}

    return KnownLabels(store, store.ragged("z"), "name", "per-composition linear", linear, split)


def model_section(config: RunConfig, state: Optional[State] = None) -> ModelConfig:
    """The model's options; filters are exact if the run had to leave its table.

    They are for forces, too, unless a table is asked for: it has more points than packs of force fields have edges.
    """
    exact = (state or {}).get(FILTERS) == "exact" or (config.force_share and config.model.filter == "auto")
    return replace(config.model, filter="exact") if exact else config.model


def _fit(
    store: Store, train: np.ndarray, targets: List[Target], config: RunConfig, earlier: Optional[EarlierRun]
) -> Standardizer:
    """A standardizer for the training molecules, or what an earlier run's makes of them."""
    if is_moment(config):
        fitted = fit_moments(store, train)
    elif earlier is not None and config.data.references == "auto":
        return earlier.standardizer
    else:
        usual = {target.name: "linear" if target.extensive else "none" for target in targets}
        fit = fit_with_forces if config.force_share else Standardizer.fit
        fitted = fit(store, train, usual if config.data.references == "auto" else config.data.references)
    if earlier is not None:
        fitted.scale = earlier.standardizer.scale
    return fitted


def check_features(model: ModelConfig, start_from: str) -> None:
    """Refuse to train a head alone on features that nobody has trained.

    Raises:
        ValueError: ``model.freeze`` of a run that begins with fresh weights, or ``model.lora_rank``.
    """
    if model.lora_rank:
        raise ValueError(
            f"model.lora_rank={model.lora_rank}: adapters are for a chemgpt that learns labels; leave it out, "
            "model.freeze=true trains the head alone."
        )
    if model.freeze and not start_from:
        raise ValueError(
            "model.freeze=true trains the head alone, on features that nobody has trained; name an earlier run "
            "with training.start_from, or leave it out."
        )


def check_charges(store: Store, model: ModelConfig) -> None:
    """Refuse molecules that a model with charges cannot take, and warn of charges that a model without ignores.

    Raises:
        ValueError: their charges are not known, which says how to give them, or dispersion does not know an element.
    """
    if not needs_charge(model.name):
        _warn_of_charges(store, model.name)
    elif not ("charge" in store and "spin" in store):
        raise ValueError(
            f"{model.name} takes the charge and the unpaired electrons of every molecule, which these data lack; "
            "write charge and spin into the comment lines of an .extxyz file, say those of all that lack them with "
            "--data.charge 0 --data.multiplicity 1, or train schnet or painn."
        )
    graph_model_class(model.name).check_elements(np.unique(store.fields["z"]).tolist(), **model.arguments())


def _warn_of_charges(store: Store, model: str) -> None:
    """Say on stderr that charges, or else unpaired electrons, vary and the model does not know."""
    for field, what in (("charge", "charges"), ("spin", "numbers of unpaired electrons")):
        values = np.unique(store.fields[field]).tolist() if field in store else []
        if len(values) > 1:
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            takes = [name for name in MODELS if needs_charge(name)]
            print(
                f"warning: {model} ignores {field}; {what} {shown} vary among {len(store):,} molecules, which are the "
                f"same to it but for their energies; use {' or '.join(takes)}.",
                file=sys.stderr,
            )
            return


def load_store(data: DataConfig, cutoff: float) -> Store:
    """A data set with its edges and the labels asked for."""
    store = load_chosen(data.name, data.arguments(), data.cache, data.limit, data.workers, data.target, data.fragments)
    store = select_targets(store, data.target)
    known = np.flatnonzero(np.isfinite(store.fields["y"]).any(1))
    if not len(known):
        raise ValueError(
            f"{data.name}: no molecule has a label for {data.target or 'any target'}; is the column empty?"
        )
    if len(known) < len(store):
        print(f"{data.name}: {len(store) - len(known):,} molecules without a label for {data.target} left out")
        store = store.take(known)
    return with_edges(store, cutoff, data.cache or None)


def make_model(
    options: ModelConfig,
    seed: int,
    targets: List[Target],
    neighbors: int = 0,
    position_step: Optional[float] = None,
    forces: bool = False,
    standardizer: Optional[Standardizer] = None,
) -> CompactInputs:
    """The model with weights drawn from a seed; it takes compact packs (`ipu_chem.batches.types`).

    Args:
        options: of the model.
        seed: of the weights.
        targets: what it predicts.
        neighbors: of an atom that it searches itself; 0 when edges come with the packs.
        position_step: Å, of positions in 16 bits; None when they come in Å.
        forces: give forces beside energies.
        standardizer: of the labels, for models that add energies of their own in real units.
    """
    torch.manual_seed(seed)
    extensive = all(target.extensive for target in targets)
    # Edges of the host are pairs; a search on the device finds the neighbors of every atom.
    undirected = not neighbors
    how = (options.readout, options.filter, undirected, _energy_scale(options, targets, standardizer))
    model = build_model(options.name, len(targets), extensive, *how, **options.arguments())
    if options.freeze:
        for name, weight in model.named_parameters():
            weight.requires_grad_(wrapped_name(name).startswith("head."))
    if forces:
        model = EnergyForces(model)
    if neighbors:
        model = DeviceEdges(model, options.cutoff, neighbors)
    return CompactInputs(model, position_step)


def _energy_scale(options: ModelConfig, targets: List[Target], standardizer: Optional[Standardizer]) -> float:
    """eV that a prediction of 1 means.

    Raises:
        ValueError: the model adds physical energies to what is none.
    """
    if standardizer is None:
        return 1.0
    unit = energy_unit(targets[0].unit)
    if unit is not None:
        return float(standardizer.scale[0]) * unit
    name, own = options.name, options.arguments()
    terms = [f"model.{option}" for option in graph_model_class(name).added_energies(**own)]
    if terms:
        raise ValueError(
            f"{name} adds energies of its own ({', '.join(terms)}) in eV, but {targets[0].name} is in "
            f"{targets[0].unit or 'no unit'}; set data.unit to an energy's, or {' and '.join(terms)} to false."
        )
    return 1.0
