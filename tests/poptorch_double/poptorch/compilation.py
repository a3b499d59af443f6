"""One micro-batch goes through the model, watched: what comes out of compilation besides the executable.

The order is that of _compileWithDispatch in python/_poplar_executor.py and lowerToPopartFromDispatch in
poptorch/source/LowerToPopartFactories.cpp: what the forward pass does, its marks, then the options.
"""

from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Set

import torch
from torch import Tensor
from torch.func import functional_call

from . import session_options
from .arguments import Arguments
from .device_types import DeviceTypes, as_on_device
from .forward import Forward
from .functions import Functions
from .half import HalfOnCpu
from .overlap import Overlap
from .placement import Placement
from .poptorch_core import Error
from .structures import flatten, rebuild
from .tracing import Watch

Tensors = Dict[str, Tensor]
# Modules whose buffers PopTorch lets change their address (python/_impl.py).
BUFFERS_CAN_CHANGE = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


class Compiled(NamedTuple):
    """What is known of a program without its weights.

    Attributes:
        output: what forward returned.
        ipus_per_replica: IPUs up to the highest used.
        has_half: some operator was on float16.
        used: names of the weights that some operator takes.
        trained: names of the parameters that the loss depends on.
    """

    output: Any
    ipus_per_replica: int
    has_half: bool
    used: Set[str]
    trained: List[str]


def trace(
    module: torch.nn.Module,
    paths: Dict[str, str],
    options: Any,
    training: bool,
    parameters: Tensors,
    buffers: Tensors,
    micro: Arguments,
) -> Compiled:
    """Watch the forward pass.

    Args:
        module: in the mode, training or evaluation, that is compiled in.
        paths: see `aliases.device_names`.
        options: of the program.
        training: with a loss.
        parameters: leaves of the autograd graph, in the device's types.
        buffers: may be written to.
        micro: arguments of forward for one micro-batch, in the device's types; may be written to.
    """
    inputs = flatten((micro.args, micro.kwargs))
    weights = {**parameters, **buffers}
    versions = {id(tensor): tensor._version for tensor in (*inputs, *weights.values())}
    overlap, placement, half = Overlap(inputs), Placement(weights), HalfOnCpu()
    forward, device = Forward(overlap), DeviceTypes(tracing=True)
    watch = Watch(placement, [*inputs, *weights.values()])
    watch.gathers.constants([buffer for buffer in buffers.values() if not buffer.is_floating_point()])
    with ExitStack() as stack:
        stack.enter_context(options._execution_strategy.tracing())
        stack.enter_context(_fixed_weights(module, weights))
        functions = Functions(device, watch, training)
        for context in (placement, forward, as_on_device(device), half, watch, functions, torch.enable_grad()):
            stack.enter_context(context)
        output = call(module, paths, weights, micro)
    returned = flatten(output)
    _check_writes(inputs, buffers, versions, options)
    overlap.check_marks(returned)
    trained: List[str] = []
    if training:
        forward.losses += watch.losses
        loss = forward.loss()
        if loss.numel() != 1:
            raise NotImplementedError("the double differentiates losses of one number")
        trained = _reached(loss, parameters)
    watch.check()
    watch.gathers.check(returned)
    session_options.check(options.toDict())
    overlap.check_options(options)
    placement.check(options, training)
    _check_shares(options, placement.ipus_per_replica)
    structure = rebuild(output, [tensor.detach() for tensor in returned])
    return Compiled(structure, placement.ipus_per_replica, half.seen, set(placement.ipus_of_weight), trained)


def call(module: torch.nn.Module, paths: Dict[str, str], weights: Tensors, micro: Arguments) -> Any:
    """The module's forward with other weights: at every path the one that is there on the device."""
    there = {path: weights[name] for path, name in paths.items()}
    return functional_call(module, there, micro.args, micro.kwargs, tie_weights=False)


@contextmanager
def _fixed_weights(module: torch.nn.Module, weights: Tensors) -> Iterator[None]:
    """Refuse a forward pass that puts other tensors in the place of parameters and buffers."""
    exempt = {
        id(buffer)
        for part in module.modules()
        if isinstance(part, BUFFERS_CAN_CHANGE)
        for buffer in part.buffers(recurse=False)
    }
    fixed = [name for name, buffer in module.named_buffers() if id(buffer) not in exempt]
    fixed += [name for name, _ in module.named_parameters()]

    def check(part: torch.nn.Module, args: Any, output: Any) -> None:
        now = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        for name in fixed:
            if name not in now:
                raise Error(f"{name} is removed from the model in its forward pass")
            if now[name] is not weights[name]:
                raise Error(f"{name} is reassigned in the forward pass: use self.{name}.copy_(...)")

    handle = module.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _check_writes(inputs: List[Tensor], buffers: Tensors, versions: Dict[int, int], options: Any) -> None:
    if any(tensor._version != versions[id(tensor)] for tensor in inputs):
        raise NotImplementedError("the double does not give back inputs that are changed in place")
    changed = [name for name, b in buffers.items() if b.is_floating_point() and b._version != versions[id(b)]]
    if changed and options.replication_factor > 1 and options.broadcast_buffers:
        raise Error(f"{changed[0]} is changed in the forward pass, and buffers are not kept equal between replicas")


def _reached(loss: Tensor, parameters: Tensors) -> List[str]:
    """Names of the parameters that a loss was computed from."""
    names = {id(tensor): name for name, tensor in parameters.items() if tensor.requires_grad}
    found: Set[str] = set()
    seen: Set[Any] = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and id(node.variable) in names:
            found.add(names[id(node.variable)])
        stack += [parent for parent, _ in node.next_functions]
    return [name for name in parameters if name in found]


def _check_shares(options: Any, ipus_per_replica: int) -> None:
    """Stricter than PopTorch, which looks shares up by IPU and never misses one."""
    for ipu in options.available_memory_proportion:
        if not 0 <= ipu < ipus_per_replica:
            raise Error(f"available memory of IPU{ipu}: the program has IPUs 0 to {ipus_per_replica - 1} only")
