"""Placement of a model's blocks on the IPUs of a replica: stages chosen, then marked for PopTorch."""

from typing import Any, List, Optional

from torch import nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import profile_blocks
from ipu_chem.backends.poptorch.program_options import stage_name
from ipu_chem.backends.poptorch.stages import Stage, block_costs, check_accumulation, plan_stages, shared_blocks
from ipu_chem.models.base import blocks_of


def choose_stages(
    program: Program, example: Any, options: IpuOptions, gradient_accumulation: Optional[int]
) -> List[Stage]:
    """Stages of one replica, in the order of execution.

    Args:
        program: whose model has `blocks()`.
        example: one micro-batch.
        options: IPUs of a replica, and the layers on each if the user said so.
        gradient_accumulation: of training; None for evaluation alone.

    Raises:
        ValueError: the model cannot be cut into so many parts, or too few micro-batches would fill the pipeline.
    """
    name = type(program.model).__name__
    if not blocks_of(program.model):
        raise ValueError(
            f"ipu.ipus_per_replica={options.ipus_per_replica}: {name} has no blocks() that say where it may be cut; "
            "use 1 IPU a replica."
        )
    try:
        profiles = profile_blocks(program, example)
    except RuntimeError as error:  # it asks for values where shapes should do
        raise ValueError(f"{name} cannot be cut into stages: {error}") from error
    stages = plan_stages(
        [profile.name for profile in profiles],
        block_costs(profiles, options),
        options.ipus_per_replica,
        options.layers_per_ipu,
        shared_blocks(program.model),
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


def keep_between_blocks(poptorch: Any, model: nn.Module, stages: List[Stage]) -> List[Any]:
    """Have recomputation start from every block instead of from every stage; returns hooks to remove."""
    modules = dict(model.named_modules())
    # What a stage ends with is kept anyway: the next one starts from it.
    inner = [name for stage in stages for name in stage.blocks[:-1]]
    return [
        modules[name].register_forward_hook(lambda module, inputs, output: poptorch.recomputationCheckpoint(output))
        for name in inner
    ]
