"""The compute frontier: the lowest loss that a budget of floating-point operations has bought."""

from typing import List, Sequence

import numpy as np

from ipu_chem.scaling.points import Point, check_loss, columns
from ipu_chem.scaling.power_law import check_logarithms


def frontier_of(points: Sequence[Point]) -> List[Point]:
    """The points on the compute frontier, cheapest first, by whatever rules they ended; see `check_loss`."""
    check_loss(points)
    return [points[index] for index in compute_frontier(*columns(points, "flops", "loss"))]


def compute_frontier(flops: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Lower convex hull of (log FLOPs, log loss), up to the lowest loss: no mixture of runs lies below it.

    Args:
        flops: [n] of each run.
        loss: [n] of each run.

    Returns:
        [m] integer, which runs lie on it, cheapest first.

    Raises:
        ValueError: a value has no logarithm.
    """
    flops, loss = check_logarithms(flops, loss)
    x, y = np.log(flops), np.log(loss)
    hull: List[int] = []
    for index in np.lexsort((y, x)):
        if hull and y[index] >= y[hull[-1]]:  # dearer and no better
            continue
        while len(hull) > 1:
            first, middle = hull[-2:]
            if (y[middle] - y[first]) * (x[index] - x[first]) < (y[index] - y[first]) * (x[middle] - x[first]):
                break
            hull.pop()  # on or above the line between its neighbors
        hull.append(int(index))
    return np.array(hull, np.int64)
