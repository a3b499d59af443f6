"""Handlers of PopTorch that refuse, or silently ignore, some arguments of operators that they otherwise lower."""

from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ipu_chem.backends.poptorch.operators.handlers import BY_VALUE, base_name

Arguments = Dict[str, Any]
BY_MASK = (torch.bool, torch.uint8)  # dtypes of indices that stand for a mask


class Refusal(NamedTuple):
    """Arguments that a handler cannot lower.

    Attributes:
        names: of the operators.
        applies: whether an operator's arguments, by their names in its schema, are such.
        why: what is wrong.
        remedy: what to write instead.
        folded: refused only where all arguments are known at compile time, instead of only where they are not.
    """

    names: FrozenSet[str]
    applies: Callable[[Arguments], bool]
    why: str
    remedy: str
    folded: bool = False


def refusal(name: str, arguments: Arguments, constant: bool = False) -> Optional[Refusal]:
    """The reason why an operator is refused although it has a handler, if there is one.

    Args:
        name: as torch's dispatcher names it.
        arguments: by their names in the operator's schema.
        constant: everything that it takes is known at compile time.
    """
    name = base_name(name)
    for entry in _REFUSALS:
        if name in entry.names and entry.folded == constant and entry.applies(arguments):
            return entry
    return None


def shape_by_value(name: str, arguments: Arguments) -> Optional[str]:
    """Remedy for an operator whose result is as long as its arguments' values say; None if it is not."""
    name = base_name(name)
    if name in BY_VALUE:
        return BY_VALUE[name]
    if name == "index" and _masks(arguments["indices"]):
        return "keep the shape and a mask: torch.where(mask, values, 0)"
    if name == "index_put" and _masks(arguments["indices"]):
        # One mask with a value for every place, or the same for all, is torch.where.
        if len(arguments["indices"]) > 1 or arguments["values"].numel() > 1:
            return "use torch.where(mask, values, x)"
    if name == "one_hot" and arguments.get("num_classes", -1) == -1:
        return "give num_classes"
    if name == "bincount" and not arguments.get("minlength"):
        return "give minlength"
    return None


def _masks(indices: Sequence[Optional[Tensor]]) -> List[Tensor]:
    return [index for index in indices if index is not None and index.dtype in BY_MASK]


def _unequal_indices(arguments: Arguments) -> bool:
    """Tell if index tensors broadcast to a shape that the handler does not find: it takes the first of most axes."""
    shapes = [index.shape for index in arguments["indices"] if index is not None]
    if len(shapes) < 2 or _masks(arguments["indices"]):
        return False
    most = max(len(shape) for shape in shapes)
    return torch.broadcast_shapes(*shapes) != next(shape for shape in shapes if len(shape) == most)


def _rounds(arguments: Arguments) -> bool:
    return arguments.get("rounding_mode") is not None


def _scaled(arguments: Arguments) -> bool:
    return arguments.get("alpha", 1) != 1


def _padded(arguments: Arguments) -> bool:
    padding = arguments.get("padding_idx")
    return padding is not None and padding >= 0


def _zero_norm(arguments: Arguments) -> bool:
    return arguments.get("ord", arguments.get("p", 2)) == 0


def _lstm(arguments: Arguments) -> bool:
    return bool(
        not arguments.get("has_biases", True)
        or arguments.get("num_layers", 1) != 1
        or arguments.get("dropout")
        or arguments.get("bidirectional")
    )


def _always(_: Arguments) -> bool:
    return True


def _of(names: str, applies: Callable[[Arguments], bool], why: str, remedy: str, folded: bool = False) -> Refusal:
    return Refusal(frozenset(names.split()), applies, why, remedy, folded)


_REFUSALS: Tuple[Refusal, ...] = (
    _of(
        "index_put",
        lambda arguments: bool(arguments.get("accumulate")),
        "PopTorch ignores accumulate: of rows with the same index only one would count",
        "use scatter_add with an expanded index, and gather instead of x[index] where a derivative is taken inside "
        "forward",
    ),
    _of(
        "index index_put",
        _unequal_indices,
        "PopTorch does not broadcast index tensors of different shapes",
        "expand them to one shape",
    ),
    _of("div", _rounds, "PopTorch ignores rounding_mode", "use torch.floor, torch.trunc or floor_divide"),
    _of("rsub", _scaled, "PopTorch ignores alpha", "multiply first"),
    _of(
        "embedding embedding_bag _embedding_bag",
        lambda arguments: bool(arguments.get("scale_grad_by_freq") or arguments.get("sparse")),
        "PopTorch has no scale_grad_by_freq and no sparse",
        "leave them out",
    ),
    _of("embedding_bag _embedding_bag", _padded, "PopTorch has no padding_idx for bags", "use an embedding and sum"),
    _of(
        "topk",
        lambda arguments: arguments.get("sorted") is False,
        "PopART has no topk without sorting",
        "leave out sorted=False",
    ),
    _of(
        "native_layer_norm native_group_norm native_batch_norm",
        lambda arguments: (arguments.get("weight") is None) != (arguments.get("bias") is None),
        "PopTorch takes both weight and bias, or neither",
        "add the other as a constant parameter",
    ),
    _of(
        "nll_loss_forward nll_loss2d_forward nll_loss_nd cross_entropy_loss",
        lambda arguments: arguments.get("weight") is not None,
        "PopTorch takes no class weights",
        "use reduction='none' and multiply",
    ),
    _of(
        "var std var_mean std_mean",
        lambda arguments: arguments.get("correction", 1) not in (None, 0, 1),
        "PopTorch knows a correction of 0 and of 1",
        "write mean((x - mean) ** 2) and the factor",
    ),
    _of(
        "var_mean std_mean",
        lambda arguments: bool(arguments.get("keepdim")),
        "PopTorch drops the axis of the mean in spite of keepdim",
        "call mean and var by themselves",
    ),
    _of(
        "cross linalg_cross",
        lambda arguments: arguments["self"].shape != arguments["other"].shape,
        "PopTorch does not broadcast the vectors of a cross product",
        "expand both to one shape",
    ),
    _of("norm linalg_vector_norm", _zero_norm, "PopTorch has no norm of order 0", "use (x != 0).sum()"),
    _of(
        "lstm",
        _lstm,
        "PopTorch has LSTMs of one layer with biases, in one direction and without dropout only",
        "stack single layers",
    ),
    _of(
        "triu", _always, "PopTorch has triu of constants only", "use torch.where with torch.arange compared with itself"
    ),
    _of("as_strided", _always, "PopTorch has no as_strided", "use reshape, slices or gather"),
    _of(
        "upsample_linear1d upsample_trilinear3d",
        _always,
        "PopTorch has no linear interpolation in one and three dimensions",
        "write it as two gathers and a weighted sum",
    ),
    _of(
        "one_hot",
        _always,
        "PopTorch evaluates it while it compiles, with 32-bit numbers, and torch's one_hot takes 64-bit ones; integer "
        "buffers are known at compile time",
        "compare with torch.arange: index.unsqueeze(-1) == torch.arange(n)",
        folded=True,
    ),
)
