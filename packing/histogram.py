"""Longest-pack-first histogram packing (LPFHP), the packer of the IPU graph and BERT studies.

Greedy best fit on the histogram, longest items first (Krell, Kosec, Perez, Fitzgibbon 2021,
arXiv:2107.02027; used for molecules by Helal et al. 2022, arXiv:2211.13853). Its packs are reproduced
exactly, because published throughputs refer to them; `column_generation` packs better.
"""

import math
import time
from bisect import bisect_left, insort
from typing import Dict, List, Optional, Tuple

import numpy as np

from packing.best_fit import Chain, next_fit, unchained
from packing.classes import PackTypes, SizeClasses


def longest_pack_first(classes: SizeClasses, capacity: int, max_items: int, deadline: float = math.inf) -> PackTypes:
    """Pack a one-dimensional histogram.

    Args:
        classes: sizes largest first; only the first column is packed.
        capacity: space of one pack.
        max_items: most items in one pack ("maximum depth").
        deadline: time.monotonic() after which the items still left are cut into packs as they come.
    """
    # Open pack types by the space that is left; each entry is (packs, items held, classes held).
    open_types: Dict[int, List[Tuple[int, int, Optional[Chain]]]] = {}
    spaces: List[int] = []  # keys of open_types, rising
    closed: List[Tuple[int, Optional[Chain]]] = []
    rest = []

    def put_back(count: int, depth: int, held: Chain, space: int) -> None:
        if space == 0 or depth >= max_items:
            closed.append((count, held))
        elif space in open_types:
            open_types[space].append((count, depth, held))
        else:
            open_types[space] = [(count, depth, held)]
            insort(spaces, space)

    for cls, (size, left) in enumerate(zip(classes.sizes[:, 0].tolist(), classes.counts.tolist())):
        if time.monotonic() > deadline:
            limits = np.array([capacity, max_items])
            both = np.stack([classes.sizes[:, 0], np.ones(len(classes.counts), np.int64)], 1)
            rest = next_fit(SizeClasses(both, classes.counts, classes.of_item), cls, limits)
            break
        while left > 0:
            place = bisect_left(spaces, size)
            if place == len(spaces):  # nothing open has room: start a new type
                packs, depth, held, space = left, 0, None, capacity
                copies = min(capacity // size, max_items)
            else:
                space = spaces[place]
                packs, depth, held = open_types[space].pop()
                if not open_types[space]:
                    del open_types[space], spaces[place]
                copies = min(space // size, max_items - depth)
            copies = min(copies, left)  # at least one pack must be filled
            filled = min(packs, left // copies)
            if held is not None and packs > filled:
                put_back(packs - filled, depth, held, space)
            put_back(filled, depth + copies, (cls, copies, held), space - copies * size)
            left -= filled * copies
    closed += [(count, held) for entries in open_types.values() for count, _, held in entries]
    return PackTypes.from_held([(count, unchained(held)) for count, held in closed] + rest, len(classes.counts))
