"""The IPUs of this machine and who holds them."""

import os
from typing import Any, Dict, Optional

from .placement import MAX_IPUS
from .poptorch_core import Error


class Machine:
    """One program holds the IPUs at a time.

    Attributes:
        num_ipus: there are.
        strict: what PopTorch takes and gets wrong, or makes 32-bit floats, raises Error; False does as PopTorch.
        imported_after_backward: some backward pass ran in this process before PopTorch was imported, and torch
            has sized the queues of its engine without the IPU.
    """

    num_ipus = 16
    strict = True
    imported_after_backward = False
    holder: Any = None

    @classmethod
    def acquire(cls, program: Any, num_ipus: int, ipu_id: Optional[int] = None) -> None:
        """Rules of CompilerImpl::createDevice in popart_compiler/source/CompilerImpl.cpp."""
        check_number(num_ipus)
        rounded = 1
        while rounded < num_ipus:
            rounded *= 2
        if rounded != num_ipus:
            raise Error(f"the model uses {num_ipus} IPUs, which are reserved in powers of two: {rounded} at least")
        if (cls.holder is not None and cls.holder is not program) or rounded > cls.num_ipus:
            raise Error(f"failed to acquire {rounded} IPU(s): they are in use or not there")
        if ipu_id is not None:
            if ipu_id not in cls.devices():
                raise Error(f"failed to acquire device {ipu_id}: there is none")
            if cls.devices()[ipu_id] < rounded:
                raise Error(f"the model uses {num_ipus} IPUs, device {ipu_id} has {cls.devices()[ipu_id]}")
        cls.holder = program

    @classmethod
    def release(cls, program: Any) -> None:
        if cls.holder is program:
            cls.holder = None

    @classmethod
    def devices(cls) -> Dict[int, int]:
        """IPUs of every device by its number, as gc-info counts them: single ones first, then pairs, ..."""
        devices: Dict[int, int] = {}
        size = 1
        while size <= cls.num_ipus:
            for _ in range(cls.num_ipus // size):
                devices[len(devices)] = size
            size *= 2
        return devices


def check_number(num_ipus: int) -> None:
    if num_ipus > MAX_IPUS:
        raise Error(f"too many IPUs ({num_ipus}): one process gets {MAX_IPUS}")


def is_simulated(options: Any) -> bool:
    """Whether a program runs on the IPU model: the options say so, or else the environment."""
    if options.exists("use_model"):
        return bool(options.use_model)
    return any(os.environ.get(f"POPTORCH_{kind}IPU_MODEL", "0") == "1" for kind in ("", "SMALL_"))
