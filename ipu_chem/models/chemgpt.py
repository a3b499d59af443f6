"""ChemGPT: the next symbol of molecules written as text, from a decoder on packs of many molecules.

N. C. Frey et al., "Neural scaling of deep chemical models", Nature Machine Intelligence 5, 2023; the layers are
those of GPT-Neo (S. Black et al., 2021), whose weights fit tensor by tensor. All molecules are far shorter than
GPT-Neo's window of 256 symbols for every other layer, so every layer here looks at the whole molecule.

On data's way: TokenPack.inputs -> ChemGPT -> logits [B, S, V] -> token_cross_entropy.
Shapes: B packs, S symbol slots, V symbols of the vocabulary, F features, H heads.
"""

from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.models.layers import at_least_float32, keep

SIZES: Dict[str, int] = {"chemgpt-4.7m": 128, "chemgpt-19m": 256, "chemgpt-1.2b": 2048}  # name -> F
_LAYERS = 24
_HEADS = 16
# Added to scores of symbols out of sight: large enough that their share is exactly 0, small enough to be a number.
_OUT_OF_SIGHT = -1.0e9
_OUT_OF_SIGHT_HALF = -1.0e4


class LayerNorm(nn.LayerNorm):
    """In float32 whatever the weights' format: squares of 16-bit activations may not fit 16 bits."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., F] -> [..., F] of the same dtype."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        wide = functional.layer_norm(at_least_float32(input), self.normalized_shape, weight, bias, self.eps)
        return wide.to(input.dtype)


class Embedding(nn.Module):
    """Symbols and their places as features, and who sees whom, once for all layers."""

    def __init__(self, vocab_size: int, max_positions: int, hidden_features: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, hidden_features)
        self.wpe = nn.Embedding(max_positions, hidden_features)

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tuple[Tensor, Tensor]:
        """ids, position_ids [B, S] integer -> features [B, S, F], mask [B, 1, S, S] as of `attention_mask`."""
        ids = _within(ids, self.wte.num_embeddings)
        position_ids = _within(position_ids, self.wpe.num_embeddings)
        x = self.wte(ids) + self.wpe(position_ids)
        return x, attention_mask(position_ids, x.dtype)


class Attention(nn.Module):
    """Causal self-attention, each molecule by itself."""

    def __init__(self, hidden_features: int, num_heads: int, scale_attention: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (hidden_features // num_heads) ** -0.5 if scale_attention else 1.0
        self.q_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.k_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.v_proj = nn.Linear(hidden_features, hidden_features, bias=False)
        self.out_proj = nn.Linear(hidden_features, hidden_features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Features [B, S, F], mask [B, 1, S, S] -> [B, S, F]."""
        # Unscaled scores grow with the width of a head and do not fit 16 bits.
        query, key = at_least_float32(self._heads(self.q_proj(x))), at_least_float32(self._heads(self.k_proj(x)))
        if self.scale != 1.0:
            query = query * self.scale
        scores = torch.matmul(query, key.transpose(2, 3)) + mask.to(query.dtype)
        shares = torch.softmax(scores, dim=-1).to(x.dtype)
        seen = torch.matmul(shares, self._heads(self.v_proj(x)))  # [B, H, S, F / H]
        return self.out_proj(seen.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, S, F] -> [B, H, S, F / H]."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)


