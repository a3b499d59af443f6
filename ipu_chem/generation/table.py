"""Table of metrics: on the screen, in reports and as CSV, with MOSES' published rows beside if wanted."""

import csv
from typing import List, Mapping, NamedTuple, Sequence, Tuple

from ipu_chem.generation.metrics import MEANING
from ipu_chem.generation.published import MODELS
from packing.files import PathLike, atomic_file


class Row(NamedTuple):
    """One metric.

    Attributes:
        name: as in `MEANING`.
        value: of the generated molecules, as text; "" where it is not defined.
        published: the same of every model of `MODELS`, with its standard deviation; "" where there is none.
        meaning: of the metric, in words.
    """

    name: str
    value: str
    published: List[str]
    meaning: str


def rows_of(values: Mapping[str, float], published: bool) -> List[Row]:
    """Rows in the order of `MEANING`; with published ones also those that only others have."""
    names = [name for name in MEANING if name in values or (published and name in next(iter(MODELS.values())))]
    names += [name for name in values if name not in MEANING]  # of runs of other versions
    return [
        Row(
            name,
            f"{values[name]:.4g}" if name in values else "",
            [
                f"{model[name].value:.4f}±{model[name].deviation:.4f}" if name in model else ""
                for model in MODELS.values()
            ]
            if published
            else [],
            MEANING.get(name, ""),
        )
        for name in names
    ]


def printed(values: Mapping[str, float], published: bool) -> Tuple[Sequence[str], List[Sequence[str]]]:
    """Header and cells for a terminal: with published models beside, or with the meaning of each metric."""
    rows = rows_of(values, published)
    if not published:
        return ("metric", "value", "what it is"), [(row.name, row.value, row.meaning) for row in rows]
    return ("metric", "value", *MODELS), [(row.name, row.value or "-", *row.published) for row in rows]


def write_table(path: PathLike, values: Mapping[str, float], published: bool = False) -> None:
    """Write a CSV, atomically: metric, value with all its digits, published values and deviations, meaning."""
    models = list(MODELS.items()) if published else []
    header = [cell for name, _ in models for cell in (name, f"{name} deviation")]
    with atomic_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "value", *header, "meaning"])
        for row in rows_of(values, published):
            cells = [cell for _, model in models for cell in model.get(row.name, ("", ""))]
            writer.writerow([row.name, values.get(row.name, ""), *cells, row.meaning])
