"""One self-contained HTML page about a run, made of its files alone: results, learning, predictions, packs."""

import base64
import csv
import io
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from ipu_chem.generation.drawing import grid_svg
from ipu_chem.generation.published import CONDITIONS, MODELS
from ipu_chem.generation.samples import FILE, PROPERTIES
from ipu_chem.generation.table import Row, rows_of
from ipu_chem.json_file import read_json
from ipu_chem.metrics import FORCES, Target
from ipu_chem.reports.property_figure import property_figure
from ipu_chem.reports.run_figures import baselines, class_figure, learning_figure, packing_figure, parity_figure
from ipu_chem.reports.selective_figure import selective_figure
from ipu_chem.training.logging import read_rows
from ipu_chem.uncertainty.domain import FILE as DOMAIN
from ipu_chem.uncertainty.domain import read_domain
from packing import PackingPlan
from packing.arrays import open_arrays
from packing.files import PathLike, atomic_file

_DRAWN = 16  # molecules that a language model has written
_INKS = ("#222222", "#d8d8d8")  # on light screens and on dark ones
_PIXELS = 92  # of an inch of a figure, as long as the page is as wide


class Picture(NamedTuple):
    """A figure twice, as base64 of PNGs without a background, its content in words, and its width in pixels."""

    light: str
    dark: str
    shows: str
    width: int


def write_report(folder: PathLike) -> Path:
    """Write report.html into a run's folder.

    Returns:
        Path of the page.

    Raises:
        ValueError: the folder holds no run, or matplotlib or jinja2 is missing; says what to do.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds no run (no run.json); give the --out folder of `ipu-chem train`.")
    pages = templates()
    path = folder / "run.json"
    run = read_json(path, f"`ipu-chem train --resume {quote(str(folder))}` writes it again")
    paths = {split: folder / "plans" / f"{split}.npz" for split in run["splits"]}
    plans = {split: PackingPlan.load(path) for split, path in paths.items() if path.is_file()}
    text = pages.get_template("run.html").render(
        run=run,
        results=_results(run),
        baselines=[name for name, _ in baselines(run)],
        learning=picture("loss and validation metrics", partial(learning_figure, run, read_rows(folder))),
        predictions=_predictions(folder, run),
        selective=_selective(folder, run),
        samples=run.get("samples"),
        table=_table(run),
        models=list(MODELS),
        conditions=CONDITIONS,
        properties=_properties(folder, run),
        molecules=_molecules(folder, run),
        plans=plans,
        packing=picture("sizes and packs", partial(packing_figure, plans["train"])) if "train" in plans else None,
        config=(folder / "config.yaml").read_text(encoding="utf-8"),
    )
    path = folder / "report.html"
    with atomic_file(path, "w") as file:
        file.write(text)
    return path


def templates() -> Any:
    """The templates of reports, which escape whatever is not marked as HTML.

    Raises:
        ValueError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"a report needs matplotlib and jinja2: pip install 'ipu-chem[plot]' ({error}).") from error
    folder = jinja2.FileSystemLoader(str(Path(__file__).parent / "templates"))
    pages = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    pages.filters["plain"] = _plain
    return pages


def picture(shows: str, draw: Callable[[], Any]) -> Picture:
    """Draw a figure for light and for dark screens."""
    from matplotlib import pyplot, rc_context

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    images, width = [], 0
    for color in _INKS:
        with rc_context(dict.fromkeys(inked, color)):
            figure, buffer = draw(), io.BytesIO()
            figure.savefig(buffer, format="png", dpi=140, transparent=True)
            pyplot.close(figure)
        images.append(base64.b64encode(buffer.getvalue()).decode())
        width = round(_PIXELS * figure.get_size_inches()[0])
    return Picture(*images, shows, width)


def _plain(value: Any) -> str:
    """A value of a run as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _results(run: Mapping[str, Any]) -> List[Tuple[str, str, List[Any]]]:
    """(split, metric, values of the model and of each baseline, None where there is none)."""
    found = []
    for split, metrics in (run.get("results") or {}).items():
        for name, value in metrics.items():
            beside = [baseline.get(split, {}).get(name) for _, baseline in baselines(run)]
            found.append((split, name, [value, *beside]))
    return found


def _predictions(folder: Path, run: Mapping[str, Any]) -> List[Picture]:
    """A figure of each target of the held-out molecules; none before the run has finished."""
    found = []
    split = "test" if (folder / "predictions_test.csv").is_file() else "validation"
    for target in run.get("targets", []) if run.get("results") else []:
        name = target["name"]
        if "rocauc" in target:
            draw = partial(class_figure, name, split, *_labels(folder, split, name, "probability"))
        else:
            draw = partial(parity_figure, target, split, *_labels(folder, split, name))
        found.append(picture(f"predictions of {name}", draw))
    return found


def _selective(folder: Path, run: Mapping[str, Any]) -> Optional[Picture]:
    """Errors of test molecules by their distance from the training molecules; None of a run that keeps no domain."""
    targets = [target for target in run.get("targets", []) if "mae" in target and target["name"] != FORCES]
    if not targets or not (folder / "predictions_test.csv").is_file() or not (folder / DOMAIN).is_file():
        return None
    distances, doubted = read_domain(folder).held_out, {}
    for target in targets:
        label, prediction = _labels(folder, "test", target["name"])
        if len(label) != len(distances):
            return None
        doubted[target["mae"]] = (
            np.abs(prediction - label) * Target(target["name"], target["unit"]).error_factor,
            distances,
        )
    return picture("errors by distance from the training molecules", partial(selective_figure, doubted, "distance"))


def _labels(folder: Path, split: str, name: str, column: str = "prediction") -> List[np.ndarray]:
    """Labels and predictions of a target of molecules, or of components of forces."""
    if name == FORCES:
        with open_arrays(folder / f"forces_{split}.npz") as arrays:
            return [arrays["label"].ravel(), arrays["prediction"].ravel()]
    with open(folder / f"predictions_{split}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[f"{name}_{kind}"]) for row in rows]) for kind in ("label", column)]


def _table(run: Mapping[str, Any]) -> List[Row]:
    """Metrics of the molecules that a language model has written."""
    samples = run.get("samples") or {}
    return rows_of(samples["metrics"], samples.get("published", False)) if samples.get("metrics") else []


def _properties(folder: Path, run: Mapping[str, Any]) -> Optional[Picture]:
    """Properties of generated molecules beside those of known ones; None of a run that has none."""
    if not run.get("samples") or not (folder / PROPERTIES).is_file():
        return None
    with open_arrays(folder / PROPERTIES) as arrays:
        both = arrays["generated"], arrays["reference"]
    return picture("properties of generated and of known molecules", partial(property_figure, *both))


def _molecules(folder: Path, run: Mapping[str, Any]) -> str:
    """The first molecules that a language model has written, as SVG."""
    if not run.get("samples"):
        return ""
    with open(folder / FILE, encoding="utf-8", newline="") as file:
        written = [row for row in csv.DictReader(file) if row["smiles"]][:_DRAWN]
    legends = [f"{float(row['log_likelihood']):.1f} nats" for row in written]
    return grid_svg([row["smiles"] for row in written], legends) if written else ""
