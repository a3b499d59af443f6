"""Half precision where torch has none: on a CPU, float16 is what tensors are kept in, float32 what is computed in.

Every operator on a float16 tensor is run in float32 and its result rounded to the type that torch promotes
to. That is what an IPU does with float32 partials, but for the order of additions.

PopTorch promotes by torch's own rules (poptorch/source/ImplicitCasting.cpp). Its products are an exception:
a float32 weight becomes half where the input is (docs, overview.rst); torch refuses the mixture, and the
double with it, so that a model means the same everywhere.
"""

from typing import Any, List, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .poptorch_core import Error

HALF = torch.float16
# One floating type only: products, and what writes one tensor into another.
UNMIXED = frozenset(
    """
mm addmm bmm baddbmm mv addmv dot linear matmul convolution scatter scatter_add scatter_reduce index_put index_add
index_copy native_layer_norm native_group_norm native_batch_norm _cdist_forward
""".split()
)
# Operators that move values without looking at them work on float16 as they are.
MOVES = frozenset(("_to_copy", "copy_", "clone", "detach", "fill_", "zero_", "empty_like", "zeros_like", "ones_like"))
STATISTICS = ("native_layer_norm", "native_group_norm", "native_batch_norm")  # mean and deviation stay float32


class HalfOnCpu(TorchDispatchMode):
    """Runs operators on float16 tensors, and notes whether there were any."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        floating = [tensor for tensor in _tensors([args, kwargs]) if tensor.is_floating_point()]
        if not any(tensor.dtype == HALF for tensor in floating):
            result = func(*args, **kwargs)
            self.seen = self.seen or any(tensor.dtype == HALF for tensor in _tensors(result))
            return result
        self.seen = True
        name = func._schema.name.split("::")[-1]
        arguments = func._schema.arguments
        written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        is_view = not written and any(value.alias_info is not None for value in func._schema.returns)
        if name in MOVES or is_view:
            return func(*args, **kwargs)
        kinds = {tensor.dtype for tensor in floating}
        if len(kinds) > 1 and name.rstrip("_") in UNMIXED:
            raise Error(f"aten::{name} mixes {' and '.join(sorted(str(kind) for kind in kinds))}")
        wide = _Widened(name.endswith("backward_data"))
        result = func(*wide.take(args), **wide.take(kwargs))
        if written:
            wide.write_back()
            return wide.give_back(result)
        # A number (a tensor without dimensions) does not widen arrays.
        arrays = [tensor for tensor in floating if tensor.dim()] or floating
        if kwargs.get("dtype") is not None or any(tensor.dtype != HALF for tensor in arrays):
            return result
        if name in STATISTICS:
            return (result[0].to(HALF), *result[1:])
        return _narrow(result)


class _Widened:
    """Arguments with float32 copies in the place of float16 tensors."""

    def __init__(self, types_too: bool) -> None:
        """With ``types_too``, a float16 among the arguments, which says what to make, becomes float32 as well."""
        self._pairs: List[Tuple[Tensor, Tensor]] = []
        self._types_too = types_too

    def take(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._copy(value) if value.dtype == HALF else value
        if isinstance(value, dict):
            return {key: self.take(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.take(part) for part in value)
        return torch.float32 if self._types_too and value is HALF else value

    def _copy(self, tensor: Tensor) -> Tensor:
        for original, wide in self._pairs:
            if original is tensor:
                return wide
        self._pairs.append((tensor, tensor.to(torch.float32)))
        return self._pairs[-1][1]

    def write_back(self) -> None:
        """Round into the originals what an in-place operator wrote into the copies."""
        for original, wide in self._pairs:
            original.copy_(wide)

    def give_back(self, value: Any) -> Any:
        """Originals where an in-place operator returns its argument."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.give_back(part) for part in value)
        for original, wide in self._pairs:
            if value is wide:
                return original
        return value


class Rounding:
    """From float32 to float16 and other types: to the nearest value, or up and down at random."""

    def __init__(self, stochastic: bool, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed % (1 << 63)) if stochastic else None

    def to(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype != HALF or self._random is None or values.dtype != torch.float32:
            return values.to(dtype)
        nearest = values.to(HALF)
        # The neighbor on the other side of the exact value; the nearer one is the likelier.
        side = torch.where(nearest.float() < values, 1.0, -1.0)
        other = _next(nearest, side)
        gap = (other.float() - nearest.float()).abs()
        share = (values - nearest.float()).abs() / torch.where(gap > 0, gap, torch.ones_like(gap))
        moves = torch.rand(values.shape, generator=self._random) < share
        return torch.where(moves & torch.isfinite(other) & (nearest.float() != values), other, nearest)


def _next(values: Tensor, side: Tensor) -> Tensor:
    """The next float16 above or below: the bit pattern, counted through zero, plus or minus 1."""
    bits = values.view(torch.int16).to(torch.int32)
    ordered = torch.where(bits < 0, -32768 - bits, bits)  # negative numbers count downwards
    moved = ordered + side.to(torch.int32)
    return torch.where(moved < 0, -32768 - moved, moved).to(torch.int16).view(HALF)


def _narrow(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(HALF) if value.dtype == torch.float32 else value
    return type(value)(_narrow(part) for part in value) if isinstance(value, (list, tuple)) else value


def _tensors(value: Any) -> List[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []
