"""Our options in PopTorch's words: `poptorch.Options` of one program, and its optimizer.

PopTorch itself is handed in by the backend.
"""

from typing import Any, Sequence, Tuple

import torch

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.optim import OptimizerConfig, ParameterGroups

# What AccumulateOuterFragmentSchedule and RecomputationType are called in PopART's session options.
_OVERLAP_CYCLE_OPTIMIZED = 2
_NO_RECOMPUTATION = 0


def program_options(
    poptorch: Any,
    ours: IpuOptions,
    precision: Precision,
    batching: Batching,
    ipus_of_stages: Sequence[int],
    training: bool,
    options: Any = None,
) -> Any:
    """`poptorch.Options` of one program; PopTorch freezes them when the program is made.

    Args:
        poptorch: the module.
        ours: options of the backend.
        precision: number formats.
        batching: how a call of this process is cut up.
        ipus_of_stages: IPU of each stage of the model, in order; blocks are called `stage_name(0)`, ...
        training: of the training program, else of the one for evaluation, which does not accumulate.
        options: made by popdist, which has set replicas and process already; None makes new ones.
    """
    if options is None:
        options = poptorch.Options()
        options.replicationFactor(batching.replication_factor)
    options.deviceIterations(batching.device_iterations)
    options.outputMode(poptorch.OutputMode.All)  # the default in training returns the last micro-batch only
    if training:
        _set_training(poptorch, options, ours, precision, batching)
    if len(ipus_of_stages) > 1 or ours.io_tiles:  # without a pipeline, overlapped I/O needs sharded execution
        # Evaluation has no accumulation to fill a pipeline with, only device iterations: with fewer of them than stages
        # PopTorch refuses, and its IPUs take turns instead.
        filled = training or batching.device_iterations >= len(ipus_of_stages)
        pipelined = len(ipus_of_stages) > 1 and ours.execution == "pipelined" and filled
        kind = poptorch.PipelinedExecution if pipelined else poptorch.ShardedExecution
        stages = [poptorch.Stage(stage_name(stage)).ipu(ipu) for stage, ipu in enumerate(ipus_of_stages)]
        options.setExecutionStrategy(kind(*stages) if len(stages) > 1 else kind())
        if pipelined and not ours.recompute:
            options._Popart.set("autoRecomputation", _NO_RECOMPUTATION)  # PopTorch's default recomputes
    if precision.partials == "float16":
        options.Precision.setPartialsType(torch.float16)
    if ours.available_memory_proportion is not None:
        shares = {f"IPU{ipu}": float(share) for ipu, share in enumerate(ours.available_memory_proportion)}
        options.setAvailableMemoryProportion(shares)
    if ours.io_tiles:
        options.TensorLocations.numIOTiles(ours.io_tiles)
    if ours.floating_point_exceptions:
        options.Precision.enableFloatingPointExceptions(True)
    if ours.executable_cache is not None:
        options.enableExecutableCaching(str(ours.executable_cache))
    if ours.offline is not None:
        options.useOfflineIpuTarget(ours.offline)
    if ours.ipu_model:  # else unset, so that POPTORCH_IPU_MODEL still decides
        options.useIpuModel(True)
    if ours.prefetch_depth is not None:
        options._Popart.set("defaultBufferingDepth", ours.prefetch_depth)
    if ours.synthetic_data:
        options.enableSyntheticData(True)
    if ours.profile_dir is not None:
        options.enableProfiling(str(ours.profile_dir))
    return options


def _set_training(poptorch: Any, options: Any, ours: IpuOptions, precision: Precision, batching: Batching) -> None:
    """Set the options that only the training program has."""
    options.Training.gradientAccumulation(batching.gradient_accumulation)
    # The weights of a step sum to 1 over all its packs: gradients must be added, never averaged.
    options.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.Sum)
    if ours.merge_all_reduce:
        options._Popart.set("accumulateOuterFragmentSettings.schedule", _OVERLAP_CYCLE_OPTIMIZED)
        options._Popart.set("replicatedCollectivesSettings.prepareScheduleForMergingCollectives", True)
        options._Popart.set("replicatedCollectivesSettings.mergeAllReduceCollectives", True)
    if ours.optimizer_state_offchip or ours.replicated_tensor_sharding:
        where = poptorch.TensorLocationSettings()
        where.useOnChipStorage(not ours.optimizer_state_offchip)
        where.useReplicatedTensorSharding(ours.replicated_tensor_sharding)
        options.TensorLocations.setOptimizerLocation(where)
    if precision.stochastic_rounding:
        options.Precision.enableStochasticRounding(True)
    if ours.seed is not None:  # it seeds the host too, which must not happen in mid-run
        options.randomSeed(ours.seed)


def stage_name(stage: int) -> str:
    """Name of a stage's block in PopTorch."""
    return f"stage{stage}"


def host_overlap(poptorch: Any) -> Tuple[Any, Any]:
    """Functions that mark a program's inputs and outputs for transfers while the IPU computes."""
    mode = poptorch.OverlapMode.OverlapDeviceIterationLoop
    return (
        lambda tensors: poptorch.set_overlap_for_input(tensors, mode),
        lambda tensors: poptorch.set_overlap_for_output(tensors, mode),
    )


def build_optimizer(poptorch: Any, config: OptimizerConfig, groups: ParameterGroups, precision: Precision) -> Any:
    """The PopTorch optimizer that a description stands for.

    Raises:
        ValueError: it would not do on IPUs what it does elsewhere; names what would.
    """
    # PopART clips what enters the moments (adam, adamw) or the weight update (sgd): the gradient itself only
    # where nothing was mixed into it before.
    scaling = precision.loss_scaling
    mixed = config.weight_decay > 0 or config.momentum > 0 or scaling != 1
    if config.max_grad_norm > 0 and (
        (config.name == "adam" and config.weight_decay > 0) or (config.name == "sgd" and mixed)
    ):
        raise ValueError(
            f"optimizer.max_grad_norm with {config.name}: IPUs clip after weight decay, momentum and loss scaling; "
            "use optimizer.name=adamw, or leave those out."
        )
    parameters = groups.groups
    shared = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "loss_scaling": scaling}
    if config.max_grad_norm > 0:
        shared["max_grad_norm"] = config.max_grad_norm
    kept_in = getattr(torch, precision.accumulation)
    if config.name == "sgd":
        optimizer = poptorch.optim.SGD(
            parameters, momentum=config.momentum, accum_type=kept_in, velocity_accum_type=kept_in, **shared
        )
    else:
        kind = poptorch.optim.AdamW if config.name == "adamw" else poptorch.optim.Adam
        optimizer = kind(
            parameters,
            betas=tuple(config.betas),
            eps=config.eps,
            accum_type=kept_in,
            first_order_momentum_accum_type=kept_in,
            **shared,
        )
    # Whatever is passed counts as changing from step to step, costs a stream to the device and, for a momentum
    # of 0, a buffer as large as the weights: only the learning rate does change.
    for name in ("momentum",) if config.name == "sgd" else ("betas", "eps"):
        optimizer.variable_attrs.markAsConstant(name)
    optimizer.variable_attrs.markAsConstant("weight_decay")
    optimizer.variable_attrs.markAsConstant("loss_scaling")
    return optimizer
