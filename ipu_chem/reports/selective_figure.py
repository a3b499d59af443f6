"""Selective errors: how the error falls when the molecules that are doubted most are left out."""

from typing import Any, Mapping, Tuple

import numpy as np

from ipu_chem.reports.figures import BLUE, GRAY, ORANGE, figure_of, legend_beside, words_of


def selective_figure(doubted: Mapping[str, Tuple[np.ndarray, np.ndarray]], doubt: str = "spread") -> Any:
    """Mean errors over the fraction of molecules that is kept, one plot for each metric.

    Beside the order of the doubts stand that of the errors themselves, which no doubt can better, and no order.

    Args:
        doubted: metric -> (errors, doubts) of molecules, [K] each; errors are NaN without a label.
        doubt: in a word: the spread among several runs, or the distance from the training molecules.

    Raises:
        ValueError: matplotlib is not installed.
    """
    figure, axes = figure_of(1, len(doubted))
    last = list(doubted)[-1]  # has the legend
    for axis, (metric, (errors, doubts)) in zip(np.atleast_1d(axes), doubted.items()):
        known = np.isfinite(errors)
        errors, doubts = errors[known], doubts[known]
        fractions = 100.0 * np.arange(1, len(errors) + 1) / max(len(errors), 1)
        by_doubt = _running(errors[np.argsort(doubts, kind="stable")])
        lines = axis.plot(fractions, by_doubt, color=BLUE)
        lines += axis.plot(fractions, _running(np.sort(errors)), color=ORANGE, linestyle="--")
        lines.append(axis.axhline(float(errors.mean()) if len(errors) else np.nan, color=GRAY, linestyle=":"))
        orders = (f"smallest {doubt} first", "smallest error first", "no order")
        for line, name in zip(lines if metric == last else (), orders):
            line.set_label(name)
        axis.set(xlabel="molecules that are kept (%)", ylabel=words_of(metric), ylim=(0.0, None))
        axis.set_title(f"{len(errors):,} molecules", fontsize=10)
    legend_beside(np.atleast_1d(axes)[-1])
    return figure


def _running(errors: np.ndarray) -> np.ndarray:
    """Means of the first 1, 2, ... errors."""
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)
