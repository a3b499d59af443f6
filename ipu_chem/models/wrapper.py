"""What modules around a graph model have in common: to everyone else they are the model itself.

On data's way: inside the device program, between what comes from the host and the model.
"""

from typing import Any, List

import torch
from torch import Tensor, nn

_PREFIX = "model."


def wrapped_name(block: str) -> str:
    """What the innermost model calls one of its blocks, however many wrappers are around it."""
    while block.startswith(_PREFIX):
        block = block[len(_PREFIX) :]
    return block


class Wrapper(nn.Module):
    """Holds a graph model; its state dict is the model's, so checkpoints fit with and without it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def blocks(self) -> List[str]:
        """As the model's; what the wrapper does belongs to the first. A model that names none is one block."""
        named = getattr(self.model, "blocks", None)
        return [_PREFIX + name for name in named()] if named else [_PREFIX[:-1]]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.load_state_dict(state_dict, *args, **kwargs)


class BothDirections(Wrapper):
    """A graph model that has no parameter ``undirected``: it gets edges both ways from those that come once."""

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        graph_index: Tensor,
        edge_index: Tensor,
        node_mask: Tensor,
        edge_mask: Tensor,
        *rest: Tensor,
    ) -> Any:
        """Predict; arguments as of the model's forward, edge_index [B, 2, E] -> [B, 2, 2 E]."""
        both = torch.cat([edge_index, torch.cat([edge_index[:, 1:], edge_index[:, :1]], 1)], 2)
        return self.model(z, pos, graph_index, both, node_mask, torch.cat([edge_mask, edge_mask], 1), *rest)
