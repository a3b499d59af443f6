"""Rows of text: how long they are, and what becomes of molecules that are longer."""

from typing import Dict, NamedTuple

import numpy as np

from packing import Budget, Ragged, make_plan

_STEP = 32  # rows are multiples of it, as devices and matrix products like them
_WIDE = 256  # features above which rows of 256 symbols cost hardly more than shorter ones


class Rows(NamedTuple):
    """Molecules as training sees them.

    Attributes:
        ids: of the molecules that are kept.
        kept: [K] which molecules those are.
        counts: {"dropped": ..., "truncated": ...}.
    """

    ids: Ragged
    kept: np.ndarray
    counts: Dict[str, int]


def usual_row(width: int) -> int:
    """The longest row that is worth it for a model of so many features: attention grows with its square."""
    return 128 if width <= _WIDE else 256


def choose_row(lengths: np.ndarray, width: int) -> int:
    """The length of rows that costs least per symbol: short rows save attention, long ones are filled better.

    Args:
        lengths: [I] symbols of every molecule, BOS and EOS included.
        width: features of the model.

    Returns:
        A multiple of 32 up to `usual_row`, or above it the first that holds the longest molecule.
    """
    least = -(-int(lengths.max()) // _STEP) * _STEP
    candidates = list(range(least, max(usual_row(width), least) + 1, _STEP))
    # A layer's matrix products take 24 F^2 operations a symbol, its scores 4 S F.
    # Histogram packing fills rows nearly as well as the plan will, and is done at once.
    packs = [make_plan(lengths, Budget(tokens=row), "lpfhp").num_packs for row in candidates]
    costs = [(1 + row / (6 * width)) * row * count for row, count in zip(candidates, packs)]
    return candidates[int(np.argmin(costs))]


def fit_rows(ids: Ragged, row: int, long: str) -> Rows:
    """Apply the policy for molecules longer than a row.

    Args:
        ids: of every molecule, BOS and EOS included.
        row: symbols of a row.
        long: error, drop, or truncate (the end of such a molecule is lost, EOS with it).

    Raises:
        ValueError: ``long`` is error and there is such a molecule, or none is short enough; names the row that fits.
    """
    over = ids.lengths > row
    everything = np.arange(len(ids))
    if not over.any():
        return Rows(ids, everything, {"dropped": 0, "truncated": 0})
    longest = int(ids.lengths.max())
    if long == "error":
        raise ValueError(
            f"molecule {int(np.argmax(over))} has {ids.lengths[np.argmax(over)]} symbols with begin and end, as "
            f"{int(over.sum()):,} of {len(ids):,} have more than pack.tokens={row}; set pack.tokens={longest} or more, "
            "0 to have it chosen, or data.long to drop or truncate."
        )
    if long == "drop":
        if over.all():
            raise ValueError(f"no molecule fits pack.tokens={row}; the longest needs {longest}.")
        return Rows(ids.take(everything[~over]), everything[~over], {"dropped": int(over.sum()), "truncated": 0})
    short = np.minimum(ids.lengths, row)
    place = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    kept = Ragged(ids.values[place < row], np.append(0, np.cumsum(short)))
    return Rows(kept, everything, {"dropped": 0, "truncated": int(over.sum())})
