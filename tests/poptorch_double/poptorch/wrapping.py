"""What trainingModel does to a model: its class, and those of its tensors, are PopTorch's until destroy().

Objects of these classes are copied as they are and pickled as what they were before (python/_impl.py).
"""

import copy
import weakref
from collections import OrderedDict
from typing import Any, Dict, Tuple

from torch import Tensor, nn

from .poptorch_core import Error

_wrappers: "weakref.WeakSet[type]" = weakref.WeakSet()


def is_wrapped(value: Any) -> bool:
    return type(value) in _wrappers


def wrap(model: nn.Module, executor: Any) -> None:
    """Change the classes of a model, its parameters and its buffers."""
    parent = weakref.ref(executor)  # the model does not keep its program alive

    def copy_if_needed(_: Any) -> bool:
        program = parent()
        return program.copyWeightsToHostIfNeeded() if program is not None else False

    def destroy(_: Any) -> None:
        program = parent()
        if program is not None:
            program.destroy()

    def state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = OrderedDict()
        for name, value in type(self).__bases__[0].state_dict(self, *args, **kwargs).items():
            plain[name] = value.as_subclass(Tensor) if type(value) in _wrappers else value
        return plain

    def copied(self: Any) -> Any:
        other = type(self).__new__(type(self))
        other.__setstate__(dict(vars(self)))
        return other

    own = {
        "copyWeightsToHostIfNeeded": copy_if_needed,
        "destroy": destroy,
        "state_dict": state_dict,
        "__copy__": copied,
    }
    parameter_class, buffer_class = _class("PoptorchParameter", nn.Parameter, {}), _class("PoptorchBuffer", Tensor, {})
    for parameter in model.parameters():
        parameter.__class__ = parameter_class
    for buffer in model.buffers():
        if type(buffer) is not Tensor and not is_wrapped(buffer):
            raise Error(f"all buffers are torch.Tensor, got {type(buffer).__name__}")
        buffer.__class__ = buffer_class
    model.__class__ = _class(f"Poptorch{type(model).__name__}", type(model), own)


def unwrap(model: nn.Module) -> None:
    if not is_wrapped(model):
        raise Error("the model was never wrapped")
    for value in [*model.parameters(), *model.buffers(), model]:
        if is_wrapped(value):
            value.__class__ = type(value).__bases__[0]


def _class(name: str, base: type, own: Dict[str, Any]) -> type:
    wrapper = type(name, (base,), {**own, "__reduce_ex__": _reduced})
    _wrappers.add(wrapper)
    return wrapper


def _reduced(value: Any, protocol: int) -> Tuple[Any, ...]:
    """How pickle sees a wrapped object: as a copy that was never wrapped."""
    wrapper = type(value)
    value.__class__ = wrapper.__bases__[0]
    try:
        return _same, (copy.copy(value),)
    finally:
        value.__class__ = wrapper


def _same(value: Any) -> Any:
    return value
