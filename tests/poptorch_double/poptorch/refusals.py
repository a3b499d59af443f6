"""Arguments that a PopTorch handler refuses, or quietly gets wrong, although it lowers the operator.

Read out of poptorch/source/popart_canonicalization/*.cpp, and seen in programs that were run.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from ipu_chem.backends.poptorch.operators.handlers import base_name
from torch import Tensor

Arguments = Dict[str, Any]
BY_VALUE = (torch.bool, torch.uint8)


def refusal(name: str, arguments: Arguments, strict: bool = True) -> Optional[str]:
    """Why an operator is refused with these arguments, by their names in its schema; None if it is not.

    With ``strict`` too what PopTorch itself takes, and gets wrong.
    """
    name = base_name(name)
    for names, refuses, why in _RULES + _WRONG if strict else _RULES:
        if name in names and refuses(arguments):
            return why
    return None


def _indices(arguments: Arguments) -> List[Tensor]:
    return [index for index in arguments["indices"] if index is not None]


def masked(arguments: Arguments) -> bool:
    return any(index.dtype in BY_VALUE for index in _indices(arguments))


def _masked_put(arguments: Arguments) -> bool:
    """One mask with one value, or with values for every place, is lowered to where."""
    whole = arguments["values"].numel() == 1 or arguments["values"].shape == arguments["self"].shape
    return masked(arguments) and not (len(arguments["indices"]) == 1 and whole)


def _unequal_indices(arguments: Arguments) -> bool:
    """processIndex takes the first shape with the most axes for the shape of all."""
    shapes = [index.shape for index in _indices(arguments)]
    if len(shapes) < 2 or masked(arguments):
        return False
    most = max(len(shape) for shape in shapes)
    return torch.broadcast_shapes(*shapes) != next(shape for shape in shapes if len(shape) == most)


def _lookup(arguments: Arguments) -> bool:
    return bool(arguments.get("scale_grad_by_freq") or arguments.get("sparse"))


def _gather(arguments: Arguments) -> bool:
    values, index, axis = arguments["self"], arguments["index"], arguments["dim"] % max(arguments["self"].dim(), 1)
    return any(index.shape[d] > values.shape[d] for d in range(values.dim()) if d != axis)


_Rule = Tuple[Tuple[str, ...], Callable[[Arguments], bool], str]
_RULES: Tuple[_Rule, ...] = (
    (("index_put",), _masked_put, "assignment by a mask to less than all places: its shape depends on values"),
    (("index", "index_put"), _unequal_indices, "index tensors of different shapes are not broadcast"),
    (("rsub",), lambda a: a.get("alpha", 1) != 1, "alpha is ignored"),
    (("gather",), _gather, "the index is longer than the values on another axis"),
    (("embedding", "embedding_bag", "_embedding_bag"), _lookup, "no scale_grad_by_freq and sparse"),
    (
        ("embedding", "embedding_bag", "_embedding_bag"),
        lambda a: (a.get("padding_idx") if a.get("padding_idx") is not None else -1) >= 0,
        "padding_idx is an operator of PopTorch's own, which the double leaves out",
    ),
    (("topk",), lambda a: a.get("sorted") is False, "sorted=False is a different order"),
    (
        ("native_layer_norm", "native_group_norm", "native_batch_norm"),
        lambda a: (a.get("weight") is None) != (a.get("bias") is None),
        "weight and bias come together or not at all",
    ),
    (
        ("nll_loss_forward", "nll_loss2d_forward"),
        lambda a: a.get("weight") is not None,
        "class weights are unsupported",
    ),
    (
        ("var", "std", "var_mean", "std_mean"),
        lambda a: a.get("correction", 1) not in (None, 0, 1),
        "a correction is 0 or 1",
    ),
    (("var_mean", "std_mean"), lambda a: bool(a.get("keepdim")), "keepdim is ignored for the mean"),
    (("cross", "linalg_cross"), lambda a: a["self"].shape != a["other"].shape, "vectors of different shapes"),
    (("norm", "linalg_vector_norm"), lambda a: a.get("ord", a.get("p", 2)) == 0, "norms of order 0"),
    (("triu",), lambda a: True, "only of constants, which the double does not tell from the rest"),
    (("as_strided",), lambda a: True, "as_strided should have been intercepted earlier"),
    (("upsample_linear1d", "upsample_trilinear3d"), lambda a: True, "unsupported mode of interpolation"),
)
_DROPPED = "what is copied into a slice is dropped: the derivative would be zero"
_WRONG: Tuple[_Rule, ...] = (
    (("slice_backward", "select_backward"), lambda a: True, _DROPPED),
    (("index_put", "_index_put_impl"), lambda a: bool(a.get("accumulate")), "accumulate is ignored"),
    (("div",), lambda a: a.get("rounding_mode") is not None, "rounding_mode is ignored"),
    (("equal",), lambda a: True, "says False, whatever the values are"),
)
