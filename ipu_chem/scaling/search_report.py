"""Report of a search: the best candidates, what the others would have reached, how far estimates can be trusted."""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from ipu_chem.scaling.candidates import budget_steps
from ipu_chem.scaling.curves import Curve, curves_of
from ipu_chem.scaling.estimators import ESTIMATORS, counted_metric, estimate_of
from ipu_chem.scaling.search import Look, Searched, SearchOptions
from ipu_chem.scaling.selection import Cost, cost, survivors
from ipu_chem.scaling.tpe import Assessment, Calibration, Trial, assess, calibrate, over_seeds
from packing.files import atomic_file


@dataclass(frozen=True)
class Row:
    """A candidate of the result, over its seeds.

    Attributes:
        name: of its options.
        estimate: mean over seeds at the first look, inf if one diverged.
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


class Compared(NamedTuple):
    """How well an estimator at the first look ranks candidates whose final value is known; see `Assessment`."""

    estimator: str
    r2: float
    spearman: float
    kendall: float
    regret: float


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        metric: that counts.
        rows: by their final metric, then by their estimate.
        looks: that chose.
        kept: names of the chosen, which were trained to the end in any case.
        steps: cost in optimizer steps.
        seconds: cost in seconds; what was not trained would have taken as long per step.
        chosen: what `steps` are if only the chosen train on after a look: the same unless all were trained to the end.
        calibration: from the estimates of the first look, which all candidates have, also of a search that halves;
            None where too few were trained to the end, which ``notes`` says.
        assessment: of that ranking, with the regret of ``kept``; None unless others were trained to the end as well.
        compared: all estimators that the runs allow, under the same condition.
        curves: of all candidates.
        notes: sentences.
    """

    metric: str
    rows: List[Row]
    looks: List[Look]
    kept: List[str]
    steps: Cost
    seconds: Cost
    chosen: Cost
    calibration: Optional[Calibration]
    assessment: Optional[Assessment]
    compared: List[Compared]
    curves: List[Curve]
    notes: List[str]


def analyse(found: Searched, options: SearchOptions) -> Result:
    """The report of a search.

    Raises:
        ValueError: no run has the metric; see `over_seeds`.
    """
    runs = list(zip(found.candidates, found.reached))
    finished = [p for p in found.reached if p.status == "finished"]
    notes = [f"{one.name}, seed {one.seed}: {p.message}" for one, p in runs if p.message]
    metric = options.metric
    for p in finished:
        metric = counted_metric(list(p.metrics), metric)
    # Where a seed diverged at a look, the others were left behind with it: without all of them, no final value.
    unfinished = {one.name for one, p in runs if p.status == "stopped"}
    trials = []
    for (one, p), seen in zip(runs, found.estimates):
        final = math.inf if p.status == "diverged" else p.metrics.get(metric)
        trials.append(Trial(one.name, one.seed, seen.value, None if one.name in unfinished else final))
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
    rows = []
    for index, name in enumerate(names):
        own = [p for one, p in runs if one.name == name]
        worst = next((status for status in ("diverged", "stopped") if status in {p.status for p in own}), "finished")
        predicted = None if calibration is None else float(calibration([means[index]])[0])
        steps, total = sum(p.step for p in own), sum(p.total for p in own)
        rows.append(Row(name, means[index], predicted, finals[index], steps, total, worst))
    rows.sort(key=lambda row: (math.inf if row.final is None else row.final, row.estimate))
    totals = [p.total for p in found.reached]
    return Result(
        metric,
        rows,
        found.looks,
        found.kept,
        cost([p.step for p in found.reached], totals),
        cost([p.seconds for p in found.reached], [p.seconds * (p.total / max(p.step, 1)) for p in found.reached]),
        cost(chosen_steps(found), totals),
        calibration,
        assessment,
        [] if assessment is None else _compared(found, options, metric, dict(zip(names, finals))),
        curves_of(found, options.fraction),
        notes,
    )


