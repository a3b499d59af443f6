"""Marks in a model that say which block, and so which IPU, what follows belongs to (python/ops.py).

BeginBlock changes neither the class of a module nor its state: it registers a forward pre-hook, which goes
with the module when it is copied or pickled, and says nothing outside the tracing of a program.
"""

from collections import OrderedDict
from typing import Any, Callable, Optional

import torch

from .placement import Placement
from .poptorch_core import Error
from .tracing import Forward


class Block(torch.nn.Module):
    """A context manager; what runs after its end, and in no other block, is refused."""

    _stages_manager: Any = None  # that of the program being traced

    @staticmethod
    def useAutoId() -> None:
        if Block._stages_manager is not None:
            Block._stages_manager.resetAutoId()

    @staticmethod
    def start(user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> None:
        if Block._stages_manager is not None:
            Block._stages_manager.beginStage(user_id, ipu_id)

    def __init__(self, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> None:
        super().__init__()
        self._user_id = user_id
        self._ipu_id = ipu_id

    def __enter__(self) -> None:
        Block.start(self._user_id, self._ipu_id)

    def __exit__(self, *_: Any) -> None:
        if Forward.tracing():
            Placement.current().end()


class _BlockHook:
    """Begins a block; an id given to it while one program is traced stays for the next."""

    def __init__(self, user_id: Optional[str], ipu_id: Optional[int]) -> None:
        self._user_id = user_id
        self._ipu_id = ipu_id

    def __call__(self, module: Any, inputs: Any) -> None:
        if Block._stages_manager is not None:
            if self._user_id is None:
                self._user_id = Block._stages_manager.nextAutoId()
            Block._stages_manager.beginStage(self._user_id, self._ipu_id)

    def __repr__(self) -> str:
        return f"BeginBlock(user_id={self._user_id}, ipu_id={self._ipu_id})"


class LegacyBeginBlockFn(torch.nn.Module):
    """What BeginBlock makes of a function."""

    def __init__(self, layer_to_call: Any, user_id: Any = None, ipu_id: Any = None) -> None:
        super().__init__()
        self._layer_to_call = layer_to_call
        self._hook = _BlockHook(user_id, ipu_id)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._hook(self, args)
        return self._layer_to_call(*args, **kwargs)


def BeginBlock(layer_to_call: Any, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> Any:
    """Mark a module in place, and return it: a block begins where it is called, and ends where the next begins."""
    if not isinstance(layer_to_call, torch.nn.Module):
        if callable(layer_to_call):
            return LegacyBeginBlockFn(layer_to_call, user_id, ipu_id)
        raise Error("BeginBlock takes a torch.nn.Module or a function")
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


def BlockFunction(user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> Callable[..., Any]:
    """A decorator: the function runs in a block of its own."""

    def decorator(func: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with Block(user_id, ipu_id):
                return func(*args, **kwargs)

        return wrapper

    return decorator
