"""Low-rank adapters (LoRA): linear layers stay as they were trained, and small corrections are trained beside them.

    y = x W^T + b + 2 x A^T B^T        A [rank, in], B [out, rank]

E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, with their alpha at twice the rank: a
learning rate does what another alpha would. B is 0 at first, so that a model begins as it was. Merged, W + 2 B A takes
the place of W, and nothing is left to compute.
"""

from typing import Any, Dict, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ipu_chem.ranges import check_number

_BASE, _A, _B = ".base.weight", ".lora_a", ".lora_b"
_SCALE = 2.0


class LowRankLinear(nn.Module):
    """A linear layer with a correction of low rank, by operators that IPUs have."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        """Put a correction beside a layer.

        Args:
            base: [in] -> [out] features; it is not trained any more.
            rank: of the correction.
        """
        super().__init__()
        self.base = base.requires_grad_(False)
        weight = base.weight
        drawn = torch.empty((rank, base.in_features), dtype=weight.dtype, device=weight.device)
        self.lora_a = nn.Parameter(nn.init.normal_(drawn, std=base.in_features**-0.5))
        self.lora_b = nn.Parameter(torch.zeros((base.out_features, rank), dtype=weight.dtype, device=weight.device))

    @property
    def weight(self) -> Tensor:
        """[out, in], of the layer and its correction together, for whoever computes with weights alone."""
        return self.base.weight + _SCALE * torch.matmul(self.lora_b, self.lora_a)

    @property
    def bias(self) -> Any:
        """[out], or None."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        low = functional.linear(functional.linear(x, self.lora_a), self.lora_b)
        return self.base(x) + low * _SCALE


def adapt(part: nn.Module, rank: int) -> None:
    """Put an adapter on every linear layer inside a part of a model; all else in it stays as it is.

    Args:
        part: such as the layers of a decoder.
        rank: of the corrections.

    Raises:
        ValueError: the rank is out of range.
    """
    check_number("lora_rank", rank, "1 or more", whole=True)
    part.requires_grad_(False)
    for module in list(part.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and not isinstance(module, LowRankLinear):
                setattr(module, name, LowRankLinear(child, rank))


def merged_weights(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Weights of a model with adapters as those of the model without.

    Args:
        weights: a state dict.

    Returns:
        A state dict in which W + 2 B A stands where W was, computed in float64; of a model without adapters the same.
    """
    found: Dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(_BASE):
            layer = name[: -len(_BASE)]
            low = weights[layer + _B].double() @ weights[layer + _A].double()
            found[f"{layer}.weight"] = (value.double() + _SCALE * low).to(value.dtype)
        elif not name.endswith((_A, _B)):
            found[name.replace(".base.bias", ".bias")] = value
    return found
