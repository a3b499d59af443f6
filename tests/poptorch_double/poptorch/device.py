"""The IPUs and what is loaded on them: device memory apart from the host's, and the schedule of a call.

Layout of a call, inputs and outputs alike, slowest first: [device iteration, accumulation, replica,
micro-batch]. PopART numbers the anchors of OutputMode.All the same way; Final and Sum give one entry per
replica. A scalar counts as one row where there is more than one entry, and stays a scalar otherwise.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch.func import functional_call

from . import update_rules
from .enums import OutputMode, ReductionType
from .poptorch_core import Error
from .structures import flatten, rebuild
from .tracing import Forward, Watch

MAX_IPUS = 64


class Machine:
    """The IPUs of this machine; one program holds them at a time."""

    num_ipus = 16
    holder: "Optional[Executable]" = None

    @classmethod
    def acquire(cls, executable: "Executable", num_ipus: int, round_up: bool) -> None:
        rounded = 1
        while rounded < num_ipus:
            rounded *= 2
        if num_ipus > MAX_IPUS:
            raise Error(f"too many IPUs ({num_ipus}): one process gets {MAX_IPUS}")
        if rounded != num_ipus and not round_up:
            raise Error(f"the model uses {num_ipus} IPUs, which are reserved in powers of two: {rounded} at least")
        if (cls.holder is not None and cls.holder is not executable) or rounded > cls.num_ipus:
            raise Error(f"failed to acquire {rounded} IPU(s): they are in use or not there")
        cls.holder = executable

    @classmethod
    def release(cls, executable: "Executable") -> None:
        if cls.holder is executable:
            cls.holder = None


class Executable:
    """A compiled program: its weights and optimizer state live here while it is attached."""

    def __init__(self, module: torch.nn.Module, options: Any, training: bool, optimizer: Dict[str, Any]) -> None:
        options._Popart.check()
        self.module = module
        self.options = options
        self.training = training
        self.attached = False
        self._modes: Dict[torch.nn.Module, bool] = {}
        self.parameters = {name: _device_copy(p) for name, p in module.named_parameters()}
        self.trained = [name for name, p in module.named_parameters() if p.requires_grad]
        self.buffers = {name: _device_copy(b) for name, b in module.named_buffers()}
        for name, tensor in {**self.parameters, **self.buffers}.items():
            if tensor.dtype == torch.bfloat16:
                raise Error(f"{name} is bfloat16, which IPUs do not have")
        self._constants = optimizer
        self._settings = optimizer  # what the device uses
        self.state: Dict[str, Tensor] = {}
        if training:
            accumulates = options.Training.gradient_accumulation > 1
            self.state = update_rules.state_tensors(optimizer["kind"], optimizer, self.parameters, accumulates)
        # PopART's buffers on the host, from which every upload is made.
        self._host_weights = _copies({**self.parameters, **self.buffers})
        self._host_state = _copies(self.state)
        self._host_settings = self._learning_rates(optimizer)

    @property
    def num_ipus(self) -> int:
        return self.options.replication_factor

    def trace(self, args: Tuple[Any, ...]) -> Any:
        """Watch one micro-batch go through; returns its output. Train or eval mode is compiled in."""
        self._modes = {module: module.training for module in self.module.modules()}
        with Forward() as forward, Watch() as watch, torch.set_grad_enabled(self.training):
            output = functional_call(self.module, {**self._leaves(), **_copies(self.buffers)}, self._coerced(args))
            if self.training:
                if forward.loss().numel() != 1:
                    raise NotImplementedError("the double differentiates losses of one number")
        watch.check()
        return output

    # Attachment.

    def attach(self) -> None:
        simulated = self.options.exists("use_model") and self.options.use_model
        if simulated and self.num_ipus > 1:
            raise Error("replicated graphs do not run on the IPU model")
        if not simulated:
            Machine.acquire(self, self.num_ipus, self.options.auto_round_num_ipus)
        self.attached = True

    def detach(self) -> None:
        Machine.release(self)
        self.attached = False
        for tensor in [*self.parameters.values(), *self.state.values()]:
            tensor.fill_(float("nan"))  # device memory is lost

    # Copies; the names follow PopTorch's compiled part.

    def copy_weights_to_host(self, host: Dict[str, Tensor]) -> None:
        self._check_attached()
        if self._synthetic:
            return
        with torch.no_grad():
            for name, tensor in {**self.parameters, **self.buffers}.items():
                host[name].copy_(tensor)
                self._host_weights[name].copy_(tensor)

    def copy_weights_to_device(self, host: Dict[str, Tensor]) -> None:
        self._check_attached()
        with torch.no_grad():
            for name in self._host_weights:
                self._host_weights[name].copy_(host[name])
        self._upload()

    def read_optimizer_state(self) -> Dict[str, Dict[str, Tensor]]:
        self._check_attached()
        for name, tensor in self.state.items():
            self._host_state[name].copy_(tensor)
        return {
            "ipu_state": _copies(self._host_state),
            "ipu_param": _copies(self._host_settings),
        }

    def write_optimizer_state(self, saved: Dict[str, Any]) -> None:
        """Upload state; the settings among it only change the host's buffers, never the device."""
        self._check_attached()
        for target, source in ((self._host_state, saved["ipu_state"]), (self._host_settings, saved["ipu_param"])):
            for name in target:
                if name in source:
                    target[name].copy_(source[name])
        self._upload()

    def update_optimizer(self, settings: Dict[str, Any]) -> None:
        """Send learning rates and other variables to the device."""
        self._check_attached()
        for before, after in zip(self._constants["groups"], settings["groups"]):
            for name in self._constants["constant"]:
                if before.get(name) != after.get(name):
                    raise Error(f"{name} was compiled in as a constant and cannot change")
        self._settings = settings
        self._host_settings = self._learning_rates(settings)

    def _upload(self) -> None:
        for memory, source in ((self.parameters, self._host_weights), (self.buffers, self._host_weights)):
            for name, tensor in memory.items():
                tensor.copy_(source[name])
        for name, tensor in self.state.items():
            tensor.copy_(self._host_state[name])

    @staticmethod
    def _learning_rates(settings: Dict[str, Any]) -> Dict[str, Tensor]:
        groups = settings.get("groups", [])
        return {
            f"learningRate___specific___{name}": torch.tensor(float(groups[group]["lr"]))
            for name, group in settings.get("group_of", {}).items()
        }

    # Running.

    def run(self, args: Tuple[Any, ...], as_arguments: Callable[[List[Tensor]], Tuple[Any, ...]]) -> List[Tensor]:
        """One call.

        Args:
            args: input tensors, flat.
            as_arguments: flat tensors -> arguments of the module.
        """
        self._check_attached()
        options = self.options
        iterations, replicas = options.device_iterations, options.replication_factor
        accumulation = options.Training.gradient_accumulation
        pieces = iterations * accumulation * replicas
        inputs = self._coerced(args)
        if self._synthetic:
            inputs = tuple(torch.zeros_like(tensor) for tensor in inputs)
        outputs: List[List[Tensor]] = []
        modes_now = self._switch(self._modes)
        for iteration in range(iterations):
            gradients: Dict[str, Tensor] = {}
            for part in range(accumulation * replicas):
                piece = iteration * accumulation * replicas + part
                micro = [_piece(tensor, piece, pieces) for tensor in inputs]
                outputs.append(self._forward(as_arguments(micro), gradients))
            if self.training and gradients:
                if options.Training.accumulation_and_replication_reduction_type == ReductionType.Mean:
                    gradients = {name: g / (accumulation * replicas) for name, g in gradients.items()}
                update_rules.update(self._settings["kind"], self._settings, self.parameters, gradients, self.state)
        self._switch(modes_now)
        return [self._returned([output[i] for output in outputs]) for i in range(len(outputs[0]))]

    def _forward(self, args: Tuple[Any, ...], gradients: Dict[str, Tensor]) -> List[Tensor]:
        """One micro-batch; adds to ``gradients``, returns the outputs, flat."""
        leaves = self._leaves()
        with Forward() as forward, torch.set_grad_enabled(self.training):
            result = functional_call(self.module, {**leaves, **self.buffers}, args)
            if self.training:
                names = [name for name in self._settings["group_of"] if name in self.trained]
                scaled = forward.loss() * self._settings["loss_scaling"]
                found = torch.autograd.grad(scaled, [leaves[name] for name in names], allow_unused=True)
                for name, gradient in zip(names, found):
                    if gradient is not None:
                        gradients[name] = gradients[name] + gradient if name in gradients else gradient
        return [_narrowed(tensor.detach()) for tensor in flatten(result)]

    @staticmethod
    def _switch(modes: "Dict[torch.nn.Module, bool]") -> "Dict[torch.nn.Module, bool]":
        """Set train and eval modes; returns those before."""
        before = {module: module.training for module in modes}
        for module, training in modes.items():
            module.training = training
        return before

    def _leaves(self) -> Dict[str, Tensor]:
        return {name: t.detach().requires_grad_(name in self.trained) for name, t in self.parameters.items()}

    def _returned(self, entries: List[Tensor]) -> Tensor:
        replicas, mode = self.options.replication_factor, self.options.output_mode
        if mode == OutputMode.Final:
            entries = entries[-replicas:]
        elif mode == OutputMode.Sum:
            entries = [sum(entries[r + replicas :: replicas], entries[r]) for r in range(replicas)]
        elif mode != OutputMode.All:
            raise NotImplementedError("the double has no OutputMode.EveryN")
        if self._synthetic:
            entries = [torch.zeros_like(entry) for entry in entries]
        if len(entries) == 1:
            return entries[0].clone()
        return torch.cat([entry.reshape(1) if entry.dim() == 0 else entry for entry in entries])

    @property
    def _synthetic(self) -> bool:
        return bool(self.options._Popart.options.get("syntheticDataMode", 0))

    def _check_attached(self) -> None:
        if not self.attached:
            raise Error("the program is not attached to a device")

    @staticmethod
    def _coerced(args: Tuple[Any, ...]) -> Tuple[Any, ...]:
        tensors = []
        for tensor in flatten(args):
            if tensor.dtype == torch.bfloat16:
                raise Error("an input is bfloat16, which IPUs do not have")
            if 0 in tensor.shape:
                raise Error(f"an input has no elements: {list(tensor.shape)}")
            tensors.append(_narrowed(tensor.detach()))
        return rebuild(args, tensors)


def _device_copy(tensor: Tensor) -> Tensor:
    """Plain and apart from the host's tensor."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    with torch.no_grad():
        copy.copy_(tensor)
    return copy


def _copies(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _piece(tensor: Tensor, index: int, pieces: int) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    size = tensor.shape[0] // pieces
    return tensor[index * size : (index + 1) * size]


def _narrowed(tensor: Tensor) -> Tensor:
    narrow = {torch.int64: torch.int32, torch.float64: torch.float32}
    return tensor.to(narrow.get(tensor.dtype, tensor.dtype))
