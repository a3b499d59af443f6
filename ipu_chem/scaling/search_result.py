"""Result of a search: the best candidates, predictions for the others, and how well the estimates rank."""

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.scaling.candidates import Candidate, Progress, budget_steps
from ipu_chem.scaling.counted import counted_metric, names_of, value_of
from ipu_chem.scaling.held_fixed import HeldFixed, facts_of, held_fixed
from ipu_chem.scaling.judgment import LEVEL, Compared, compare, uncertainty
from ipu_chem.scaling.replay import Uncertain
from ipu_chem.scaling.search import EarlyEvaluation, Searched, SearchOptions
from ipu_chem.scaling.selection import Cost, cost, intervals
from ipu_chem.scaling.tpe import Assessment, Calibration, Trial, assess, calibrate, over_seeds
from ipu_chem.scaling.tse import step_losses, tail_mean
from ipu_chem.training.logging import read_rows

_ENOUGH = 5  # points of a line that is believed half their range beyond them
_FROM, _POINTS = 0.01, 60  # of the steps, and evenly spaced in their logarithm


@dataclass(frozen=True)
class Curve:
    """Training losses of a candidate.

    Attributes:
        name: of the candidate.
        budgets: fractions of the steps of its runs, rising.
        losses: mean of the last steps up to there, over seeds: the estimate, at an early evaluation.
    """

    name: str
    budgets: List[float]
    losses: List[float]


@dataclass(frozen=True)
class Row:
    """A candidate of the result, over its seeds.

    Attributes:
        name: of its options.
        estimate: mean over seeds at the first early evaluation, inf if one diverged.
        low, high: ends of its interval; NaN where it is not known.
        predicted: final metric by the calibration; None without one, and where it cannot be believed (`predict`).
        doubt: reason to doubt the prediction, or empty.
        final: metric at the end; None if it was not trained to the end, inf if it diverged.
        steps: that its runs took.
        total: that they take to the end.
        status: finished, stopped or diverged.
        gone: reason why it did not go on after an early evaluation, and which; empty for the chosen.
    """

    name: str
    estimate: float
    low: float
    high: float
    predicted: Optional[float]
    doubt: str
    final: Optional[float]
    steps: int
    total: int
    status: str
    gone: str


@dataclass(frozen=True)
class Result:
    """Result of a search.

    Attributes:
        metric: that counts, lowest first: 1 - ROC-AUC of classes.
        rows: by their final metric, then by their estimate.
        evaluations: early ones, that chose.
        kept: names of the chosen, which were trained to the end in any case.
        steps: cost in optimizer steps.
        seconds: cost in seconds; what was not trained would have taken as long per step as what was, without starting
            again. The full cost is NaN where that is not known of a run.
        chosen: `steps` if only the chosen train on after an early evaluation: the same unless all were trained.
        calibration: from the estimates of the first early evaluation, which all candidates have, also where a search
            halves; None where too few were trained to the end, which ``notes`` says.
        assessment: of that ranking, with the regret of ``kept``; None unless others were trained to the end as well.
        compared: all estimators that the runs allow, under the same condition.
        uncertain: intervals of the regret and saving of such searches, under the same condition.
        curves: of all candidates.
        held: what all runs share, and what differs.
        notes: sentences.
    """

    metric: str
    rows: List[Row]
    evaluations: List[EarlyEvaluation]
    kept: List[str]
    steps: Cost
    seconds: Cost
    chosen: Cost
    calibration: Optional[Calibration]
    assessment: Optional[Assessment]
    compared: List[Compared]
    uncertain: Optional[Uncertain]
    curves: List[Curve]
    held: HeldFixed
    notes: List[str]


def analyze(found: Searched, options: SearchOptions) -> Result:
    """The report of a search.

    Raises:
        ValueError: no run has the metric; see `over_seeds`.
    """
    runs = list(zip(found.candidates, found.reached))
    notes = [f"{one.name}, seed {one.seed}: {p.message}" for one, p in runs if p.message]
    notes += [f"{one.name}, seed {one.seed}: no evaluation of it was finite" for one, p in runs if _is_nowhere(p)]
    metric = _metric_of(runs, options.metric)
    # Where a seed diverged at an early evaluation, the others stopped with it: without all of them, no final value.
    unfinished = {one.name for one, p in runs if p.status == "stopped"}
    trials = []
    for (one, p), seen in zip(runs, found.estimates):
        final: Optional[float] = math.inf if p.status == "diverged" or _is_nowhere(p) else None
        if one.name in unfinished:
            final = None
        elif final is None:
            _, final = value_of(metric, p.metrics)
        trials.append(Trial(one.name, one.seed, seen.value, final))
    names, means, finals = over_seeds(trials)
    calibration = assessment = None
    try:
        calibration = calibrate(means, finals, is_power=options.calibration == "power")
        # Of those it chose, no choice can be judged.
        if any(final is not None and math.isfinite(final) and n not in found.kept for n, final in zip(names, finals)):
            assessment = assess(means, finals, [names.index(name) for name in found.kept])
        else:
            notes.append("how well the estimates rank is seen with --finish_all true, which trains all to the end")
    except ValueError as error:
        notes.append(str(error))
    notes += [note for early in found.evaluations for note in early.notes if note not in notes]
    known = [one for one, final in zip(means, finals) if final is not None and math.isfinite(final)]
    spreads = [found.evaluations[0].spreads.get(name, math.nan) for name in names]
    lows, highs = intervals(means, spreads, LEVEL)
    rows = []
    for index, name in enumerate(names):
        own = [p for one, p in runs if one.name == name]
        worst = next((status for status in ("diverged", "stopped") if status in {p.status for p in own}), "finished")
        predicted, doubt = (None, "") if calibration is None else predict(calibration, means[index], known)
        if doubt and doubt not in notes:
            notes.append(doubt)
        steps, total = sum(p.step for p in own), sum(p.total for p in own)
        ends = float(lows[index]), float(highs[index])
        row = Row(name, means[index], *ends, predicted, doubt, finals[index], steps, total, worst, _gone(found, name))
        rows.append(row)
    rows.sort(key=lambda row: (math.inf if row.final is None else row.final, row.estimate))
    totals = [p.total for p in found.reached]
    return Result(
        value_of(metric, {metric: 0.0})[0],
        rows,
        found.evaluations,
        found.kept,
        cost([p.step for p in found.reached], totals),
        _seconds(found.reached),
        cost(chosen_steps(found), totals),
        calibration,
        assessment,
        [] if assessment is None else compare(found, options, metric, dict(zip(names, finals))),
        None if assessment is None else uncertainty(found, options, finals),
        curves_of(found, options.fraction),
        held_fixed([one.config for one in found.candidates], facts_of([one.folder for one in found.candidates])),
        notes,
    )


