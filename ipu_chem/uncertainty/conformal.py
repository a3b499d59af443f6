"""Split conformal prediction: half-widths from errors on molecules that were held out, for any model and any n.

An interval around a prediction for another molecule of the same kind holds its label with at least the probability
asked for, over the draw of all n + 1 molecules: the half-width is the ceil((n + 1) coverage)-th smallest of n absolute
errors (V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2005; A. N. Angelopoulos, S. Bates,
arXiv:2107.07511). Errors may be divided by a difficulty first, such as the spread of several runs (H. Papadopoulos,
Inductive Conformal Prediction, 2008).

The three components of the forces on all atoms of a molecule are not independent, so that n counts molecules there,
too: each has a weight of 1, which its components divide among them (Y. Lee, R. F. Barber, R. Willett,
arXiv:2306.06342).
"""

import math
from typing import Optional

import numpy as np

_ROUNDING = 1e-9  # of products such as 0.9 * 20, which shall not become one rank more


def needed(coverage: float) -> int:
    """The fewest molecules that support intervals of a coverage, 19 for 0.95."""
    return max(math.ceil(coverage / (1.0 - coverage) - _ROUNDING), 1)


def rank(count: int, coverage: float) -> int:
    """The number, from 1, of the error that bounds an interval, among ``count`` that rise.

    Args:
        count: n, of molecules that errors are known of.
        coverage: above 0 and below 1.

    Raises:
        ValueError: so few do not support the coverage; says how many do.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"a coverage of {coverage:g}: give a number above 0 and below 1.")
    if count < needed(coverage):
        most = math.floor(1000 * count / (count + 1)) / 1000  # what so many support, rounded down
        ask = f"ask for {most:g} or less, or train" if count else "train"
        raise ValueError(
            f"intervals of {coverage:g} need {needed(coverage):,} molecules of the validation split, and {count:,} of "
            f"it have a label; {ask} with a larger --data.validation."
        )
    return max(math.ceil((count + 1) * coverage - _ROUNDING), 1)


def half_width(scores: np.ndarray, coverage: float, offsets: Optional[np.ndarray] = None) -> float:
    """The score that bounds those of another molecule with at least a probability.

    Args:
        scores: [S] absolute errors, divided by difficulties or not; NaN where there is no label.
        coverage: that probability, above 0 and below 1.
        offsets: [n + 1], where each molecule's scores begin, if it has several; None is one each.

    Returns:
        The smallest score such that those up to it weigh as much as `rank` molecules.

    Raises:
        ValueError: see `rank`.
    """
    known = np.isfinite(scores)
    if offsets is None:
        rising = np.sort(scores[known])
        return float(rising[rank(len(rising), coverage) - 1])
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[known]
    counts = np.bincount(owner, minlength=len(offsets) - 1)
    order = np.argsort(scores[known], kind="stable")
    weights = np.cumsum((1.0 / counts[owner])[order])
    reached = rank(int((counts > 0).sum()), coverage) * (1.0 - _ROUNDING)
    place = min(int(np.searchsorted(weights, reached)), len(order) - 1)
    return float(scores[known][order[place]])
