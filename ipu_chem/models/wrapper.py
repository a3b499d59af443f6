"""What modules around a graph model have in common: to everyone else they are the model itself.

On data's way: inside the device program, between what comes from the host and the model.
"""

from typing import Any, List

from torch import nn

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
        """As the model's; what the wrapper does belongs to the first."""
        return [_PREFIX + name for name in self.model.blocks()]  # type: ignore[operator]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.load_state_dict(state_dict, *args, **kwargs)
