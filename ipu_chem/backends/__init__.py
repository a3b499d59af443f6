"""Backends by name: the only place that knows which module drives which device."""

import importlib.util
from typing import TYPE_CHECKING, Any, Optional

from ipu_chem.backends.options import ACCELERATORS, Precision, TorchOptions, world_of_torchrun

if TYPE_CHECKING:  # torch takes a second to import; --help must not wait for it
    from ipu_chem.backends.base import Backend


def get_backend(
    accelerator: str = "auto",
    torch_options: Optional[TorchOptions] = None,
    ipu_options: Optional[Any] = None,
    precision: Optional[Precision] = None,
) -> "Backend":
    """Make a backend.

    Args:
        accelerator: "cpu", "cuda", "ipu", or "auto": the first of ipu, cuda, cpu that is there.
        torch_options: for cpu and cuda.
        ipu_options: an `IpuOptions`, for ipu.
        precision: number formats, of all.

    Raises:
        ValueError: unknown name, or the device or its library is missing.
    """
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator={accelerator!r}: choose one of {', '.join(ACCELERATORS)}.")
    if accelerator == "auto":
        accelerator = first_available()
    if accelerator == "ipu":
        if importlib.util.find_spec("poptorch") is None:
            raise ValueError(
                "accelerator=ipu needs PopTorch: source the Poplar SDK's enable script and pip install the "
                "poptorch wheel that comes with it (Python 3.8), or use accelerator=cpu."
            )
        if world_of_torchrun().size > 1:
            raise ValueError(
                "accelerator=ipu: torchrun starts processes for CPUs and GPUs; start this run with poprun."
            )
        from ipu_chem.backends.poptorch.backend import PopTorchBackend

        return PopTorchBackend(ipu_options, precision)
    from ipu_chem.backends.pytorch.backend import TorchBackend

    return TorchBackend(accelerator, torch_options, precision)


def first_available() -> str:
    """The accelerator that "auto" stands for on this machine."""
    import torch

    if importlib.util.find_spec("poptorch") is not None:
        from ipu_chem.backends.poptorch.backend import ipus_available

        if ipus_available():
            return "ipu"
    return "cuda" if torch.cuda.is_available() else "cpu"
