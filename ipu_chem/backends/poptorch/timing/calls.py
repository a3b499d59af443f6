"""Time that a call of the training program takes on Bow IPUs: predicted, not measured.

A call is device_iterations optimizer steps; a step is its micro-batches through the slowest stage, the bubble of a
pipeline, the exchange of gradients between replicas and the update.
"""

import math
from dataclasses import replace
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import BlockProfile
from ipu_chem.backends.poptorch.stages import Stage
from ipu_chem.backends.poptorch.timing import constants as known
from ipu_chem.backends.poptorch.timing.blocks import BlockTime
from ipu_chem.backends.poptorch.timing.span import NOTHING, Span, within
from ipu_chem.optim import OptimizerConfig

_SIZES = {"float32": 4, "float16": 2}
_SECOND_MOMENT = 4  # bytes, see ipu_chem.backends.poptorch.memory


class CallTime(NamedTuple):
    """One call of the training program.

    Attributes:
        seconds: of all of it.
        parts: likely seconds of micro-batches, bubble, update, exchange and host.
        unmerged: of the exchange, what merging all tensors into one would save.
        basis: sentences about what the seconds of the micro-batches rest on, the most important first.
    """

    seconds: Span
    parts: Dict[str, float]
    unmerged: float
    basis: Tuple[str, ...]


def call_time(
    profiles: Sequence[BlockProfile],
    times: Sequence[BlockTime],
    stages: Sequence[Stage],
    batching: Batching,
    options: IpuOptions,
    precision: Precision,
    optimizer: OptimizerConfig,
) -> CallTime:
    """Predict a call.

    Args:
        profiles: of all blocks, at the batching's micro-batch size.
        times: of the same blocks (`block_times`).
        stages: which block is on which IPU.
        batching: with the replicas of all processes.
        options, precision, optimizer: of the run.
    """
    of_block = {profile.name: (profile, time) for profile, time in zip(profiles, times)}
    ipus: Dict[int, List[str]] = {}
    for stage in stages:
        ipus.setdefault(stage.ipu, []).extend(stage.blocks)
    each = [_sum(of_block[name][1].seconds for name in blocks) for blocks in ipus.values()]
    micro_batch = max(each, key=lambda span: span.likely) if options.is_pipeline else _sum(each)
    accumulated = batching.gradient_accumulation
    waiting = len(stages) - 1 if options.is_pipeline else 0
    held = [[of_block[name][0] for name in blocks] for blocks in ipus.values()]
    update = max(update_seconds(blocks, batching, options, precision, optimizer) for blocks in held)
    exchange = max(exchange_seconds(blocks, batching, options, precision) for blocks in held)
    merged = replace(options, merge_all_reduce=True)
    unmerged = exchange - max(exchange_seconds(blocks, batching, merged, precision) for blocks in held)
    steps = batching.device_iterations
    parts = {
        "micro-batches": steps * accumulated * micro_batch.likely,
        "bubble": steps * waiting * micro_batch.likely,
        "update": steps * update,
        "exchange": steps * exchange,
        "host": known.CALL,
    }
    seconds = micro_batch * (steps * (accumulated + waiting))
    seconds = seconds + within(steps * (update + exchange), known.EXTRAPOLATED_FACTOR)
    seconds = seconds + within(known.CALL, known.MEASURED_FACTOR)
    return CallTime(seconds, parts, steps * unmerged, _basis(times))


def update_seconds(
    profiles: Sequence[BlockProfile],
    batching: Batching,
    options: IpuOptions,
    precision: Precision,
    optimizer: OptimizerConfig,
) -> float:
    """One optimizer step of the parameters that are on one IPU."""
    tensors = sum(profile.parameter_tensors for profile in profiles)
    parameters = sum(profile.parameters for profile in profiles)
    sharers = batching.replication_factor if options.replicated_tensor_sharding else 1
    seconds = known.UPDATE * tensors + known.UPDATE_PARAMETER * parameters / sharers
    if options.optimizer_state_offchip:
        each = _SIZES[precision.accumulation] + _SECOND_MOMENT if optimizer.name != "sgd" else 0
        seconds += 2 * each * parameters / sharers / known.STREAMING_BYTES
    return seconds


def exchange_seconds(
    profiles: Sequence[BlockProfile], batching: Batching, options: IpuOptions, precision: Precision
) -> float:
    """Gradients of one IPU's parameters added up over all replicas, once a step."""
    replicas = batching.replication_factor
    if replicas == 1:
        return 0.0
    tensors = sum(profile.parameter_tensors for profile in profiles)
    size = sum(profile.parameters for profile in profiles) * _SIZES[precision.accumulation]
    moved = 2 * (replicas - 1) / replicas * size / known.EXCHANGE_BYTES
    hops = known.EXCHANGE_HOP * math.log2(replicas)
    return moved + hops + (0.0 if options.merge_all_reduce else known.UNMERGED_EXCHANGE * tensors)


def _sum(spans: "Sequence[Span]") -> Span:
    total = NOTHING
    for span in spans:
        total = total + span
    return total


def _basis(times: Sequence[BlockTime]) -> Tuple[str, ...]:
    """Sentences in the order of the seconds that rest on them; those of less than a twentieth are left out."""
    seconds: Dict[str, float] = {}
    for time in times:
        seconds[time.basis] = seconds.get(time.basis, 0.0) + time.seconds.likely
    ordered = sorted(seconds, key=lambda basis: -seconds[basis])
    return tuple(basis for basis in ordered if seconds[basis] >= 0.05 * sum(seconds.values()))
