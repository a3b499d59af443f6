"""`CubicTable`'s convolution and the activation between them as native kernels, with their gradients."""

import ctypes
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import activation, check, pointer, put_in
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.backends.pytorch.kernels.operator import operator
from ipu_chem.models.convolution import Convolution, EdgeList
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.models.tables import CubicTable, Places


def use_kernels(model: nn.Module) -> int:
    """Let a model's convolutions and activations run in native kernels; returns how many parts do from now on.

    Second derivatives, which training on forces takes, need the form in torch.

    Args:
        model: with float32 weights on the CPU.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    library()
    return put_in(model, {CubicTable: table_convolution, Convolution: convolution, ShiftedSoftplus: shifted_softplus})


def convolution(x: Tensor, filters: Tensor, edges: EdgeList) -> Tensor:
    """`ipu_chem.models.convolution.convolve`; float32 on the CPU."""
    return _convolution(x, filters, *edges)


def table_convolution(x: Tensor, table: Tensor, places: Places, edges: EdgeList) -> Tensor:
    """`ipu_chem.models.tables.CubicTable.convolve`; float32 on the CPU."""
    return _table_convolution(x, table, *places, *edges)


def shifted_softplus(x: Tensor) -> Tensor:
    """`ipu_chem.models.layers.ShiftedSoftplus`; float32 on the CPU, any shape."""
    return _shifted_softplus(x)


def _plain(x: Tensor, filters: Tensor, source: Tensor, target: Tensor, undirected: bool) -> Tensor:
    x, filters, source, target = x.contiguous(), filters.contiguous(), source.contiguous(), target.contiguous()
    _check([x, filters], [source, target])
    received = torch.zeros_like(x)
    library().convolution(*_sizes(source, x, undirected), *map(pointer, (x, filters, source, target, received)))
    return received


def _plain_backward(
    grad: Tensor, x: Tensor, filters: Tensor, source: Tensor, target: Tensor, undirected: bool
) -> Tuple[Tensor, Tensor]:
    grad, x, filters = grad.contiguous(), x.contiguous(), filters.contiguous()
    source, target = source.contiguous(), target.contiguous()
    _check([grad, x, filters], [source, target])
    grad_x, grad_filters = torch.zeros_like(x), torch.empty_like(filters)
    library().convolution_backward(
        *_sizes(source, x, undirected), *map(pointer, (x, filters, source, target, grad, grad_x, grad_filters))
    )
    return grad_x, grad_filters


def _convolve(
    x: Tensor, table: Tensor, low: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor,
    source: Tensor, target: Tensor, undirected: bool,
) -> Tensor:  # fmt: skip
    x, table, weights = x.contiguous(), table.contiguous(), [part.contiguous() for part in (a, b, c, d)]
    low, source, target = low.contiguous(), source.contiguous(), target.contiguous()
    _check([x, table, *weights], [low, source, target])
    received = torch.zeros_like(x)
    library().table_convolution(
        *_sizes(low, x, undirected), pointer(x), pointer(table), pointer(low), _pointers(weights),
        pointer(source), pointer(target), pointer(received),
    )  # fmt: skip
    return received


def _convolve_backward(
    grad: Tensor, x: Tensor, table: Tensor, low: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor,
    source: Tensor, target: Tensor, undirected: bool, with_weights: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Slopes of x, of the table and, if asked for, of the four weights [4, P]."""
    grad, x, table = grad.contiguous(), x.contiguous(), table.contiguous()
    weights = [part.contiguous() for part in (a, b, c, d)]
    low, source, target = low.contiguous(), source.contiguous(), target.contiguous()
    _check([grad, x, table, *weights], [low, source, target])
    grad_x, grad_table = torch.zeros_like(x), torch.zeros_like(table)
    grad_weights = torch.zeros((4, len(low) if with_weights else 0), dtype=x.dtype)
    library().table_convolution_backward(
        *_sizes(low, x, undirected), pointer(x), pointer(table), pointer(low), _pointers(weights),
        pointer(source), pointer(target), pointer(grad), pointer(grad_x), pointer(grad_table),
        _pointers(list(grad_weights)) if with_weights else None,
    )  # fmt: skip
    return grad_x, grad_table, grad_weights


def _sizes(low: Tensor, x: Tensor, undirected: bool) -> List[ctypes.c_int64]:
    return [ctypes.c_int64(low.numel()), ctypes.c_int64(x.shape[1]), ctypes.c_int64(undirected)]


def _pointers(values: List[Tensor]) -> Any:
    return (ctypes.c_void_p * len(values))(*[value.data_ptr() for value in values])


def _check(real: List[Tensor], whole: List[Tensor]) -> None:
    check(*real)
    check(*whole, dtype=torch.int64)


def _save_convolution(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.undirected = inputs[-1]


def _convolution_gradients(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
    with_weights = any(ctx.needs_input_grad[3:7])
    grad_x, grad_table, grad_weights = _table_convolution_backward(
        grad, *ctx.saved_tensors, ctx.undirected, with_weights
    )
    of_weights = [part.unsqueeze(1) for part in grad_weights.unbind(0)] if with_weights else [None] * 4
    return (grad_x, grad_table, None, *of_weights, None, None, None)


def _plain_gradients(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
    return (*_convolution_backward(grad, *ctx.saved_tensors, ctx.undirected), None, None, None)


def _fake_backward(grad: Tensor, x: Tensor, table: Tensor, low: Tensor, *rest: Any) -> Tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(table), x.new_empty((4, low.shape[0] if rest[-1] else 0))


_convolution_backward = operator(
    "convolution_backward",
    _plain_backward,
    lambda grad, x, filters, *rest: (torch.empty_like(x), torch.empty_like(filters)),
)
_convolution = operator(
    "convolution", _plain, lambda x, *rest: torch.empty_like(x), _save_convolution, _plain_gradients
)
_table_convolution_backward = operator("table_convolution_backward", _convolve_backward, _fake_backward)
_table_convolution = operator(
    "table_convolution", _convolve, lambda x, *rest: torch.empty_like(x), _save_convolution, _convolution_gradients
)
_shifted_softplus = activation("shifted_softplus")
