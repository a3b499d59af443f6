"""A finished run, ready for use: its model, and predictions in real units on any device.

`TrainedRun.load` reads the best checkpoint; predictions, evaluations, simulations and exports start from it.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from ipu_chem.backends import get_backend
from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import Precision
from ipu_chem.batches.loader import LabeledLoader, Loader
from ipu_chem.config import RunConfig
from ipu_chem.data.checks import SYMBOLS
from ipu_chem.data.corpora.encode import Manner
from ipu_chem.data.corpora.memory import corpus_in_memory
from ipu_chem.data.edges import edges_in_memory
from ipu_chem.data.fragments import ERROR, KEEP
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.data.representations.store import encode_known
from ipu_chem.data.standardize import Standardizer, unfit
from ipu_chem.data.structures import to_molecule
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.evaluation import Evaluator, PerAtom, PerMolecule, predict, predict_split
from ipu_chem.tasks.graphs import GraphTask, check_charges
from ipu_chem.tasks.registry import load_task, restored_task
from ipu_chem.tasks.sequences import fit_sequences
from ipu_chem.tasks.text_labels import TextPropertyTask, ended, heavy_atoms_alike
from ipu_chem.units import in_ev
from packing import Budget
from packing.files import PathLike
from packing.store import Store
from packing.tune import fit_budget
from packing.types import Ragged


class Prepared(NamedTuple):
    """Molecules in packs, for predictions.

    Attributes:
        items: [K] those of the molecules that the run can take.
        reasons: item -> why the run cannot take it.
        atoms: of the K, as the standardizer counts them.
        loader: of the K; None where there are none.
    """

    items: np.ndarray
    reasons: Dict[int, str]
    atoms: Ragged
    loader: Optional[LabeledLoader]


class EnergiesForces(NamedTuple):
    """Predictions of one run, or the mean of several, for I structures.

    Attributes:
        energies: [I] float64, eV.
        forces: I arrays [n, 3] float64, eV/Å.
        energies_std: [I], eV, the standard deviation among several runs; None for one.
        forces_std: I arrays [n, 3], eV/Å; None for one run.
    """

    energies: np.ndarray
    forces: List[np.ndarray]
    energies_std: Optional[np.ndarray] = None
    forces_std: Optional[List[np.ndarray]] = None


@dataclass(frozen=True)
class TrainedRun:
    """The best checkpoint of a run.

    Attributes:
        folder: of the run.
        config: of the run; filters are exact if the run had to leave their table.
        task: restored from the checkpoint, without molecules.
        weights: of the model.
        state: everything else in the checkpoint.
    """

    folder: Path
    config: RunConfig
    task: Task
    weights: Dict[str, Any]
    state: Mapping[str, Any]

    @classmethod
    def load(cls, folder: PathLike, accelerator: Optional[str] = None) -> "TrainedRun":
        """Read the best checkpoint of a run.

        Args:
            folder: of the run.
            accelerator: another device than the run was trained on.

        Raises:
            FileNotFoundError: there is no finished run.
            ValueError: the checkpoint is damaged, or the class of its model is not found.
        """
        return cls(Path(folder), *restored_task(folder, accelerator))

    @property
    def standardizer(self) -> Standardizer:
        """The map between predictions and real units.

        Raises:
            ValueError: the run has learned no labels.
        """
        if "standardizer" not in self.state:
            raise ValueError(
                f"{self.folder} is a run of {self.config.model.name} that learned no labels; `ipu-chem generate` "
                "writes molecules with it, `ipu-chem embed` turns molecules into features."
            )
        labels: Any = self.task.outputs[0]
        return labels.standardizer

    @property
    def manner(self) -> Manner:
        """Options by which it reads SMILES as text."""
        data = self.config.data
        fragments = KEEP if data.fragments == ERROR else data.fragments
        return Manner(data.stereo == "keep", fragments, data.representation, data.atom_order)

    @cached_property
    def model(self) -> nn.Module:
        """The model on the CPU, in evaluation mode; it takes the inputs of a batch and gives standardized values."""
        return self.new_model()

    def new_model(self, exact: bool = False) -> nn.Module:
        """Another copy of the model.

        Args:
            exact: evaluate filters for every edge, also where the run reads them from a table, which says the same to
                the last digits of float32: a table has more points than a small molecule has edges, and its filters
                beyond the cutoff are small, not 0.
        """
        task = replace(self.task)
        if exact:
            task.use_exact_filters()
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
            model = task.model()
        model.load_state_dict(self.weights)
        return model.eval()

    def loaded_task(self) -> Task:
        """The task with the run's molecules, splits and plans.

        Raises:
            ValueError: the molecules are not there any more, or are others.
        """
        task = load_task(self.config, self.folder / "plans", self.state)
        task.check_same(self.state)
        return task

    def backend(self) -> ContextManager[Backend]:
        """The run's device, closed at the end of the block."""
        config = self.config
        return closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision))

    def compile(self, backend: Backend, loader: Loader, model: Optional[nn.Module] = None) -> None:
        """Get a device ready to evaluate the batches of a loader with the run's weights.

        Args:
            backend: of the run.
            loader: of `Prepared`, or of a loaded task.
            model: in another form, such as a loaded task's, which may find edges on the device.
        """
        example = loader.example(training=False)
        backend.compile(model or self.new_model(), None, None, self.config.batching, example)
        backend.load_state_dict({"model": self.weights})

    def evaluate(self, split: str = "test") -> Dict[str, float]:
        """Metrics of the run on one of its splits; see `on_split`."""
        evaluator, predictions = self.on_split(split)
        return evaluator.errors(predictions)

    def on_split(self, split: str) -> Tuple[Evaluator, List[np.ndarray]]:
        """Predictions of one of the run's splits, and what measures them.

        Args:
            split: train, validation or test.

        Returns:
            (evaluator of the split, one float64 array for every output, in its units).

        Raises:
            ValueError: the split is unknown or empty, or see `loaded_task`.
        """
        with self.backend() as backend:
            task = self.loaded_task()
            task.world = backend.world
            evaluator = task.evaluator(split)
            if evaluator is None:
                raise ValueError(f"the run has no molecules in a split {split!r}; it has {', '.join(task.plans)}.")
            self.compile(backend, evaluator.loader, task.model())
            return evaluator, evaluator.predictions(backend)

    def prepare(self, molecules: Union[Store, Sequence[Any]]) -> Prepared:
        """Pack molecules.

        Args:
            molecules: of a run on graphs a store, or `Molecule` or ase.Atoms; of one on text a store of a corpus, or
                SMILES.

        Raises:
            ValueError: the run predicts no labels, SMILES cannot be read, or molecules lack charges that it needs.
        """
        self.standardizer  # noqa: B018 (raises where there is none)
        if not len(molecules):
            return Prepared(np.zeros(0, np.int64), {}, Ragged(np.zeros(0, np.uint8), np.zeros(1, np.int64)), None)
        if isinstance(self.task, TextPropertyTask):
            return _prepare_texts(self.task, molecules, self.config.data.long, self.manner)
        assert isinstance(self.task, GraphTask)
        return _prepare_graphs(self.task, molecules)

    def predict(self, molecules: Union[Store, Sequence[Any], Prepared]) -> np.ndarray:
        """Predictions in the targets' units, probabilities of classes, [I, T] float64.

        Args:
            molecules: as `prepare` takes them, all of which must be fit; or what it returned, of which the K are.

        Raises:
            ValueError: see `prepare`; also a molecule that the run cannot take, named by its number from 0.
        """
        prepared = molecules if isinstance(molecules, Prepared) else self.prepare(molecules)
        if prepared is not molecules and prepared.reasons:
            first = min(prepared.reasons)
            raise ValueError(f"molecule {first}: {prepared.reasons[first]}.")
        if prepared.loader is None:
            return np.zeros((0, len(self.task.targets)))
        with self.backend() as backend:
            self.compile(backend, prepared.loader)
            standardized = predict_split(backend, prepared.loader)
        return self.standardizer.invert(prepared.atoms, standardized)

    def force_field(self) -> "ForceField":
        """The run as a potential energy; one that was trained without forces has them, too.

        Raises:
            ValueError: it reads text, or has not learned one energy in a known unit that adds up over atoms.
        """
        if not isinstance(self.task, GraphTask):
            name = self.config.model.name
            raise ValueError(f"{self.folder} is a run of {name} on text, which knows no positions and no forces.")
        targets, config = self.standardizer.targets, self.config
        names = ", ".join(target["name"] for target in targets)
        if len(targets) != 1 or not targets[0]["extensive"] or config.model.readout not in ("auto", "sum"):
            raise ValueError(
                f"{self.folder} learned {names}; forces are derivatives of one energy that adds up over atoms, so "
                "train on one alone."
            )
        try:
            ev = in_ev(targets[0]["unit"])
        except ValueError as error:
            raise ValueError(f"{self.folder} learned {names}, but {error}") from None
        # Compilers and formats of training do not go with derivatives inside the model.
        plain = replace(config.torch, compile=False, compile_blocks=False, cuda_graphs=False)
        config = replace(config, torch=plain, precision=Precision())
        task = GraphTask.restored(config, self.state, forces=True)
        return ForceField(self.folder, config, task, self.weights, self.state, ev)

    def energies_forces(self, structures: Sequence[Any]) -> EnergiesForces:
        """Energies and forces of structures; see `energies_forces`."""
        return energies_forces([self.force_field()], structures)

    def export(self, output: PathLike, form: str, **choices: Any) -> Path:
        """Write the run for other programs; see `ipu_chem.export.export`."""
        from ipu_chem.export import export

        return export(self, output, form, **choices)


