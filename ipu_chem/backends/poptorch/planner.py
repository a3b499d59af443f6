"""A layout for a model on a number of IPUs: replicas, stages, micro-batch, what is kept where; or why there is none."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.layout import Layout, Refusal, advice, complaint, counted
from ipu_chem.backends.poptorch.machine import LARGEST_MACHINE
from ipu_chem.backends.poptorch.memory import COMFORTABLE_FRACTION, MemoryModel
from ipu_chem.backends.poptorch.meta import meta_copy, to_meta
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import BlockProfile, profile_blocks
from ipu_chem.backends.poptorch.stages import (
    Stage,
    check_accumulation,
    count_layers,
    needed_accumulation,
    plan_stages,
    shared_blocks,
)
from ipu_chem.backends.poptorch.timing.blocks import BlockTime, block_times
from ipu_chem.backends.poptorch.timing.calls import CallTime, call_time
from ipu_chem.batches.types import first_target
from ipu_chem.optim import OptimizerConfig

LARGEST_MICRO_BATCH = 64  # packs; where searches end, several times what the published studies use
# What most of Graphcore's published pipelines give to temporary data, where Poplar would take up to 0.6.
PIPELINE_PROPORTION = 0.15
# A layout with more IPUs a replica is taken when it needs less than this fraction of the predicted time: two layouts of
# one model share the errors of its blocks, but not those of updates and exchanges.
_WORTH_IT = 0.85
# 16-bit training as it is known to learn what 32-bit training learns: see benchmarks/half_precision.py.
HALF = Precision(weights="float16", loss_scaling=64.0, stochastic_rounding=True, accumulation="float16")


@dataclass(frozen=True)
class Workload:
    """A training to be placed; profiles are measured once for every micro-batch size and format.

    Attributes:
        model: on any device, the meta device too.
        loss: as of `Backend.compile`.
        example: any number of packs.
        optimizer: its state takes memory.
        packs_per_step: packs that an optimizer step shall have, kept as nearly as a layout can; 0 is free.
        device_iterations: optimizer steps in one call.
    """

    model: nn.Module
    loss: Callable[..., Tensor]
    example: Any
    optimizer: OptimizerConfig = OptimizerConfig()
    packs_per_step: int = 0
    device_iterations: int = 1
    _known: Dict[Any, List[BlockProfile]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _timed: Dict[Any, List[BlockTime]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def shared(self) -> List[Tuple[str, ...]]:
        """Groups of blocks that share a parameter."""
        return shared_blocks(self.model)

    def profiles(self, weights: str, micro_batch_size: int) -> List[BlockProfile]:
        """Of every block at a micro-batch size, with weights in a format."""
        key = (weights, micro_batch_size)
        if key not in self._known:
            program = Program(self.model, self.loss, first_target(self.example))
            twin = meta_copy(program, getattr(torch, weights))
            self._known[key] = profile_blocks(twin, to_meta(self.example, micro_batch_size))
        return self._known[key]

    def times(self, weights: str, micro_batch_size: int, options: IpuOptions) -> List[BlockTime]:
        """Of every block, forward and backward, as `block_times` predicts them."""
        recomputed = options.is_pipeline and options.recompute
        key = (weights, micro_batch_size, recomputed)
        if key not in self._timed:
            self._timed[key] = block_times(self.profiles(weights, micro_batch_size), recomputed)
        return self._timed[key]


def predict_call(workload: Workload, layout: Layout) -> CallTime:
    """Time that a call of the training program takes in a layout; predicted, not measured."""
    weights, size = layout.precision.weights, layout.batching.micro_batch_size
    return call_time(
        workload.profiles(weights, size),
        workload.times(weights, size, layout.options),
        layout.stages,
        layout.batching,
        layout.options,
        layout.precision,
        workload.optimizer,
    )


def plan(
    workload: Workload, ipus: int, precision: Optional[Precision] = None, options: Optional[IpuOptions] = None
) -> Layout:
    """The fastest layout; among equals the fewest IPUs a replica; with the largest micro-batch that has room.

    One that fits with room to spare comes before all that are tight.

    Args:
        workload: what shall be trained.
        ipus: to use, all of them; a power of two.
        precision: number formats.
        options: whatever the layout does not decide is taken from them.

    Raises:
        ValueError: ipus is no power of two.
        Refusal: nothing fits; names the stage, and the next larger layout or other formats that do.
    """
    _check_count(ipus)
    precision = precision or Precision()
    options = options or IpuOptions()
    tried: List[Layout] = []
    found = _search(workload, ipus, precision, options, tried)
    if found is not None:
        return found
    alternative = _next_machine(workload, ipus, precision, options)
    closest = min(tried, key=lambda layout: layout.fullest.fraction)
    text = f"no layout on {counted(ipus, 'IPU')} fits. Nearest: {complaint(closest)} {advice(alternative)}"
    raise Refusal(text, closest, alternative)


def check_layout(
    workload: Workload, batching: Batching, options: IpuOptions, precision: Optional[Precision] = None
) -> Layout:
    """Judge a layout as it is.

    Raises:
        ValueError: the model cannot be cut like that, too few micro-batches would fill the pipeline, or it is made
            of options that contradict each other.
        Refusal: it does not fit; names the stage and the next layout that does on as many IPUs, or on more.
    """
    precision = precision or Precision()
    _check_count(batching.replication_factor * options.ipus_per_replica)
    if options.replicated_tensor_sharding and batching.replication_factor == 1:
        raise ValueError("ipu.replicated_tensor_sharding needs replicas to share with; set it to false.")
    layout = _layout(workload, batching, options, precision)
    check_accumulation(layout.stages, batching.gradient_accumulation, options.execution)
    if layout.fits:
        return layout
    alternative = next((other for other in _relieved(workload, layout) if other.fits), None)
    if alternative is None:
        try:
            alternative = plan(workload, layout.ipus, precision, options)
        except Refusal as refusal:
            alternative = refusal.alternative
    raise Refusal(f"this layout does not fit: {complaint(layout)} {advice(alternative)}", layout, alternative)


def _check_count(ipus: int) -> None:
    if ipus < 1 or ipus & (ipus - 1):
        raise ValueError(f"{ipus} IPUs: they are lent in powers of two; use 1, 2, 4, 8, 16, 32, 64, ...")


def _search(
    workload: Workload, ipus: int, precision: Precision, options: IpuOptions, tried: Optional[List[Layout]] = None
) -> Optional[Layout]:
    """The fastest of the layouts that fit, each with the least that slows it down; others are added to `tried`."""
    for limit in (COMFORTABLE_FRACTION, 1.0):
        best: Optional[Layout] = None
        per_replica = 1
        while per_replica <= ipus:
            for choice in _choices(options, per_replica, ipus // per_replica):
                layout = _balanced(workload, choice, ipus // per_replica, 1, precision, limit)
                if layout is not None and layout.fullest.fraction <= limit:
                    # Small micro-batches are mostly fixed costs, so layouts are compared with the largest of each.
                    layout = _with_largest_micro_batch(workload, layout)
                    # More IPUs a replica only where that is worth it: uneven stages leave IPUs waiting.
                    if best is None or _time(workload, layout) < _WORTH_IT * _time(workload, best):
                        best = layout
                    break
                if layout is not None and tried is not None:
                    tried.append(layout)
            per_replica *= 2
        if best is not None:
            return best
    return None


def _time(workload: Workload, layout: Layout) -> float:
    """Seconds for one pack of an optimizer step, all replicas working; predicted, and good for comparing layouts.

    Packs that a pipeline needs beyond those that a step shall have are no gain. Exchanges count as merged: that is an
    option of its own, and no reason for a pipeline.
    """
    layout = layout._replace(options=replace(layout.options, merge_all_reduce=True))
    batching = layout.batching
    packs = min(batching.packs_per_step, workload.packs_per_step or batching.packs_per_step)
    return predict_call(workload, layout).seconds.likely / (packs * batching.device_iterations)


def _choices(options: IpuOptions, per_replica: int, replicas: int) -> Iterator[IpuOptions]:
    """Options in the order of what they cost: exchange once a step, the host once a step, a third more compute."""
    fresh = replace(
        options,
        ipus_per_replica=per_replica,
        layers_per_ipu=None,
        available_memory_proportion=_proportions(options, per_replica),
        io_tiles=options.io_tiles if per_replica == 1 else 0,
        optimizer_state_offchip=False,
        replicated_tensor_sharding=False,
        checkpoint_blocks=False,
    )
    several = replicas > 1
    ways = ((False, False), (True, False), (True, True)) if fresh.is_pipeline else ((options.recompute, False),)
    for recompute, blocks in ways:
        kept = replace(fresh, recompute=recompute, checkpoint_blocks=blocks)
        yield kept
        if several:
            yield replace(kept, replicated_tensor_sharding=True)
        yield replace(kept, optimizer_state_offchip=True, replicated_tensor_sharding=several)


def _proportions(options: IpuOptions, per_replica: int) -> Optional[Tuple[float, ...]]:
    """The user's, where they fit; else Poplar's own on one IPU and a usual one in pipelines."""
    if options.ipus_per_replica == per_replica and options.available_memory_proportion is not None:
        return options.available_memory_proportion
    return (PIPELINE_PROPORTION,) * per_replica if per_replica > 1 else None


def _balanced(
    workload: Workload, options: IpuOptions, replicas: int, micro_batch_size: int, precision: Precision, limit: float
) -> Optional[Layout]:
    """A layout with stages of equal cost whose IPUs are filled up to a fraction, or if there is none, of equal cost.

    Returns:
        None if there are too few blocks.
    """
    profiles = workload.profiles(precision.weights, micro_batch_size)
    names = [profile.name for profile in profiles]
    costs = [time.seconds.likely for time in workload.times(precision.weights, micro_batch_size, options)]
    batching = Batching(micro_batch_size, 1, replicas, workload.device_iterations)
    model = MemoryModel(profiles, options, batching, precision, workload.optimizer)
    ipus = options.ipus_per_replica
    returning = next((names.index(group[0]) for group in workload.shared if group[-1] == names[-1]), None)
    count = ipus + int(returning is not None)

    def fits(stage: int, first: int, stop: int) -> bool:
        spans = [(stage, first, stop)]
        if returning is not None and first <= returning < stop:
            spans.append((count - 1, len(names) - 1, len(names)))
        return model.ipu(stage, spans, count).fraction <= limit

    for condition in (fits, None):
        try:
            stages = plan_stages(names, costs, ipus, None, workload.shared, condition)
        except ValueError:
            continue
        layers = count_layers(stages, names) if ipus > 1 else None
        batching = _fill(workload, batching, stages, options)
        return Layout(
            batching, replace(options, layers_per_ipu=layers), precision, tuple(stages), tuple(model.layout(stages))
        )
    return None


def _fill(workload: Workload, batching: Batching, stages: Sequence[Stage], options: IpuOptions) -> Batching:
    """The accumulation that keeps the optimizer step's packs as they are, or as few as the pipeline takes."""
    needed = needed_accumulation(stages, options.execution)
    together = batching.micro_batch_size * batching.replication_factor
    return replace(batching, gradient_accumulation=max(needed, round(workload.packs_per_step / together)))


