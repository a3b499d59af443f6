"""A double of PopTorch 3.4 for tests: real names, signatures, defaults and return shapes; runs on a CPU.

It holds what ipu_chem's backend uses, executes the schedule of a call exactly, keeps device memory apart
from the host's, and refuses what PopTorch is known to refuse, so that a mistake shows without an IPU. It
says nothing about speed or memory, and its messages are its own. What it leaves out raises AttributeError
or NotImplementedError.

Stricter than PopTorch: weights on the host wait for an explicit copy; optimizers come from poptorch.optim;
all IPUs are one device, which one program holds at a time; operators without a handler are refused among
constants too; only identity_loss makes a loss that a program may be trained with.

    options.py ...          Options, frozen by the first program; checked against PopART's when compiled
    executor.py             trainingModel, inferenceModel: the host's side
    compilation.py          what a forward pass shows: operators, marks, blocks, losses
    tracing.py, handlers.py, refusals.py    what may stand in a forward pass
    blocks.py, strategies.py, placement.py  which IPU and which stage it is on
    device.py, machine.py   compiled programs, their memory, the IPUs
    running.py, half.py     the schedule of a call; float16
    update_rules.py         weight updates as PopART does them
    optim.py, optimizer_settings.py         optimizers, their state, what the device gets of them
    collectives.py          several processes
"""

from . import enums, optim
from .blocks import BeginBlock, Block, BlockFunction, removeBlocks
from .enums import (
    AutoStage,
    CommGroupType,
    ConnectionType,
    DataLoaderMode,
    HalfFloatCastingBehavior,
    Liveness,
    MeanReductionStrategy,
    OutputMode,
    OverlapMode,
    ReductionType,
    SharingStrategy,
    SyncPattern,
)
from .executor import PoplarExecutor, inferenceModel, trainingModel
from .exports import load
from .machine import Machine
from .ops import (
    NameScope,
    identity_loss,
    isRunningOnIpu,
    nop,
    recomputationCheckpoint,
    set_available_memory,
    set_overlap_for_input,
    set_overlap_for_output,
)
from .options import Options, TensorLocationSettings
from .poptorch_core import Error, RecoverableError, UnrecoverableError
from .strategies import (
    ParallelPhasedExecution,
    Phase,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)

__version__ = "3.4.0-double"


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:
    return num_ipus <= Machine.num_ipus


def ipuHardwareVersion() -> int:
    assert Machine.num_ipus > 0, "no IPU is available here"
    return 2


__all__ = [
    "AutoStage",
    "BeginBlock",
    "Block",
    "BlockFunction",
    "CommGroupType",
    "ConnectionType",
    "DataLoaderMode",
    "Error",
    "HalfFloatCastingBehavior",
    "Liveness",
    "Machine",
    "MeanReductionStrategy",
    "NameScope",
    "Options",
    "OutputMode",
    "OverlapMode",
    "ParallelPhasedExecution",
    "Phase",
    "PipelinedExecution",
    "PoplarExecutor",
    "RecoverableError",
    "ReductionType",
    "SerialPhasedExecution",
    "ShardedExecution",
    "SharingStrategy",
    "Stage",
    "SyncPattern",
    "TensorLocationSettings",
    "UnrecoverableError",
    "enums",
    "identity_loss",
    "inferenceModel",
    "ipuHardwareIsAvailable",
    "ipuHardwareVersion",
    "isRunningOnIpu",
    "load",
    "nop",
    "optim",
    "recomputationCheckpoint",
    "removeBlocks",
    "set_available_memory",
    "set_overlap_for_input",
    "set_overlap_for_output",
    "trainingModel",
]
