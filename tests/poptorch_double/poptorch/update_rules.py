"""Weight updates as PopART does them, one optimizer step at a time.

Where they are not torch's: gradient clipping has no epsilon and acts on what enters the moments (Adam: after
the L2 penalty) or on what is subtracted (SGD: after momentum and penalty), whose scale is the loss scaling.
Arithmetic is in float32; moments and weights are rounded to the types that they are kept in, and of float16
weights there is no other copy. `bias_correction` of AdamW has no effect: PopTorch 3.4 passes PopART the same
mode either way (getPopartOptimizer in popart_compiler/source/CompilerImpl.cpp).
"""

from typing import Any, Dict

import torch
from torch import Tensor

Tensors = Dict[str, Tensor]


def state_tensors(settings: Dict[str, Any], parameters: Tensors, accumulates: bool) -> Tensors:
    """What an optimizer keeps from step to step, by PopART's names, all zero; accumulators are not part of it.

    Args:
        settings: see `optimizer_settings.describe`.
        parameters: those with a gradient.
        accumulates: gradients over several micro-batches.
    """
    state: Tensors = {}
    first, second = settings["first_type"], settings["second_type"]
    for name, parameter in parameters.items():
        if settings["kind"] != "SGD":
            state[f"Accl1___{name}"] = torch.zeros(parameter.shape, dtype=first)
            state[f"Accl2___{name}"] = torch.zeros(parameter.shape, dtype=second)
            state[f"Step___{name}"] = torch.zeros(())
        elif accumulates or _group(settings, name)["momentum"] != 0 or "momentum" not in settings["constant"]:
            state[f"Accl1___{name}"] = torch.zeros(parameter.shape, dtype=first)
    return state


def update(settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors, rounding: Any) -> None:
    """One optimizer step, in place; ``gradients`` still carry the loss scaling."""
    wide = {name: gradient.float() for name, gradient in gradients.items()}
    rule = _sgd if settings["kind"] == "SGD" else _adam
    rule(settings, parameters, wide, state, rounding)


def _sgd(settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors, rounding: Any) -> None:
    scale = settings["loss_scaling"]
    steps: Tensors = {}
    for name, gradient in gradients.items():
        group, weight = _group(settings, name), parameters[name].float()
        if f"Accl1___{name}" not in state:  # no momentum and no accumulation: nothing is kept
            steps[name] = gradient * (1 - group["dampening"])
            continue
        kept = state[f"Accl1___{name}"]
        penalised = gradient + scale * group["weight_decay"] * weight
        velocity = kept.float() * group["momentum"] + penalised * (1 - group["dampening"])
        _keep(kept, velocity, rounding)
        steps[name] = kept.float()
    factor = _clip_factor(settings, steps)
    for name, step in steps.items():
        group, weight = _group(settings, name), parameters[name].float()
        if f"Accl1___{name}" not in state:
            weight = weight * (1 - group["lr"] * (1 - group["dampening"]) * group["weight_decay"])
        _keep(parameters[name], weight - step * factor * (group["lr"] / scale), rounding)


def _adam(settings: Dict[str, Any], parameters: Tensors, gradients: Tensors, state: Tensors, rounding: Any) -> None:
    entering: Tensors = {}
    for name, gradient in gradients.items():
        entering[name] = gradient / settings["loss_scaling"]
        if settings["kind"] == "ADAM":
            entering[name] = entering[name] + _group(settings, name)["weight_decay"] * parameters[name].float()
    factor = _clip_factor(settings, entering)
    for name, gradient in entering.items():
        group, weight = _group(settings, name), parameters[name].float()
        gradient, (beta1, beta2) = gradient * factor, group["betas"]
        first, second = state[f"Accl1___{name}"], state[f"Accl2___{name}"]
        _keep(first, first.float() * beta1 + gradient * (1 - beta1), rounding)
        _keep(second, second.float() * beta2 + gradient * gradient * (1 - beta2), rounding)
        step = float(state[f"Step___{name}"].add_(1))
        mean, square = first.float() / (1 - beta1**step), second.float() / (1 - beta2**step)
        change = mean / (square.sqrt() + group["eps"])
        if settings["kind"] == "ADAMW":
            change = change + group["weight_decay"] * weight
        _keep(parameters[name], weight - group["lr"] * change, rounding)


def _keep(target: Tensor, values: Tensor, rounding: Any) -> None:
    target.copy_(rounding.to(values, target.dtype))


def _clip_factor(settings: Dict[str, Any], tensors: Tensors) -> float:
    limit = settings["max_grad_norm"]
    if limit == float("inf") or not tensors:
        return 1.0
    norm = float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())
    return limit / max(limit, norm)


def _group(settings: Dict[str, Any], name: str) -> Dict[str, Any]:
    return settings["groups"][settings["group_of"][name]]
