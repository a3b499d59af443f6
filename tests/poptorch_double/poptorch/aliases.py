"""Shared tensors: which paths of a model hold one tensor on the device.

On its way to the device every place of a parameter or buffer gets a tensor of its own; PopTorch then walks the
model's state dict and puts one tensor where the host had one (_compileWithDispatch in
python/_poplar_executor.py). It takes the names of the state dict for paths of modules.
"""

from collections import defaultdict
from typing import Dict, List

from torch import nn

from .machine import Machine
from .poptorch_core import Error

_MASK = "local variable 'old_addresses' referenced before assignment"


def device_names(model: nn.Module) -> Dict[str, str]:
    """The name on the device of what is at every path: of tensors that are shared, the first path.

    Raises:
        UnboundLocalError: a shared tensor has a name that is no path; in the context of the AttributeError that
            says which, as PopTorch's cleaning up masks it.
        KeyError: a buffer is shared; PopTorch looks for it among the parameters when it restores the model.
        Error: the state dict lacks a path of a shared tensor. Stricter than PopTorch, which goes on with two
            tensors and leaves one of them in the model.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    first = {id(tensor): name for name, tensor in {**parameters, **buffers}.items()}
    names = {name: name for name in (*parameters, *buffers)}
    for key, group in _groups(model).items():
        for other in group[1:]:
            try:
                model.get_submodule(other.rpartition(".")[0])
            except AttributeError:
                raise UnboundLocalError(_MASK)  # noqa: B904 (the context is the point)
            if group[0] not in parameters:
                raise KeyError(group[0])
            names[other] = first[key]
    everywhere = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in everywhere:
        if name not in names:
            if Machine.strict:
                raise Error(
                    f"{name} is also {first[id(tensor)]}, but is not in the state dict: it would be two tensors"
                )
            names[name] = first[id(tensor)]
    return names


def _groups(model: nn.Module) -> Dict[int, List[str]]:
    """Names in the state dict that share a tensor, by its id."""
    names: Dict[int, List[str]] = defaultdict(list)
    for name, tensor in model.state_dict(keep_vars=True).items():
        names[id(tensor)].append(name)
    return {key: group for key, group in names.items() if len(group) > 1}
