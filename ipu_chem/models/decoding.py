"""One token at a time: keys and values of earlier tokens are kept, in buffers whose shapes do not change by a step.

Every row is a molecule at a position of its own, so that a new one may begin in a row while others go on.

Shapes: B molecules, P places in the buffers, V tokens of the vocabulary, H heads, D features of a head.
"""

from typing import NamedTuple, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ipu_chem.models.attention import additive, attend
from ipu_chem.models.chemgpt import ChemGPT


class Cache(NamedTuple):
    """Keys and values that attention has to remember; `decode_step` writes into it."""

    keys: Tuple[Tensor, ...]  # of every layer [B, H, P, D]
    values: Tuple[Tensor, ...]  # as the keys


def new_cache(model: ChemGPT, rows: int, positions: int = 0) -> Cache:
    """Room for molecules that are all yet to begin, on the model's device.

    Args:
        model: that will decode.
        rows: B, 1 or more.
        positions: P, tokens of the longest molecule; 0 takes `max_positions`. Fewer are faster.

    Raises:
        ValueError: the model has not so many positions, or there are no rows.
    """
    positions = positions or model.max_positions
    if rows < 1 or not 1 <= positions <= model.max_positions:
        raise ValueError(
            f"rows={rows}, positions={positions}: give 1 or more rows and 1 to {model.max_positions} positions."
        )
    config = model.config()
    heads = config["num_heads"]
    shape = (rows, heads, positions, config["hidden_features"] // heads)
    like = model.head.weight.detach()
    keys, values = (tuple(like.new_zeros(shape) for _ in model.layers) for _ in range(2))
    return Cache(keys, values)


def larger_cache(cache: Cache, positions: int) -> Cache:
    """The same keys and values, with room for so many positions, P or more."""
    more = positions - cache.keys[0].shape[2]
    return Cache(*(tuple(functional.pad(part, (0, 0, 0, more)) for part in parts) for parts in cache))


@torch.no_grad()
def decode_step(model: ChemGPT, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Logits of the next token, equal to those of `model.forward` on all tokens so far.

    Args:
        model: whose numbers are float32 or float64.
        ids: [B] int64, the tokens that stand at ``positions``.
        positions: [B] int64, below P; 0 where a molecule begins. Positions before it must have been decoded with
            this cache; what stands behind it does not matter, so that the next molecule may take the row.
        cache: of B rows; keys and values of these tokens are written into it.

    Returns:
        [B, V], float32 at least.
    """
    positions = positions.unsqueeze(1)
    x, rotation = model.embedding.embed(ids.unsqueeze(1), positions)
    row = torch.arange(len(ids), device=ids.device)
    slot, last = torch.arange(cache.keys[0].shape[2], device=ids.device), positions.squeeze(1)
    earlier, window = slot <= positions, model.embedding.window
    masks = [_on_scores(earlier, x.dtype)]
    if window:
        masks.append(_on_scores(earlier & (slot > positions - window), x.dtype))
    for layer, keys, values in zip(model.layers, cache.keys, cache.values):
        attention = layer.attention
        query, key, value = attention.project(layer.ln_1(x), *rotation)  # [B, 1, H, D] each
        keys[row, :, last] = key.squeeze(1).to(keys.dtype)
        values[row, :, last] = value.squeeze(1)
        seen = attend(query.transpose(1, 2), keys, values, masks[layer.is_local], attention.scale)
        x = x + attention.out_proj(seen.transpose(1, 2).reshape(x.shape))
        x = x + layer.mlp(layer.ln_2(x))
    return model.head(x).squeeze(1)


def _on_scores(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, P] -> what is added to scores [B, H, 1, P]."""
    return additive(visible, dtype).reshape(len(visible), 1, 1, -1)
