"""Training with weights and activations in 16 bits, on IPUs' terms, also where a CPU has no 16-bit arithmetic.

PopTorch keeps no float32 copy of float16 weights: gradients are added up and moments kept in float32, the
update is rounded back to float16, to the nearest value or stochastically. On CPUs every operator on float16
is computed in float32 and its result rounded, as IPUs do with float32 partials.
"""

from typing import Any, Dict, List

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ipu_chem.backends.options import Precision

_SMALLEST_NORMAL = 2.0**-14  # of float16; below it the spacing of values no longer follows their size
# Products refuse mixed formats everywhere; computing in float32 must not hide that.
_PRODUCTS = frozenset("mm addmm bmm baddbmm mv addmv dot linear matmul".split())


def weights_to_half(model: nn.Module) -> None:
    """Parameters in float16; buffers stay, for constants such as atomic energies need their digits.

    Raises:
        ValueError: a weight does not fit float16; names it.
    """
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        half = parameter.data.half()
        if not half.is_meta and not torch.isfinite(half).all():
            raise ValueError(f"{name} does not fit float16 (up to 65,504); use precision.weights=float32.")
        parameter.data = half


class HalfWeights:
    """Float32 stand-ins of float16 weights during an optimizer step; what they learn is rounded back."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        """Bind the trained weights.

        Args:
            model: with float16 weights.
            precision: loss scaling, formats and rounding.
        """
        self.weights: List[nn.Parameter] = [weight for weight in model.parameters() if weight.requires_grad]
        self.stand_ins = [nn.Parameter(weight.detach().float()) for weight in self.weights]
        self.precision = precision

    def collect(self) -> None:
        """Add the weights' gradients of one micro-batch to the stand-ins', still scaled."""
        for weight, stand_in in zip(self.weights, self.stand_ins):
            if weight.grad is None:
                continue
            gradient = weight.grad.float()
            gradient = gradient if stand_in.grad is None else stand_in.grad + gradient
            stand_in.grad = self._kept(gradient)
            weight.grad = None

    def unscale(self) -> None:
        """Divide the loss scaling out of the gradients, before anything reads them."""
        for stand_in in self.stand_ins:
            if stand_in.grad is not None:
                stand_in.grad = stand_in.grad / self.precision.loss_scaling

    def read(self) -> None:
        """Take over the weights, after they were loaded or rounded."""
        with torch.no_grad():
            for weight, stand_in in zip(self.weights, self.stand_ins):
                stand_in.copy_(weight)

    def write_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Round the updated stand-ins into the weights and the first moments to their format."""
        with torch.no_grad():
            for weight, stand_in in zip(self.weights, self.stand_ins):
                weight.copy_(round_stochastically(stand_in) if self.precision.stochastic_rounding else stand_in)
                moment = optimizer.state.get(stand_in, {}).get("exp_avg")
                if moment is not None:
                    moment.copy_(self._kept(moment))
        self.read()

    def _kept(self, values: Tensor) -> Tensor:
        """In the format of accumulators."""
        return values.half().float() if self.precision.accumulation == "float16" else values


def round_stochastically(values: Tensor) -> Tensor:
    """float32 -> float16, up or down with the probabilities that are right on average.

    A random number below the last float16 digit is added to the bits of the mantissa, the rest is cut off.
    """
    bits = values.contiguous().view(torch.int32)
    cut = 23 - 10  # digits of the two mantissas
    noise = torch.randint(0, 1 << cut, bits.shape, dtype=torch.int32, device=bits.device)
    rounded = ((bits + noise) & ~((1 << cut) - 1)).view(torch.float32)
    return torch.where(values.abs() < _SMALLEST_NORMAL, values, rounded).half()


class HalfOnCpu(TorchDispatchMode):
    """Inside, operators on float16 tensors compute in float32 and round their results, backward passes too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operator of ATen."""
        kwargs = kwargs or {}
        floating = [tensor for tensor in _tensors((args, kwargs)) if tensor.is_floating_point()]
        if not any(tensor.dtype == torch.float16 for tensor in floating) or not _computes(func):
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        if name in _PRODUCTS and len({tensor.dtype for tensor in floating}) > 1:
            raise RuntimeError(f"aten::{name} mixes float16 with {', '.join(sorted({str(t.dtype) for t in floating}))}")
        result = func(*_cast(args, torch.float16, torch.float32), **_cast(kwargs, torch.float16, torch.float32))
        # As torch promotes types: a float32 number (not an array) does not widen float16.
        narrow = all(tensor.dtype == torch.float16 or tensor.dim() == 0 for tensor in floating)
        return _cast(result, torch.float32, torch.float16) if narrow and kwargs.get("dtype") is None else result


def _computes(func: Any) -> bool:
    """True for an operator that makes new values: views, conversions and in-place ones work in any format."""
    if func._schema.name in ("aten::_to_copy", "aten::clone", "aten::detach"):
        return False
    return not any(value.alias_info is not None for value in (*func._schema.arguments, *func._schema.returns))


def _tensors(value: Any) -> List[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []


def _cast(value: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """The same structure with tensors of one dtype in another."""
    if isinstance(value, Tensor):
        return value.to(new) if value.dtype == old else value
    if isinstance(value, dict):
        result: Dict[str, Any] = {key: _cast(part, old, new) for key, part in value.items()}
        return result
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(part, old, new) for part in value)
    return value