def _with_largest_micro_batch(workload: Workload, layout: Layout) -> Layout:
    """The same with micro-batches as large as memory and the packs of a step allow."""
    while layout.batching.micro_batch_size < LARGEST_MICRO_BATCH:
        size = 2 * layout.batching.micro_batch_size
        needed = needed_accumulation(layout.stages, layout.options.execution)
        if workload.packs_per_step and size * layout.batching.replication_factor * needed > workload.packs_per_step:
            break
        options = replace(layout.options, layers_per_ipu=None)
        replicas = layout.batching.replication_factor
        larger = _balanced(workload, options, replicas, size, layout.precision, COMFORTABLE_FRACTION)
        if larger is None or larger.fullest.fraction > COMFORTABLE_FRACTION:
            break
        layout = larger
    return layout


def _layout(workload: Workload, batching: Batching, options: IpuOptions, precision: Precision) -> Layout:
    """A layout as asked for, whether it fits or not."""
    profiles = workload.profiles(precision.weights, batching.micro_batch_size)
    names = [profile.name for profile in profiles]
    costs = [time.seconds.likely for time in workload.times(precision.weights, batching.micro_batch_size, options)]
    stages = plan_stages(names, costs, options.ipus_per_replica, options.layers_per_ipu, workload.shared)
    model = MemoryModel(profiles, options, batching, precision, workload.optimizer)
    return Layout(batching, options, precision, tuple(stages), tuple(model.layout(stages)))


