"""Attention of packed molecules: who sees whom, where a token stands, and the sum over what is seen.

Rotary positions are those of J. Su et al., "RoFormer", 2021: products of queries and keys then depend on distances
alone. The form here is made of operators that IPUs have; a backend may put its own in its place.

Shapes: B packs, S token slots, F features, H heads, D = F / H.
"""

from typing import Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.layers import at_least_float32

# Added to scores of tokens out of sight: large enough that their weight is exactly 0, small enough to be a number.
_OUT_OF_SIGHT = -1.0e9
_OUT_OF_SIGHT_HALF = -1.0e4
_ROTARY_BASE = 10_000.0

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Values, weighted by the softmax of products with their keys.

    Args:
        query: [B, H, Q, D].
        key, value: [B, H, K, D].
        mask: [B or 1, 1, Q, K], added to the scores.
        scale: of the scores.

    Returns:
        [B, H, Q, D], in the values' format.
    """
    # Unscaled scores grow with the width of a head and do not fit 16 bits.
    query, key = at_least_float32(query), at_least_float32(key)
    if scale != 1.0:
        query = query * scale
    scores = torch.matmul(query, key.transpose(2, 3)) + mask.to(query.dtype)
    shares = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(shares, value)


class Attention(nn.Module):
    """Causal self-attention, each molecule by itself."""

    kernel: Optional[Kernel] = None  # a backend's own form of `attend`, with heads on the last axis but one

    def __init__(self, hidden_features: int, num_heads: int, scale: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.q_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.k_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.v_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.out_proj = nn.Linear(hidden_features, hidden_features)

    def project(self, x: Tensor, *rotation: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Features [B, S, F] and what `RotaryPositions` gives, or nothing -> query, key, value [B, S, H, D]."""
        query, key, value = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        if rotation:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        return query, key, value

    def forward(self, x: Tensor, mask: Tensor, *rotation: Tensor) -> Tensor:
        """Features [B, S, F], mask [B, 1, S, S], rotation as of `project` -> [B, S, F]."""
        query, key, value = self.project(x, *rotation)
        if self.kernel is not None:
            seen = self.kernel(query, key, value, mask, self.scale)
        else:
            seen = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, self.scale)
            seen = seen.transpose(1, 2)
        return self.out_proj(seen.reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, S, F] -> [B, S, H, D]."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1)


class RotaryPositions(nn.Module):
    """Sines and cosines of every place; they are tables, because 16 bits cannot hold the angles."""

    def __init__(self, max_positions: int, head_features: int) -> None:
        """Make the tables.

        Args:
            max_positions: places of the longest molecule.
            head_features: D, even.
        """
        super().__init__()
        pairs = head_features // 2
        turns = _ROTARY_BASE ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = torch.arange(max_positions, dtype=torch.float64).unsqueeze(1) * turns
        self.register_buffer("cosine", torch.cos(angles).float(), persistent=False)
        self.register_buffer("sine", torch.sin(angles).float(), persistent=False)

    def forward(self, position_ids: Tensor) -> Tuple[Tensor, Tensor]:
        """[B, S] integer -> cosines and sines [B, S, 1, D / 2] for `rotate`."""
        cosine = nn.functional.embedding(position_ids, self.cosine)  # type: ignore[arg-type]
        sine = nn.functional.embedding(position_ids, self.sine)  # type: ignore[arg-type]
        return cosine.unsqueeze(2), sine.unsqueeze(2)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn feature d and d + D / 2 of every head by the angle of the place; [B, S, H, D], float32 at least."""
    x = at_least_float32(x)
    half = x.shape[-1] // 2
    first, second = x.split(half, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def attention_mask(position_ids: Tensor, dtype: torch.dtype, window: int = 0) -> Tensor:
    """Mask that is added to scores so that a token sees itself and the earlier ones of its molecule.

    Symbol i's molecule begins at slot i - position_ids[i]. Padding at the end of a pack comes after every
    molecule, so none sees it, whatever its positions are; it sees itself at least, so no share is 0 / 0.

    Args:
        position_ids: [B, S], 0 or more, as `as_index` gives it.
        dtype: of the mask.
        window: tokens that are seen, itself included; 0 is all.

    Returns:
        [B, 1, S, S], 0 where query i (third axis) sees key j (last axis), a large negative number elsewhere. What
        a query sees is one stretch that ends with itself.
    """
    slot = torch.arange(position_ids.shape[1], dtype=position_ids.dtype, device=position_ids.device)
    start = slot - position_ids
    visible = (slot <= slot.unsqueeze(1)) & (slot >= start.unsqueeze(2))
    if window:
        visible = visible & (slot > slot.unsqueeze(1) - window)
    return additive(visible, dtype).unsqueeze(1)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a mask is True, a large negative number elsewhere; the same shape."""
    hidden = _OUT_OF_SIGHT_HALF if dtype == torch.float16 else _OUT_OF_SIGHT
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, torch.full_like(zero, hidden))
