"""PoplarExecutor: the host's side of a program, with PopTorch's rules of who knows what when.

Stricter than PopTorch in one point: weights on the host are only brought up to date by the calls that say
so (copyWeightsToHost, copyWeightsToHostIfNeeded, detachFromDevice, destroy); there, looking at a wrapped
parameter copies as well. Code that works here does not depend on that.
"""

import copy
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from . import optim, optimizer_settings, wrapping
from .arguments import ArgumentParser, Arguments
from .device import Executable
from .enums import ConnectionType, OutputMode
from .options import Options
from .poptorch_core import Error
from .structures import flatten, rebuild

_NOT_COMPILED = "the model has not been compiled, or was destroyed"


class PoplarExecutor:
    """A program made of a module; made by trainingModel and inferenceModel only."""

    def __init__(
        self,
        model: nn.Module,
        options: Optional[Options],
        training: bool,
        poptorch_version: str,
        optimizer: Optional[Any] = None,
        user_model: Optional[nn.Module] = None,
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
        assert training or not optimizer, "an inferenceModel takes no optimizer"
        self._user_model = model if user_model is None else user_model
        self._model = model
        self._options = options
        self._training = training
        self._poptorch_version = poptorch_version
        self._parser = ArgumentParser(model)
        self._executable: Optional[Executable] = None
        self._inputs: Optional[Arguments] = None
        self._is_attached = False
        self._dirty_host_weights = False
        self._optimizer = optimizer
        self._settings: Dict[str, Any] = {}
        self._settings_dirty = False
        if training:
            self._optimizer = optimizer if optimizer is not None else optim.SGD(model.parameters(), lr=0.01)
            self.setOptimizer(self._optimizer)
        options._freeze()
        if training:
            wrapping.wrap(self._user_model, self)

    def __getattr__(self, attr: str) -> Any:
        if attr.startswith("__") or "_user_model" not in vars(self):
            raise AttributeError(attr)
        return getattr(vars(self)["_user_model"], attr)

    @property
    def options(self) -> Options:
        return self._options

    @property
    def model(self) -> nn.Module:
        return self._user_model

    @property
    def _compiled_args(self) -> Tuple[Any, ...]:
        assert self._inputs is not None
        return self._inputs.args

    def isCompiled(self) -> bool:
        return self._executable is not None

    def isAttachedToDevice(self) -> bool:
        return self._executable is not None and self._executable.attached

    # Compiling and running.

    def compile(self, *args: Any, **kwargs: Any) -> None:
        arguments = self._parser(args, kwargs)
        if self._executable is None:
            self._compile(arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self._options.connection_type != ConnectionType.Never, "an offline program cannot be run"
        arguments = self._parser(args, kwargs)
        if self._executable is None:
            self._compile(arguments)
        assert self._executable is not None and self._inputs is not None
        if not self._is_attached:
            self.attachToDevice()
        self._inputs.check(arguments)
        arguments = self._inputs.with_tensors(arguments.tensors(self._inputs))
        self._write_state_if_needed()
        outputs = self._executable.run(arguments)
        if self._training:
            self._dirty_host_weights = True
            self._optimizer.host_state_is_dirty = True
        for output in outputs:
            output.backward = _no_backward  # type: ignore[method-assign, assignment]
        return rebuild(self._executable.facts.output, outputs)

    def _compile(self, arguments: Arguments) -> None:
        micro = arguments.with_tensors([self._narrow(tensor) for tensor in flatten(tuple(arguments[1:]))])
        # As PopTorch has it: the options are whole, and may bring a device's number, once the program is lowered.
        executable = Executable(self._model, self._options, self._training, self._settings, micro)
        self._settings_dirty = False
        if self._options.connection_type == ConnectionType.Never:
            executable.check_offline()
        else:
            executable.attach()
        self._executable, self._inputs = executable, arguments
        self._is_attached = executable.attached
        if self._is_attached:
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

    # Attachment.

    def attachToDevice(self) -> None:
        executable = self._compiled()
        assert self._options.connection_type != ConnectionType.Never, "an offline program cannot be attached"
        if self._is_attached:
            raise Error("the program is attached already")
        executable.attach()
        self._is_attached = True
        self._on_attach()

    def detachFromDevice(self) -> None:
        executable = self._compiled()
        if not self._is_attached:
            raise Error("the program is not attached")
        if self._training:
            self.copyWeightsToHostIfNeeded()
            self._read_state_if_needed()
        executable.detach()
        self._is_attached = False

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
        self._is_attached = False
        if self._training:
            wrapping.unwrap(self._user_model)

    def _compiled(self) -> Executable:
        if self._executable is None:
            raise Error(_NOT_COMPILED)
        return self._executable

    # Weights.

    def copyWeightsToHostIfNeeded(self) -> bool:
        if self._dirty_host_weights:
            self.copyWeightsToHost()
            return True
        return False

    def copyWeightsToHost(self) -> None:
        executable = self._compiled()
        self._dirty_host_weights = False
        executable.copy_weights_to_host(self._host_tensors())

    def copyWeightsToDevice(self) -> None:
        executable = self._compiled()
        self._dirty_host_weights = False
        if self._optimizer is not None:
            self._optimizer.state_dict()
        executable.copy_weights_to_device(self._host_tensors())

    def load_state_dict(self, state_dict: Dict[str, Tensor], strict: bool = True) -> Any:
        result = self._user_model.load_state_dict(state_dict, strict)
        if self.isAttachedToDevice():
            self.copyWeightsToDevice()
        return result

    def _host_tensors(self) -> Dict[str, Tensor]:
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}

    # Optimizer.

    def setOptimizer(self, optimizer: Any) -> None:
        if self.isCompiled() and optimizer is not self._optimizer:
            self._read_state_if_needed()
            self._optimizer.state_dict = self._optimizer.get_state_dict
            if isinstance(optimizer, optim.Optimizer):
                optimizer.ipu_state_is_dirty = True
        settings = optimizer_settings.describe(optimizer, self._model, self._options)
        optimizer.state_dict = self._optimizer_state
        self._optimizer = optimizer
        if settings != self._settings:
            self._settings = settings
            self._settings_dirty = True
        if self.isAttachedToDevice():
            self._update_settings_if_needed()
            self._write_state_if_needed()

    def _optimizer_state(self) -> Dict[str, Any]:
        self._read_state_if_needed()
        return self._optimizer.get_state_dict()

    def _update_settings_if_needed(self) -> None:
        if self._settings_dirty:
            self._compiled().update_optimizer(self._settings)
            self._settings_dirty = False

    def _read_state_if_needed(self) -> None:
        if self._optimizer.host_state_is_dirty:
            executable = self._compiled()
            assert not self._settings_dirty, "host and device cannot both be out of date"
            state = {**executable.read_optimizer_state(), **torch.optim.Optimizer.state_dict(self._optimizer)}
            self._optimizer.set_state_dict(state)
            self._optimizer.ipu_state_is_dirty = False

    def _write_state_if_needed(self) -> None:
        executable = self._compiled()
        if self._optimizer is not None and self._optimizer.ipu_state_is_dirty:
            assert not self._optimizer.host_state_is_dirty, "host and device cannot both be out of date"
            if self._optimizer.has_state():
                self.copyWeightsToHostIfNeeded()
                executable.write_optimizer_state(self._optimizer.state_dict())
            self._optimizer.ipu_state_is_dirty = False


def trainingModel(model: Any, options: Optional[Options] = None, optimizer: Optional[Any] = None) -> PoplarExecutor:
    """A program that trains; wraps the classes of the model and its tensors until destroy()."""
    from . import __version__

    if isinstance(model, PoplarExecutor):
        model = model._user_model
    if wrapping.is_wrapped(model):
        raise RuntimeError("the model is wrapped in a trainingModel already: destroy() that one first")
    return PoplarExecutor(copy.copy(model), options, True, __version__, optimizer, model)


def inferenceModel(model: Any, options: Optional[Options] = None) -> PoplarExecutor:
    """A program that predicts."""
    from . import __version__

    if isinstance(model, PoplarExecutor):
        model = model._user_model
    return PoplarExecutor(copy.copy(model), options, False, __version__)


def _no_backward(*_: Any, **__: Any) -> None:
    raise Error("backward() on an output: the backward pass of a trainingModel is part of the call")