def _relieved(workload: Workload, layout: Layout) -> Iterator[Layout]:
    """The same IPUs and stages with less on the chip: smaller micro-batches, then the optimizer's state elsewhere."""
    batching, options = layout.batching, layout.options
    while batching.micro_batch_size > 1 and batching.micro_batch_size % 2 == 0:
        batching = replace(
            batching,
            micro_batch_size=batching.micro_batch_size // 2,
            gradient_accumulation=2 * batching.gradient_accumulation,
        )
        yield _layout(workload, batching, options, layout.precision)
    several = batching.replication_factor > 1
    if several and not options.replicated_tensor_sharding:
        yield _layout(workload, batching, replace(options, replicated_tensor_sharding=True), layout.precision)
    if not options.optimizer_state_offchip:
        options = replace(options, optimizer_state_offchip=True, replicated_tensor_sharding=several)
        yield _layout(workload, batching, options, layout.precision)
    if options.is_pipeline and not options.checkpoint_blocks:
        for blocks in (False, True):
            yield _layout(
                workload, batching, replace(options, recompute=True, checkpoint_blocks=blocks), layout.precision
            )


def _next_machine(workload: Workload, ipus: int, precision: Precision, options: IpuOptions) -> Optional[Layout]:
    """The smallest number of IPUs that does, with the numbers' format as asked for or with 16 bits."""
    formats = [precision] if precision.accumulation == "float16" else [precision, HALF]
    count = ipus
    while count <= LARGEST_MACHINE:
        for tried in formats:
            found = _search(workload, count, tried, options)
            if found is not None:
                return found
        count *= 2
    return None
