"""Options of the IPU backend as plain values, and what they are called in PopTorch.

On data's way: config -> IpuOptions -> program_options -> poptorch.Options of one compiled program. Neither
PopTorch nor torch is imported here, so that a command line can read options anywhere.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Optional, Tuple

if TYPE_CHECKING:
    from ipu_chem.backends.options import Batching

_LARGEST_FLOAT = 3.4e38


@dataclass(frozen=True)
class IpuOptions:
    """Options of the IPU backend.

    Attributes:
        available_memory_proportion: share of an IPU's memory for the temporary data of matrix products,
            gathers and scatters, one number for each IPU of a replica; None leaves it to Poplar (0.6).
        executable_cache: folder where compiled programs are kept and found again by later runs.
        offline: compile for this IPU version (2: GC200 and Bow, 21: with FP8, 1: the first) without a
            device, into executable_cache; nothing can be run.
        ipu_model: run on the SDK's simulator instead of an IPU; slow, one replica.
        prefetch_depth: batches of every input that the host keeps ready; None leaves it to PopART.
        merge_all_reduce: gather the gradients of all weights into few, large exchanges between replicas.
        stochastic_rounding: round to half precision at random, right on average; in training only.
        synthetic_data: random data made on the device, no transfers; for measuring speed, results mean nothing.
        profile_dir: folder for a report that PopVision reads.
        seed: of random numbers on the device; PopTorch seeds torch on the host with it too, at `compile`.
        loss_scaling: factor that keeps half-precision gradients from vanishing; the update divides it out.
    """

    available_memory_proportion: Optional[Tuple[float, ...]] = None
    executable_cache: Optional[str] = None
    offline: Optional[int] = None
    ipu_model: bool = False
    prefetch_depth: Optional[int] = None
    merge_all_reduce: bool = False
    stochastic_rounding: bool = False
    synthetic_data: bool = False
    profile_dir: Optional[str] = None
    seed: Optional[int] = None
    loss_scaling: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise ValueError(f"ipu.{field.name}={value!r}: give true or false.")
        shares = self.available_memory_proportion
        if shares is not None:
            if not isinstance(shares, (tuple, list)) or not all(_is_number(share, 1.0) for share in shares):
                raise ValueError(f"ipu.available_memory_proportion={shares!r}: give a list of numbers from 0 to 1.")
        for name, lowest in (("prefetch_depth", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
                raise ValueError(f"ipu.{name}={value!r}: give an integer of {lowest} or more.")
        if self.offline is not None and self.offline not in (1, 2, 21):
            raise ValueError(f"ipu.offline={self.offline!r}: give the IPU version, 2 for GC200 and Bow.")
        if self.offline is not None and self.ipu_model:
            raise ValueError("ipu.offline compiles for real IPUs, ipu.ipu_model is a simulator: choose one of the two.")
        if self.offline is not None and self.executable_cache is None:
            raise ValueError("ipu.offline leaves nothing behind without a folder: set ipu.executable_cache too.")
        if not _is_number(self.loss_scaling, _LARGEST_FLOAT) or self.loss_scaling == 0:
            raise ValueError(f"ipu.loss_scaling={self.loss_scaling!r}: give a number above 0.")


def program_options(poptorch: Any, ours: IpuOptions, batching: "Batching", training: bool) -> Any:
    """`poptorch.Options` of one program; PopTorch freezes them when the program is made.

    Args:
        poptorch: the module.
        ours: options of the backend.
        batching: how a call is cut up.
        training: of the training program, else of the one for evaluation, which does not accumulate.
    """
    options = poptorch.Options()
    options.deviceIterations(batching.device_iterations)
    options.replicationFactor(batching.replication_factor)
    options.outputMode(poptorch.OutputMode.All)  # the default in training returns the last micro-batch only
    if training:
        options.Training.gradientAccumulation(batching.gradient_accumulation)
        # The weights of a step sum to 1 over all its packs: gradients must be added, never averaged.
        options.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.Sum)
        if ours.merge_all_reduce:
            options._Popart.set("accumulateOuterFragmentSettings.schedule", 2)  # overlap, optimised for cycles
            options._Popart.set("replicatedCollectivesSettings.prepareScheduleForMergingCollectives", True)
            options._Popart.set("replicatedCollectivesSettings.mergeAllReduceCollectives", True)
        if ours.stochastic_rounding:
            options.Precision.enableStochasticRounding(True)
        if ours.seed is not None:  # it seeds the host too, which must not happen in mid-run
            options.randomSeed(ours.seed)
    if ours.available_memory_proportion is not None:
        shares = {f"IPU{ipu}": float(share) for ipu, share in enumerate(ours.available_memory_proportion)}
        options.setAvailableMemoryProportion(shares)
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


def _is_number(value: Any, highest: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= highest
