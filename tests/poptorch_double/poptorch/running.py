"""The schedule of a call.

Layout of a call, inputs and outputs alike, slowest first: [device iteration, accumulation, replica,
micro-batch]. PopART numbers the anchors of OutputMode.All the same way; Final gives one entry per replica. A
scalar counts as one row where there is more than one entry, and stays a scalar otherwise. A pipeline changes
when things are computed, and nothing of what.

Every replica adds up the gradients of its own micro-batches, in the accumulator's type; then the replicas, of
all processes, add up theirs.
"""

from contextlib import nullcontext
from typing import Any, Dict, List

import torch
from torch import Tensor

from . import collectives, update_rules
from .arguments import Arguments
from .coercion import narrowed
from .compilation import call
from .device_types import DeviceTypes, as_on_device
from .enums import OutputMode, ReductionType
from .forward import Forward
from .functions import Functions
from .half import HalfOnCpu
from .marks import popart_differentiates
from .structures import flatten

Tensors = Dict[str, Tensor]


def run(executable: Any, arguments: Arguments) -> List[Tensor]:
    """Outputs of one call, flat; ``arguments`` are in the device's types."""
    options = executable.options
    iterations, replicas = options.device_iterations, options.replication_factor
    accumulation = options.Training.gradient_accumulation
    pieces = iterations * accumulation * replicas
    inputs = flatten((arguments.args, arguments.kwargs))
    if executable.synthetic:
        inputs = [torch.zeros_like(tensor) for tensor in inputs]
    outputs: List[List[Tensor]] = []
    modes_now = _switch(executable.modes)
    try:
        for iteration in range(iterations):
            gradients: List[Tensors] = [{} for _ in range(replicas)]
            for part in range(accumulation * replicas):
                piece = iteration * accumulation * replicas + part
                micro = arguments.with_tensors([_piece(tensor, piece, pieces) for tensor in inputs])
                found: Tensors = {}
                outputs.append(_forward(executable, micro, found))
                _accumulate(executable, gradients[part % replicas], found)
            if executable.training:
                update_rules.update(
                    executable.settings,
                    executable.parameters,
                    _reduced(executable, gradients),
                    executable.state,
                    executable.rounding,
                )
    finally:
        _switch(modes_now)
    return [_returned(executable, [output[i] for output in outputs]) for i in range(len(outputs[0]))]


def _forward(executable: Any, micro: Arguments, gradients: Tensors) -> List[Tensor]:
    """One micro-batch: fills ``gradients``, still with the loss scaling; returns the outputs, flat."""
    leaves = executable.leaves()
    buffers = {n: b if b.is_floating_point() else b.clone() for n, b in executable.buffers.items()}
    arithmetic: Any = HalfOnCpu() if executable.facts.has_half else nullcontext()
    device = DeviceTypes()
    with Forward() as forward, torch.enable_grad():
        with as_on_device(device), arithmetic, Functions(device):
            result = call(executable.module, executable.paths, {**leaves, **buffers}, micro)
        if executable.training:
            scaled = forward.loss() * executable.settings["loss_scaling"]
            wanted = [leaves[name] for name in executable.trained]
            with popart_differentiates(), device, device.popart_differentiates(), arithmetic:
                found = torch.autograd.grad(scaled, wanted, allow_unused=True)
            for name, leaf, gradient in zip(executable.trained, wanted, found):
                gradients[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return [narrowed(tensor.detach()) for tensor in flatten(result)]


def _accumulate(executable: Any, total: Tensors, gradients: Tensors) -> None:
    """Add the gradients of one micro-batch to those of others of its replica."""
    kept_in = executable.settings.get("accum_type") if executable.options.Training.gradient_accumulation > 1 else None
    for name, gradient in gradients.items():
        dtype = gradient.dtype if kept_in is None else kept_in
        value = gradient.float()
        if name in total:
            value = total[name].float() + value
        total[name] = executable.rounding.to(value, dtype)


def _reduced(executable: Any, replicas: List[Tensors]) -> Tensors:
    """Gradients of an optimizer step, over the replicas of all processes."""
    options = executable.options
    if not executable.trained:
        return {}
    everywhere = collectives.gather(replicas, options)
    factor = 1.0
    if options.Training.accumulation_and_replication_reduction_type == ReductionType.Mean:
        factor = 1 / (options.Training.gradient_accumulation * len(everywhere))
    reduced: Tensors = {}
    for name, first in everywhere[0].items():
        total = first.float()
        for replica in everywhere[1:]:
            total = executable.rounding.to(total + replica[name].float(), first.dtype).float()
        reduced[name] = executable.rounding.to(total * factor, first.dtype)
    return reduced


def _switch(modes: "Dict[torch.nn.Module, bool]") -> "Dict[torch.nn.Module, bool]":
    """Set train and eval modes; returns those before."""
    before = {module: module.training for module in modes}
    for module, training in modes.items():
        module.training = training
    return before


def _piece(tensor: Tensor, index: int, pieces: int) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    size = tensor.shape[0] // pieces
    return tensor[index * size : (index + 1) * size]


def _returned(executable: Any, entries: List[Tensor]) -> Tensor:
    """Entries, one for every round of every replica, as the output mode has them."""
    options = executable.options
    replicas, mode = options.replication_factor, options.output_mode
    if mode == OutputMode.Final:
        entries = entries[-replicas:]
    if executable.synthetic:
        entries = [torch.zeros_like(entry) for entry in entries]
    if len(entries) == 1:
        return entries[0].clone()
    return torch.cat([entry.reshape(1) if entry.dim() == 0 else entry for entry in entries])
