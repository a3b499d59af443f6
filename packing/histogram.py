"""Longest-pack-first histogram packing (LPFHP), the packer of the IPU graph and BERT studies.

Greedy best fit on the histogram, longest items first (Krell, Kosec, Perez, Fitzgibbon 2021,
arXiv:2107.02027; used for molecules by Helal et al. 2022, arXiv:2211.13853). Its packs are reproduced
exactly, because published throughputs refer to them; `column_generation` packs better.
"""

from typing import Dict, List, Tuple

import numpy as np

from packing.classes import PackTypes, SizeClasses


def longest_pack_first(classes: SizeClasses, capacity: int, max_items: int) -> PackTypes:
    """Pack a one-dimensional histogram.

    Args:
        classes: sizes largest first; only the first column is packed.
        capacity: space of one pack.
        max_items: most items in one pack ("maximum depth").
    """
    # Open pack types by the space that is left; each entry is (packs, classes held).
    open_types: Dict[int, List[Tuple[int, Tuple[int, ...]]]] = {}
    closed: List[Tuple[int, Tuple[int, ...]]] = []

    def put_back(count: int, held: Tuple[int, ...], space: int) -> None:
        if space == 0 or len(held) >= max_items:
            closed.append((count, held))
        else:
            open_types.setdefault(space, []).append((count, held))

    for cls, (size, left) in enumerate(zip(classes.sizes[:, 0].tolist(), classes.counts.tolist())):
        while left > 0:
            space = next((s for s in range(size, capacity + 1) if open_types.get(s)), None)
            if space is None:  # nothing open has room: start a new type
                packs, held, space = left, (), capacity
                copies = min(capacity // size, max_items)
            else:
                packs, held = open_types[space].pop()
                copies = min(space // size, max_items - len(held))
            copies = min(copies, left)  # at least one pack must be filled
            filled = min(packs, left // copies)
            if held and packs > filled:
                put_back(packs - filled, held, space)
            put_back(filled, held + (cls,) * copies, space - copies * size)
            left -= filled * copies

    rows = []
    everything = closed + [entry for entries in open_types.values() for entry in entries]
    for count, held in everything:
        rows.append((count, np.bincount(np.array(held), minlength=len(classes.counts))))
    return PackTypes.from_rows(rows, len(classes.counts))
