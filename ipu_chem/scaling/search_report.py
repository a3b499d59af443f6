"""Report of a search: the table that is printed, search.json, search.csv and search.png."""

import csv
import json
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
    lines = [f"{'candidate':{width}}  {'estimate':>10} {'predicted':>10} {'final':>10}  steps"]
    for row in result.rows:
        numbers = " ".join(f"{_number(value):>10}" for value in (row.estimate, row.predicted, row.final))
        lines.append(f"{row.name:{width}}  {numbers}  {row.steps:,} of {row.total:,}, {row.status}")
    lines.append(f"final: {result.metric} of the validation molecules")
    if result.calibration is not None:
        line = result.calibration
        lines.append(f"{line}: R2 {line.r2:.3f}, RMSE {line.rmse:.3g}, {line.points} candidates")
    if result.compared:
        lines.append(f"estimators at {100 * result.evaluations[0].budget:.3g}%, and the regret of keeping their best:")
        for one in result.compared:
            lines.append(
                f"  {one.estimator:10} R2 {one.r2:.3f}, Spearman {one.spearman:.2f}, Kendall {one.kendall:.2f}, regret "
                f"{one.regret:.3g}"
            )
    seen, regret = result.assessment, ""
    if seen is not None:
        lines.append(
            f"ranking at {100 * result.evaluations[0].budget:.3g}%: Spearman {seen.spearman:.2f}, Kendall "
            f"{seen.kendall:.2f} of {seen.candidates} candidates"
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
    paths = [folder / "search.json", folder / "search.csv"]
    costs = {name: getattr(result, name) for name in ("steps", "seconds", "chosen")}
    values: Dict[str, Any] = {
        **as_json(result),
        **{name: {**one._asdict(), "saving": one.saving} for name, one in costs.items()},
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
