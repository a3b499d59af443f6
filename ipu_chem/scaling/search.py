"""A search: all candidates train a little, the best few to the end, and a line says what the others would have reached.

On data's way: candidates -> losses of their first steps -> estimates -> those that go on -> final metrics ->
search.json, search.csv, search.png.
"""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ipu_chem.scaling.candidates import Candidate, Progress, budget_steps, train_all
from ipu_chem.scaling.selection import LEAST_KEPT, Cost, cost, survivors
from ipu_chem.scaling.tpe import Assessment, Calibration, Trial, assess, calibrate, over_seeds
from ipu_chem.scaling.tse import Estimate, step_losses, tail_mean
from ipu_chem.training.logging import read_rows
from packing.files import atomic_file


@dataclass(frozen=True)
class SearchOptions:
    """How a search spends its steps.

    Attributes:
        budget: share of its steps that every candidate trains for.
        keep: candidates that go on to the end.
        fraction: of the steps of the budget, the last of which are the estimate.
        finish_all: train every candidate to the end, to see how well the estimates rank them.
        metric: validation metric that counts; empty takes the first one of the runs.
        jobs: runs side by side.
    """

    budget: float = 0.2
    keep: int = 3
    fraction: float = 0.1
    finish_all: bool = False
    metric: str = ""
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1 or not 0 < self.fraction <= 1:
            raise ValueError(f"budget={self.budget}, fraction={self.fraction}: give shares, such as 0.2 and 0.1.")
        if self.keep < LEAST_KEPT or self.jobs < 1:
            raise ValueError(f"keep={self.keep}, jobs={self.jobs}: give {LEAST_KEPT} or more, and 1 or more.")


