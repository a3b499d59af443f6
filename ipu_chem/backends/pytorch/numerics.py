"""Numerics of CPUs and GPUs: denormal numbers, 16-bit products under autocast, and optimizers in one kernel."""

import ctypes
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterable, Iterator

import torch

from ipu_chem.optim import OptimizerConfig

_CPUINFO = Path("/proc/cpuinfo")
# Of CPUs with bfloat16 products of their own; without, they are several times slower than float32.
_FAST_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
_SMALLEST_NORMAL = sys.float_info.min  # of float64: Python computes with the same registers as torch


@lru_cache(maxsize=None)
def cpu_flags() -> FrozenSet[str]:
    """Flags of the first CPU; empty where the system has none to show."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = [line.split(":", 1)[1].split() for line in lines if line.split(":")[0].strip() in ("flags", "Features")]
    return frozenset(found[0] if found else ())


def check_autocast(autocast: str, device: str) -> None:
    """Refuse 16-bit formats that are slow or missing on a device.

    Args:
        autocast: none, bfloat16 or float16.
        device: cpu or cuda.

    Raises:
        ValueError: says what to use.
    """
    if autocast == "none":
        return
    if device == "cpu" and autocast == "float16":
        raise ValueError("torch.autocast=float16 is for CUDA devices; use bfloat16 or none on a CPU.")
    if device == "cpu" and not cpu_flags() & _FAST_BFLOAT16:
        raise ValueError(
            "torch.autocast=bfloat16 would be several times slower than float32 on this CPU, which has neither "
            "avx512_bf16 nor amx_bf16; use torch.autocast=none."
        )
    if device == "cuda" and autocast == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise ValueError("torch.autocast=bfloat16: this CUDA device has no bfloat16; use float16 or none.")


@lru_cache(maxsize=None)
def keep_memory() -> bool:
    """Let glibc keep large blocks that are freed, which it would give back to the system and ask for again.

    A step that differentiates inside the model makes and frees thousands of blocks; new pages cost a tenth to a fifth
    of it. The memory stays with the process.

    Returns:
        False where the C library is another one.
    """
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Older versions take 32 MB at most for the first.
    kept = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)
    return bool(kept and mallopt(trim_threshold, (1 << 31) - 1))


@contextmanager
def denormals_flushed(wanted: bool) -> Iterator[None]:
    """Inside, CPU arithmetic takes numbers below 1.2e-38 as 0; matrix products over them are several times slower."""
    before = flushes_denormals()
    if wanted and not before:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if wanted and not before:
            torch.set_flush_denormal(False)


def flushes_denormals() -> bool:
    """True if this thread takes numbers below 1.2e-38 as 0."""
    return _SMALLEST_NORMAL * 0.5 == 0.0


def grad_scaler(device: str) -> Any:
    """Keeps float16 gradients from vanishing, by a factor that it finds."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device)
    return torch.cuda.amp.GradScaler()


def build_optimizer(config: OptimizerConfig, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The torch optimizer that a description stands for; all weights in one kernel where torch has it.

    Args:
        config: what to build.
        parameters: of a model, or `ParameterGroups.groups`.
    """
    parameters = list(parameters)
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    options: Dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    try:
        # Copies, because groups take up the options of an optimizer even where it then refuses them.
        tried = [dict(group) if isinstance(group, dict) else group for group in parameters]
        return kind(tried, fused=True, **options)
    except (RuntimeError, TypeError):  # older torch has it for CUDA alone
        return kind(parameters, **options)
