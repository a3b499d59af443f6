"""Cycles that an operator takes on a Bow IPU: predicted, not measured on one.

The numbers are those of `ipu_chem.backends.poptorch.timing.constants`; all formulas are monotone in every size.
"""

from math import sqrt
from typing import Callable, Dict, Tuple

from ipu_chem.backends.poptorch.machine import TILES
from ipu_chem.backends.poptorch.timing import constants as known
from ipu_chem.backends.poptorch.timing.operators import Operator


def gather_cycles(table_rows: float, columns: float, taken: float) -> float:
    """`taken` rows out of a table [table_rows, columns]."""
    fixed, spread, copied, index = known.GATHER
    return (
        fixed
        + spread * _spread(table_rows, taken, columns)
        + copied * taken * columns / TILES
        + index * sqrt(table_rows)
    )


def scatter_cycles(rows: float, columns: float, outputs: float) -> float:
    """Rows [rows, columns] added up into a table of `outputs` rows."""
    fixed, spread, written, read = known.SCATTER
    work = written * outputs * columns + read * rows * columns
    return fixed + spread * _spread(rows, outputs, columns) + work / TILES


def block_cycles(atoms: float, messages: float, filters: float, features: float) -> float:
    """The forward pass of one SchNet block, as its microbenchmark has it.

    Args:
        atoms, messages: N and E.
        filters: columns of messages.
        features: columns of atoms.
    """
    fixed, message, atom, spread, filter_net, layers = known.BLOCK
    per_message = messages * filters * (message + filter_net * filters)
    per_atom = atoms * features * (atom + layers * features)
    return fixed + spread * _spread(atoms, messages, filters) + (per_message + per_atom) / TILES


def product_cycles(multiply_adds: float, half: bool) -> float:
    """A matrix product of so many multiply-adds."""
    speed = known.PRODUCTS_HALF if half else known.PRODUCTS_SINGLE
    return known.OPERATOR + multiply_adds / (TILES * speed * known.PRODUCTS_REACH)


def forward_cycles(operator: Operator) -> float:
    """One operator in a forward pass."""
    if operator.kind == "product":
        return product_cycles(operator.multiply_adds, operator.half)
    if operator.kind == "gather":
        return gather_cycles(*operator.sizes)
    if operator.kind == "scatter":
        return scatter_cycles(*operator.sizes)
    if operator.kind == "search":
        fixed, each = known.SEARCH
        return fixed + each * operator.sizes[0] / TILES
    # Vectors of 64 bits hold twice as many numbers of 16 bits.
    each = _EACH[operator.kind] * (0.5 if operator.half else 1.0)
    return known.OPERATOR + each * operator.sizes[0] / TILES


def training_cycles(operator: Operator, recomputed: bool = False) -> float:
    """Forward and backward, and forward once more where a pipeline computes again what it did not keep."""
    forward = forward_cycles(operator)
    again = 1 + int(recomputed)
    if not operator.trained:
        return again * forward
    if operator.kind in _BACKWARD:  # what was taken is added up on the way back, and the other way round
        return again * forward + _BACKWARD[operator.kind](operator.sizes)
    return (known.PASSES - 1 + again) * forward


def _spread(rows: float, others: float, columns: float) -> float:
    """Remainder when the planner weighs sending parts of a table about against looking through more indices."""
    return sqrt(rows * others * columns / TILES)


def _gather_back(sizes: Tuple[int, ...]) -> float:
    table_rows, columns, taken = sizes
    return scatter_cycles(taken, columns, table_rows)


def _scatter_back(sizes: Tuple[int, ...]) -> float:
    rows, columns, outputs = sizes
    return gather_cycles(outputs, columns, rows)


_BACKWARD: Dict[str, Callable[[Tuple[int, ...]], float]] = {"gather": _gather_back, "scatter": _scatter_back}
_EACH = {
    "element-wise": known.ELEMENT,
    "function": known.FUNCTION,
    "reduction": known.REDUCTION,
    "softmax": known.SOFTMAX,
    "softplus": known.SOFTPLUS + known.PLAIN_SOFTPLUS / known.PASSES,
}
