"""One vector for each molecule of a pack of text, out of one vector for each of its tokens.

    tokens     < C O > < N > . .     < and > mark begin and end of a molecule, dots are padding
    ends       4 7 7                 tokens up to the end of each molecule; in padding those of the whole pack
    counted    0 1 1 0 0 1 0 0 0     marks are left out unless asked for

Means, maxima and sums run over a molecule's tokens, not over the marks that all molecules have: what stands at the
first has seen nothing but itself. ``special_tokens`` counts them all the same, as other programs do. Two kinds read
one place that has seen the whole molecule: "last", its last token, was trained to tell that the molecule is complete;
"eos", the mark of its end, was never asked for anything, but the mark is always the same, so that vectors differ only
in what was seen, and linear models learn properties better from them. Means and sums are better than both.

Shapes: B packs, S token slots, M molecule slots, F features.
"""

from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.models.base import Model
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.decoder_layers import through_layers
from ipu_chem.models.layers import at_least_float32, keep
from ipu_chem.models.next_token import following_nats

POOLINGS = ("mean", "max", "sum", "last", "eos")


def pool(features: Tensor, ends: Tensor, kind: str = "mean", special_tokens: bool = False, leading: int = 1) -> Tensor:
    """Features of molecules from those of their tokens.

    Args:
        features: [B, S, F] of tokens; anything in padding.
        ends: [B, M] integer, tokens up to the end of each molecule; in padding those of the whole pack.
        kind: one of `POOLINGS`: mean, maximum or sum over the tokens, or the vector of the last one or of the end.
        special_tokens: count the first and the last token too, the marks of begin and end, in means, maxima and sums.
        leading: tokens before a molecule's own: the mark of its begin, and the properties that a model is given.

    Returns:
        [B, M, F], float32 at least; exactly 0 in padding and for molecules without a token.

    Raises:
        ValueError: unknown kind.
    """
    check_pooling(kind)
    slot = torch.arange(features.shape[1], dtype=torch.int32, device=ends.device)
    with_marks = kind == "eos" or (special_tokens and kind != "last")
    first, behind = _bounds(ends) if with_marks else _bounds(ends, leading, 1)
    counted = (slot >= first.unsqueeze(2)) & (slot < behind.unsqueeze(2))  # [B, M, S]
    real = slot.unsqueeze(0) < ends.to(torch.int32).narrow(1, ends.shape[1] - 1, 1)  # [B, S]
    features = keep(at_least_float32(features), real.unsqueeze(2))
    if kind == "max":
        features = _running_maximum(features, counted, first)
    if kind in ("max", "last", "eos"):
        counted = counted & (slot == behind.unsqueeze(2) - 1)
    # By a matrix product, which IPUs are best at, not by an index: the derivative of a gather scatters.
    total = torch.matmul(counted.to(features.dtype), features)
    if kind == "mean":
        total = total / torch.clamp(behind - first, min=1).unsqueeze(2).to(total.dtype)
    return total


def check_pooling(kind: str) -> None:
    """Refuse what is none of `POOLINGS`.

    Raises:
        ValueError: names those there are.
    """
    if kind not in POOLINGS:
        raise ValueError(f"pooling={kind!r}: choose one of {', '.join(POOLINGS)}.")


def real_molecules(ends: Tensor) -> Tensor:
    """[B, M] bool, False in padding, from ``ends`` as `pool` takes them."""
    first, behind = _bounds(ends)
    return behind > first


def _bounds(ends: Tensor, leading: int = 0, last: int = 0) -> Tuple[Tensor, Tensor]:
    """First counted token of each molecule and the one behind its last, [B, M] int32, some at both ends left out."""
    ends = ends.to(torch.int32)  # IPUs compare no narrower integers
    start = torch.zeros((ends.shape[0], 1), dtype=torch.int32, device=ends.device)
    starts = torch.cat([start, ends], 1).narrow(1, 0, ends.shape[1])
    return starts + leading, ends - last


def _running_maximum(features: Tensor, counted: Tensor, first: Tensor) -> Tensor:
    """[B, S, F]: at every counted token, the maximum over those of its molecule up to it; else without meaning.

    Looks back one token, then two, then four: a table of [B, M, S, F] would not fit. The larger of two is chosen,
    not their maximum taken: windows overlap, and devices differ in how a tie shares out the derivative.
    """
    slots = features.shape[1]
    start = (counted.to(torch.int32) * first.unsqueeze(2)).sum(1, dtype=torch.int32)  # [B, S]
    place = torch.arange(slots, dtype=torch.int32, device=features.device) - start
    step = 1
    while step < slots:
        earlier = features.roll(step, 1)
        chosen = (place >= step).unsqueeze(2) & (earlier > features)
        features = torch.where(chosen, earlier, features)
        step *= 2
    return features


