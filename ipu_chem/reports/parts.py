"""Pieces that every report is made of."""

import base64
import html
import io
from typing import Any, List, Mapping

import numpy as np

BLUE, ORANGE, GREY = "#2a6fb0", "#d9822b", "#999999"


def figure_of(rows: int, columns: int) -> Any:
    """A figure and its axes, side by side."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 3.6), layout="constrained")
    for axis in np.atleast_1d(axes).ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def image(figure: Any) -> str:
    """A figure as an <img> that holds its own data."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    pyplot.close(figure)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def table(values: Mapping[str, Any]) -> str:
    """Names and values in two columns."""
    rows: List[str] = []
    for name, value in values.items():
        rows.append(f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(_text(value))}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
