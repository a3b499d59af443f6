"""Modules around a model, which to everyone else are the model itself."""

from typing import Any, List, Tuple

import torch
from torch import nn

from ipu_chem.models.base import Graph, GraphModel, Model, blocks_of

_PREFIX = "model."


def wrapped_name(block: str) -> str:
    """The name of a block in the innermost model, however many wrappers are around it."""
    while block.startswith(_PREFIX):
        block = block[len(_PREFIX) :]
    return block


class Wrapper(Model):
    """Holds a model; its state dict is the model's, so checkpoints fit with and without it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def blocks(self) -> List[str]:
        """As the model's; what the wrapper does belongs to the first. A model that names none is one block."""
        return [_PREFIX + name for name in blocks_of(self.model)] or [_PREFIX[:-1]]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.load_state_dict(state_dict, *args, **kwargs)


class GraphWrapper(Wrapper, GraphModel):
    """A graph model that makes the graph that another one takes."""

    @property
    def needs_charge(self) -> bool:  # type: ignore[override]
        """As the model's."""
        return self.model.needs_charge

    def expand(self, *inputs: Any) -> Graph:
        """The graph that the model takes, from arguments of `forward`."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Any:
        """Predict; arguments as of `expand`."""
        return self.model(self.expand(*inputs))

    def prepare(self, *inputs: Any) -> Tuple[Any, ...]:
        return self.model.prepare(self.expand(*inputs))

    def from_prepared(self, *prepared: Any) -> Any:
        return self.model.from_prepared(*prepared)


class BothDirections(GraphWrapper):
    """A graph model that has no parameter ``undirected``: it gets edges both ways from those that come once."""

    def expand(self, graph: Graph) -> Graph:  # type: ignore[override]
        """edge_index [B, 2, E] -> [B, 2, 2 E]."""
        once = graph.edge_index
        both = torch.cat([once, torch.cat([once[:, 1:], once[:, :1]], 1)], 2)
        return graph._replace(edge_index=both, edge_mask=torch.cat([graph.edge_mask, graph.edge_mask], 1))
