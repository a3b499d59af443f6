"""ChemGPT: the next token of molecules written as text, from a decoder on packs of many molecules.

N. C. Frey et al., "Neural scaling of deep chemical models", Nature Machine Intelligence 5, 2023; the layers are
those of GPT-Neo (S. Black et al., 2021), whose weights fit tensor by tensor (`ipu_chem.models.gpt_neo`). Sizes by
name are the published ones: scores are not scaled and heads are narrow. For sizes of one's own the defaults are
what later work found better: scaled scores, heads 32 wide; rotary positions and maximal update parametrization
(G. Yang et al., "Tensor Programs V", 2022) are options.

Shapes: B packs, S token slots, V tokens of the vocabulary, F features, H heads.
"""

from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn

from ipu_chem.models.base import Model
from ipu_chem.models.decoder_layers import Embedding, Head, Layer, through_layers
from ipu_chem.ranges import BLOCKS, check_number

SIZES: Dict[str, int] = {"chemgpt-4.7m": 128, "chemgpt-19m": 256, "chemgpt-1.2b": 2048}  # name -> F
POSITIONS = ("learned", "rope")
_HEADS = 16  # of all published sizes
_HEAD_FEATURES = 32  # of others: narrower heads leave matrix units idle
_STD = 0.02


class ChemGPT(Model):
    """Logits of the token that follows each token of packed molecules."""

    def __init__(
        self,
        size: str = "",
        vocab_size: int = 684,
        max_positions: int = 512,
        hidden_features: int = 128,
        num_layers: int = 24,
        num_heads: int = 0,
        scale_attention: Optional[bool] = None,
        tie_embeddings: bool = True,
        positions: str = "learned",
        local_window: int = 0,
        mup_base_width: int = 0,
    ) -> None:
        """Build the network with fresh weights.

        Args:
            size: one of `SIZES`, as published: sets the width, 16 heads and unscaled scores. Empty: the numbers below.
            vocab_size: V, tokens that there are.
            max_positions: tokens of the longest molecule.
            hidden_features: F; a named size has its own.
            num_layers: of attention and feed-forward.
            num_heads: H; 0 is 16 for a named size, else as many as leave heads of 32 features or more.
            scale_attention: divide scores by the root of a head's width, as most models do and GPT-Neo does not.
                None divides unless the size is named.
            tie_embeddings: the head's weight is the tokens' embedding. In a pipeline the last stage then returns to
                the first IPU; a head with a weight of its own saves that way, and V is small.
            positions: "learned", or "rope" for rotary ones, by which tokens know distances only.
            local_window: tokens that the second, fourth, ... layer sees, GPT-Neo has 256; 0 is all.
            mup_base_width: F at which a learning rate was found, for this F to train alike at it: weights, scores
                and logits are scaled by how much wider this model is, and so must be learning rates
                (`learning_rate_multipliers`). 0 is off.

        Raises:
            ValueError: the size is unknown or a number out of range.
        """
        super().__init__()
        hidden_features = width_of(size, hidden_features)
        for name, value in (("vocab_size", vocab_size), ("max_positions", max_positions)):
            check_number(name, value, "1 or more", whole=True)
        check_number("num_layers", num_layers, BLOCKS, whole=True)
        for name, value in (
            ("num_heads", num_heads),
            ("local_window", local_window),
            ("mup_base_width", mup_base_width),
        ):
            check_number(name, value, "0 or more", whole=True)
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions!r}: choose one of {', '.join(POSITIONS)}.")
        is_rotary = positions == "rope"
        # The most heads of 32 features or more that share the features equally; 1 where there are fewer.
        counts = range(hidden_features // _HEAD_FEATURES, 1, -1)
        usual = _HEADS if size else next((count for count in counts if hidden_features % count == 0), 1)
        num_heads = num_heads or usual
        if hidden_features % num_heads:
            raise ValueError(
                f"hidden_features={hidden_features} cannot be shared by num_heads={num_heads}: give a multiple."
            )
        head_features = hidden_features // num_heads
        if is_rotary and head_features % 2:
            raise ValueError(
                f"positions='rope' turns features in pairs, but a head has {head_features}: give hidden_features a "
                f"multiple of {2 * num_heads}, or other num_heads."
            )
        if scale_attention is None:
            scale_attention = not size or mup_base_width > 0
        if mup_base_width and not scale_attention:
            raise ValueError("mup_base_width scales scores: leave scale_attention out, or set it to true.")
        self.max_positions = max_positions
        self._config: Dict[str, Any] = {
            "size": "",
            "vocab_size": vocab_size,
            "max_positions": max_positions,
            "hidden_features": hidden_features,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "scale_attention": bool(scale_attention),
            "tie_embeddings": bool(tie_embeddings),
            "positions": positions,
            "local_window": local_window,
            "mup_base_width": mup_base_width,
        }
        width = hidden_features / mup_base_width if mup_base_width else 1.0
        scale = head_features**-0.5 if scale_attention else 1.0
        if mup_base_width:  # by the width, not its root; the same at the usual width
            scale = _HEAD_FEATURES**0.5 / head_features
        self.embedding = Embedding(
            vocab_size, max_positions, hidden_features, head_features if is_rotary else 0, local_window
        )
        self.layers = nn.ModuleList(
            Layer(hidden_features, num_heads, scale, bool(local_window) and index % 2 == 1, is_rotary, width)
            for index in range(num_layers)
        )
        tokens = self.embedding.wte.weight
        self.head = Head(tokens if tie_embeddings else nn.Parameter(torch.empty_like(tokens)), 1.0 / width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 0.02, zero biases; normalizations change nothing at first.

        Under the maximal update parametrization that is so at the base width; the matrices of wider layers are
        narrower by the root of how much wider they are.
        """
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, Head)):
                nn.init.normal_(module.weight, std=_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for layer in self.layers:
            for weight in layer.parameters():
                if weight.dim() == 2 and layer.width != 1.0:
                    nn.init.normal_(weight, std=_STD * layer.width**-0.5)  # type: ignore[operator]

    def config(self) -> Dict[str, Any]:
        """Arguments that build this model again, as plain values; names of sizes are spelled out."""
        return dict(self._config)

    def learning_rate_multipliers(self) -> Dict[str, float]:
        """See `Model.learning_rate_multipliers`; all 1 unless ``mup_base_width`` is set."""
        multipliers = {name: 1.0 for name, _ in self.named_parameters()}
        for index, layer in enumerate(self.layers):
            own = layer.learning_rate_multipliers()  # type: ignore[operator]
            multipliers.update({f"layers.{index}.{name}": value for name, value in own.items()})
        return multipliers

    def blocks(self) -> List[str]:
        """See `Model.blocks`; the first and the last share the tokens' embedding if it is tied."""
        return ["embedding"] + [f"layers.{i}" for i in range(len(self.layers))] + ["head"]

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Predict.

        Args:
            ids: [B, S] integer in 0..V-1, molecules one after the other, padding at the end.
            position_ids: [B, S] integer, counting from 0 in every molecule and below `max_positions`.

        Returns:
            [B, S, V] logits of the next token, float32 at least; finite but without meaning in padding.

        Numbers out of range, as padding may hold, are read as 0: a check would have to wait for the device.
        """
        return self.head(through_layers(self.embedding, self.layers, ids, position_ids))

    def features(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Arguments of `forward` -> [B, S, F], every token after the last normalization: what embeddings pool."""
        return self.head.ln_f(through_layers(self.embedding, self.layers, ids, position_ids))


def width_of(size: str, hidden_features: int) -> int:
    """Features of a token: those of a named size, else as given.

    Raises:
        ValueError: there is no size of that name, or no such width.
    """
    if size and size not in SIZES:
        raise ValueError(
            f"size={size!r}: choose one of {', '.join(SIZES)}, or leave it empty and give hidden_features."
        )
    check_number("hidden_features", hidden_features, "from 1 to 1,000,000", whole=True)
    return SIZES[size] if size else hidden_features
