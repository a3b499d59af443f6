"""Attention inside the molecules of a pack, and GELU, as native kernels, with their gradients.

torch's own attention works on every pair of tokens of a pack, most of which are of two molecules; here those
alone count that see each other, and nothing of the size of pairs is kept.
"""

import ctypes
from typing import Any, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.pytorch.kernels.calls import activation, check, pointer, put_in
from ipu_chem.backends.pytorch.kernels.native import library
from ipu_chem.backends.pytorch.kernels.operator import operator
from ipu_chem.models.attention import Attention
from ipu_chem.models.layers import TanhGelu


def use_transformer_kernels(model: nn.Module) -> int:
    """Let a model's attention and GELU run in native kernels; returns how many parts do from now on.

    Args:
        model: with float32 weights on the CPU.

    Raises:
        NativeError: no compiler here, or it refuses.
    """
    library()
    return put_in(model, {Attention: attention, TanhGelu: gelu})


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`ipu_chem.models.attention.attend` for masks as of `attention_mask`; float32 on the CPU.

    Args:
        query, key, value: [B, S, H, D].
        mask: [B, 1, S, S].
        scale: of the scores.

    Returns:
        [B, S, H, D].
    """
    return _attention(query, key, value, mask, scale)[0]


def gelu(x: Tensor) -> Tensor:
    """`ipu_chem.models.layers.TanhGelu`; float32 on the CPU, any shape."""
    return _gelu(x)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tuple[Tensor, Tensor]:
    inputs = [part.contiguous() for part in (query, key, value, mask)]
    sizes = _sizes(*inputs)
    seen, logs = torch.empty_like(inputs[0]), query.new_empty((query.shape[0], query.shape[2], query.shape[1]))
    done = library().attention(*sizes, ctypes.c_float(scale), *map(pointer, (*inputs, seen, logs)))
    _check_memory(done)
    return seen, logs


def _attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, seen: Tensor, logs: Tensor, scale: float
) -> Tuple[Tensor, Tensor, Tensor]:
    inputs = [part.contiguous() for part in (query, key, value, mask, seen, logs, grad)]
    sizes = _sizes(*inputs)
    gradients = [torch.empty_like(inputs[0]) for _ in range(3)]
    done = library().attention_backward(*sizes, ctypes.c_float(scale), *map(pointer, (*inputs, *gradients)))
    _check_memory(done)
    return gradients[0], gradients[1], gradients[2]


def _sizes(*tensors: Tensor) -> "list[ctypes.c_int64]":
    """B, S, H, D of query, key, value, mask and others; kernels check nothing themselves."""
    check(*tensors)
    packs, slots, heads, width = tensors[0].shape
    assert all(part.shape == tensors[0].shape for part in tensors[1:3]), "query, key and value have one shape"
    assert tensors[3].shape == (packs, 1, slots, slots), "the mask is [B, 1, S, S]"
    return [ctypes.c_int64(size) for size in (packs, slots, heads, width)]


def _check_memory(done: int) -> None:
    if not done:
        raise MemoryError("no memory for the attention of a pack.")


def _save_attention(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs[:-1], *output)
    ctx.scale = inputs[-1]


def _attention_gradients(ctx: Any, grad: Tensor, _: Any) -> Tuple[Any, ...]:
    return (*_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None, None)


def _fake_attention(query: Tensor, *rest: Any) -> Tuple[Tensor, Tensor]:
    packs, slots, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((packs, heads, slots))


def _fake_attention_backward(grad: Tensor, query: Tensor, *rest: Any) -> Tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape)


_attention_backward = operator("attention_backward", _attend_backward, _fake_attention_backward)
_attention = operator("attention", _attend, _fake_attention, _save_attention, _attention_gradients)
_gelu = activation("gelu")
