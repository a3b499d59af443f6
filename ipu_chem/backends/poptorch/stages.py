"""Stages of a pipeline: the blocks of a model that share an IPU of a replica."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from torch import nn

from ipu_chem.backends.poptorch.options import IpuOptions, expand_layers
from ipu_chem.backends.poptorch.profile import BlockProfile, block_names
from ipu_chem.backends.poptorch.timing.blocks import block_times

# Costs are compared as whole parts of this: layers are equal though one of them also has the last normalization.
_PARTS = 10_000

# fits(stage, first, stop): whether blocks first to stop - 1 have room as that stage; if not, more have neither.
Fits = Callable[[int, int, int], bool]


class Stage(NamedTuple):
    """Blocks that run one after the other on one IPU.

    Attributes:
        ipu: of the replica, from 0.
        blocks: names, in the order of execution.
    """

    ipu: int
    blocks: Tuple[str, ...]


def plan_stages(
    blocks: Sequence[str],
    costs: Sequence[float],
    ipus: int,
    layers_per_ipu: Optional[Sequence[int]] = None,
    shared: Sequence[Sequence[str]] = (),
    fits: Optional[Fits] = None,
) -> List[Stage]:
    """Cut a model so that the slowest stage is as fast as can be.

    The first block is on IPU 0, the last on the last IPU; but when the last shares a parameter with an earlier
    one (tied embedding and head), it is a stage of its own on that one's IPU.

    Args:
        blocks: names in the order of execution: embedding, repeated layers, head.
        costs: of each block, in any unit.
        ipus: of a replica.
        layers_per_ipu: repeated layers on each IPU, -1 splits what is left; None balances the costs.
        shared: groups of blocks that share a parameter, see `shared_blocks`.
        fits: see `Fits`; only splits that fit are looked at. Not asked about a last block on an earlier one's IPU.

    Raises:
        ValueError: there is no such cut; says what would do.
    """
    assert len(blocks) == len(costs)
    if ipus == 1:
        return [Stage(0, tuple(blocks))]
    index = {name: position for position, name in enumerate(blocks)}
    groups = [sorted(index[name] for name in group) for group in shared]
    last = len(blocks) - 1
    partner = next((group[0] for group in groups if last in group and len(group) > 1), None)
    body = list(blocks) if partner is None else list(blocks[:-1])
    glued = [(group[0], group[-1]) for group in ([b for b in group if b < len(body)] for group in groups) if group]
    if len(body) < ipus:
        raise ValueError(
            f"{len(body)} blocks cannot be spread over {ipus} IPUs; use ipu.ipus_per_replica="
            f"{1 << (len(body).bit_length() - 1)} or fewer."
        )
    if layers_per_ipu is None:
        weights = list(costs[: len(body)])
        if partner is not None:
            weights[partner] += costs[last]
        sizes = _balance(weights, ipus, glued, fits)
        if sizes is None:
            raise ValueError(f"no cut of the {len(body)} blocks over {ipus} IPUs keeps together what must be.")
    else:
        sizes = _sizes_of_layers(layers_per_ipu, ipus, len(blocks), partner is None)
    stages: List[Stage] = []
    start = 0
    for ipu, size in enumerate(sizes):
        for first, final in glued:
            if start <= first < start + size <= final:
                raise ValueError(
                    f"the blocks {blocks[first]} and {blocks[final]} share a parameter and must be on one IPU; "
                    "change ipu.layers_per_ipu or leave it out."
                )
        stages.append(Stage(ipu, tuple(body[start : start + size])))
        start += size
    if partner is not None:
        home = next(stage.ipu for stage in stages if blocks[partner] in stage.blocks)
        if home == ipus - 1:
            stages[-1] = Stage(home, stages[-1].blocks + (blocks[last],))
        else:
            stages.append(Stage(home, (blocks[last],)))
    return stages


def block_costs(profiles: Sequence[BlockProfile], options: IpuOptions) -> List[float]:
    """Seconds of every block for one micro-batch, predicted: what planner and backend balance stages by."""
    times = block_times(profiles, recomputed=options.is_pipeline and options.recompute)
    return [time.seconds.likely for time in times]


def count_layers(stages: Sequence[Stage], blocks: Sequence[str]) -> Tuple[int, ...]:
    """The layers_per_ipu that stages stand for."""
    layers = set(blocks[1:-1])
    counts: Dict[int, int] = {}
    for stage in stages:
        counts[stage.ipu] = counts.get(stage.ipu, 0) + sum(name in layers for name in stage.blocks)
    return tuple(counts[ipu] for ipu in sorted(counts))


def shared_blocks(model: nn.Module) -> List[Tuple[str, ...]]:
    """Groups of blocks that hold the same parameter, found by comparing them."""
    modules = dict(model.named_modules())
    owners: Dict[int, List[str]] = {}
    for name in block_names(model):
        for parameter in modules[name].parameters():
            owners.setdefault(id(parameter), []).append(name)
    return sorted({tuple(names) for names in owners.values() if len(names) > 1})


def needed_accumulation(stages: Sequence[Stage], execution: str = "pipelined") -> int:
    """The smallest gradient accumulation that training takes: every stage forward and backward, the last one once."""
    return 2 * len(stages) - 1 if len(stages) > 1 and execution == "pipelined" else 1


def check_accumulation(stages: Sequence[Stage], gradient_accumulation: int, execution: str = "pipelined") -> None:
    """Refuse to train a pipeline with too few micro-batches to fill it.

    Raises:
        ValueError: names the number that would do.
    """
    needed = needed_accumulation(stages, execution)
    if gradient_accumulation < needed:
        raise ValueError(
            f"batching.gradient_accumulation={gradient_accumulation}: a pipeline of {len(stages)} stages needs "
            f"{needed} or more micro-batches a step."
        )


def _sizes_of_layers(layers_per_ipu: Sequence[int], ipus: int, num_blocks: int, head_is_last: bool) -> List[int]:
    """Blocks on each IPU from layers on each IPU."""
    if len(layers_per_ipu) != ipus:
        raise ValueError(f"ipu.layers_per_ipu={list(layers_per_ipu)}: give one number for each of the {ipus} IPUs.")
    sizes = list(expand_layers(layers_per_ipu, num_blocks - 2))
    sizes[0] += 1
    sizes[-1] += int(head_is_last)
    if 0 in sizes:
        raise ValueError(
            f"ipu.layers_per_ipu={list(layers_per_ipu)} leaves IPU {sizes.index(0)} nothing to do; give it a layer, or "
            "use fewer IPUs a replica."
        )
    return sizes


def _balance(
    costs: Sequence[float], parts: int, glued: Sequence[Tuple[int, int]], fits: Optional[Fits]
) -> Optional[List[int]]:
    """Sizes of contiguous parts with the smallest largest cost; None when there is no such split.

    Among equals the most even one, then the one whose later parts are larger: early stages of a pipeline have
    more micro-batches in flight, thus less room.
    """
    total = sum(costs) or 1.0
    sums = [0]
    for cost in costs:
        sums.append(sums[-1] + round(cost / total * _PARTS))
    stops = _stops(len(costs), parts, glued, fits)
    # The smallest bound under which there is a split: it is the cost of some part.
    bounds = sorted({sums[end] - sums[start] for part in stops for start, ends in part.items() for end in ends})
    low, high = 0, len(bounds)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _most_even(sums, stops, bounds[middle]) else (middle + 1, high)
    return _most_even(sums, stops, bounds[low]) if low < len(bounds) else None


def _stops(
    count: int, parts: int, glued: Sequence[Tuple[int, int]], fits: Optional[Fits]
) -> List[Dict[int, List[int]]]:
    """Parts that may be: for every stage and every block that it may begin at, where it may end."""
    result: List[Dict[int, List[int]]] = []
    for stage in range(parts):
        ends = range(stage + 1, count - (parts - stage) + 2) if stage < parts - 1 else (count,)
        ends = [end for end in ends if all(not first < end <= final for first, final in glued)]
        result.append({})
        for start in range(stage, count - (parts - stage) + 1) if stage else (0,):
            result[-1][start] = []
            for end in ends:
                if end <= start:
                    continue
                if fits is not None and not fits(stage, start, end):
                    break
                result[-1][start].append(end)
    return result


def _most_even(sums: Sequence[int], stops: Sequence[Dict[int, List[int]]], bound: int) -> Optional[List[int]]:
    """Sizes of parts with the smallest sum of squared costs, none of which is above a bound."""
    best: Dict[int, Tuple[int, List[int]]] = {len(sums) - 1: (0, [])}  # of the parts that begin at a block
    for part in reversed(stops):
        now: Dict[int, Tuple[int, List[int]]] = {}
        for start, ends in part.items():
            for end in ends:
                cost = sums[end] - sums[start]
                if cost > bound or end not in best:
                    continue
                squares = cost * cost + best[end][0]
                if start not in now or squares < now[start][0]:
                    now[start] = (squares, [end - start, *best[end][1]])
        best = now
    return best[0][1] if 0 in best else None
