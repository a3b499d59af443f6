"""A double of PopTorch 3.4 for tests: real names, signatures, defaults and return shapes; runs on a CPU.

It holds what ipu_chem's backend uses, executes the schedule of a call exactly, keeps device memory apart
from the host's, and refuses what PopTorch is known to refuse, so that a mistake shows without an IPU. It
says nothing about speed or memory, and its messages are its own. What it leaves out raises AttributeError
or NotImplementedError.

Stricter than PopTorch: weights on the host wait for an explicit copy; optimizers come from poptorch.optim;
all IPUs are one device, which one program holds at a time; operators without a handler are refused among
constants too; only identity_loss makes a loss that a program may be trained with; a constructor's tensor stays
on the host even if it is moved to the device of another. And, unless `Machine.strict = False` is set:
derivatives of slices, `accumulate`, `rounding_mode` and `torch.equal`, which PopTorch gets wrong, raise Error;
so do float64, arithmetic of 8- and 16-bit integers, attention as one function in evaluation, and shared tensors
that the state dict hides, which PopTorch takes.

    options.py ...          Options, frozen by the first program; checked against PopART's when compiled
    executor.py             trainingModel, inferenceModel: the host's side
    compilation.py          what a forward pass shows: operators, marks, blocks, losses
    aliases.py              which paths of a model share a tensor
    tracing.py, functions.py, refusals.py, gathers.py    what may stand in a forward pass
    device_types.py, coercion.py            32 bits, and the warnings about it
    blocks.py, strategies.py, placement.py  which IPU and which stage it is on
    device.py, machine.py   compiled programs, their memory, the IPUs
    running.py, half.py     the schedule of a call; float16
    update_rules.py         weight updates as PopART does them
    optim.py, optimizer_settings.py         optimizers, their state, what the device gets of them
    collectives.py          several processes
    loader.py               DataLoader, also in a process of its own
"""

from . import enums, optim
from .blocks import BeginBlock, removeBlocks
from .enums import ConnectionType, DataLoaderMode, OutputMode, OverlapMode, ReductionType
from .executor import PoplarExecutor, inferenceModel, trainingModel
from .loader import DataLoader
from .machine import Machine
from .ops import (
    identity_loss,
    isRunningOnIpu,
    recomputationCheckpoint,
    set_overlap_for_input,
    set_overlap_for_output,
)
from .options import Options, TensorLocationSettings
from .poptorch_core import Error
from .strategies import PipelinedExecution, ShardedExecution, Stage

__version__ = "3.4.0-double"


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:
    return num_ipus <= Machine.num_ipus


__all__ = [
    "BeginBlock",
    "ConnectionType",
    "DataLoader",
    "DataLoaderMode",
    "Error",
    "Machine",
    "Options",
    "OutputMode",
    "OverlapMode",
    "PipelinedExecution",
    "PoplarExecutor",
    "ReductionType",
    "ShardedExecution",
    "Stage",
    "TensorLocationSettings",
    "enums",
    "identity_loss",
    "inferenceModel",
    "ipuHardwareIsAvailable",
    "isRunningOnIpu",
    "optim",
    "recomputationCheckpoint",
    "removeBlocks",
    "set_overlap_for_input",
    "set_overlap_for_output",
    "trainingModel",
]
