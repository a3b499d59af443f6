"""PoplarExecutor: the host's side of a program, with PopTorch's rules of who knows what when.

Stricter than PopTorch in one point: weights on the host are only brought up to date by the calls that say
so (copyWeightsToHost, copyWeightsToHostIfNeeded, detachFromDevice, destroy); there, looking at a wrapped
parameter copies as well. Code that works here does not depend on that.
"""

import copy
import inspect
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from . import optim
from .device import Executable, Machine
from .enums import ConnectionType, OutputMode
from .options import Options
from .poptorch_core import Error
from .structures import check_same, flatten, rebuild

_NOT_COMPILED = "the model has not been compiled, or was destroyed"
_KINDS = ((optim.SGD, "SGD"), (optim.AdamW, "ADAMW"), (optim.Adam, "ADAM"))
_GROUP_ATTRIBUTES = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay"),
    "ADAM": ("lr", "betas", "eps", "weight_decay"),
    "ADAMW": ("lr", "betas", "eps", "weight_decay"),
}


class PoplarExecutor:
    """A program made of a module; made by trainingModel and inferenceModel only."""

    def __init__(
        self, model: nn.Module, options: Optional[Options], training: bool, optimizer: Any, user_model: nn.Module
    ) -> None:
        if options is not None:
            if not isinstance(options, Options):
                raise Error(f"options is a {type(options).__name__}, not a poptorch.Options")
            options._freeze()
            options = options.clone()
        else:
            options = Options()
        if options.defaultOutputMode():
            options.outputMode(OutputMode.Final if training else OutputMode.All)
        if not training and options.Training.gradient_accumulation != 1:
            raise Error("an inferenceModel takes no gradientAccumulation: leave it at 1")
        self._user_model = user_model
        self._model = model
        self._options = options
        self._training = training
        self._executable: Optional[Executable] = None
        self._compiled_args: Optional[Tuple[Any, ...]] = None
        self._output: Any = None
        self._dirty_host_weights = False
        self._optimizer = optimizer
        self._settings: Dict[str, Any] = {}
        self._settings_dirty = False
        if training:
            self._optimizer = optimizer if optimizer is not None else optim.SGD(user_model.parameters(), lr=0.01)
            self.setOptimizer(self._optimizer)
            _wrap(user_model)
        options._freeze()

    @property
    def options(self) -> Options:
        return self._options

    @property
    def model(self) -> nn.Module:
        return self._user_model

    def isCompiled(self) -> bool:
        return self._executable is not None

    def isAttachedToDevice(self) -> bool:
        return self._executable is not None and self._executable.attached

    # Compiling and running.

    def compile(self, *args: Any) -> None:
        if self._executable is None:
            self._compile(self._parsed(args))

    def __call__(self, *args: Any) -> Any:
        assert self._options.connection_type != ConnectionType.Never, "an offline program cannot be run"
        args = self._parsed(args)
        if self._executable is None:
            self._compile(args)
        assert self._executable is not None and self._compiled_args is not None
        if not self._executable.attached:
            self.attachToDevice()
        for name, compiled, given in zip(self._names(args), self._compiled_args, args):
            check_same(name, compiled, given)
        self._write_state_if_needed()
        outputs = self._executable.run(tuple(flatten(args)), lambda tensors: rebuild(args, tensors))
        if self._training:
            self._dirty_host_weights = True
            self._optimizer.host_state_is_dirty = True
        return rebuild(self._output, outputs)

    def _compile(self, args: Tuple[Any, ...]) -> None:
        micro = rebuild(args, [self._narrow(tensor) for tensor in flatten(args)])
        executable = Executable(self._model, self._options, self._training, self._settings)
        self._output = executable.trace(micro)
        if self._options.connection_type != ConnectionType.Never:
            executable.attach()
        self._executable, self._compiled_args = executable, args
        if executable.attached:
            self._on_attach()

    def _narrow(self, tensor: Tensor) -> Tensor:
        options = self._options
        factor = options.device_iterations * options.replication_factor * options.Training.gradient_accumulation
        rows = tensor.shape[0] if tensor.dim() else 1
        assert rows % factor == 0, (
            f"an input has {rows} rows, which is no multiple of deviceIterations * replicationFactor * "
            f"gradientAccumulation = {factor}"
        )
        return tensor if tensor.dim() == 0 else tensor[: rows // factor]

    def _parsed(self, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
        parameters = inspect.signature(self._model.forward).parameters.values()
        if not any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters):
            assert len(args) <= len(parameters), f"{len(args)} arguments given, forward takes {len(parameters)}"
            needed = sum(parameter.default is parameter.empty for parameter in parameters)
            if len(args) < needed:
                raise Error(f"{len(args)} arguments given, forward needs {needed}")
        return rebuild(args, [tensor.detach().contiguous() for tensor in flatten(args)])

    def _names(self, args: Tuple[Any, ...]) -> List[str]:
        assert self._compiled_args is not None
        if len(args) != len(self._compiled_args):
            raise Error(f"{len(args)} arguments given, compiled for {len(self._compiled_args)}")
        return [f"argument {index}" for index in range(len(args))]

    # Attachment.

    def attachToDevice(self) -> None:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        assert self._options.connection_type != ConnectionType.Never, "an offline program cannot be attached"
        if self._executable.attached:
            raise Error("the program is attached already")
        self._executable.attach()
        self._on_attach()

    def detachFromDevice(self) -> None:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        if not self._executable.attached:
            raise Error("the program is not attached")
        if self._training:
            self.copyWeightsToHostIfNeeded()
            self._read_state_if_needed()
        self._executable.detach()

    def _on_attach(self) -> None:
        self.copyWeightsToDevice()
        if self._optimizer is not None:
            self._update_settings_if_needed()
            if self._optimizer.has_state():
                self._optimizer.ipu_state_is_dirty = True
                self._write_state_if_needed()
            else:
                self._optimizer.host_state_is_dirty = True
                self._optimizer.ipu_state_is_dirty = False

    def destroy(self) -> None:
        if self._executable is None:
            return
        if self._training:
            self.copyWeightsToHostIfNeeded()
            self._optimizer.state_dict()
        if self._executable.attached:
            self._executable.detach()
        self._executable = None
        if self._training:
            _unwrap(self._user_model)

    # Weights.

    def copyWeightsToHostIfNeeded(self) -> bool:
        if self._dirty_host_weights:
            self.copyWeightsToHost()
            return True
        return False

    def copyWeightsToHost(self) -> None:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        self._dirty_host_weights = False
        self._executable.copy_weights_to_host(self._host_tensors())

    def copyWeightsToDevice(self) -> None:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        self._dirty_host_weights = False
        if self._optimizer is not None:
            self._optimizer.state_dict()
        self._executable.copy_weights_to_device(self._host_tensors())

    def load_state_dict(self, state_dict: Dict[str, Tensor], strict: bool = True) -> Any:
        result = self._user_model.load_state_dict(state_dict, strict)
        if self.isAttachedToDevice():
            self.copyWeightsToDevice()
        return result

    def _host_tensors(self) -> Dict[str, Tensor]:
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}

    # Optimizer.

    def setOptimizer(self, optimizer: Any) -> None:
        if self._executable is not None and optimizer is not self._optimizer:
            self._read_state_if_needed()
            self._optimizer.state_dict = self._optimizer.get_state_dict
            optimizer.ipu_state_is_dirty = True
        if not isinstance(optimizer, optim.Optimizer):
            raise NotImplementedError("the double takes optimizers of poptorch.optim only")
        optimizer.state_dict = self._optimizer_state  # type: ignore[method-assign]
        self._optimizer = optimizer
        settings = self._described(optimizer)
        if settings != self._settings:
            self._settings = settings
            self._settings_dirty = True
        if self.isAttachedToDevice():
            self._update_settings_if_needed()
            self._write_state_if_needed()

    def _described(self, optimizer: Any) -> Dict[str, Any]:
        """The optimizer as the device knows it."""
        kind = next(name for cls, name in _KINDS if isinstance(optimizer, cls))
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        group_of: Dict[str, int] = {}
        for index, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                group_of[names[id(parameter)]] = index  # KeyError: not a parameter of this model
        wanted = _GROUP_ATTRIBUTES[kind]
        groups = [{name: group[name] for name in wanted} for group in optimizer.param_groups]
        if any(group.get("amsgrad") for group in optimizer.param_groups):
            raise ValueError("optimizers with amsgrad do not run on IPUs")
        for group in groups:
            assert "betas" not in group or isinstance(group["betas"], tuple), "betas is a pair"
        return {
            "kind": kind,
            "groups": groups,
            "group_of": group_of,
            "constant": [name for name in wanted if optimizer.variable_attrs.isConstant(name)],
            "loss_scaling": optimizer.loss_scaling,
            "max_grad_norm": optimizer.max_grad_norm,
            "bias_correction": getattr(optimizer, "bias_correction", True),
        }

    def _optimizer_state(self) -> Dict[str, Any]:
        self._read_state_if_needed()
        return self._optimizer.get_state_dict()

    def _update_settings_if_needed(self) -> None:
        assert self._executable is not None
        if self._settings_dirty:
            self._executable.update_optimizer(self._settings)
            self._settings_dirty = False

    def _read_state_if_needed(self) -> None:
        if self._optimizer.host_state_is_dirty:
            if self._executable is None:
                raise Error(_NOT_COMPILED)
            assert not self._settings_dirty, "host and device cannot both be out of date"
            state = {**self._executable.read_optimizer_state(), **torch.optim.Optimizer.state_dict(self._optimizer)}
            self._optimizer.set_state_dict(state)
            self._optimizer.ipu_state_is_dirty = False

    def _write_state_if_needed(self) -> None:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        if self._optimizer is not None and self._optimizer.ipu_state_is_dirty:
            assert not self._optimizer.host_state_is_dirty, "host and device cannot both be out of date"
            if self._optimizer.has_state():
                self.copyWeightsToHostIfNeeded()
                self._executable.write_optimizer_state(self._optimizer.state_dict())
            self._optimizer.ipu_state_is_dirty = False