@dataclass(frozen=True)
class ForceField(TrainedRun):
    """A run that learned one energy; its model gives energies and forces.

    Attributes:
        ev: eV, one of the run's unit of energy.
    """

    ev: float

    @property
    def scale(self) -> float:
        """eV, and by Å eV/Å, for each standardized energy and force."""
        return float(self.standardizer.scale[0]) * self.ev

    def offsets(self, z: Ragged) -> np.ndarray:
        """Energies that a standardized 0 stands for, [I] float64, eV."""
        return self.standardizer.offset(z)[:, 0] * self.ev

    def check_elements(self, z: np.ndarray, who: str) -> None:
        """Refuse elements that no training molecule had, whatever the references are.

        Args:
            z: [n] integer.
            who: the molecule in the error message.

        Raises:
            ValueError: names them.
        """
        new = sorted(set(np.asarray(z).tolist()) - set(self.standardizer.elements))
        if new:
            have = ", ".join(SYMBOLS[number] for number in self.standardizer.elements)
            lacking = ", ".join(SYMBOLS[number] if 0 < number < len(SYMBOLS) else str(number) for number in new)
            raise ValueError(f"{who} holds {lacking}, but {self.folder} was trained on molecules of {have} alone.")


def energies_forces(members: Sequence[ForceField], structures: Sequence[Any]) -> EnergiesForces:
    """Energies and forces of structures of any sizes, in packs; the program is compiled once, also for several runs.

    Args:
        members: one run, or several of the same architecture, on the device of the first.
        structures: ase.Atoms or `Molecule`, charge and spin in ``info`` or attributes where the model takes them.

    Raises:
        ValueError: a structure is one that the runs cannot take; names it.
    """
    first = members[0]
    task: Any = first.task
    molecules = [to_molecule(one) for one in structures]
    store = edges_in_memory(molecules_to_store(molecules), first.config.model.cutoff)
    for number, molecule in enumerate(molecules):
        for member in members:
            member.check_elements(molecule.z, molecule.name or f"structure {number}")
    check_charges(store, first.config.model)
    sizes = {axis: store.sizes()[axis] for axis in ("nodes", "edges")}
    loader = task.prediction_loader(store, np.arange(len(store)), fit_budget(sizes, {}))
    # Runs may differ in where they have their filters from, but not in the program.
    exact = len({one.task.model_config.filter for one in members}) > 1
    z, energies, forces = store.ragged("z"), [], []
    with first.backend() as backend:
        first.compile(backend, loader, first.new_model(exact))
        for member in members:
            backend.load_state_dict({"model": member.weights})
            energy, force = predict(backend, loader, [PerMolecule(len(z), 1), PerAtom(z.offsets)])
            energies.append(energy[:, 0] * member.scale + member.offsets(z))
            forces.append(force * member.scale)

    def split(values: np.ndarray) -> List[np.ndarray]:
        return np.split(values, z.offsets[1:-1])

    mean = EnergiesForces(np.mean(energies, 0), split(np.mean(forces, 0)))
    if len(members) == 1:
        return mean
    return mean._replace(energies_std=np.std(energies, 0), forces_std=split(np.std(forces, 0)))