class PooledHead(nn.Module):
    """The last normalization and `pool`."""

    def __init__(self, ln_f: nn.Module, kind: str, special_tokens: bool = False, leading: int = 1) -> None:
        super().__init__()
        check_pooling(kind)
        self.ln_f = ln_f
        self.kind = kind
        self.special_tokens, self.leading = special_tokens, leading

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """[B, S, F], ends [B, M] -> [B, M, F]."""
        return pool(self.ln_f(x), ends, self.kind, self.special_tokens, self.leading)


class Reading(Model):
    """The embedding and the layers of a ChemGPT, which read molecules; a head of its own makes something of them."""

    kernel: Optional[Callable[[Tensor, Tensor], Tensor]] = None  # a backend's own form, where nothing is differentiated
    embedding: nn.Module
    layers: nn.ModuleList

    def _read(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, S] integer each -> [B, S, F]."""
        if self.kernel is not None and not torch.is_grad_enabled():
            return self.kernel(ids, position_ids)
        return through_layers(self.embedding, self.layers, ids, position_ids)


class PooledChemGPT(Reading):
    """A ChemGPT that gives a vector for each molecule in place of logits.

    Weights are the ChemGPT's own and keep their names; its projection on the vocabulary is left behind.
    """

    def __init__(self, chemgpt: ChemGPT, pooling: str = "mean", special_tokens: bool = False, leading: int = 1) -> None:
        """Take a ChemGPT's layers.

        Args:
            chemgpt: trained, or with fresh weights.
            pooling: one of `POOLINGS`.
            special_tokens, leading: see `pool`.

        Raises:
            ValueError: unknown pooling.
        """
        super().__init__()
        self._multipliers = chemgpt.learning_rate_multipliers()
        self.embedding = chemgpt.embedding
        self.layers = chemgpt.layers
        self.head: nn.Module = PooledHead(chemgpt.head.ln_f, pooling, special_tokens, leading)

    def blocks(self) -> List[str]:
        return ["embedding"] + [f"layers.{i}" for i in range(len(self.layers))] + ["head"]

    def learning_rate_multipliers(self) -> Dict[str, float]:
        """See `ChemGPT.learning_rate_multipliers`; 1 for what it does not have."""
        return {name: self._multipliers.get(name, 1.0) for name, _ in self.named_parameters()}

    def forward(self, ids: Tensor, position_ids: Tensor, ends: Tensor) -> Tensor:
        """Embed.

        Args:
            ids, position_ids: [B, S] integer, see `ChemGPT.forward`.
            ends: [B, M] integer, tokens up to the end of each molecule; in padding those of the whole pack.

        Returns:
            [B, M, F], float32 at least, exactly 0 in padding.
        """
        x = self._read(ids, position_ids)
        return self.head(x, ends)


class ScoredChemGPT(Reading):
    """A ChemGPT that gives the log-likelihood of each molecule in place of logits; weights keep their names."""

    def __init__(self, chemgpt: ChemGPT, leading: int = 1) -> None:
        """Take all parts of a ChemGPT; ``leading`` tokens of every molecule are given, see `pool`."""
        super().__init__()
        self._leading = leading
        self.embedding, self.layers, self.head = chemgpt.embedding, chemgpt.layers, chemgpt.head

    def blocks(self) -> List[str]:
        """See `Model.blocks`."""
        return ["embedding"] + [f"layers.{i}" for i in range(len(self.layers))] + ["head"]

    def forward(self, ids: Tensor, position_ids: Tensor, ends: Tensor) -> Tensor:
        """Score.

        Args:
            ids, position_ids: [B, S] integer, see `ChemGPT.forward`.
            ends: [B, M] integer, as `pool` takes them.

        Returns:
            [B, M, 1], nats, of all tokens of a molecule after the leading ones; float32 at least, 0 in padding.
        """
        x = self._read(ids, position_ids)
        nats = following_nats(self.head(x), ids)  # [B, S]; a molecule's last token is followed by nothing that counts
        first, behind = _bounds(ends, self._leading - 1, 1)  # a token tells of the next one
        slot = torch.arange(ids.shape[1], dtype=torch.int32, device=ends.device)
        counted = (slot >= first.unsqueeze(2)) & (slot < behind.unsqueeze(2))  # [B, M, S]
        real = slot.unsqueeze(0) < ends.to(torch.int32).narrow(1, ends.shape[1] - 1, 1)  # [B, S]
        return torch.matmul(counted.to(nats.dtype), keep(nats, real).unsqueeze(2))
