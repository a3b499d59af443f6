"""Calls of native kernels: a model that takes one, arguments for C, activations with their gradients."""

import ctypes
from typing import Any, Callable, Mapping, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.backends.pytorch.kernels.operator import operator


def put_in(model: nn.Module, kernels: Mapping[type, Callable[..., Any]]) -> int:
    """Give every part of a model the form of its kind; returns how many parts have one from now on.

    Args:
        model: whose parts look for a form of a backend's own in their attribute ``kernel``.
        kernels: class of a part -> form.
    """
    parts = 0
    for module in model.modules():
        for kind, kernel in kernels.items():
            if isinstance(module, kind):
                module.kernel = kernel
                parts += 1
    return parts


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An element-wise operator, float32 on the CPU, any shape, from the C functions of its name and of its gradient.

    Args:
        name: C has ``name(n, x, result)`` and ``name_backward(n, x, grad, result)``.
    """

    def forward(x: Tensor) -> Tensor:
        x = x.contiguous()
        check(x)
        result = torch.empty_like(x)
        getattr(library(), name)(ctypes.c_int64(x.numel()), pointer(x), pointer(result))
        return result

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        grad, x = grad.contiguous(), x.contiguous()
        check(grad, x)
        result = torch.empty_like(x)
        getattr(library(), f"{name}_backward")(ctypes.c_int64(x.numel()), pointer(x), pointer(grad), pointer(result))
        return result

    def save(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    gradient = operator(f"{name}_backward", backward, lambda grad, x: torch.empty_like(x))
    return operator(name, forward, torch.empty_like, save, lambda ctx, grad: gradient(grad, ctx.saved_tensors[0]))


def pointer(values: Tensor) -> ctypes.c_void_p:
    """Address of the first value."""
    return ctypes.c_void_p(values.data_ptr())


def check(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Refuse tensors that a kernel, which checks nothing, would misread."""
    names = {torch.float32: "float32", torch.int64: "int64"}
    right = all(tensor.dtype == dtype and tensor.device.type == "cpu" for tensor in tensors)
    assert right, f"kernels take {names[dtype]} on the CPU"
