"""One token at a time: keys and values of earlier tokens are kept, in buffers whose shapes never change.

Shapes: B molecules, P places in the buffers, V tokens of the vocabulary, H heads, D features of a head.
"""

from typing import NamedTuple, Tuple

import torch
from torch import Tensor

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


@torch.no_grad()
def decode_step(model: ChemGPT, ids: Tensor, position: Tensor, cache: Cache) -> Tensor:
    """Logits of the next token, equal to those of `model.forward` on all tokens so far.

    Args:
        model: whose numbers are float32 or float64.
        ids: [B] int64, the tokens that stand at ``position``.
        position: [] int64, the same for all molecules, below P; 0 for their first tokens. Places before it must
            have been decoded with this cache; what stands behind it does not matter, so a cache may be used again.
        cache: of B rows; keys and values of these tokens are written into it.

    Returns:
        [B, V], float32 at least.
    """
    x, rotation = model.embedding.embed(ids.unsqueeze(1), position.reshape(1, 1))
    slot = torch.arange(cache.keys[0].shape[2], device=position.device)
    earlier, window = slot <= position, model.embedding.window
    masks = [additive(earlier, x.dtype)]
    if window:
        masks.append(additive(earlier & (slot > position - window), x.dtype))
    for layer, keys, values in zip(model.layers, cache.keys, cache.values):
        attention = layer.attention
        # [B, H, 1, D] each
        query, key, value = (part.transpose(1, 2) for part in attention.project(layer.ln_1(x), *rotation))
        keys.index_copy_(2, position.reshape(1), key.to(keys.dtype))
        values.index_copy_(2, position.reshape(1), value)
        seen = attend(query, keys, values, masks[layer.is_local], attention.scale)
        x = x + attention.out_proj(seen.transpose(1, 2).reshape(x.shape))
        x = x + layer.mlp(layer.ln_2(x))
    return model.head(x).squeeze(1)
