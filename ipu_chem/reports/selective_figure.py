"""Selective errors: how the error falls when the molecules on which several runs differ most are left out."""

from typing import Any, Mapping, Tuple

import numpy as np

from ipu_chem.reports.figures import BLUE, GRAY, ORANGE, figure_of, legend_beside, words_of

_ORDERS = ("smallest spread first", "smallest error first", "no order")


def selective_figure(doubted: Mapping[str, Tuple[np.ndarray, np.ndarray]]) -> Any:
    """Mean errors over the fraction of molecules that is kept, one plot for each metric.

    Beside the order of the spread stand that of the errors themselves, which no spread can better, and no order.

    Args:
        doubted: metric -> (errors, spread among the runs) of molecules, [K] each; errors are NaN without a label.

    Raises:
        ValueError: matplotlib is not installed.
    """
    figure, axes = figure_of(1, len(doubted))
    last = list(doubted)[-1]  # has the legend
    for axis, (metric, (errors, spread)) in zip(np.atleast_1d(axes), doubted.items()):
        known = np.isfinite(errors)
        errors, spread = errors[known], spread[known]
        fractions = 100.0 * np.arange(1, len(errors) + 1) / max(len(errors), 1)
        by_spread = _running(errors[np.argsort(spread, kind="stable")])
        lines = axis.plot(fractions, by_spread, color=BLUE)
        lines += axis.plot(fractions, _running(np.sort(errors)), color=ORANGE, linestyle="--")
        lines.append(axis.axhline(float(errors.mean()) if len(errors) else np.nan, color=GRAY, linestyle=":"))
        for line, name in zip(lines if metric == last else (), _ORDERS):
            line.set_label(name)
        axis.set(xlabel="molecules that are kept (%)", ylabel=words_of(metric), ylim=(0.0, None))
        axis.set_title(f"{len(errors):,} molecules", fontsize=10)
    legend_beside(np.atleast_1d(axes)[-1])
    return figure


def _running(errors: np.ndarray) -> np.ndarray:
    """Means of the first 1, 2, ... errors."""
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)
