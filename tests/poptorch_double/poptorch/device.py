"""A compiled program and its memory on the IPUs, which is apart from the host's."""

from typing import Any, Dict, List

import torch
from torch import Tensor

from . import aliases, coercion, compilation, optimizer_settings, running, update_rules
from .arguments import Arguments
from .half import Rounding
from .machine import Machine, check_number, is_simulated
from .poptorch_core import Error
from .structures import flatten

Tensors = Dict[str, Tensor]


class Executable:
    """Weights and optimizer state live here while the program is attached."""

    def __init__(
        self, module: torch.nn.Module, options: Any, training: bool, settings: Dict[str, Any], micro: Arguments
    ) -> None:
        """Compile.

        Args:
            module: in the mode, training or evaluation, that is compiled in.
            options: of the program.
            training: with a loss and an optimizer.
            settings: of the optimizer, as `optimizer_settings.describe` has them.
            micro: arguments of forward for one micro-batch.
        """
        self.module = module
        self.options = options
        self.training = training
        self.settings = settings  # what the device uses
        self.attached = False
        self.modes = {part: part.training for part in module.modules()}
        self.parameters = {name: _device_copy(name, p) for name, p in module.named_parameters()}
        self.buffers = {name: _device_copy(name, b) for name, b in module.named_buffers()}
        self._gradients_wanted = {name for name, p in module.named_parameters() if p.requires_grad}
        self.paths = aliases.device_names(module)
        inputs = to_device_types(micro, tracing=True)
        self.facts = compilation.trace(
            module, self.paths, options, training, self.leaves(), copies(self.buffers), inputs
        )
        self.trained = self._trained(settings) if training else []
        trained = {name: self.parameters[name] for name in self.trained}
        accumulates = options.Training.gradient_accumulation > 1
        self.state: Tensors = update_rules.state_tensors(settings, trained, accumulates) if training else {}
        # PopART has no variables but floating-point ones, and takes only what is used.
        used = self.facts.used | set(settings.get("group_of", ()))
        everything = {**self.parameters, **self.buffers}
        self._variables = {n: t for n, t in everything.items() if t.is_floating_point() and n in used}
        # PopART's buffers on the host, from which every upload is made.
        self._host_weights = copies(self._variables)
        self._host_state = copies(self.state)
        self._host_settings = optimizer_settings.device_values(settings, self.trained)
        seed = options.random_seed if options.exists("random_seed") else 0
        stochastic = bool(options._Popart.options.get("enableStochasticRounding", False))
        self.rounding = Rounding(stochastic, seed)

    @property
    def num_ipus(self) -> int:
        return self.options.replication_factor * self.facts.ipus_per_replica

    @property
    def synthetic(self) -> bool:
        return bool(self.options._Popart.options.get("syntheticDataMode", 0))

    def leaves(self) -> Tensors:
        return {n: t.detach().requires_grad_(n in self._gradients_wanted) for n, t in self.parameters.items()}

    def _trained(self, settings: Dict[str, Any]) -> List[str]:
        for name in self.facts.trained:
            if name not in settings["group_of"]:
                raise NotImplementedError(f"{name} is in no group of the optimizer: PopART trains it with the defaults")
        return self.facts.trained

    # Attachment.

    def check_offline(self) -> None:
        """What compiling without a device refuses."""
        if is_simulated(self.options):
            raise Error("ConnectionType.Never is not supported for the IPU model")
        if self.options.exists("ipu_id"):
            raise Error("offline compilation for a device's number is not supported")
        check_number(self.num_ipus)

    def attach(self) -> None:
        options = self.options
        if is_simulated(options):
            if options.replication_factor > 1:
                raise Error("replicated graphs do not run on the IPU model")
            check_number(self.num_ipus)
        else:
            ipu_id = options.ipu_id if options.exists("ipu_id") else None
            Machine.acquire(self, self.num_ipus, ipu_id)
        self.attached = True

    def detach(self) -> None:
        Machine.release(self)
        self.attached = False
        for tensor in [*self._variables.values(), *self.state.values()]:
            tensor.fill_(float("nan"))  # device memory is lost

    # Copies; the names follow PopTorch's compiled part.

    def copy_weights_to_host(self, host: Tensors) -> None:
        self.check_attached()
        if self.synthetic:
            return
        with torch.no_grad():
            for name, tensor in self._variables.items():
                host[name].copy_(tensor)
                self._host_weights[name].copy_(tensor)

    def copy_weights_to_device(self, host: Tensors) -> None:
        self.check_attached()
        with torch.no_grad():
            for name in self._host_weights:
                self._host_weights[name].copy_(host[name])
        self._upload()

    def read_optimizer_state(self) -> Dict[str, Tensors]:
        self.check_attached()
        for name, tensor in self.state.items():
            self._host_state[name].copy_(tensor)
        return {"ipu_state": copies(self._host_state), "ipu_param": copies(self._host_settings)}

    def write_optimizer_state(self, saved: Dict[str, Any]) -> None:
        """Upload state; the settings among it only change the host's buffers, never the device."""
        self.check_attached()
        for target, source in ((self._host_state, saved["ipu_state"]), (self._host_settings, saved["ipu_param"])):
            for name, tensor in target.items():
                if name in source:  # memcpy: neither shape nor type may differ
                    if source[name].shape != tensor.shape or source[name].dtype != tensor.dtype:
                        raise Error(
                            f"optimizer state {name} is {source[name].dtype} {list(source[name].shape)}, the program's "
                            f"{tensor.dtype} {list(tensor.shape)}"
                        )
                    tensor.copy_(source[name])
        self._upload()

    def update_optimizer(self, settings: Dict[str, Any]) -> None:
        """Send learning rates and other variables to the device."""
        self.check_attached()
        optimizer_settings.check_replacement(self.settings, settings)
        self.settings = settings
        self._host_settings = optimizer_settings.device_values(settings, self.trained)

    def _upload(self) -> None:
        for memory, source in ((self._variables, self._host_weights), (self.state, self._host_state)):
            for name, tensor in memory.items():
                tensor.copy_(source[name])

    def check_attached(self) -> None:
        if not self.attached:
            raise Error("the program is not attached to a device")

    def run(self, arguments: Arguments) -> List[Tensor]:
        """One call; outputs are flat."""
        self.check_attached()
        return running.run(self, to_device_types(arguments))


