"""The operators of a program as a device sees them: what kind of work each is, and how much."""

from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

# Operators whose work is a matrix product, with the position of the first factor.
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
# Rows that are taken, with the positions of table and index; rows that are added up, with those of values and table.
_GATHERS = {"gather": (0, 2), "index_select": (0, 2), "embedding": (0, 1)}
_SCATTERS = {"scatter_add": (3, 0), "index_add": (3, 0), "scatter": (3, 0), "scatter_reduce": (3, 0)}
_SEARCHES = frozenset({"topk", "sort", "argsort", "kthvalue"})
_SOFTMAXES = frozenset({"_softmax", "_log_softmax"})
_FUNCTIONS = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sin cos tan tanh sinh cosh asin acos atan atan2 erf erfc sigmoid gelu silu "
    "pow sqrt rsqrt div reciprocal tanh_backward gelu_backward silu_backward logsumexp elu mish".split()
)
_REDUCTIONS = frozenset(
    "sum mean amax amin max min argmax argmin prod norm linalg_vector_norm any all var std var_mean cumsum "
    "nll_loss_forward nansum count_nonzero".split()
)


class Operator(NamedTuple):
    """One operator of one forward pass.

    Attributes:
        kind: product, gather, scatter, search, softplus, softmax, function, reduction or element-wise.
        sizes: of a product (batch, m, k, n); of a gather (rows of the table, columns, rows taken); of a scatter (rows
            added up, columns, rows of the result); else (elements that it goes through,).
        half: whether it works in 16 bits.
        trained: whether a backward pass goes through it: it depends on parameters and has a gradient.
    """

    kind: str
    sizes: Tuple[int, ...]
    half: bool = False
    trained: bool = False

    @property
    def multiply_adds(self) -> int:
        """Of a matrix product, else 0."""
        if self.kind != "product":
            return 0
        batch, m, k, n = self.sizes
        return batch * m * k * n


def describe(name: str, args: Tuple[Any, ...], result: Any, trained: bool) -> Optional[Operator]:
    """One operator from its call.

    Args:
        name: without namespace and overload, e.g. "addmm".
        args: of the call; shapes are all that is looked at.
        result: what it gave.
        trained: see `Operator`.

    Returns:
        None where nothing comes out that takes time.
    """
    made = result if isinstance(result, Tensor) else next((part for part in result or () if _is_tensor(part)), None)
    if not isinstance(made, Tensor):
        return None
    name = name.rstrip("_")
    half = made.dtype in (torch.float16, torch.bfloat16)
    if name in PRODUCTS:
        factor = args[PRODUCTS[name]]
        batch = made.shape[0] if made.dim() == 3 else 1
        return Operator("product", (batch, made.shape[-2], factor.shape[-1], made.shape[-1]), half, trained)
    if name in _GATHERS:
        table, index = (args[position] for position in _GATHERS[name])
        return Operator("gather", _rows(table, index, args, made), half, trained)
    if name in _SCATTERS and len(args) > 3 and _is_tensor(args[3]):
        values, table = args[3], args[0]
        axis = args[1]
        rows = values.shape[axis]
        return Operator("scatter", (rows, values.numel() // max(rows, 1), table.shape[axis]), half, trained)
    if name == "embedding_dense_backward":
        gradient, rows = args[0], args[2]
        return Operator("scatter", (gradient.numel() // gradient.shape[-1], gradient.shape[-1], rows), half, trained)
    if name == "index":  # by a list of tensors
        rows = max((part.numel() for part in args[1] if _is_tensor(part)), default=1)
        return Operator("gather", (args[0].shape[0], max(made.numel() // max(rows, 1), 1), rows), half, trained)
    if name in _SEARCHES:
        return Operator("search", (args[0].numel(),), half, trained)
    taken = [tensor.numel() for tensor in args if _is_tensor(tensor)]
    if name in _REDUCTIONS:
        return Operator("reduction", (max([*taken, made.numel()]),), half, trained)
    for kind, names in (("softplus", {"softplus"}), ("softmax", _SOFTMAXES), ("function", _FUNCTIONS)):
        if name in names:
            return Operator(kind, (made.numel(),), half, trained)
    return Operator("element-wise", (made.numel(),), half, trained)


def _rows(table: Tensor, index: Tensor, args: Tuple[Any, ...], made: Tensor) -> Tuple[int, int, int]:
    """(rows of the table, columns, rows taken); an index of the result's shape says the same for whole rows."""
    axis = args[1] if isinstance(args[1], int) else 0
    if table.dim() == 0:
        return 1, 1, made.numel()
    rows = made.shape[axis] if index.dim() == made.dim() else index.numel()
    return table.shape[axis], max(made.numel() // max(rows, 1), 1), rows


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
