"""Intervals of trained runs: calibrated with their validation splits, and measured on their test splits."""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.locks import locked
from ipu_chem.metrics import Target
from ipu_chem.run_intervals import check_learned_numbers, check_one_split, without_validation
from ipu_chem.tasks.evaluation import SplitOutput
from ipu_chem.tasks.graphs import GraphTask
from ipu_chem.tasks.latents import keep_domain
from ipu_chem.trained_run import TrainedRun
from ipu_chem.uncertainty.intervals import Intervals, spread_of
from ipu_chem.uncertainty.residuals import FORCES, LABELS
from packing.types import Ragged

_NOTHING = Ragged(np.zeros((0, 1)), np.zeros(1, np.int64))
FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.1)  # of the molecules, those on which the runs agree best


class Covered(NamedTuple):
    """Intervals of a target on a split.

    Attributes:
        fraction: of the labels, or of the components of forces, that are inside of their intervals.
        width: mean, in ``unit``.
        unit: that errors of the target are shown in.
        count: labels, or components of forces.
    """

    fraction: float
    width: float
    unit: str
    count: int


class Measured(NamedTuple):
    """Metrics and intervals of a run, or of the mean of several, on a split.

    Attributes:
        metrics: see `Evaluator.errors`.
        covered: by target.
        selective: metric -> values for each of `FRACTIONS`, see `selective_errors`; nothing of one run.
        doubted: metric -> (errors, spread) of molecules, [K] each; nothing of one run.
    """

    metrics: Dict[str, float]
    covered: Dict[str, Covered]
    selective: Dict[str, List[float]]
    doubted: Dict[str, Tuple[np.ndarray, np.ndarray]]


def calibrate(run: TrainedRun) -> None:
    """Predict the validation split of a finished run anew; keep its residuals, and its domain, in the run's folder.

    The domain is of graph models (`ipu_chem.uncertainty.domain`).

    Raises:
        ValueError: there is no such split, its molecules are not there any more, or the run learned no numbers.
    """
    check_learned_numbers(run)
    if not run.config.data.validation and run.config.data.split == "random":
        raise ValueError(without_validation(run))
    with locked(run.folder):
        evaluator, predictions = run.on_split("validation")
        run.task.keep_residuals(run.folder, run.state, evaluator.residuals(predictions))
        if isinstance(run.task, GraphTask):
            task: Any = run.loaded_task()
            keep_domain(task, run.folder, whole=True)


def measure(members: Sequence[TrainedRun], split: str, intervals: Optional[Intervals] = None) -> Measured:
    """Measure a run, or the mean of several, on a split.

    Args:
        members: runs; several have the same targets and splits.
        split: train, validation or test.
        intervals: of the runs, to measure on another split than the one that they are calibrated with.

    Raises:
        ValueError: see `TrainedRun.on_split`; or runs have no mean.
    """
    check_one_split(members)
    evaluators, found = zip(*(member.on_split(split) for member in members))
    mean = [np.mean(values, 0) for values in zip(*found)]
    spreads = [spread_of(np.stack(values)) for values in zip(*found)]
    covered: Dict[str, Covered] = {}
    doubted: Dict[str, Tuple[np.ndarray, np.ndarray]] = {}
    for output, predictions, spread in zip(evaluators[0].outputs, mean, spreads):
        for one in _by_target(output, predictions, spread, intervals):
            if one.half_widths is not None:
                covered[one.target.name] = _covered(one.target, one.errors, one.half_widths)
            if one.spread is not None:
                factor = one.target.error_factor
                doubted[one.target.metric("mae")] = (one.of_molecules * factor, one.spread * factor)
    selective = {metric: selective_errors(*pair, FRACTIONS) for metric, pair in doubted.items()}
    return Measured(evaluators[0].errors(mean), covered, selective, doubted)


class _Errors(NamedTuple):
    """Absolute errors of a target: of labels, or of the components of forces, and of molecules."""

    target: Target
    errors: np.ndarray
    half_widths: Optional[np.ndarray]
    of_molecules: np.ndarray
    spread: Optional[np.ndarray]


def _by_target(
    output: SplitOutput, predictions: np.ndarray, spread: Optional[np.ndarray], intervals: Optional[Intervals]
) -> Iterator[_Errors]:
    """Errors of predictions of an output, nothing of one whose predictions are no numbers with a unit."""
    name, residuals = output.residuals(predictions) or ("", _NOTHING)
    errors = np.abs(residuals.values)
    if name == FORCES:
        half = None
        if intervals is not None:
            assert intervals.forces is not None  # all runs have learned forces, or none has
            half = intervals.forces.half_widths(spread, errors.shape)
        doubt = None if spread is None else _of_molecules(spread, residuals)
        yield _Errors(output.targets[0], errors, half, _of_molecules(errors, residuals), doubt)
    elif name == LABELS:
        halves = None if intervals is None else intervals.of_labels(spread, len(errors))
        for k, target in enumerate(output.targets):
            half, doubt = (None if one is None else one[:, k] for one in (halves, spread))
            yield _Errors(target, errors[:, k], half, errors[:, k], doubt)


def _covered(target: Target, errors: np.ndarray, half_widths: np.ndarray) -> Covered:
    """Figures of errors that are, or are not, larger than half-widths; NaN where no label is known."""
    known = np.isfinite(errors)
    if not known.any():
        return Covered(float("nan"), float("nan"), target.error_unit, 0)
    inside = errors[known] <= half_widths[known]
    width = 2.0 * target.error_factor * half_widths[known].mean()
    return Covered(float(inside.mean()), float(width), target.error_unit, int(known.sum()))


def selective_errors(errors: np.ndarray, doubts: np.ndarray, fractions: Sequence[float]) -> List[float]:
    """Mean errors of the fractions of molecules with the smallest doubts; NaN where there is none.

    Args:
        errors: [K] absolute, NaN where there is no label.
        doubts: [K], such as the spread of several runs.
        fractions: above 0 and at most 1; of a fraction of few molecules one is left.
    """
    known = np.flatnonzero(np.isfinite(errors))
    order = known[np.argsort(doubts[known], kind="stable")]
    kept = [order[: max(round(len(order) * fraction), 1)] for fraction in fractions]
    return [float(errors[chosen].mean()) if len(chosen) else float("nan") for chosen in kept]


def _of_molecules(values: np.ndarray, like: Ragged) -> np.ndarray:
    """Means over the components [n, 3] of every molecule, [K]; NaN where it has no forces."""
    return np.add.reduceat(values.sum(1), like.offsets[:-1]) / (3.0 * like.lengths)
