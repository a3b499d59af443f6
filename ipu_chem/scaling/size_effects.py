"""Scatter between sizes that seeds do not explain: runs of one size then share an error and count as one run."""

from typing import Optional, Tuple

import numpy as np

from ipu_chem.scaling.fitting import Law

_LIKELY = 0.25  # chance of as much scatter from seeds alone below which runs are averaged: where half the intervals
# of three seeds that count alone would miss, this holds 92 % and more at 95 % (4 sizes and more), and costs little else


def averaged(
    resources: np.ndarray, values: np.ndarray, law: Law, theta: np.ndarray, unknowns: int = 0
) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Means over seeds where sizes scatter around a law by more than seeds do, by the test of lack of fit.

    Args:
        resources: [n] or [k, n] logarithms of what the law is over; runs alike in them differ in their seed.
        values: [n] logarithms of losses.
        law, theta: the law and its parameters [p] at the minimum.
        unknowns: how many of these are fitted; 0 for all.

    Returns:
        (resources and values of sizes), or None where runs may count alone: one seed of each, sizes that are no more
        than unknowns, or scatter that seeds explain.
    """
    from scipy.special import fdtrc

    columns = np.atleast_2d(resources)
    sizes, first, groups, counts = np.unique(
        columns, axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    groups = groups.reshape(-1)
    seeds, left = len(values) - len(counts), len(counts) - (unknowns or len(theta))
    if seeds < 1 or left < 1:
        return None
    means = np.bincount(groups, values) / counts
    within = np.square(values - means[groups]).sum() / seeds
    between = (np.square(means - law(theta[None])[0][0][first]) * counts).sum() / left
    if between <= 1e-18 or within > 0 and fdtrc(left, seeds, between / within) >= _LIKELY:
        return None
    return (sizes if np.ndim(resources) > 1 else sizes[0]), means