def _prepare_graphs(task: GraphTask, molecules: Union[Store, Sequence[Any]]) -> Prepared:
    """Molecules with edges, in packs of the run's shape, or larger ones where a molecule needs them."""
    if not isinstance(molecules, Store):
        molecules = molecules_to_store([to_molecule(one) for one in molecules])
    store = edges_in_memory(molecules, task.model_config.cutoff)
    check_charges(store, task.model_config)
    budget, sizes = task.budget, store.sizes()
    if "edges" not in budget:  # the run's device found edges itself; any pack's shall have room
        share = (sizes["edges"] / sizes["nodes"]).max()
        budget = budget.replace(edges=int(np.ceil(budget["nodes"] * share)) or 1)
    reasons = unfit(store, task.labels.standardizer)
    items = np.array([item for item in range(len(store)) if item not in reasons], np.int64)
    most = {axis: int(sizes[axis][items].max()) for axis in ("nodes", "edges")} if len(items) else {}
    larger = {axis: size for axis, size in most.items() if size > budget[axis]}
    if larger:
        grown = {axis: larger.get(axis, budget[axis]) for axis in ("nodes", "edges")}
        budget = Budget(**grown)  # with as many graphs as the fullest pack has
    loader = task.prediction_loader(store, items, budget) if len(items) else None
    return Prepared(items, reasons, store.ragged("z").take(items), loader)