def _seconds(reached: Sequence[Progress]) -> Cost:
    """Cost in seconds, of which steps alone are more in a whole run: imports and molecules are there once."""
    spent, left = sum(p.seconds for p in reached), 0.0
    for p in reached:
        if p.step < p.total:
            left += math.nan if p.per_step is None else (p.total - p.step) * p.per_step
    return Cost(spent, spent + left)


def _is_nowhere(p: Progress) -> bool:
    """True for a run that came to its end although none of its evaluations was finite."""
    return p.status == "finished" and not p.metrics


def _metric_of(runs: Sequence[Tuple[Candidate, Progress]], asked: str) -> str:
    """The metric that counts, which all finished runs have; what is asked for where none finished."""
    metric = asked
    for one, p in runs:
        if p.status == "finished":
            rows = [] if p.metrics else read_rows(one.folder)
            last = next((row for row in reversed(rows) if row["kind"] == "validation"), {})
            metric = counted_metric(list(p.metrics) or names_of(last), metric)
    return metric


def predict(calibration: Calibration, estimate: float, known: Sequence[float]) -> Tuple[Optional[float], str]:
    """Predicted final value and a doubt, or None and why there is none: a line says nothing where it has no support.

    Args:
        calibration: the line.
        estimate: of the candidate.
        known: estimates of the candidates that the line was fitted to.
    """
    finite = [one for one in known if math.isfinite(one)]
    if calibration.coefficient <= 0:
        return None, "no predictions: by the line, a worse estimate means a better end"
    if not math.isfinite(estimate):
        return math.inf, ""
    low, high = min(finite), max(finite)
    reach = (high - low) / 2 if len(finite) >= _ENOUGH else 0.0
    if not low - reach <= estimate <= high + reach:
        return None, (
            f"no prediction where the estimate lies far outside those of the {len(finite)} candidates that the line "
            f"was fitted to, {low:.4g} to {high:.4g} (with fewer than {_ENOUGH}, outside at all): --keep says how many "
            "train to the end"
        )
    value = float(calibration([estimate])[0])
    if value <= 0:
        return None, "no prediction where the line falls to 0 or below, which no error does"
    if not low <= estimate <= high:
        return value, (
            "? beside a prediction: the estimate lies outside those that the line was fitted to, "
            f"{low:.4g} to {high:.4g}"
        )
    return value, ""


def _gone(found: Searched, name: str) -> str:
    """Reason why a candidate did not go on, with the budget at which that was found."""
    for early in found.evaluations:
        if name in early.gone:
            return f"at {100 * early.budget:.3g}%: {early.gone[name]}"
    return ""


def chosen_steps(found: Searched) -> List[int]:
    """Steps of every run up to the last early evaluation of its candidate, or to the end if it was kept."""
    steps = []
    for one, p in zip(found.candidates, found.reached):
        last = max(early.budget for early in found.evaluations if one.name in early.estimates)
        steps.append(min(p.step, budget_steps(p.total, 1.0 if one.name in found.kept else last)))
    return steps


def curves_of(found: Searched, fraction: float) -> List[Curve]:
    """A curve of each candidate, up to where a run of it ends or diverges.

    Args:
        found: what a search has trained.
        fraction: of the steps so far, the last of which are averaged; see `tail_mean`.
    """
    early = [one.budget for one in found.evaluations]
    grid = sorted({*np.geomspace(min(_FROM, early[0] / 4), 1, _POINTS).tolist(), *early})
    curves = []
    for name in found.evaluations[0].estimates:
        runs = [(one, p) for one, p in zip(found.candidates, found.reached) if one.name == name]
        losses = [step_losses(rows) if (rows := read_rows(one.folder)) else np.zeros(0) for one, _ in runs]
        curve = Curve(name, [], [])
        for budget in grid:
            ends = [budget_steps(p.total, budget) for _, p in runs]
            if any(end > len(seen) for end, seen in zip(ends, losses)):
                break
            mean = float(np.mean([tail_mean(seen[:end], fraction, draws=0).value for end, seen in zip(ends, losses)]))
            if not np.isfinite(mean):
                break
            where = float(f"{ends[0] / runs[0][1].total:.5g}")
            if where not in curve.budgets:  # several in one step
                curve.budgets.append(where)
                curve.losses.append(float(f"{mean:.5g}"))
        curves.append(curve)
    return curves
