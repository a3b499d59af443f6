"""Parts of figures: axes, colors, legends beside the axes, logarithmic scales, files."""

import re
from pathlib import Path
from typing import Any, List

import numpy as np

from packing.files import PathLike, atomic_file

BLUE, ORANGE, GRAY = "#3a80c1", "#d9822b", "#8f8f8f"
_PALETTE = (BLUE, "#3f9b4f", "#8c5fbf", "#c0486b", "#7a6a3c", "#1f9e9e", "#b05c1f")


def figure_of(rows: int, columns: int) -> Any:
    """A figure and its axes, side by side, drawn without a screen.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install 'ipu-chem[plot]'.") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    for axis in np.atleast_1d(axes).ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def colors(count: int) -> List[str]:
    """Different colors, as many as asked; orange and gray are left for baselines and backgrounds."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(one) for one in matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, count))]


def shades(count: int, first: str = BLUE, last: str = ORANGE) -> List[str]:
    """Different colors in an order, from one to the other."""
    from matplotlib.colors import to_hex

    return [to_hex(colormap(first, last)(place)) for place in np.linspace(0, 1, count)]


def colormap(first: str = BLUE, last: str = ORANGE) -> Any:
    """From one color over gray to the other."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ipu_chem", [first, GRAY, last])


def legend_beside(axis: Any, title: str = "", **options: Any) -> None:
    """Put the legend right of the axes, where it hides nothing; the figure becomes wider by it."""
    figure = axis.figure
    legend = axis.legend(
        frameon=False, fontsize=9, title=title or None, title_fontsize=9, alignment="left", loc="upper left",
        bbox_to_anchor=(1.01, 1.0), **options,
    )  # fmt: skip
    extent = legend.get_window_extent(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + extent.width / figure.dpi + 0.1, max(height, extent.height / figure.dpi + 0.8))


def log_scale(axis: Any, which: str = "y") -> None:
    """Make a scale logarithmic, with plain numbers at as many ticks as there is room for."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axis.set(**{f"{which}scale": "log"})
    scale = getattr(axis, f"{which}axis")
    low, high = scale.get_view_interval()
    decades = np.log10(high / low)
    scale.set_minor_formatter(NullFormatter())
    if which == "x" and decades > 1.7:  # powers of ten as they are
        return
    fine = (1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) if which == "y" and decades < 1.2 else (1.0, 2.0, 5.0)
    few = decades < 0.4 and which == "y"
    scale.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=fine if decades < 3 else (1.0,)))
    scale.set_major_formatter(lambda value, _: short(value))


def short(number: float) -> str:
    """77568 as 77.6K."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if 1e12 > number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def words_of(metric: str) -> str:
    """mae_forces_meV_per_A as MAE of forces (meV/Å), nats_per_token as nats per token."""
    found = re.fullmatch(r"(mae|rmse)(_.+?)??(?:_((?:m?eV|m?Ha|kcal|kJ|D)(?:_per_\w+)?))?", metric)
    if not found:
        return metric.replace("_", " ")
    kind, name, unit = found.groups()
    unit = (unit or "unit of the target").replace("_per_A", "/Å").replace("_per_", "/")
    return f"{kind.upper()}{' of' if name else ''}{(name or '').replace('_', ' ')} ({unit})"


def save(figure: Any, path: PathLike) -> Path:
    """Write a figure, atomically, in the format that the file's name ends with, and close it.

    Raises:
        ValueError: matplotlib knows no such format.
    """
    from matplotlib import pyplot

    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise ValueError(f"{path}: a figure's file ends with {', '.join(sorted(known))}.")
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=200)
    pyplot.close(figure)
    return path
