"""Torch's own fused operators: attention, and activations that have derivatives of any order but not on IPUs.

Fused attention keeps no scores in memory on GPUs. On CPUs it is a little faster than products, softmax and products
one after the other, and several times slower than `ipu_chem.backends.pytorch.kernels.transformer` on packs.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.backends.pytorch.kernels.calls import put_in
from ipu_chem.models.attention import Attention
from ipu_chem.models.layers import ShiftedSoftplus, Silu


def use_fused_attention(model: nn.Module) -> int:
    """Let a model's attention run in torch's fused operator; returns how many parts do from now on."""
    return put_in(model, {Attention: fused_attention})


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`ipu_chem.models.attention.attend`.

    Args:
        query, key, value: [B, S, H, D], in any formats.
        mask: [B, 1, S, S], added to the scores.
        scale: of the scores.

    Returns:
        [B, S, H, D], in the values' format.
    """
    scale = scale * query.shape[-1] ** 0.5  # the operator divides by that root; older torch knows no other scale
    query, key, value = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
    if scale != 1.0:
        query = query * scale
    mask = mask.to(value.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def use_torch_activations(model: nn.Module) -> int:
    """Let a model's activations run in one operator each; returns how many parts do from now on."""
    return put_in(model, {ShiftedSoftplus: _shifted_softplus, Silu: functional.silu})


def _shifted_softplus(x: Tensor) -> Tensor:
    return functional.softplus(x) - math.log(2.0)
