"""Unbounded knapsack over several dimensions at once, as a dense table: the pricing step of column
generation (which pack would pay best at the current prices?).
"""

import math
import time
from typing import List, Tuple

import numpy as np

_NONE = -1
_SMALL_TABLE = 5_000


class Knapsack:
    """Best multiset of classes within the capacities, for prices that change from call to call.

    A cell of the table stands for the capacity still available up to that corner; cell [-1, ..., -1] is
    the whole pack. Sizes are divided by their greatest common divisor first, which shrinks the table.
    """

    def __init__(self, sizes: np.ndarray, capacities: np.ndarray) -> None:
        """Set up the table.

        Args:
            sizes: [C, D] integer, positive in the first column; every row fits the capacities.
            capacities: [D] integer.
        """
        # A dimension that merely counts items comes first: its layers follow from one another, see `_add_layers`.
        counts = (sizes == 1).all(0)
        order = np.argsort(~counts, kind="stable")
        sizes, capacities = sizes[:, order], capacities[order]
        units = np.maximum(np.gcd.reduce(sizes, axis=0), 1)
        self.sizes = sizes // units
        # No pack holds more of a dimension than its largest number of items could use.
        most_items = int((capacities // np.maximum(sizes.min(0), 1)).min(initial=2**31, where=sizes.min(0) > 0))
        self.capacities = np.minimum(capacities // units, most_items * self.sizes.max(0))
        self.shape = tuple((self.capacities + 1).tolist())
        # Fewer additions, but more calls of numpy: in small tables the calls are what costs.
        self.layered = bool(counts.any()) and len(order) > 1 and math.prod(self.shape) > _SMALL_TABLE
        with np.errstate(divide="ignore"):
            fits = np.where(self.sizes > 0, self.capacities // np.maximum(self.sizes, 1), 2**31)
        self.most = fits.min(1)  # [C] copies of one class that fit a pack
        # Flat steps let a chain of choices be walked without unravelling the index each time.
        self.strides = np.cumprod((1,) + self.shape[:0:-1])[::-1].astype(np.int64)
        self.steps = self.sizes @ self.strides

    @staticmethod
    def cost(sizes: np.ndarray, capacities: np.ndarray) -> int:
        """Cells times classes: about the number of additions that one `solve` takes."""
        units = np.maximum(np.gcd.reduce(sizes, axis=0), 1)
        return math.prod((capacities // units + 1).tolist()) * len(sizes)  # Python integers cannot overflow

    def solve(self, prices: np.ndarray, deadline: float = math.inf) -> Tuple[float, List[np.ndarray]]:
        """Most valuable packs.

        Args:
            prices: [C] float64; classes with a price of zero or less are left out.
            deadline: time.monotonic() at which to give up.

        Returns:
            (value of the best pack, packs as multiplicity rows [C]: for every class the best pack that
            holds it, best first, without repetition); (infinity, no packs) after the deadline.
        """
        value = np.zeros(self.shape)
        chosen = np.full(self.shape, _NONE, np.int32)
        paying = np.flatnonzero(prices > 1e-12)
        if self.layered:
            in_time = self._add_layers(value, chosen, paying, prices, deadline)
        else:
            in_time = all(self._add_class(value, chosen, cls, prices[cls], deadline) for cls in paying.tolist())
        if not in_time:
            return math.inf, []
        flat_value, flat_chosen = value.ravel(), chosen.ravel()
        corner = value.size - 1
        held = prices + flat_value[corner - self.steps]  # best pack with at least one of each class
        packs, seen = [], set()
        for cls in np.argsort(-held, kind="stable"):
            row = self._trace(flat_chosen, corner - self.steps[cls])
            row[cls] += 1
            if row.tobytes() not in seen:
                seen.add(row.tobytes())
                packs.append(row)
        return float(flat_value[corner]), packs

    def _add_class(self, value: np.ndarray, chosen: np.ndarray, cls: int, price: float, deadline: float) -> bool:
        """Let every cell take copies of one class; doubling reaches any number in log2(copies) passes.

        Returns whether that was done before the deadline.
        """
        copies = 1
        while copies <= self.most[cls]:
            if time.monotonic() > deadline:
                return False
            shift = self.sizes[cls] * copies
            into = tuple(slice(s, None) for s in shift)
            without = value[tuple(slice(0, n - s) for n, s in zip(self.shape, shift))]
            _improve(value[into], chosen[into], without + copies * price, cls * 64 + copies.bit_length() - 1)
            copies *= 2
        return True

    def _add_layers(
        self, value: np.ndarray, chosen: np.ndarray, classes: np.ndarray, prices: np.ndarray, deadline: float
    ) -> bool:
        """Best packs of up to k items from those of up to k - 1 and one item of any class.

        Returns whether that was done before the deadline.
        """
        moves = []
        for cls in classes.tolist():
            shift = self.sizes[cls, 1:]
            into = tuple(slice(s, None) for s in shift)
            moves.append((into, tuple(slice(0, n - s) for n, s in zip(self.shape[1:], shift)), prices[cls], cls * 64))
        for layer in range(1, self.shape[0]):
            if time.monotonic() > deadline:
                return False
            value[layer], chosen[layer] = value[layer - 1], chosen[layer - 1]
            for into, out_of, price, code in moves:
                _improve(value[layer][into], chosen[layer][into], value[layer - 1][out_of] + price, code)
        return True

    def _trace(self, chosen: np.ndarray, cell: int) -> np.ndarray:
        """Follow the choices from a cell down to the empty pack."""
        row = np.zeros(len(self.sizes), np.int32)
        while True:
            code = int(chosen[cell])
            if code == _NONE:
                return row
            cls, copies = code // 64, 1 << (code % 64)
            row[cls] += copies
            cell -= copies * int(self.steps[cls])


def _improve(value: np.ndarray, chosen: np.ndarray, offer: np.ndarray, code: int) -> None:
    """Take an offer wherever it pays more than what is there."""
    better = offer > value + 1e-12
    np.copyto(value, offer, where=better)
    np.copyto(chosen, code, where=better)
