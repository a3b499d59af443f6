"""Tokens by chance: probabilities from logits, draws, and random numbers that belong to a molecule.

A. Fan, M. Lewis, Y. Dauphin, "Hierarchical neural story generation", ACL 2018 (top-k); A. Holtzman et al.,
"The curious case of neural text degeneration", ICLR 2020 (top-p, nucleus sampling).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Chance(NamedTuple):
    """Options of a draw.

    Attributes:
        temperature: divides logits; above 0.
        top_k: draw among this many likeliest tokens; 0 draws among all.
        top_p: draw among the fewest likeliest tokens that have this probability together, in (0, 1].
        never: [K] int64, tokens that are never drawn; taken out first.
    """

    temperature: float
    top_k: int
    top_p: float
    never: np.ndarray

    @property
    def is_plain(self) -> bool:
        """True where all tokens but those that are never drawn have a chance."""
        return not self.top_k and self.top_p == 1.0


def token_probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float, banned: Tensor) -> Tensor:
    """Probability of each token.

    Args:
        logits: [B, V].
        temperature, top_k, top_p: see `Chance`.
        banned: [K] int64, tokens that are never drawn; taken out first.

    Returns:
        [B, V] float64, every row sums to 1. Of equally likely tokens the lower id comes first.
    """
    logits = logits.to(torch.float64).index_fill(1, banned, -torch.inf)
    logits = (logits - logits.amax(1, keepdim=True)) / temperature  # 0 at most: no temperature makes infinity of it
    if not top_k and top_p == 1.0:
        return torch.softmax(logits, 1)
    ranked, order = torch.sort(logits, dim=1, descending=True, stable=True)
    probabilities = torch.softmax(ranked, 1)
    if top_k:
        probabilities[:, top_k:] = 0.0
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    if top_p < 1.0:
        # A token stays while those before it have less than top_p: the first always does.
        before = torch.cat([torch.zeros_like(probabilities[:, :1]), probabilities.cumsum(1)[:, :-1]], 1)
        probabilities = torch.where(before < top_p, probabilities, torch.zeros_like(probabilities))
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(1, order, probabilities)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] int64 from probabilities [B, V] and uniform numbers in [0, 1), [B], by the inverse of the sums."""
    ends = probabilities.cumsum(1)
    return (ends <= uniform.unsqueeze(1) * ends[:, -1:]).sum(1)


def uniforms(seed: int, molecule: int, steps: int) -> np.ndarray:
    """Uniform numbers [steps] float64 in [0, 1) of one molecule, which depend on seed and its index alone."""
    return np.random.default_rng([seed, molecule]).random(steps)
