"""Functions of torch before they are taken apart: some leave no operator behind, or others than on an IPU."""

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .device_types import DeviceTypes, widened
from .forward import Forward
from .machine import Machine
from .poptorch_core import Error
from .tracing import Watch, tensors_of

# Methods that hand values to Python without an operator.
NUMPY = ("numpy", "__array__")
HOST = ("tolist", "cpu", "__repr__", "__str__", "__format__")
# Constructors that PopTorch does not point at the device (_SetDefaultDeviceType in python/_poplar_executor.py
# has arange, empty, full, full_like, linspace, logspace, normal, ones, rand, randint, randn, randperm, range,
# tensor, zeros, zeros_like): without a device, their results are on the host.
ON_HOST = frozenset(
    "eye scalar_tensor tril_indices triu_indices as_tensor from_numpy empty_strided vander hann_window hamming_window "
    "bartlett_window blackman_window kaiser_window".split()
)
# Functions that PopTorch lowers as a whole; what a CPU makes of them says nothing about an IPU. With the names of
# their arguments.
WHOLE: Dict[str, Tuple[str, ...]] = {
    "one_hot": ("input", "num_classes"),
    "take_along_dim": ("input", "indices", "dim"),
    "batch_norm": (),
}
# Their arguments that are indices, whose dtype these look at before any operator.
INDICES = {"one_hot": "input", "take_along_dim": "indices"}
ATTENTION = "scaled_dot_product_attention"
_SIZED_BEFORE = (
    "0 <= device.index() && device.index() < static_cast<c10::DeviceIndex>(device_ready_queues_.size()) "
    "INTERNAL ASSERT FAILED"
)


class Functions(TorchFunctionMode):
    """With ``watch`` a program is traced; without it is run, and only indices are made those of a CPU."""

    def __init__(self, device: DeviceTypes, watch: Optional[Watch] = None, training: bool = True) -> None:
        super().__init__()
        self._device = device
        self._watch = watch
        self._training = training

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        forward = Forward.active
        if forward is None or not forward.watched or isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        if self._watch is not None:
            self._refuse(name, func, args, kwargs)
        if name in ON_HOST and "device" not in kwargs:
            with forward.unwatched(), self._device.off():
                return func(*args, **kwargs)
        if name not in WHOLE and (name != ATTENTION or self._watch is None):
            return func(*args, **kwargs)
        names = WHOLE.get(name) or [str(number) for number in range(len(args))]
        arguments = {**dict(zip(names, args)), **kwargs}
        if name == "one_hot" and arguments.get("num_classes", -1) == -1:
            raise Error("aten::one_hot: the number of classes must be given")
        with forward.unwatched():
            if name in INDICES:
                with self._device.off():
                    index = widened(arguments[INDICES[name]])
                    result = self._device.narrowed(func(**{**arguments, INDICES[name]: index}))
            else:
                result = func(*args, **kwargs)
        if self._watch is not None:
            taken = tensors_of((args, kwargs))
            if name == "take_along_dim":
                arguments = _broadcast(arguments, result)
            self._watch.whole(name, arguments, taken, [result])
        return result

    def _refuse(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        if name in NUMPY:
            raise TypeError(
                "can't convert ipu:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        if name in HOST or (name == "to" and "cpu" in (*args[1:], kwargs.get("device"))):
            raise RuntimeError(f"Tensor.{name} is an illegal move to the CPU before the end of the program")
        if name == "repeat_interleave":
            raise RuntimeError("cannot repeat_interleave a meta tensor without output_size")
        if name == ATTENTION and (Machine.strict or self._training):
            raise Error(f"operators without a handler: aten::{name}")
        if Machine.imported_after_backward and name in ("grad", "backward"):
            raise RuntimeError(_SIZED_BEFORE)


def _broadcast(arguments: Dict[str, Any], result: Tensor) -> Dict[str, Any]:
    """Of take_along_dim as its handler sees them; the index has the shape of the result."""
    values, dim = arguments["input"].detach(), arguments.get("dim")
    if dim is None:
        return {"self": values.reshape(-1), "index": result, "dim": 0}
    sizes = list(result.shape)
    sizes[dim] = values.shape[dim]
    return {"self": values.expand(sizes), "index": result, "dim": dim}