class Feedforward(nn.Module):
    """Two layers on every symbol, four times as wide in between."""

    def __init__(self, hidden_features: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(hidden_features, 4 * hidden_features)
        self.c_proj = nn.Linear(4 * hidden_features, hidden_features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, F] -> [B, S, F]."""
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Layer(nn.Module):
    """Attention and feed-forward, each normalized before and added to what comes in: 12 F^2 + 10 F weights."""

    def __init__(self, hidden_features: int, num_heads: int, scale_attention: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(hidden_features)
        self.attention = Attention(hidden_features, num_heads, scale_attention)
        self.ln_2 = LayerNorm(hidden_features)
        self.mlp = Feedforward(hidden_features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Features [B, S, F], mask [B, 1, S, S] -> [B, S, F]."""
        x = x + self.attention(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Head(nn.Module):
    """Last normalization and the projection on the vocabulary."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.ln_f = LayerNorm(weight.shape[1])
        self.weight = weight  # [V, F]; the symbols' embedding itself when tied

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, F] -> logits [B, S, V], float32 at least."""
        return at_least_float32(functional.linear(self.ln_f(x), self.weight))


class ChemGPT(nn.Module):
    """Logits of the symbol that follows each symbol of packed molecules."""

    def __init__(
        self,
        size: str = "chemgpt-4.7m",
        vocab_size: int = 684,
        max_positions: int = 512,
        hidden_features: int = 0,
        num_layers: int = 0,
        num_heads: int = 0,
        scale_attention: bool = False,
        tie_embeddings: bool = True,
    ) -> None:
        """Build the network with fresh weights.

        Args:
            size: one of `SIZES`, which sets the width; 24 layers and 16 heads all.
            vocab_size: V, symbols that there are.
            max_positions: symbols of the longest molecule.
            hidden_features: F, in place of the size's; 0 keeps that.
            num_layers: in place of 24; 0 keeps that.
            num_heads: H, in place of 16; 0 keeps that.
            scale_attention: divide scores by the root of a head's width, as most models do and GPT-Neo does not.
            tie_embeddings: the head's weight is the symbols' embedding. In a pipeline the last stage then returns to
                the first IPU; a head with a weight of its own saves that way, and V is small.

        Raises:
            ValueError: the size is unknown or a number out of range.
        """
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size={size!r}: choose one of {', '.join(SIZES)}.")
        hidden_features, num_heads = hidden_features or SIZES[size], num_heads or _HEADS
        if min(vocab_size, max_positions, hidden_features, num_layers or _LAYERS, num_heads) < 1:
            raise ValueError("ChemGPT needs 1 or more symbols, positions, features, layers and heads.")
        if hidden_features % num_heads:
            raise ValueError(
                f"hidden_features={hidden_features} cannot be shared by num_heads={num_heads}: give a multiple."
            )
        self.max_positions = max_positions
        self.embedding = Embedding(vocab_size, max_positions, hidden_features)
        self.layers = nn.ModuleList(
            [Layer(hidden_features, num_heads, scale_attention) for _ in range(num_layers or _LAYERS)]
        )
        symbols = self.embedding.wte.weight
        self.head = Head(symbols if tie_embeddings else nn.Parameter(torch.empty_like(symbols)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 0.02, zero biases; normalizations change nothing at first."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, Head)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def blocks(self) -> List[str]:
        """Names of the submodules at which a pipeline may be cut, in the order of execution.

        The first and the last share the symbols' embedding if it is tied.
        """
        return ["embedding"] + [f"layers.{i}" for i in range(len(self.layers))] + ["head"]

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Predict.

        Args:
            ids: [B, S] integer in 0..V-1, molecules one after the other, padding at the end.
            position_ids: [B, S] integer, counting from 0 in every molecule and below `max_positions`.

        Returns:
            [B, S, V] logits of the next symbol, float32 at least; finite but without meaning in padding.

        Numbers out of range, as padding may hold, are read as 0: a check would have to wait for the device.
        """
        x, mask = self.embedding(ids, position_ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


def attention_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that a symbol sees itself and the earlier ones of its molecule.

    Symbol i's molecule begins at slot i - position_ids[i]. Padding at the end of a pack comes after every
    molecule, so none sees it, whatever its positions are; it sees itself at least, so no share is 0 / 0.

    Args:
        position_ids: [B, S] int64, 0 or more.
        dtype: of the mask.

    Returns:
        [B, 1, S, S], 0 where query i (third axis) sees key j (last axis), a large negative number elsewhere.
    """
    slot = torch.arange(position_ids.shape[1], device=position_ids.device)
    start = slot - position_ids
    visible = (slot <= slot.unsqueeze(1)) & (slot >= start.unsqueeze(2))
    hidden = _OUT_OF_SIGHT_HALF if dtype == torch.float16 else _OUT_OF_SIGHT
    zero = torch.zeros((), dtype=dtype, device=position_ids.device)
    return torch.where(visible, zero, torch.full_like(zero, hidden)).unsqueeze(1)


def _within(index: Tensor, size: int) -> Tensor:
    """As int64, 0 in place of what is not in 0..size-1."""
    index = index.to(torch.int64)
    return keep(index, (index >= 0) & (index < size))
