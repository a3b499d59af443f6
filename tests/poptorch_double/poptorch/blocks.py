"""Marks in a model that say which block, and so which IPU, what follows belongs to (python/ops.py).

BeginBlock changes neither the class of a module nor its state: it registers a forward pre-hook, which goes
with the module when it is copied or pickled, and says nothing outside the tracing of a program.
"""

from collections import OrderedDict
from typing import Any, Optional

import torch

from .poptorch_core import Error
from .strategies import PipelinedExecution


class _BlockHook:
    """Begins a block."""

    def __init__(self, user_id: Optional[str], ipu_id: Optional[int]) -> None:
        self._user_id = user_id
        self._ipu_id = ipu_id

    def __call__(self, module: Any, inputs: Any) -> None:
        if PipelinedExecution.active is not None:
            PipelinedExecution.active.begin(self._user_id, self._ipu_id)

    def __repr__(self) -> str:
        return f"BeginBlock(user_id={self._user_id}, ipu_id={self._ipu_id})"


def BeginBlock(layer_to_call: Any, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> Any:
    """Mark a module in place, and return it: a block begins where it is called, and ends where the next begins."""
    if not isinstance(layer_to_call, torch.nn.Module):
        raise Error("BeginBlock takes a torch.nn.Module")
    if any(isinstance(hook, _BlockHook) for hook in layer_to_call._forward_pre_hooks.values()):
        raise Error("the module has been assigned to a block already")
    layer_to_call.register_forward_pre_hook(_BlockHook(user_id, ipu_id))
    return layer_to_call


def removeBlocks(module: torch.nn.Module) -> None:
    """Take all marks off a module and those inside it."""
    assert isinstance(module, torch.nn.Module)
    for part in module.modules():
        hooks = part._forward_pre_hooks.items()
        part._forward_pre_hooks = OrderedDict((key, hook) for key, hook in hooks if not isinstance(hook, _BlockHook))
