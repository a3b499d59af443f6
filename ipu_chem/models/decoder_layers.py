"""Parts of a decoder of molecules as text: embedding, layers, head; each a block that a pipeline may begin with.

Shapes: B packs, S token slots, V tokens of the vocabulary, F features, H heads.
"""

from typing import Dict, Tuple

from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.models.attention import Attention, RotaryPositions, attention_mask
from ipu_chem.models.layers import TanhGelu, as_index, at_least_float32, keep


class LayerNorm(nn.LayerNorm):
    """In float32 whatever the weights' format: squares of 16-bit activations may not fit 16 bits."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., F] -> [..., F] of the same dtype."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        wide = functional.layer_norm(at_least_float32(input), self.normalized_shape, weight, bias, self.eps)
        return wide.to(input.dtype)


class Embedding(nn.Module):
    """Symbols and their places as features, and what all layers need to know of them: who sees whom."""

    def __init__(
        self, vocab_size: int, max_positions: int, hidden_features: int, head_features: int = 0, window: int = 0
    ) -> None:
        """Learned positions, or rotary ones for heads of so many features; ``window`` of local layers, if any."""
        super().__init__()
        self.max_positions = max_positions
        self.window = window
        self.wte = nn.Embedding(vocab_size, hidden_features)
        self.wpe = None if head_features else nn.Embedding(max_positions, hidden_features)
        self.rotary = RotaryPositions(max_positions, head_features) if head_features else None

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tuple[Tensor, ...]:
        """Embed, and say who sees whom.

        Args:
            ids, position_ids: [B, S] integer.

        Returns:
            Features [B, S, F], then what every `Layer` takes besides: masks [B, 1, S, S] as of `attention_mask`,
            one of all layers or one each of global and local ones, and the rotation if there is one.
        """
        position_ids = within(position_ids, self.max_positions)
        x, rotation = self.embed(ids, position_ids)
        masks = [attention_mask(position_ids, x.dtype)]
        if 0 < self.window < ids.shape[1]:  # else no token is further away
            masks.append(attention_mask(position_ids, x.dtype, self.window))
        return (x, *masks, *rotation)

    def embed(self, ids: Tensor, position_ids: Tensor) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        """ids [B, S] integer, position_ids [B, S] in range -> features [B, S, F], and the rotation if any."""
        x = self.wte(within(ids, self.wte.num_embeddings))
        if self.rotary is not None:
            return x, self.rotary(position_ids)
        return x + self.wpe(position_ids), ()  # type: ignore[misc]


class Feedforward(nn.Module):
    """Two layers on every token, four times as wide in between."""

    def __init__(self, hidden_features: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(hidden_features, 4 * hidden_features)
        self.activation = TanhGelu()
        self.c_proj = nn.Linear(4 * hidden_features, hidden_features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, F] -> [B, S, F]."""
        return self.c_proj(self.activation(self.c_fc(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each normalized before and added to what comes in: 12 F^2 + 10 F weights."""

    def __init__(
        self,
        hidden_features: int,
        num_heads: int,
        scale: float,
        is_local: bool = False,
        is_rotary: bool = False,
        width: float = 1.0,
    ) -> None:
        """As ChemGPT has it; ``width`` is F in units of the base width of the maximal update parametrization."""
        super().__init__()
        self.is_local = is_local
        self.is_rotary = is_rotary
        self.width = width
        self.ln_1 = LayerNorm(hidden_features)
        self.attention = Attention(hidden_features, num_heads, scale)
        self.ln_2 = LayerNorm(hidden_features)
        self.mlp = Feedforward(hidden_features)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Features [B, S, F] and what `Embedding` gives besides -> [B, S, F]."""
        masks = context[:-2] if self.is_rotary else context
        rotation = context[-2:] if self.is_rotary else ()
        x = x + self.attention(self.ln_1(x), masks[-1] if self.is_local else masks[0], *rotation)
        return x + self.mlp(self.ln_2(x))

    def learning_rate_multipliers(self) -> Dict[str, float]:
        """See `Model.learning_rate_multipliers`: matrices that grow with F on both sides learn the more slowly."""
        return {name: 1.0 / self.width if weight.dim() == 2 else 1.0 for name, weight in self.named_parameters()}


class Head(nn.Module):
    """Last normalization and the projection on the vocabulary."""

    def __init__(self, weight: nn.Parameter, multiplier: float = 1.0) -> None:
        super().__init__()
        self.ln_f = LayerNorm(weight.shape[1])
        self.weight = weight  # [V, F]; the tokens' embedding itself when tied
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, F] -> logits [B, S, V], float32 at least."""
        return self.project(self.ln_f(x))

    def project(self, features: Tensor) -> Tensor:
        """Normalized features [..., F], see `ChemGPT.features` -> logits [..., V], float32 at least."""
        if self.multiplier != 1.0:
            features = features * self.multiplier
        return at_least_float32(functional.linear(features, self.weight))


def through_layers(embedding: nn.Module, layers: nn.ModuleList, ids: Tensor, position_ids: Tensor) -> Tensor:
    """ids, position_ids [B, S] integer -> [B, S, F], what the last layer gives."""
    x, *context = embedding(ids, position_ids)
    for layer in layers:
        x = layer(x, *context)
    return x


def within(index: Tensor, size: int) -> Tensor:
    """As `as_index` gives it, 0 in place of what is not in 0..size-1."""
    index = as_index(index)
    return keep(index, (index >= 0) & (index < size))
