"""An optimizer as the device knows it, and which other may take its place once a program is compiled.

From python/_optimizer_attributes.py (what is read from an optimizer), popart_compiler/source/CompilerImpl.cpp
(getPopartOptimizer) and PopART's rules for a replacement (willow/src/optimizer.cpp, adam.cpp, sgd.cpp:
validReplacement): only the values of variables may differ.
"""

import math
import numbers
from typing import Any, Dict, List

import torch
from torch import Tensor, nn

from . import optim
from .enums import ReductionType
from .poptorch_core import Error

_KINDS = ((optim.SGD, "SGD"), (optim.AdamW, "ADAMW"), (optim.Adam, "ADAM"))
_GROUP_ATTRIBUTES = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay"),
    "ADAM": ("lr", "betas", "eps", "weight_decay"),
    "ADAMW": ("lr", "betas", "eps", "weight_decay"),
}
# One per optimizer, fixed by compilation.
_FIXED = ("accum_type", "first_type", "second_type", "max_grad_norm")


def describe(optimizer: Any, model: nn.Module, options: Any) -> Dict[str, Any]:
    """All that the device gets of an optimizer.

    Args:
        optimizer: of poptorch.optim.
        model: whose parameters it has.
        options: of the program.
    """
    if not isinstance(optimizer, optim.Optimizer):
        raise NotImplementedError("the double takes optimizers of poptorch.optim only")
    kind = next(name for cls, name in _KINDS if isinstance(optimizer, cls))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    group_of: Dict[str, int] = {}
    for index, group in enumerate(optimizer.param_groups):  # type: ignore[attr-defined]
        for parameter in group["params"]:
            group_of[names[id(parameter)]] = index  # KeyError: not a parameter of this model
    if any(group.get("amsgrad") for group in optimizer.param_groups):  # type: ignore[attr-defined]
        raise ValueError("optimizers with amsgrad do not run on IPUs")
    mean = options.Training.accumulation_and_replication_reduction_type == ReductionType.Mean
    if optimizer.accum_type == torch.float16 and mean:  # type: ignore[attr-defined]
        raise NotImplementedError("the double has no running means, which PopTorch takes in float16 accumulators")
    wanted = _GROUP_ATTRIBUTES[kind]
    groups = [{name: group[name] for name in wanted} for group in optimizer.param_groups]  # type: ignore[attr-defined]
    for group in groups:
        for name, value in group.items():
            _check_number(name, value)
    if math.isnan(optimizer.max_grad_norm):  # type: ignore[attr-defined]
        raise Error("the maximum norm of gradients is NaN")
    constant = optimizer.variable_attrs.isConstant  # type: ignore[attr-defined]
    first, second = ("velocity_accum_type", None) if kind == "SGD" else optim.MOMENTS
    return {
        "kind": kind,
        "groups": groups,
        "group_of": group_of,
        "constant": [name for name in (*wanted, "loss_scaling") if constant(name)],
        "loss_scaling": optimizer.loss_scaling,  # type: ignore[attr-defined]
        "max_grad_norm": optimizer.max_grad_norm,  # type: ignore[attr-defined]
        "accum_type": optimizer.accum_type,  # type: ignore[attr-defined]
        "first_type": getattr(optimizer, first),
        "second_type": None if second is None else getattr(optimizer, second),
    }


def _check_number(name: str, value: Any) -> None:
    if name == "betas":
        assert isinstance(value, tuple) and len(value) == 2, "betas is a pair"
    for part in value if name == "betas" else (value,):
        assert isinstance(part, numbers.Number), f"{name} takes numbers, got {part!r}"


def check_replacement(old: Dict[str, Any], new: Dict[str, Any]) -> None:
    """Refuse another optimizer than one that differs in the values of variables only."""
    if old["kind"] != new["kind"]:
        raise Error(f"an optimizer of another type, {new['kind']}, compiled for {old['kind']}")
    if old["group_of"] != new["group_of"] or len(old["groups"]) != len(new["groups"]):
        raise NotImplementedError("the double keeps the groups of parameters")
    for name in _FIXED:
        if old[name] != new[name]:
            raise Error(f"{name} is {new[name]}, compiled for {old[name]}")
    if set(old["constant"]) != set(new["constant"]):
        changed = sorted(set(old["constant"]) ^ set(new["constant"]))
        raise Error(f"{changed[0]} was constant or variable when compiled, and is now the other")
    for before, after in zip((old, *old["groups"]), (new, *new["groups"])):
        for name in old["constant"]:
            if before.get(name) != after.get(name):
                raise Error(f"{name} was compiled in as a constant and cannot change")


def device_values(settings: Dict[str, Any], trained: List[str]) -> Dict[str, Tensor]:
    """What "ipu_param" shows of the settings, by PopART's names: the learning rates, for those that the double has."""
    if not settings:
        return {}
    values = {"lossScaling_FLOAT": torch.tensor(float(settings["loss_scaling"]))}
    for name in trained:
        group = settings["groups"][settings["group_of"][name]]
        values[f"learningRate___specific___{name}"] = torch.tensor(float(group["lr"]))
    return values
