"""First fit of items in random order: close to the bound where several limits bind and packs hold dozens of items.

Decreasing orders put the large items together, which use one limit up before the other; the last packs are then of
items of one kind. In random order every pack has nearly the mix of the whole set, and small items fill the rests.
"""

from typing import Dict, List

import numpy as np

from packing.classes import PackTypes, SizeClasses

MOST_ITEMS = 20_000  # of which it takes tenths of a second
_SEED = 0  # of the order, so that a plan depends on the sizes alone


def fit_shuffled(classes: SizeClasses, capacities: np.ndarray) -> PackTypes:
    """Put every item into the first pack with room.

    Args:
        classes: sizes [C, D].
        capacities: [D].
    """
    order = np.repeat(np.arange(len(classes.counts)), classes.counts)
    np.random.Generator(np.random.PCG64(_SEED)).shuffle(order)
    free = np.empty((len(capacities), len(order)), np.int64)
    place, opened, first = np.empty(len(order), np.int64), 0, 0
    smallest = classes.sizes.min(0) if len(order) else capacities
    for item, size in enumerate(classes.sizes[order]):
        fits = free[0, first:opened] >= size[0]
        for room, needed in zip(free[1:, first:opened], size[1:]):
            fits &= room >= needed
        pack = first + int(fits.argmax()) if fits.any() else opened
        if pack == opened:
            free[:, opened] = capacities
            opened += 1
        free[:, pack] -= size
        place[item] = pack
        while first < opened and (free[:, first] < smallest).any():  # nothing fits any more
            first += 1
    rows: List[Dict[int, int]] = [{} for _ in range(opened)]
    for pack, index in zip(place.tolist(), order.tolist()):
        rows[pack][index] = rows[pack].get(index, 0) + 1
    return PackTypes.from_held([(1, tuple(sorted(row.items()))) for row in rows], len(classes.counts))
