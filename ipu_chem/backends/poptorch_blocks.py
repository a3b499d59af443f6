"""Which part of a model runs on which IPU of a replica: stages chosen, then marked for PopTorch.

On data's way: model.blocks(), IpuOptions -> stages -> BeginBlock marks -> the compiled programs. PopTorch
itself is handed in by the backend.
"""

from typing import Any, Callable, List, Optional

from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.ipu_options import IpuOptions
from ipu_chem.backends.poptorch_options import stage_name
from ipu_chem.ipu.profile import profile_blocks
from ipu_chem.ipu.stages import Stage, check_accumulation, plan_stages, shared_blocks


def choose_stages(
    model: nn.Module,
    loss: Callable[..., Tensor],
    example: Any,
    options: IpuOptions,
    gradient_accumulation: Optional[int],
) -> List[Stage]:
    """Stages of one replica, in the order of execution.

    Args:
        model: has `blocks()`.
        loss: as of `Backend.compile`.
        example: one micro-batch.
        options: IPUs of a replica, and the layers on each if the user said so.
        gradient_accumulation: of training; None for evaluation alone.

    Raises:
        ValueError: the model cannot be cut into so many parts, or too few micro-batches would fill the pipeline.
    """
    if not hasattr(model, "blocks"):
        raise ValueError(
            f"ipu.ipus_per_replica={options.ipus_per_replica}: {type(model).__name__} has no blocks() that say where "
            "it may be cut; use 1 IPU a replica."
        )
    profiles = profile_blocks(Program(model, loss), example)
    stages = plan_stages(
        [profile.name for profile in profiles],
        [float(profile.flops) for profile in profiles],
        options.ipus_per_replica,
        options.layers_per_ipu,
        shared_blocks(model),
    )
    if gradient_accumulation is not None:
        check_accumulation(stages, gradient_accumulation, options.execution)
    return stages


def place_stages(poptorch: Any, model: nn.Module, stages: List[Stage]) -> None:
    """Mark the first block of every stage: what runs from there on, until the next mark, is on the stage's IPU.

    What runs before the first block is on IPU 0, and so is the first stage.
    """
    assert stages[0].ipu == 0
    modules = dict(model.named_modules())
    for index, stage in enumerate(stages):
        poptorch.BeginBlock(modules[stage.blocks[0]], user_id=stage_name(index), ipu_id=stage.ipu)