@dataclass(frozen=True)
class Row:
    """A candidate of the result, over its seeds.

    Attributes:
        name: of its options.
        estimate: mean over seeds, inf if one diverged.
        predicted: final metric by the calibration; None without one.
        final: metric at the end; None if it was not trained to the end, inf if it diverged.
        steps: that its runs took.
        total: that they take to the end.
        status: finished, stopped or diverged.
    """

    name: str
    estimate: float
    predicted: Optional[float]
    final: Optional[float]
    steps: int
    total: int
    status: str


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        metric: that counts.
        rows: by their final metric, then by their estimate.
        steps: cost in optimizer steps.
        seconds: cost in seconds; what was not trained would have taken as long per step.
        calibration, assessment: None where too few were trained to the end, which ``notes`` says.
        notes: sentences.
    """

    metric: str
    rows: List[Row]
    steps: Cost
    seconds: Cost
    calibration: Optional[Calibration]
    assessment: Optional[Assessment]
    notes: List[str]


def search(candidates: Sequence[Candidate], options: SearchOptions, progress: bool = True) -> Result:
    """Train all to the budget, the best to the end. What is there of an earlier call is not repeated.

    Raises:
        ValueError: see `train_all` and `over_seeds`; all candidates diverged; or no run has the metric.
    """
    early = train_all(candidates, options.budget, options.jobs, progress)
    estimates = [estimate_of(*pair, options) for pair in zip(candidates, early)]
    trials = [Trial(one.name, one.seed, found.value) for one, found in zip(candidates, estimates)]
    names, means, _ = over_seeds(trials)
    kept = {names[index] for index in survivors(means, options.keep)}
    going_on = [index for index, one in enumerate(candidates) if options.finish_all or one.name in kept]
    late = train_all([candidates[index] for index in going_on], 1.0, options.jobs, progress)
    reached = list(early)
    for index, one in zip(going_on, late):
        reached[index] = one
    return _result(candidates, estimates, reached, options)


def estimate_of(candidate: Candidate, reached: Progress, options: SearchOptions) -> Estimate:
    """The estimate at the budget from the losses that the run has logged, also when it has gone on since."""
    budget = budget_steps(reached.total, options.budget)
    rows = [row for row in read_rows(candidate.folder) if row["kind"] == "train"]
    if reached.status == "diverged" and (not rows or rows[-1]["step"] < budget):
        return Estimate("tail mean", math.inf, math.inf, math.inf, reached.step, reached.step)
    return tail_mean(step_losses(rows)[:budget], options.fraction)


def write_result(folder: Path, result: Result, options: SearchOptions) -> List[Path]:
    """Write search.json, search.csv and, where there is a calibration and matplotlib, search.png."""
    paths = [folder / "search.json", folder / "search.csv"]
    values: Dict[str, Any] = {
        **asdict(result),
        "options": asdict(options),
        "steps": {**result.steps._asdict(), "saving": result.steps.saving},
        "seconds": {**result.seconds._asdict(), "saving": result.seconds.saving},
    }
    with atomic_file(paths[0], "w") as file:
        json.dump(_without_infinities(values), file, indent=1)
    with atomic_file(paths[1], "w") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in result.rows)
    if result.calibration is not None:
        from ipu_chem.scaling.figures import predicted_against_true, save

        estimates, finals = [row.estimate for row in result.rows], [row.final for row in result.rows]
        try:
            figure = predicted_against_true(estimates, finals, result.calibration, result.assessment, result.metric)
            paths.append(save(figure, folder / "search.png"))
        except ValueError as error:
            print(error)
    return paths


def table(result: Result) -> List[str]:
    """Lines to print."""
    width = max(len(row.name) for row in result.rows)
    lines = [f"{'candidate':{width}}  {'estimate':>10} {'predicted':>10} {'final':>10}  steps"]
    for row in result.rows:
        numbers = " ".join(f"{_number(value):>10}" for value in (row.estimate, row.predicted, row.final))
        lines.append(f"{row.name:{width}}  {numbers}  {row.steps:,} of {row.total:,}, {row.status}")
    lines.append(f"final: {result.metric} of the validation molecules")
    if result.calibration is not None:
        line = result.calibration
        lines.append(
            f"final = {line.intercept:.4g} + {line.slope:.4g} * estimate: R2 {line.r2:.3f}, RMSE {line.rmse:.3g}, "
            f"{line.points} candidates"
        )
    if result.assessment is not None:
        seen = result.assessment
        lines.append(
            f"ranking: Spearman {seen.spearman:.2f}, Kendall {seen.kendall:.2f}; keeping {seen.kept} of "
            f"{seen.candidates} costs {seen.regret:.3g} of the best final value"
        )
    lines.append(
        f"cost: {result.steps.spent:,.0f} of {result.steps.full:,.0f} steps, {result.steps.saving:.0%} saved; "
        f"{result.seconds.spent:,.0f} s, {result.seconds.saving:.0%} saved"
    )
    return [*lines, *result.notes]


def _result(
    candidates: Sequence[Candidate], estimates: Sequence[Estimate], reached: Sequence[Progress], options: SearchOptions
) -> Result:
    finished = [one for one in reached if one.status == "finished"]
    notes = [f"{one.name}, seed {one.seed}: {p.message}" for one, p in zip(candidates, reached) if p.message]
    metric = options.metric or next((name for one in finished for name in one.metrics), "")
    for one in finished:
        if metric not in one.metrics:
            known = f"they have {', '.join(one.metrics)}" if one.metrics else "give the runs validation molecules"
            raise ValueError(f"the runs have no validation metric {metric!r}: {known}.")
    trials, finals_of = [], {"finished": lambda p: p.metrics[metric], "diverged": lambda p: math.inf}
    for one, found, p in zip(candidates, estimates, reached):
        trials.append(Trial(one.name, one.seed, found.value, finals_of.get(p.status, lambda p: None)(p)))
    trials = _consistent(trials)
    names, means, finals = over_seeds(trials)
    calibration = assessment = None
    try:
        calibration = calibrate(means, finals)
        if sum(final is not None for final in finals) > options.keep:  # of those it chose, no choice can be judged
            assessment = assess(means, finals, options.keep)
        else:
            notes.append("how well the estimates rank is seen with --finish_all true, which trains all to the end")
    except ValueError as error:
        notes.append(str(error))
    rows = []
    for index, name in enumerate(names):
        runs = [p for one, p in zip(candidates, reached) if one.name == name]
        worst = next((status for status in ("diverged", "stopped") if status in {p.status for p in runs}), "finished")
        predicted = None if calibration is None else float(calibration([means[index]])[0])
        steps, total = sum(p.step for p in runs), sum(p.total for p in runs)
        rows.append(Row(name, means[index], predicted, finals[index], steps, total, worst))
    rows.sort(key=lambda row: (math.inf if row.final is None else row.final, row.estimate))
    return Result(
        metric,
        rows,
        cost([p.step for p in reached], [p.total for p in reached]),
        cost([p.seconds for p in reached], [p.seconds * p.total / max(p.step, 1) for p in reached]),
        calibration,
        assessment,
        notes,
    )


def _consistent(trials: Sequence[Trial]) -> List[Trial]:
    """A candidate one of whose seeds diverged at the look has ended there, and its others with it: no final values."""
    early = {trial.name for trial in trials if not np.isfinite(trial.estimate)}
    unfinished = {trial.name for trial in trials if trial.final is None}
    return [
        Trial(trial.name, trial.seed, trial.estimate, None) if trial.name in early & unfinished else trial
        for trial in trials
    ]


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.4g}"


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
