"""Positions in 16 bits: whole steps from the middle of each molecule, found once for a data set and kept beside it.

A step is a power of two, so that a step count times the step is the same float32 number on every device. One
step serves a whole data set: the smallest with which its largest molecule still fits 16 bits.
"""

import math
from typing import Optional, Tuple

import numpy as np

from ipu_chem.cache import kept
from packing.files import PathLike
from packing.store import Store

FIELD = "pos_int16"  # [total, 3] int16 on the axis "nodes"
STEP = "position_step"  # key of a store's info, Å
LARGEST_ERROR = 1e-3  # Å; coarser positions than this are refused
_FORMAT = 1
_LARGEST = 2**15 - 1
_FINEST_EXTENT = 1.0  # Å; data sets of single atoms get the step of this
_ITEMS_AT_ONCE = 1 << 16


def with_fixed_point(store: Store, cache: Optional[PathLike] = None) -> Store:
    """The same molecules with the field pos_int16 and its step in ``info["position_step"]``.

    Args:
        store: molecules with the field pos.
        cache: folder in which such positions are kept; None is the usual cache folder.

    Raises:
        ValueError: a position is not finite, a molecule is too large, or the cache folder cannot be written.
    """
    return kept("fixed-point", str(_FORMAT), store, cache, lambda: _fixed_point(store))


def fixed_point_in_memory(store: Store) -> Store:
    """`with_fixed_point` for molecules that are seen once: nothing is written."""
    return store.join(_fixed_point(store))


def step_for(half_extent: float) -> float:
    """The smallest power of two, in Å, of which 32,767 reach from the middle to the end of a molecule.

    Args:
        half_extent: Å, half the longest side of a molecule's bounding box.
    """
    fraction, exponent = math.frexp(half_extent / _LARGEST)
    return math.ldexp(1.0, exponent - 1 if fraction == 0.5 else exponent)


def to_fixed_point(pos: np.ndarray, offsets: np.ndarray, step: float) -> np.ndarray:
    """Positions as steps from the middle of each molecule's bounding box, off by half a step at most.

    Args:
        pos: [total, 3] floating, Å.
        offsets: [I + 1], where each molecule begins.
        step: Å.

    Returns:
        [total, 3] int16.

    Raises:
        ValueError: a position is not finite, or a molecule is too large for the step; names it.
    """
    result = np.empty(pos.shape, np.int16)
    for first in range(0, len(offsets) - 1, _ITEMS_AT_ONCE):
        part, bounds = _part(pos, offsets, first)
        middle, half = _boxes(part, bounds, first)
        if half.max(initial=0.0) > _LARGEST * step:
            item = int(half.argmax())
            raise ValueError(
                f"molecule {first + item} is {2 * half[item]:.4g} Å wide; 16 bits in steps of {step:.4g} Å reach "
                f"{2 * _LARGEST * step:.4g} Å. Use pack.positions=float32, or leave the molecule out."
            )
        steps = np.rint((part - np.repeat(middle, np.diff(bounds), axis=0)) / step)
        result[offsets[first] : offsets[first] + len(part)] = steps
    return result


def _fixed_point(store: Store) -> Store:
    """The new field alone."""
    pos, offsets = store.fields["pos"], store.axes["nodes"]
    largest, width = -1, 0.0
    for first in range(0, len(store), _ITEMS_AT_ONCE):
        part, bounds = _part(pos, offsets, first)
        _, half = _boxes(part, bounds, first)
        if half.max(initial=0.0) > width:
            largest, width = first + int(half.argmax()), float(half.max())
    step = step_for(max(width, _FINEST_EXTENT))
    if step / 2 > LARGEST_ERROR:
        raise ValueError(
            f"molecule {largest} is {2 * width:.4g} Å wide: for it all positions in 16 bits would be rounded by up to "
            f"{step / 2:.2g} Å. Use pack.positions=float32, or leave the molecule out."
        )
    return Store({"nodes": offsets}, {FIELD: to_fixed_point(pos, offsets, step)}, {FIELD: "nodes"}, {STEP: step})


def _part(pos: np.ndarray, offsets: np.ndarray, first: int) -> Tuple[np.ndarray, np.ndarray]:
    """Some molecules from the first on, in float64, with offsets from 0."""
    bounds = offsets[first : first + _ITEMS_AT_ONCE + 1]
    return pos[bounds[0] : bounds[-1]].astype(np.float64), bounds - bounds[0]


def _boxes(pos: np.ndarray, bounds: np.ndarray, first: int) -> Tuple[np.ndarray, np.ndarray]:
    """Middles [I, 3] and half the longest sides [I] of the molecules' bounding boxes.

    Args:
        pos: [total, 3].
        bounds: [I + 1].
        first: number of the first molecule, for the error.
    """
    lengths = np.diff(bounds)
    if len(lengths) and not lengths.all():
        raise ValueError(f"molecule {first + int(np.argmin(lengths))} has no atoms; leave it out.")
    finite = np.isfinite(pos).all(1)
    if not finite.all():
        item = int(np.searchsorted(bounds, np.argmin(finite), side="right")) - 1
        raise ValueError(f"molecule {first + item} has a position that is no number; correct it or leave it out.")
    if not len(lengths):
        return np.zeros((0, 3)), np.zeros(0)
    lowest = np.minimum.reduceat(pos, bounds[:-1])
    highest = np.maximum.reduceat(pos, bounds[:-1])
    return (lowest + highest) / 2, (highest - lowest).max(1) / 2
