"""A double of PopTorch 3.4 for tests: real names, signatures, defaults and return shapes; runs on a CPU.

It holds what ipu_chem's backend uses, executes the schedule of a call exactly, keeps device memory apart
from the host's, and refuses what PopTorch is known to refuse, so that a mistake shows without an IPU. It
says nothing about speed or memory, and its messages are its own. What it leaves out raises AttributeError
or NotImplementedError.

Stricter than PopTorch: only identity_loss marks a loss (there, torch's loss functions do too); weights on
the host wait for an explicit copy; optimizers come from poptorch.optim; all IPUs are one device, which one
program holds at a time.

    options.py          Options, frozen by the first program
    executor.py         trainingModel, inferenceModel: the host's side
    device.py           the IPUs, compiled programs, the schedule
    tracing.py          what may stand in a forward pass
    update_rules.py     weight updates as PopART does them
    optim.py            optimizers and their state
"""

from . import optim
from .device import Machine
from .enums import ConnectionType, OutputMode, ReductionType
from .executor import PoplarExecutor, inferenceModel, ipuHardwareIsAvailable, trainingModel
from .ops import identity_loss, isRunningOnIpu
from .options import Options
from .poptorch_core import Error, RecoverableError, UnrecoverableError

__version__ = "3.4.0-double"

__all__ = [
    "ConnectionType",
    "Error",
    "Machine",
    "Options",
    "OutputMode",
    "PoplarExecutor",
    "RecoverableError",
    "ReductionType",
    "UnrecoverableError",
    "identity_loss",
    "inferenceModel",
    "ipuHardwareIsAvailable",
    "isRunningOnIpu",
    "optim",
    "trainingModel",
]
