"""Search: all candidates train for a budget, the best by their estimates go on, the last of them to the end."""

from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Sequence, Set

import numpy as np

from ipu_chem.data.splits import RULES
from ipu_chem.executors import PROCESSES, Engine, check_executor, opened
from ipu_chem.ranges import check_fields
from ipu_chem.scaling.campaign import train_all
from ipu_chem.scaling.candidates import Candidate, Progress, budget_steps
from ipu_chem.scaling.estimators import CHOICES, DEFAULT, OF_EVALUATIONS, TAIL, Seen, estimate_of, estimates_of
from ipu_chem.scaling.selection import LEAST_KEPT, Rung, choose, rungs_of
from ipu_chem.scaling.tpe import Trial, over_seeds
from ipu_chem.scaling.tse import Estimate


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search.

    Attributes:
        budget: fraction of its steps that every candidate trains for before the first early evaluation.
        keep: candidates that train to the end, 2 or more.
        halving: 0 is one early evaluation; else there is one more at this many times the steps, again and again, and
            each time the best fraction, one of this many, goes on: successive halving.
        confidence: coverage of the intervals of estimates: halving also leaves out, down to 2 candidates, each whose
            interval lies above that of another; 0 goes by rank alone.
        estimator: what an early evaluation ranks by: tail, the mean training loss of the last steps; validation, the
            metric of the last evaluation; annealed, that of averaged weights (training.ema_decay) less the noise left
            in it; multi_power, the final training loss by the multi-power law of learning rates, fitted to all
            candidates; collapse, that by the shape of their curves; tse, tse_e, tse_ema, sums over epochs of their
            losses; auto, annealed where all have averaged weights evaluated by then, else multi_power.
        fraction: last fraction of the steps up to an early evaluation, whose mean loss is the estimate (tail).
        calibration: curve that predicts final values from estimates: line, or power where they span a decade.
        finish_all: train all candidates to the end, to judge the estimates.
        metric: validation metric that counts, lowest first, ROC-AUC and average precision as 1 minus it; empty takes
            that of forces, else the mean ROC-AUC, else the first one.
        jobs: runs side by side on this machine, which divide its CPU cores.
        executor: where runs train: processes, of this machine; submitit, jobs of Slurm, with options
            submitit:timeout_min=600,slurm_partition=NAME; dask:tcp://HOST:8786; or module:factory, which returns an
            executor of Python. The same command on machines that share the folder joins in.
    """

    budget: float = 0.2
    keep: int = 3
    halving: int = 0
    confidence: float = 0.9
    estimator: str = DEFAULT
    fraction: float = 0.1
    calibration: str = "line"
    finish_all: bool = False
    metric: str = ""
    jobs: int = 1
    executor: str = PROCESSES

    def __post_init__(self) -> None:
        check_fields(self, halving="0 or more")
        if not 0 < self.budget < 1 or not 0 < self.fraction <= 1:
            raise ValueError(f"budget={self.budget}, fraction={self.fraction}: give fractions, such as 0.2 and 0.1.")
        if not 0 <= self.confidence < 1:
            raise ValueError(f"confidence={self.confidence}: give a fraction such as 0.9, or 0 to go by rank alone.")
        if self.keep < LEAST_KEPT or self.jobs < 1:
            raise ValueError(f"keep={self.keep}, jobs={self.jobs}: give {LEAST_KEPT} or more, and 1 or more.")
        if self.estimator not in CHOICES:
            raise ValueError(f"estimator={self.estimator!r}: choose {', '.join(CHOICES)}.")
        if self.calibration not in ("line", "power"):
            raise ValueError(f"calibration={self.calibration!r}: choose line or power.")
        self.rungs(1)  # refuses a halving that is none
        check_executor(self.executor)

    def rungs(self, candidates: int) -> List[Rung]:
        """Budgets, and the candidates that train for each; see `rungs_of`."""
        return rungs_of(candidates, self.budget, self.keep, self.halving, is_race=self.confidence > 0)


@dataclass(frozen=True)
class EarlyEvaluation:
    """Estimates of a search at one of its rungs.

    Attributes:
        budget: fraction of the steps of every run.
        estimates: of the candidates that had come this far, by name: means over seeds, inf if one diverged.
        spreads: standard deviations of the estimates, by name; NaN where they are not known.
        gone: reasons why candidates did not go on, by name.
        notes: sentences about runs that leave the curve that the others have in common.
        estimator: that was taken; see `ipu_chem.scaling.estimators`.
    """

    budget: float
    estimates: Dict[str, float]
    spreads: Dict[str, float] = field(default_factory=dict)
    gone: Dict[str, str] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    estimator: str = ""


@dataclass(frozen=True)
class Searched:
    """Runs of a search, and its choice.

    Attributes:
        candidates: all runs.
        reached: progress of each.
        estimates: of each at the first early evaluation.
        evaluations: early ones, the first one first.
        kept: names of the candidates chosen for the end, the best at the last early evaluation first; none if all that
            were left diverged. They are the same whether or not the others were trained to the end as well.
    """

    candidates: List[Candidate]
    reached: List[Progress]
    estimates: List[Estimate]
    evaluations: List[EarlyEvaluation]
    kept: List[str]


def check_search(candidates: Sequence[Candidate], options: SearchOptions) -> None:
    """Refuse a search that could choose nothing, before anything trains.

    Args:
        candidates: runs of it.
        options: of it.

    Raises:
        ValueError: one candidate alone, no validation molecules, or an early evaluation by validation before the first
            one; says what to do.
    """
    if len({one.name for one in candidates}) < 2:
        raise ValueError(
            "the grid has one candidate: give 2 or more values of an option, such as optimizer.learning_rate: "
            "[1e-3, 3e-3] (seeds are runs of the same candidate)."
        )
    for one in candidates:
        data, training = one.config["data"], one.config["training"]
        if not data["validation"] and data["split"] in RULES:
            raise ValueError(
                f"candidate {one.name}: a search needs held-out molecules to compare the ends of runs: set "
                "data.validation."
            )
        # With more steps an epoch the first evaluation lies no earlier.
        seen = budget_steps(training["epochs"], options.budget)
        is_late = not training["evaluate_calls"] and seen < training["evaluate_every"]
        if options.estimator in OF_EVALUATIONS and is_late:
            raise ValueError(
                f"candidate {one.name}: --estimator {options.estimator} needs an evaluation within the budget of "
                f"{100 * options.budget:.3g}% of {training['epochs']:,} epochs, and the first one is after "
                f"{training['evaluate_every']:,}: set --training.evaluate_every to less, or give --estimator {TAIL}."
            )


def search(candidates: Sequence[Candidate], options: SearchOptions, progress: bool = True) -> Searched:
    """Train all to the first rung, the best to the next, the last to the end.

    Whatever an earlier call has trained is not trained again: estimates are taken from the losses that were logged, so
    that a search that was stopped chooses as if it had not been.

    Raises:
        ValueError: see `check_search`, `train_all`, `estimates_of` and `over_seeds`; or all candidates diverged before
            the first early evaluation.
    """
    check_search(candidates, options)
    candidates = [replace(one, metric=options.metric) for one in candidates]
    with opened(options.executor, options.jobs, candidates[0].folder.parent) as engine:
        return _search(candidates, options, progress, engine)


def _search(candidates: Sequence[Candidate], options: SearchOptions, progress: bool, engine: Engine) -> Searched:
    left = list(dict.fromkeys(one.name for one in candidates))
    rungs = options.rungs(len(left))
    reached: Dict[int, Progress] = {}
    seen: Dict[int, Seen] = {}
    first: Dict[int, Estimate] = {}
    evaluations: List[EarlyEvaluation] = []

    def train(names: Sequence[str], budget: float) -> List[int]:
        places = [place for place, one in enumerate(candidates) if one.name in names]
        own = [candidates[place] for place in places]
        checked: Set[int] = set()

        def check(done: Mapping[int, Progress]) -> None:
            """Refuse an estimator that finds nothing as soon as the first run shows it, not after all of them."""
            reads = options.estimator in OF_EVALUATIONS and not evaluations
            for index in set(done) - checked if reads else ():
                estimate_of(own[index], done[index], budget, options.estimator, metric=options.metric, draws=0)
            checked.update(done)

        trained = train_all(own, budget, progress=progress, finished=check, engine=engine)
        reached.update(zip(places, trained))
        return places

    for rung, following in zip(rungs, rungs[1:]):
        if evaluations and len(left) <= LEAST_KEPT:
            break
        places = train(left, rung.budget)
        seen.update({place: Seen.of(candidates[place], reached[place], rung.budget) for place in places})
        # What was left out earlier still tells what is common to all, as far as it was trained.
        found = dict(zip(seen, estimates_of(list(seen.values()), options.estimator, options.fraction, options.metric)))
        first = first or found
        evaluation = evaluate({place: candidates[place] for place in places}, found, rung.budget)
        evaluations.append(evaluation)
        means, spreads = list(evaluation.estimates.values()), list(evaluation.spreads.values())
        if len(evaluations) > 1 and not np.isfinite(means).any():  # the others are still worth a report
            evaluation.gone.update({name: "diverged" for name in left})
            left = []
            break
        chosen = choose(means, spreads, following.candidates, options.confidence if options.halving else 0.0)
        names = list(evaluation.estimates)
        evaluation.gone.update({names[index]: reason for index, reason in chosen.gone.items()})
        left = [names[index] for index in chosen.kept]
    train([one.name for one in candidates] if options.finish_all else left, 1.0)
    everywhere = range(len(candidates))
    estimates = [first[place] for place in everywhere]
    return Searched(list(candidates), [reached[place] for place in everywhere], estimates, evaluations, left)


def evaluate(candidates: Mapping[int, Candidate], estimates: Mapping[int, Estimate], budget: float) -> EarlyEvaluation:
    """An early evaluation of candidates, as means over their seeds; nobody is left out yet.

    Args:
        candidates: runs that have come this far, by their place.
        estimates: of runs, by their place.
        budget: fraction of the steps.

    Raises:
        ValueError: see `over_seeds`.
    """
    trials = [Trial(one.name, one.seed, estimates[place].value) for place, one in candidates.items()]
    names, means, _ = over_seeds(trials)
    spreads: Dict[str, List[float]] = {}
    for place, one in candidates.items():
        spreads.setdefault(one.name, []).append(estimates[place].spread)
    notes = [estimates[place].note for place in candidates if estimates[place].note]
    means_of_spreads = {name: float(np.mean(spreads[name])) for name in names}
    taken = next(estimates[place].name for place in candidates)
    return EarlyEvaluation(budget, dict(zip(names, means)), means_of_spreads, notes=notes, estimator=taken)
