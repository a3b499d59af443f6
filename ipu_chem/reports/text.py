"""What the report says of a language model: nats beside simple baselines, and the molecules that it writes."""

import csv
import html
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from ipu_chem.generation.drawing import grid_svg
from ipu_chem.generation.metrics import MEANING
from ipu_chem.generation.samples import FILE
from ipu_chem.reports.parts import BLUE, GREY, ORANGE, figure_of, image

_DRAWN = 16
_BASELINES = (("baseline", "unigram", "--"), ("bigram", "bigram", ":"))


def text_results(run: Mapping[str, Any]) -> str:
    """Nats of the held-out molecules, beside what they have when symbols, or pairs of them, are merely counted."""
    results = run.get("results")
    if not results:
        return "<p>The run has not finished yet.</p>"
    lines = ["<table class='big'><tr><th>split</th><th>metric</th><th>model</th><th>bigram</th><th>unigram</th></tr>"]
    for split, metrics in results.items():
        for name, value in metrics.items():
            cells = [value, run["bigram"][split][name], run["baseline"][split][name]]
            numbers = "".join(f"<td class='n'>{cell:.4g}</td>" for cell in cells)
            lines.append(f"<tr><td>{split}</td><td>{html.escape(name)}</td>{numbers}</tr>")
    return "".join(lines) + "</table>"


def text_learning_curve(rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> Any:
    """Nats per token in training, nats per heavy atom of held-out molecules; baselines as lines."""
    figure, (left, right) = figure_of(1, 2)
    train = [row for row in rows if row["kind"] == "train" and row.get("loss") is not None]
    left.plot(
        [row["step"] for row in train], [row["loss"] for row in train], color=GREY, linewidth=0.8, label="training"
    )
    evaluated = [row for row in rows if row["kind"] == "validation"]
    steps = [row["step"] for row in evaluated]
    for axis, name in ((left, "nats_per_token"), (right, "nats_per_heavy_atom")):
        axis.plot(steps, [row.get(name) for row in evaluated], color=BLUE, marker=".", label="validation")
        for key, label, style in _BASELINES:
            value = run.get(key, {}).get("validation", {}).get(name)
            if value is not None:
                axis.axhline(value, color=ORANGE, linestyle=style, label=f"{label} baseline")
        axis.set(xlabel="optimizer step", ylabel=name.replace("_", " "))
        axis.legend(frameon=False)
    return figure


def text_samples(folder: Path, run: Mapping[str, Any]) -> List[str]:
    """Figures of the molecules that the model has written, and the first of them as pictures."""
    samples = run.get("samples")
    if not samples:
        return []
    invalid = ", ".join(f"{count:,} {reason}" for reason, count in samples["invalid"].items()) or "none"
    parts = [
        "<h2>Molecules it writes</h2>",
        f"<p>{samples['count']:,} drawn at temperature 1, {samples['finished']:,} of them to their end; not usable: "
        f"{html.escape(invalid)}. Whatever is written in SELFIES is a molecule, so validity says nothing of the model. "
        f"Compared with {html.escape(samples['compared with'])}.</p>",
    ]
    rows = [
        f"<tr><td>{html.escape(name)}</td><td class='n'>{value:.4g}</td>"
        f"<td>{html.escape(MEANING.get(name, ''))}</td></tr>"
        for name, value in samples["metrics"].items()
    ]
    parts.append(f"<table>{''.join(rows)}</table>")
    with open(folder / FILE, encoding="utf-8", newline="") as file:
        written = [row for row in csv.DictReader(file) if row["smiles"]][:_DRAWN]
    if written:
        legends = [f"{float(row['log_likelihood']):.1f} nats" for row in written]
        parts.append(grid_svg([row["smiles"] for row in written], legends))
    return parts


def text_sections(folder: Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> List[str]:
    """Everything between the title and the packs."""
    return [
        text_results(run),
        "<h2>Learning</h2>",
        image(text_learning_curve(rows, run)),
        *text_samples(folder, run),
    ]
