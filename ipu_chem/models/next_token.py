"""A language model as a device runs it: logits in training, one number per token in evaluation."""

import torch
from torch import Tensor

from ipu_chem.models.layers import as_index, keep
from ipu_chem.models.wrapper import Wrapper


class NextToken(Wrapper):
    """Spares the link to the host: S numbers of a pack are transferred in evaluation, not S times the vocabulary."""

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """ids, position_ids [B, S] integer -> in training logits [B, S, V]; else [B, S], log-likelihood in nats.

        That of a slot is of the token in the next slot; where nothing follows in the same molecule (its last token,
        padding) it means nothing.
        """
        logits = self.model(ids, position_ids)
        if self.training:
            return logits
        return following_nats(logits, ids)


def following_nats(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-likelihood of the token in the next slot, [B, S] nats, from logits [B, S, V] and ids [B, S] integer."""
    following = as_index(torch.cat([ids[:, 1:], ids[:, :1]], 1))
    tokens = torch.arange(logits.shape[-1], dtype=following.dtype, device=logits.device)
    # By comparison, as the loss does it (`token_cross_entropy`).
    return keep(logits, tokens == following.unsqueeze(-1)).sum(-1) - torch.logsumexp(logits, -1)
