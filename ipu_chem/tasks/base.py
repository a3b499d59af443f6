"""The contract of a task: what is learned, from which molecules, and how it is measured.

A task is made in one of three ways. `Task.load` prepares the molecules, for training and evaluation. `Task.planned`
reads no molecules and assumes what only they know, for checks and estimates. `Task.restored` takes what a checkpoint
keeps, for predictions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence

from torch import Tensor, nn

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches.loader import Loader
from ipu_chem.checkpoint import BEST, load_checkpoint
from ipu_chem.config import ModelConfig, RunConfig
from ipu_chem.data.identity import without_rows
from ipu_chem.metrics import Target
from ipu_chem.tasks.evaluation import Evaluator, Output
from ipu_chem.tasks.splits import NO_DATA, SplitData, split_fingerprint
from ipu_chem.uncertainty.residuals import Residuals, checkpoint_of, data_of_split, write_residuals
from packing import Budget
from packing.types import Ragged

State = Mapping[str, Any]  # of a checkpoint
FILTERS = "filters"  # of such a state: "exact" once a run has left its table of filters


@dataclass
class Task(ABC):
    """Data, model, loss and metrics of a run.

    Attributes:
        kind: name in run.json.
        unit: of a molecule's size.
        values_decide: operators of the model may depend on values, so that checks of it run with some.
        may_be_sharded: the model may be sharded over processes.
        reads_text: the model reads token sequences, not positions.
        writes_molecules: the model can generate molecules.
        has_filters: the model has filters, which may be read from a table.
        model_config: section of the run that names the model.
        batching: packs of a call.
        seed: of the first weights.
        budget: shape of every pack.
        outputs: of the model.
        data: molecules; of a loaded task alone, as ``store``, ``items`` and ``plans``, its fields.
        assumed: a sentence for every size that a planned task assumes.
        world: this process among those that train together.
    """

    kind: ClassVar[str]
    unit: ClassVar[str] = "atoms"
    values_decide: ClassVar[bool] = True
    may_be_sharded: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    writes_molecules: ClassVar[bool] = False
    has_filters: ClassVar[bool] = False

    model_config: ModelConfig
    batching: Batching
    seed: int
    budget: Budget
    outputs: Sequence[Output]
    data: SplitData = NO_DATA
    assumed: Sequence[str] = ()
    world: World = field(default=ALONE, init=False)

    def __post_init__(self) -> None:
        self.store, self.items, self.plans = self.data

    @classmethod
    @abstractmethod
    def load(cls, config: RunConfig, plans: Optional[Path] = None, state: Optional[State] = None) -> "Task":
        """Prepare molecules, split and plans.

        Args:
            config: of the run.
            plans: folder with the plans of an earlier start of the same run.
            state: of a checkpoint of that run, whose weights will be loaded.

        Raises:
            ValueError: anything about the data or the pack shape that cannot work; says what would.
        """

    @classmethod
    @abstractmethod
    def planned(cls, config: RunConfig) -> "Task":
        """A task before any data exist: sizes that only data know are assumed, see ``assumed``.

        Raises:
            ValueError: the config contradicts itself.
        """

    @classmethod
    @abstractmethod
    def restored(cls, config: RunConfig, state: State) -> "Task":
        """The task of a checkpoint, for predictions: model, targets and standardizer, but no molecules."""

    @classmethod
    def inference_weights(cls, config: RunConfig, weights: State) -> Dict[str, Any]:
        """Weights of a checkpoint for the model of a `restored` task, which has no parts that only training needs."""
        return dict(weights)

    @abstractmethod
    def model(self) -> nn.Module:
        """The model with weights drawn from the run's seed, or those that the run starts from.

        Raises:
            ValueError: a size that the model refuses.
        """

    @abstractmethod
    def loader(self, split: str) -> Loader:
        """Batches of a split of a loaded task."""

    @abstractmethod
    def random_loader(self, packs: int, batching: Batching, seed: int = 0, atoms: Optional[float] = None) -> Loader:
        """Batches of random molecules in the shape of a planned task, for checks and estimates.

        Args:
            packs: that they fill, or some more.
            batching: packs of a call.
            seed: other seeds give the same shapes with other contents, fillings included.
            atoms: of a molecule on average, where molecules are graphs.

        Raises:
            ValueError: no molecule of that size fits a pack.
        """

    @abstractmethod
    def state(self) -> Dict[str, Any]:
        """Values that a checkpoint needs besides weights for the same predictions, as JSON values."""

    @abstractmethod
    def describe(self) -> Dict[str, Any]:
        """Entries of run.json besides those that all runs have; "announced" are lines for the start."""

    @property
    def targets(self) -> List[Target]:
        """Of all outputs."""
        return [target for output in self.outputs for target in output.targets]

    def loss(self) -> Callable[..., Tensor]:
        """The loss that training minimizes.

        Raises:
            ValueError: there is no such loss.
        """
        return self.outputs[0].loss()

    def use_exact_filters(self) -> None:
        """Let `model` evaluate filters for every edge from now on; nothing to do for a model without filters."""
        return

    def evaluator(self, split: str) -> Optional[Evaluator]:
        """Measures a split; None when it is empty."""
        if split not in self.plans:
            return None
        return Evaluator(self.loader(split), [output.on(split, self.items[split]) for output in self.outputs])

    def example(self, training: bool) -> Any:
        """A batch in the shape of every other: of real molecules, or of random ones before there are data."""
        if self.plans:
            return self.loader("train").example(training)
        packs = self.batching.packs_per_call if training else self.batching.packs_per_evaluation
        return self.random_packs(packs)

    def random_packs(self, packs: int, seed: int = 0) -> Any:
        """Random packs of a planned task, in the shape of a loader's: several molecules each, padding at the end.

        Args:
            packs: B; weights sum to 1 over every optimizer step, or over all packs where they are no whole number of
                steps.
            seed: see `random_loader`.

        Raises:
            ValueError: no pack is asked for.
        """
        if packs < 1:
            raise ValueError(f"packs={packs}: an example holds 1 pack or more.")
        of_step = self.batching.packs_per_step
        step = of_step if packs % of_step == 0 else packs
        batching = Batching(step, device_iterations=packs // step)
        return next(self.random_loader(packs, batching, seed).epoch(seed, 0))[0]

    def results(self, backend: Backend, folder: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
        """Measure the splits that were held out, see `Evaluator.report`, and keep the residuals of validation.

        Returns:
            {"results": split -> metrics, and for every baseline its key: split -> metrics}.
        """
        found: Dict[str, Dict[str, Dict[str, float]]] = {"results": {}, "baseline": {}}
        writes = backend.world.rank == 0
        for split in ("validation", "test"):
            evaluator = self.evaluator(split)
            if evaluator is None:
                continue
            predictions = evaluator.predictions(backend)
            for key, values in evaluator.report(predictions, folder, split, writes).items():
                found.setdefault(key, {})[split] = values
            if split == "validation" and writes:
                self.keep_residuals(folder, load_checkpoint(folder / BEST)[1], evaluator.residuals(predictions))
        return found

    def keep_residuals(self, folder: Path, state: State, found: Mapping[str, Ragged]) -> None:
        """Write residuals of the validation split into the folder of the run, where there are any.

        Args:
            folder: of the run.
            state: of the checkpoint that predicted.
            found: of `Evaluator.residuals`.
        """
        if found:
            targets = [(target.name, target.unit) for target in self.outputs[0].targets]
            write_residuals(folder, Residuals(found, targets, data_of_split(state), checkpoint_of(state)))

    def fingerprint(self) -> str:
        """Fingerprint of the molecules, whatever rows of a file they were."""
        return without_rows(self.store).fingerprint()

    @cached_property
    def split_fingerprint(self) -> str:
        """Fingerprint of the molecules of every split."""
        return split_fingerprint(self.store, self.items)

    def check_same(self, state: State) -> None:
        """Refuse other molecules than a checkpoint's: items and plans are numbers, and would mean another split.

        Raises:
            ValueError: says what may have changed.
        """
        if state["fingerprint"] != self.fingerprint():
            raise ValueError(
                "the molecules are not those that the run was trained on (other raw files, or another version of the "
                "library that prepared them); bring those back or start a new run with another --out."
            )