def _compared(
    found: Searched, options: SearchOptions, metric: str, finals: Dict[str, Optional[float]]
) -> List[Compared]:
    """Every estimator at the first look; those that the runs do not allow are left out."""
    compared = []
    for name in ESTIMATORS:
        trials = []
        try:
            for one, p in zip(found.candidates, found.reached):
                seen = estimate_of(one, p, found.looks[0].share, name, options.fraction, metric, draws=0)
                trials.append(Trial(one.name, one.seed, seen.value, finals[one.name]))
            names, means, ends = over_seeds(trials)
            line = calibrate(means, ends, is_power=options.calibration == "power")
            kept = survivors(means, options.keep)
            ranking = assess(means, ends, kept)
        except ValueError:  # no epoch is over, there was no evaluation, or what it would keep was not trained
            continue
        compared.append(Compared(name, line.r2, ranking.spearman, ranking.kendall, ranking.regret))
    return compared


def chosen_steps(found: Searched) -> List[int]:
    """Steps of every run up to the last look that its candidate had come to, or to the end if it was kept."""
    steps = []
    for one, p in zip(found.candidates, found.reached):
        last = max(look.share for look in found.looks if one.name in look.estimates)
        steps.append(min(p.step, budget_steps(p.total, 1.0 if one.name in found.kept else last)))
    return steps


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
        lines.append(f"{line}: R2 {line.r2:.3f}, RMSE {line.rmse:.3g}, {line.points} candidates")
    if result.compared:
        lines.append(f"estimators at {100 * result.looks[0].share:.3g}%, and the regret of keeping their best:")
        for one in result.compared:
            lines.append(
                f"  {one.estimator:10} R2 {one.r2:.3f}, Spearman {one.spearman:.2f}, Kendall {one.kendall:.2f}, regret "
                f"{one.regret:.3g}"
            )
    seen, regret = result.assessment, ""
    if seen is not None:
        lines.append(
            f"ranking at {100 * result.looks[0].share:.3g}%: Spearman {seen.spearman:.2f}, Kendall {seen.kendall:.2f} "
            f"of {seen.candidates} candidates"
        )
        regret = f"; regret {seen.regret:.3g}"
    lines.append(
        f"cost: {result.steps.spent:,.0f} of {result.steps.full:,.0f} steps, {result.steps.saving:.0%} saved; "
        f"{result.seconds.spent:,.0f} s, {result.seconds.saving:.0%} saved"
    )
    kept = f"{'; '.join(result.kept) or 'none, since all that went on diverged'}{regret}"
    if result.chosen.spent < result.steps.spent:
        lines.append(
            f"the search without --finish_all would have taken {result.chosen.spent:,.0f} of {result.chosen.full:,.0f} "
            f"steps, {result.chosen.saving:.0%} saved, and kept {kept}"
        )
    else:
        lines.append(f"kept: {kept}")
    return [*lines, *result.notes]


def write_result(folder: Path, result: Result, options: SearchOptions) -> List[Path]:
    """Write search.json, search.csv and, where there is matplotlib, search.png."""
    from ipu_chem.scaling.figures import save
    from ipu_chem.scaling.search_figure import search_figure

    paths = [folder / "search.json", folder / "search.csv"]
    costs = {name: getattr(result, name) for name in ("steps", "seconds", "chosen")}
    values: Dict[str, Any] = {
        **asdict(result),
        **{name: {**one._asdict(), "saving": one.saving} for name, one in costs.items()},
        "options": asdict(options),
    }
    with atomic_file(paths[0], "w") as file:
        json.dump(_without_infinities(values), file, indent=1)
    with atomic_file(paths[1], "w") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in result.rows)
    try:
        paths.append(save(search_figure(result), folder / "search.png"))
    except ValueError as error:
        print(error)
    return paths


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.4g}"


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