def trainingModel(
    model: nn.Module, options: Optional[Options] = None, optimizer: Optional[Any] = None
) -> PoplarExecutor:
    """A program that trains; wraps the classes of the model and its tensors until destroy()."""
    if getattr(type(model), "_poptorch_wrapped", False):
        raise RuntimeError("the model is wrapped in a trainingModel already: destroy() that one first")
    return PoplarExecutor(copy.copy(model), options, True, optimizer, model)


def inferenceModel(model: nn.Module, options: Optional[Options] = None) -> PoplarExecutor:
    """A program that predicts."""
    return PoplarExecutor(copy.copy(model), options, False, None, model)


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:
    return num_ipus <= Machine.num_ipus


def _wrap(model: nn.Module) -> None:
    """Give model, parameters and buffers classes of PopTorch's, as the real one does."""
    parameter_class = type("PoptorchParameter", (nn.Parameter,), {"_poptorch_wrapped": True})
    buffer_class = type("PoptorchBuffer", (Tensor,), {"_poptorch_wrapped": True})
    for parameter in model.parameters():
        parameter.__class__ = parameter_class
    for buffer in model.buffers():
        buffer.__class__ = buffer_class
    model.__class__ = type(f"Poptorch{type(model).__name__}", (type(model),), {"_poptorch_wrapped": True})


def _unwrap(model: nn.Module) -> None:
    for tensor in [*model.parameters(), *model.buffers()]:
        if getattr(type(tensor), "_poptorch_wrapped", False):
            tensor.__class__ = type(tensor).__bases__[0]
    model.__class__ = type(model).__bases__[0]
