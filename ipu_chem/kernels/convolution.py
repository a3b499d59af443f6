"""`CubicTable`'s convolution and the activation between them in machine code, with their slopes.

On data's way: TorchBackend (CPU, float32) -> `use_kernels` -> the model's forward and backward pass.
"""

import ctypes
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.kernels.native import library
from ipu_chem.kernels.operator import operator
from ipu_chem.models.convolution import Convolution, EdgeList
from ipu_chem.models.layers import ShiftedSoftplus
from ipu_chem.models.tables import CubicTable, Places


def use_kernels(model: nn.Module) -> int:
    """Let a model's convolutions and activations run in machine code; returns how many parts do from now on.

    Slopes of slopes, which training on forces takes, need the form in torch.

    Args:
        model: with float32 weights on the CPU.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    library()
    parts = 0
    for module in model.modules():
        if isinstance(module, CubicTable):
            module.kernel = table_convolution
            parts += 1
        elif isinstance(module, Convolution):
            module.kernel = convolution
            parts += 1
        elif isinstance(module, ShiftedSoftplus):
            module.kernel = shifted_softplus
            parts += 1
    return parts


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
    library().convolution(*_sizes(source, x, undirected), *map(_pointer, (x, filters, source, target, received)))
    return received


def _plain_backward(
    grad: Tensor, x: Tensor, filters: Tensor, source: Tensor, target: Tensor, undirected: bool
) -> Tuple[Tensor, Tensor]:
    grad, x, filters = grad.contiguous(), x.contiguous(), filters.contiguous()
    source, target = source.contiguous(), target.contiguous()
    _check([grad, x, filters], [source, target])
    grad_x, grad_filters = torch.zeros_like(x), torch.empty_like(filters)
    library().convolution_backward(
        *_sizes(source, x, undirected), *map(_pointer, (x, filters, source, target, grad, grad_x, grad_filters))
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
        *_sizes(low, x, undirected), _pointer(x), _pointer(table), _pointer(low), _pointers(weights),
        _pointer(source), _pointer(target), _pointer(received),
    )  # fmt: skip
    return received


def _convolve_backward(
    grad: Tensor, x: Tensor, table: Tensor, low: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor,
    source: Tensor, target: Tensor, undirected: bool, slopes: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Slopes of x, of the table and, if asked for, of the four weights [4, P]."""
    grad, x, table = grad.contiguous(), x.contiguous(), table.contiguous()
    weights = [part.contiguous() for part in (a, b, c, d)]
    low, source, target = low.contiguous(), source.contiguous(), target.contiguous()
    _check([grad, x, table, *weights], [low, source, target])
    grad_x, grad_table = torch.zeros_like(x), torch.zeros_like(table)
    grad_weights = torch.zeros((4, len(low) if slopes else 0), dtype=x.dtype)
    library().table_convolution_backward(
        *_sizes(low, x, undirected), _pointer(x), _pointer(table), _pointer(low), _pointers(weights),
        _pointer(source), _pointer(target), _pointer(grad), _pointer(grad_x), _pointer(grad_table),
        _pointers(list(grad_weights)) if slopes else None,
    )  # fmt: skip
    return grad_x, grad_table, grad_weights


def _softplus(x: Tensor) -> Tensor:
    x = x.contiguous()
    _check([x], [])
    result = torch.empty_like(x)
    library().shifted_softplus(ctypes.c_int64(x.numel()), _pointer(x), _pointer(result))
    return result


def _softplus_backward(grad: Tensor, x: Tensor) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    _check([grad, x], [])
    result = torch.empty_like(x)
    library().shifted_softplus_backward(ctypes.c_int64(x.numel()), _pointer(x), _pointer(grad), _pointer(result))
    return result


def _sizes(low: Tensor, x: Tensor, undirected: bool) -> List[ctypes.c_int64]:
    return [ctypes.c_int64(low.numel()), ctypes.c_int64(x.shape[1]), ctypes.c_int64(undirected)]


def _pointer(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())


def _pointers(values: List[Tensor]) -> Any:
    return (ctypes.c_void_p * len(values))(*[value.data_ptr() for value in values])


def _check(real: List[Tensor], whole: List[Tensor]) -> None:
    """Machine code believes what it is told."""
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" for t in real), "kernels take float32 on the CPU"
    assert all(t.dtype == torch.int64 and t.device.type == "cpu" for t in whole), "kernels take int64 on the CPU"


def _save_convolution(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.undirected = inputs[-1]


def _convolution_slopes(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
    slopes = any(ctx.needs_input_grad[3:7])
    grad_x, grad_table, grad_weights = _table_convolution_backward(grad, *ctx.saved_tensors, ctx.undirected, slopes)
    of_weights = [part.unsqueeze(1) for part in grad_weights.unbind(0)] if slopes else [None] * 4
    return (grad_x, grad_table, None, *of_weights, None, None, None)


def _plain_slopes(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
    return (*_convolution_backward(grad, *ctx.saved_tensors, ctx.undirected), None, None, None)


def _save_softplus(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _softplus_slopes(ctx: Any, grad: Tensor) -> Tensor:
    return _shifted_softplus_backward(grad, ctx.saved_tensors[0])


def _fake_backward(grad: Tensor, x: Tensor, table: Tensor, low: Tensor, *rest: Any) -> Tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(table), x.new_empty((4, low.shape[0] if rest[-1] else 0))


_convolution_backward = operator(
    "convolution_backward",
    _plain_backward,
    lambda grad, x, filters, *rest: (torch.empty_like(x), torch.empty_like(filters)),
)
_convolution = operator("convolution", _plain, lambda x, *rest: torch.empty_like(x), _save_convolution, _plain_slopes)
_table_convolution_backward = operator("table_convolution_backward", _convolve_backward, _fake_backward)
_table_convolution = operator(
    "table_convolution", _convolve, lambda x, *rest: torch.empty_like(x), _save_convolution, _convolution_slopes
)
_shifted_softplus_backward = operator(
    "shifted_softplus_backward", _softplus_backward, lambda grad, x: torch.empty_like(x)
)
_shifted_softplus = operator("shifted_softplus", _softplus, torch.empty_like, _save_softplus, _softplus_slopes)
