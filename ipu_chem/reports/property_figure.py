"""Figure of the properties of generated molecules beside those of known ones."""

from typing import Any

import numpy as np

from ipu_chem.generation.descriptors import PROPERTIES
from ipu_chem.reports.figures import BLUE, GRAY, figure_of, legend_beside

_BINS = 50
_UNITS = {"weight": "weight (g/mol)", "SA": "SA (1: easy to make, 10: hard)", "QED": "QED (fraction)"}
_MIDDLE = (0.5, 99.5)  # percentiles between which values are drawn, so that one molecule does not hide the others


def property_figure(generated: np.ndarray, reference: np.ndarray) -> Any:
    """Histograms of logP, SA, QED and weight, and their Wasserstein-1 distances.

    Args:
        generated: [N, 4], see `Described.properties`.
        reference: [M, 4].
    """
    from scipy.stats import wasserstein_distance

    figure, axes = figure_of(2, 2)
    for column, (name, axis) in enumerate(zip(PROPERTIES, axes.ravel())):
        one, other = (side[:, column][np.isfinite(side[:, column])] for side in (generated, reference))
        axis.set(xlabel=_UNITS.get(name, name), ylabel="fraction of molecules")
        if not len(one) or not len(other):
            continue
        both = np.concatenate([one, other])
        bins = np.linspace(*np.percentile(both, _MIDDLE), _BINS + 1)
        if bins[0] == bins[-1]:  # a single value
            bins = np.linspace(bins[0] - 0.5, bins[0] + 0.5, _BINS + 1)
        for values, color, label in ((other, GRAY, "reference"), (one, BLUE, "generated")):
            weights = np.full(len(values), 1 / len(values))
            filled = color == GRAY
            axis.hist(
                values, bins, weights=weights, color=color, label=label, alpha=0.6 if filled else 1.0,
                histtype="stepfilled" if filled else "step", linewidth=1.5,
            )  # fmt: skip
        axis.set_title(f"distance {wasserstein_distance(one, other):.3g}", fontsize=10)
    legend_beside(axes[0, 1])
    return figure
