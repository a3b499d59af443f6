"""The schedule of a call.

Layout of a call, inputs and outputs alike, slowest first: [device iteration, accumulation, replica,
micro-batch]. PopART numbers the anchors of OutputMode.All the same way; Final and Sum give one entry per
replica, EveryN those of every Nth round. A scalar counts as one row where there is more than one entry, and
stays a scalar otherwise. A pipeline changes when things are computed, and nothing of what.

Every replica adds up the gradients of its own micro-batches, in the accumulator's type; then the replicas, of
all processes, add up theirs.
"""

from contextlib import nullcontext
from typing import Any, Dict, List

import torch
from torch import Tensor
from torch.func import functional_call

from . import collectives, update_rules
from .arguments import Arguments
from .enums import MeanReductionStrategy, OutputMode, ReductionType
from .half import HalfOnCpu
from .marks import popart_differentiates
from .poptorch_core import Error
from .structures import flatten
from .tracing import Forward

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
                _accumulate(executable, gradients[part % replicas], found, part // replicas)
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
    with Forward() as forward, arithmetic, torch.enable_grad():
        result = functional_call(executable.module, {**leaves, **buffers}, micro.args, micro.kwargs)
        if executable.training:
            loss = forward.loss()
            scaled = loss * executable.settings["loss_scaling"]
            wanted = [leaves[name] for name in executable.trained]
            with popart_differentiates():
                found = torch.autograd.grad(scaled, wanted, allow_unused=True)
            for name, leaf, gradient in zip(executable.trained, wanted, found):
                gradients[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return [narrowed(tensor.detach()) for tensor in flatten(result)]


def _accumulate(executable: Any, total: Tensors, gradients: Tensors, before: int) -> None:
    """Add the gradients of one micro-batch to those of ``before`` others of its replica."""
    kept_in = executable.settings.get("accum_type") if executable.options.Training.gradient_accumulation > 1 else None
    for name, gradient in gradients.items():
        dtype = gradient.dtype if kept_in is None else kept_in
        value = gradient.float()
        if _is_running_mean(executable.options):
            mean = total[name].float() if name in total else 0.0
            value = mean * (before / (before + 1)) + value / (before + 1)
        elif name in total:
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
        accumulated = 1 if _is_running_mean(options) else options.Training.gradient_accumulation
        factor = 1 / (accumulated * len(everywhere))
    reduced: Tensors = {}
    for name, first in everywhere[0].items():
        total = first.float()
        for replica in everywhere[1:]:
            total = executable.rounding.to(total + replica[name].float(), first.dtype).float()
        reduced[name] = executable.rounding.to(total * factor, first.dtype)
    return reduced


def _is_running_mean(options: Any) -> bool:
    training = options.Training
    return (
        training.accumulation_and_replication_reduction_type == ReductionType.Mean
        and training.meanAccumulationAndReplicationReductionStrategy == MeanReductionStrategy.Running
    )


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
    elif mode == OutputMode.Sum:
        entries = [sum(entries[r + replicas :: replicas], entries[r]) for r in range(replicas)]
    elif mode == OutputMode.EveryN:
        period = options.output_return_period
        rounds = [entries[start : start + replicas] for start in range(0, len(entries), replicas)]
        entries = [entry for number, each in enumerate(rounds, 1) if number % period == 0 for entry in each]
    if executable.synthetic:
        entries = [torch.zeros_like(entry) for entry in entries]
    if len(entries) == 1:
        return entries[0].clone()
    return torch.cat([entry.reshape(1) if entry.dim() == 0 else entry for entry in entries])


def check_period(options: Any) -> None:
    """PopART (willow/src/dataflow.cpp): EveryN divides the device iterations."""
    if options.output_mode == OutputMode.EveryN and options.device_iterations % options.output_return_period:
        raise Error(
            f"a return period of {options.output_return_period} does not divide deviceIterations="
            f"{options.device_iterations}"
        )


def narrowed(tensor: Tensor) -> Tensor:
    narrow = {torch.int64: torch.int32, torch.float64: torch.float32}
    return tensor.to(narrow.get(tensor.dtype, tensor.dtype))
