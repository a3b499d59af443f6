"""Packing of variable-size items into fixed-shape packs, with numpy alone.

Axes, in every docstring of this package:
    I items, P packs, C size classes, K pack types, D dimensions of a budget, M measured ones,
    B packs in a batch, N node slots, E edge slots, G graph slots, T token slots of a pack.
"""

from packing.balance import Cost
from packing.epoch import Epoch
from packing.make_plan import ALGORITHMS, make_plan
from packing.plan import PackingPlan
from packing.types import Budget, Ragged, gather_index, index_dtype

__all__ = ["ALGORITHMS", "Budget", "Cost", "Epoch", "PackingPlan", "Ragged", "gather_index", "index_dtype", "make_plan"]
