"""Warnings about 64-bit values, which PopTorch makes 32-bit ones (poptorch/source/dispatch_tracer).

A tensor that would have 64 bits on the device is one line (TensorStore::allocateTensor). A Python number that
reaches an operator as a tensor of its own has 64 bits too: the first four of a process are a line each, then
one line says that the rest is left out (copyAndCoerceType). PopTorch writes to stderr from C++; the double
writes the same words to Python's logger "poptorch".
"""

import itertools
import logging

import torch

NARROWED = {torch.int64: torch.int32, torch.float64: torch.float32}
REPEATS = 4
_NAMES = {torch.int64: "Long to Int", torch.float64: "Double to Float"}
_logger = logging.getLogger("poptorch")
_tensor_ids = itertools.count(1)
_numbers = itertools.count()


def narrowed(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the width of the device, without a line."""
    return tensor.to(NARROWED.get(tensor.dtype, tensor.dtype))


def warn_of_tensor(dtype: torch.dtype) -> None:
    if dtype in NARROWED:
        _logger.warning("[DISPATCHER] Type coerced from %s for tensor id %d", _NAMES[dtype], next(_tensor_ids))


def warn_of_number(value: object) -> None:
    """A bool is no number: it stays as wide as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    count = next(_numbers)
    if count < REPEATS:
        kind = _NAMES[torch.int64 if isinstance(value, int) else torch.float64]
        _logger.warning("[DISPATCHER] Tensor (ptr 0x%x) type coerced from %s", id(value), kind)
    elif count == REPEATS:
        _logger.warning("...repeated messages suppressed...")