def to_device_types(arguments: Arguments, tracing: bool = False) -> Arguments:
    """64-bit inputs as 32-bit ones; copies, and one line for each of them, while a program is traced."""
    tensors = []
    for number, tensor in enumerate(flatten((arguments.args, arguments.kwargs))):
        if tracing and tensor.requires_grad:
            raise Error(f"input {number} has requires_grad set to True, which no input of an IPU model can have")
        if tensor.dtype == torch.bfloat16:
            raise Error("an input is bfloat16, which IPUs do not have")
        if tensor.numel() == 0:
            raise Error(f"an input has no elements: {list(tensor.shape)}")
        if tracing:
            coercion.warn_of_tensor(tensor.dtype)
        narrow = coercion.narrowed(tensor.detach())
        tensors.append(narrow.clone() if tracing else narrow)
    return arguments.with_tensors(tensors)


def copies(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _device_copy(name: str, tensor: Tensor) -> Tensor:
    """Plain and apart from the host's tensor."""
    if tensor.dtype == torch.bfloat16 or (tensor.dtype == torch.float64 and Machine.strict):
        raise Error(f"{name} is {str(tensor.dtype).replace('torch.', '')}, which IPUs do not have")
    if tensor.numel() == 0:
        raise Error(f"{name} has no elements: {list(tensor.shape)}")
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    with torch.no_grad():
        copy.copy_(tensor)
    coercion.warn_of_tensor(tensor.dtype)
    return coercion.narrowed(copy)
