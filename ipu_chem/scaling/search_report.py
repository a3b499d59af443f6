"""Report of a search: the table that is printed, search.json, search.csv and search.png."""

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

from ipu_chem.reports.figures import save
from ipu_chem.scaling.points import as_json
from ipu_chem.scaling.search import SearchOptions
from ipu_chem.scaling.search_figure import search_figure
from ipu_chem.scaling.search_result import Result, Row
from packing.files import atomic_file


def table(result: Result) -> List[str]:
    """Lines to print."""
    width = max(len(row.name) for row in result.rows)
    between = {row.name: f"[{row.low:.4g}, {row.high:.4g}]" for row in result.rows if math.isfinite(row.high)}
    wide = max((len(one) for one in between.values()), default=0)
    interval = f" {'of 90%':{wide}}" if wide else ""
    lines = [f"{'candidate':{width}}  {'estimate':>10}{interval} {'predicted':>10}  {'final':>10}  steps"]
    for row in result.rows:
        ends = f" {between.get(row.name, ''):{wide}}" if wide else ""
        doubt = "?" if row.doubt and row.predicted is not None else " "
        numbers = f"{_number(row.estimate):>10}{ends} {_number(row.predicted):>10}{doubt} {_number(row.final):>10}"
        lines.append(f"{row.name:{width}}  {numbers}  {row.steps:,} of {row.total:,}, {row.status}")
    first = result.evaluations[0]
    lines.append(f"estimate: {first.estimator} at {100 * first.budget:.3g}% of the steps")
    lines.append(f"final: {result.metric} of the validation molecules")
    if result.calibration is not None:
        line = result.calibration
        lines.append(f"{line}: R2 {line.r2:.3f}, RMSE {line.rmse:.3g}, {line.points} candidates")
    if result.compared:
        lines.append(f"estimators at {100 * first.budget:.3g}%, and the regret of keeping their best:")
        for one in result.compared:
            inside = "" if math.isnan(one.coverage) else f", {one.coverage:.0%} in intervals of 90%"
            lines.append(
                f"  {one.estimator:11} R2 {one.r2:.3f}, Spearman {one.spearman:.2f}, Kendall {one.kendall:.2f}, regret "
                f"{one.regret:.3g}{inside}"
            )
    seen, regret = result.assessment, ""
    if seen is not None:
        lines.append(
            f"ranking at {100 * first.budget:.3g}%: Spearman {seen.spearman:.2f}, Kendall "
            f"{seen.kendall:.2f} of {seen.candidates} candidates"
        )
        regret = f"; regret {seen.regret:.3g}"
    saved = "" if math.isnan(result.seconds.full) else f", {result.seconds.saving:.0%} saved"
    lines.append(
        f"cost: {result.steps.spent:,.0f} of {result.steps.full:,.0f} steps, {result.steps.saving:.0%} saved; "
        f"{result.seconds.spent:,.0f} s{saved}"
    )
    kept = f"{'; '.join(result.kept) or 'none, since all that went on diverged'}{regret}"
    if result.chosen.spent < result.steps.spent:
        lines.append(
            f"the search without --finish_all would have taken {result.chosen.spent:,.0f} of {result.chosen.full:,.0f} "
            f"steps, {result.chosen.saving:.0%} saved, and kept {kept}"
        )
    else:
        lines.append(f"kept: {kept}")
    if result.uncertain is not None:
        (least, most), (low, high) = result.uncertain
        lines.append(
            f"of such searches, over other candidates of the same kind (90%): regret {least:.3g} to {most:.3g}, "
            f"{low:.0%} to {high:.0%} of steps saved"
        )
    gone = [row for row in result.rows if row.gone]
    if gone:
        lines.append("left out:")
        lines += [f"  {row.name}: {row.gone}" for row in gone]
    return [*lines, *result.held.lines(), *result.notes]


def write_result(folder: Path, result: Result, options: SearchOptions) -> List[Path]:
    """Write search.json, search.csv and, where there is matplotlib, search.png."""
    paths = [folder / "search.json", folder / "search.csv"]
    costs = {name: getattr(result, name) for name in ("steps", "seconds", "chosen")}
    values: Dict[str, Any] = {
        **as_json(result),
        **{name: as_json({**one._asdict(), "saving": one.saving}) for name, one in costs.items()},
        "options": asdict(options),
    }
    with atomic_file(paths[0], "w") as file:
        json.dump(values, file, indent=1)
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