def _prepare_texts(
    task: TextPropertyTask, molecules: Union[Store, Sequence[str]], long: str, manner: Manner
) -> Prepared:
    """Molecules as tokens; those that are too long lose their end if the run did so with its own."""
    if not isinstance(molecules, Store):
        molecules, failures = corpus_in_memory(molecules, manner=manner)
        if failures:
            raise ValueError(f"molecule {failures[0].line - 1} ({failures[0].smiles}): {failures[0].reason}.")
    ids, kept, reasons = encode_known(task.tokenizer, molecules)
    reasons = dict(reasons)
    limit = task.chemgpt["max_positions"]
    if long == "truncate":
        limit = min(task.budget["tokens"], limit)
    else:
        over = ids.lengths > limit
        for item, length in zip(kept[over].tolist(), ids.lengths[over].tolist()):
            reasons[item] = f"{length} tokens with begin and end, and the model reads up to {limit}"
        ids, kept = ids.take(np.flatnonzero(~over)), kept[~over]
    loader = None
    if len(kept):
        loader = task.prediction_loader(ended(fit_sequences(ids, limit, "truncate").ids, task.tokenizer.eos_id))
    return Prepared(kept, reasons, heavy_atoms_alike(molecules.fields["heavy_atoms"][kept]), loader)
