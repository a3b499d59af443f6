"""Weight updates as PopART does them, one optimizer step at a time.

Where they are not torch's: gradient clipping has no epsilon and acts on what enters the moments (Adam: after
the L2 penalty) or on what is subtracted (SGD: after momentum and penalty), whose scale is the loss scaling.
"""

from typing import Any, Dict

import torch
from torch import Tensor

Tensors = Dict[str, Tensor]


def state_tensors(kind: str, settings: Dict[str, Any], parameters: Tensors, accumulates: bool) -> Tensors:
    """What an optimizer keeps from step to step, by PopART's names, all zero; accumulators are not part of it."""
    state: Tensors = {}
    for name, parameter in parameters.items():
        if name not in settings["group_of"]:
            continue
        if kind != "SGD":
            state[f"Accl1___{name}"] = torch.zeros_like(parameter)
            state[f"Accl2___{name}"] = torch.zeros_like(parameter)
            if settings["bias_correction"]:
                state[f"Step___{name}"] = torch.zeros(())
        elif accumulates or _group(settings, name)["momentum"] != 0 or "momentum" not in settings["constant"]:
            state[f"Accl1___{name}"] = torch.zeros_like(parameter)
    return state


def update(kind: str, settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors) -> None:
    """One optimizer step, in place; ``gradients`` still carry the loss scaling."""
    rule = _sgd if kind == "SGD" else _adam
    rule(kind, settings, parameters, gradients, state)


def _sgd(kind: str, settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors) -> None:
    scale = settings["loss_scaling"]
    steps: Tensors = {}
    for name, gradient in gradients.items():
        group, weight = _group(settings, name), parameters[name]
        velocity = state.get(f"Accl1___{name}")
        if velocity is None:  # no momentum and no accumulation: nothing is kept
            steps[name] = gradient * (1 - group["dampening"])
            continue
        penalised = gradient + scale * group["weight_decay"] * weight
        velocity.mul_(group["momentum"]).add_(penalised * (1 - group["dampening"]))
        steps[name] = velocity.clone()
    factor = _clip_factor(settings, steps)
    for name, step in steps.items():
        group = _group(settings, name)
        if f"Accl1___{name}" not in state:
            parameters[name].mul_(1 - group["lr"] * (1 - group["dampening"]) * group["weight_decay"])
        parameters[name].sub_(step * factor * (group["lr"] / scale))


def _adam(kind: str, settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors) -> None:
    entering: Tensors = {}
    for name, gradient in gradients.items():
        entering[name] = gradient / settings["loss_scaling"]
        if kind == "ADAM":
            entering[name] = entering[name] + _group(settings, name)["weight_decay"] * parameters[name]
    factor = _clip_factor(settings, entering)
    for name, gradient in entering.items():
        group, weight = _group(settings, name), parameters[name]
        gradient, (beta1, beta2) = gradient * factor, group["betas"]
        first, second = state[f"Accl1___{name}"], state[f"Accl2___{name}"]
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean, square = first, second
        if settings["bias_correction"]:
            step = state[f"Step___{name}"].add_(1)
            mean, square = first / (1 - beta1 ** float(step)), second / (1 - beta2 ** float(step))
        change = mean / (square.sqrt() + group["eps"])
        if kind == "ADAMW":
            change = change + group["weight_decay"] * weight
        weight.sub_(group["lr"] * change)


def _clip_factor(settings: Dict[str, Any], tensors: Tensors) -> float:
    limit = settings["max_grad_norm"]
    if limit == float("inf"):
        return 1.0
    norm = float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())
    return limit / max(limit, norm)


def _group(settings: Dict[str, Any], name: str) -> Dict[str, Any]:
    return settings["groups"][settings["group_of"][name]]
