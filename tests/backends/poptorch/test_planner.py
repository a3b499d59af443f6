"""The planner: published and hand-made layouts come out of it, and what does not fit is refused with what does."""

from dataclasses import replace
from typing import List

import pytest
import torch
from torch import Tensor, nn

from backends.poptorch.gpt2_layouts import GPT2, ROWS, Tokens, cross_entropy
from backends.poptorch.workloads import SCHNET, chemgpt_workload, graph_config, graph_workload
from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.blocks import choose_stages
from ipu_chem.backends.poptorch.layout import Layout, Refusal
from ipu_chem.backends.poptorch.machine import IPU_BYTES, MIB
from ipu_chem.backends.poptorch.memory import COMFORTABLE_FRACTION
from ipu_chem.backends.poptorch.meta import meta_copy
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.planner import HALF, Workload, check_layout, plan
from ipu_chem.backends.poptorch.stages import block_costs
from ipu_chem.batches.types import CompactNodePack, first_target
from ipu_chem.models.base import Model
from ipu_chem.optim import OptimizerConfig

SMALL, MIDDLE, LARGE = "chemgpt-4.7m", "chemgpt-19m", "chemgpt-1.2b"


def assert_sound(layout: Layout, ipus: int) -> None:
    """What holds for every layout that is planned."""
    options, batching = layout.options, layout.batching
    assert layout.ipus == ipus == batching.replication_factor * options.ipus_per_replica
    assert layout.fits and len(layout.memory) == options.ipus_per_replica
    assert not (options.replicated_tensor_sharding and batching.replication_factor == 1)
    assert [stage.ipu for stage in layout.stages][: options.ipus_per_replica] == list(range(options.ipus_per_replica))
    if options.is_pipeline:
        assert batching.gradient_accumulation >= 2 * len(layout.stages) - 1
        assert options.layers_per_ipu is not None and len(options.layers_per_ipu) == options.ipus_per_replica
        assert options.available_memory_proportion == (0.15,) * options.ipus_per_replica


@pytest.mark.parametrize(
    "size, precision, micro_batch_size", [(SMALL, Precision(), 8), (MIDDLE, Precision(), 2), (MIDDLE, HALF, 4)]
)
def test_small_chemgpt_is_on_one_ipu_a_replica(size: str, precision: Precision, micro_batch_size: int) -> None:
    task = chemgpt_workload(size)
    for ipus in (1, 4, 16, 64):
        layout = plan(task, ipus, precision)
        assert_sound(layout, ipus)
        assert layout.options.ipus_per_replica == 1 and layout.batching.replication_factor == ipus
        assert not layout.options.optimizer_state_offchip and not layout.options.replicated_tensor_sharding
        assert layout.batching.micro_batch_size == micro_batch_size and layout.batching.packs_per_step == 512
        assert not layout.is_tight
    # Twice the micro-batch would not leave room to spare.
    twice = Batching(2 * micro_batch_size)
    try:
        assert check_layout(task, twice, IpuOptions(), precision).is_tight
    except Refusal:
        pass


@pytest.mark.parametrize("tokens", [128, 256])
@pytest.mark.parametrize("ipus", [16, 64])
def test_large_chemgpt_is_spread_over_16_ipus(tokens: int, ipus: int) -> None:
    layout = plan(chemgpt_workload(LARGE, tokens), ipus, HALF)
    assert_sound(layout, ipus)
    options = layout.options
    assert options.ipus_per_replica == 16 and layout.batching.replication_factor == ipus // 16
    assert options.layers_per_ipu == (1,) * 8 + (2,) * 8
    assert options.optimizer_state_offchip and options.recompute
    assert options.replicated_tensor_sharding == (ipus == 64)
    assert layout.stages[-1].ipu == 0 and layout.stages[-1].blocks == ("head",)
    assert max(ipu.parameters for ipu in layout.memory) == 2 * (12 * 2048**2 + 10 * 2048)
    assert not layout.is_tight


def test_a_head_of_its_own_is_on_the_last_ipu() -> None:
    layout = plan(chemgpt_workload(LARGE, tied=False), 16, HALF)
    assert_sound(layout, 16)
    assert len(layout.stages) == 16 and layout.stages[-1].ipu == 15 and layout.stages[-1].blocks[-1] == "head"
    assert layout.options.layers_per_ipu is not None and sum(layout.options.layers_per_ipu) == 24
    assert max(layout.options.layers_per_ipu) == 2


@pytest.mark.parametrize("ipus", [1, 4])
def test_large_chemgpt_is_refused_on_few_ipus_with_the_next_that_fits(ipus: int) -> None:
    task = chemgpt_workload(LARGE)
    with pytest.raises(Refusal) as caught:
        plan(task, ipus, HALF)
    refusal, text = caught.value, str(caught.value)
    assert f"no layout on {ipus} IPU" in text and "most of it weights" in text
    assert "stage 0 (embedding.." in text and "of the 897 MiB there are" in text
    assert refusal.layout.ipus == ipus and not refusal.layout.fits
    assert refusal.layout.options.optimizer_state_offchip, "the nearest has as little on the chip as can be"
    next_one = refusal.alternative
    assert next_one is not None and "Next that fits: 16 IPUs, 1 replica of 16 IPUs" in text
    assert next_one == plan(task, 16, HALF)
    with pytest.raises(Refusal):
        plan(task, 8, HALF)


@pytest.mark.parametrize("ipus", [16, 64])
def test_large_chemgpt_in_32_bits_is_told_of_16(ipus: int) -> None:
    with pytest.raises(Refusal, match="float16 weights") as caught:
        plan(chemgpt_workload(LARGE), ipus, Precision())
    other = caught.value.alternative
    assert other is not None and other.precision == HALF and other.ipus == ipus


@pytest.mark.parametrize(
    "config",
    [
        graph_config("schnet", Batching(16), **SCHNET),
        graph_config("schnet", Batching(7), nodes=192, **SCHNET),
        graph_config("painn", Batching(2), num_radial=20, cutoff=5.0),
    ],
    ids=["qm9", "hydronet", "painn"],
)
def test_models_of_molecules_are_on_one_ipu_a_replica(config) -> None:
    task = graph_workload(config)
    as_published = check_layout(task, config.batching, config.ipu)
    assert as_published.fits and as_published.memory[0].blocks[0] == "model.embedding"
    on_a_pod = check_layout(task, replace(config.batching, replication_factor=16), config.ipu)
    assert on_a_pod.ipus == 16 and on_a_pod.memory == as_published.memory
    for ipus in (1, 4, 16, 64):
        layout = plan(task, ipus)
        assert_sound(layout, ipus)
        assert layout.options.ipus_per_replica == 1 and not layout.options.optimizer_state_offchip


def test_packs_of_a_step_are_kept_where_they_can_be() -> None:
    task = graph_workload(graph_config("schnet", Batching(4, 8), **SCHNET))
    for ipus in (1, 2, 4, 8, 16, 32):
        layout = plan(task, ipus)
        assert layout.batching.packs_per_step == 32
    assert plan(task, 64).batching == Batching(1, 1, 64)


def test_without_a_wish_micro_batches_grow_until_memory_is_nearly_full() -> None:
    config = graph_config("schnet", Batching(16), **SCHNET)
    free = replace(graph_workload(config), packs_per_step=0)
    layout = plan(free, 1)
    assert layout.batching.gradient_accumulation == 1 and 0.5 < layout.fullest.fraction <= COMFORTABLE_FRACTION


class Chain(Model):
    """Wide layers with hardly any activations: only parameters matter."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(layers)])

    def blocks(self) -> List[str]:
        return [f"layers.{number}" for number in range(len(self.layers))]

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[1][:, :1, :1].expand(-1, 1, self.layers[0].in_features)
        for layer in self.layers:
            x = layer(x)
        return x


def chain_workload(layers: int, mib: int, **other) -> Workload:
    """Layers of so many MiB of float32 weights each."""
    width = int((mib * MIB / 4) ** 0.5)
    with torch.device("meta"):
        model = Chain(layers, width)
    packs = CompactNodePack(*[torch.zeros(1, 1, 1)] * 5)
    return Workload(model, lambda prediction, y, weight: (prediction * weight).sum(), packs, **other)


def test_what_slows_down_least_comes_first() -> None:
    # 16 bytes a parameter, then 8 + 8 / replicas, then 8; and 4 for the copies of operands.
    kept = plan(chain_workload(1, 100), 4).options
    assert not kept.replicated_tensor_sharding and not kept.optimizer_state_offchip
    shared = plan(chain_workload(1, 140), 4).options
    assert shared.replicated_tensor_sharding and not shared.optimizer_state_offchip
    away = plan(chain_workload(1, 140), 1).options
    assert away.optimizer_state_offchip and not away.replicated_tensor_sharding
    split = plan(chain_workload(2, 200), 2).options
    assert split.ipus_per_replica == 2 and split.optimizer_state_offchip
    # SGD has no state: nothing has to leave the chip.
    assert not plan(chain_workload(1, 140, optimizer=OptimizerConfig("sgd")), 1).options.optimizer_state_offchip


class Tied(Model):
    """Eight wide layers between an embedding and a head of the same weight, which keeps many activations."""

    def __init__(self, mib: int, kept: int) -> None:
        super().__init__()
        rows, width = 256, int((mib * MIB / 4) ** 0.5)
        self.embedding = Scale(nn.Parameter(torch.empty(rows, width)), 1)
        self.layers = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(8)])
        self.head = Scale(self.embedding.weight, kept * MIB // 4 // rows)

    def blocks(self) -> List[str]:
        return ["embedding", *(f"layers.{number}" for number in range(8)), "head"]

    def forward(self, *inputs: Tensor) -> Tensor:
        x = self.embedding(torch.ones_like(self.embedding.weight))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Scale(nn.Module):
    def __init__(self, weight: nn.Parameter, copies: int) -> None:
        super().__init__()
        self.weight, self.copies = weight, copies

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        if self.copies == 1:
            return x
        wide = x.sum(1, keepdim=True).expand(-1, self.copies) + 1.0
        return wide * wide


def test_the_head_takes_room_on_the_embeddings_ipu() -> None:
    """By their work four layers a stage would be even; with what the head keeps, there is room for three."""
    with torch.device("meta"):
        model = Tied(20, kept=55)
    packs = CompactNodePack(*[torch.zeros(1, 1, 1)] * 5)
    layout = plan(Workload(model, lambda prediction, y, weight: prediction.sum(), packs), 2)
    assert layout.options.layers_per_ipu == (3, 5) and not layout.options.optimizer_state_offchip
    assert layout.memory[0].stages == (0, 2) and not layout.is_tight


def test_gpt2_small_is_planned_no_slower_than_it_was_published() -> None:
    """Graphcore left IPU 0 to embedding and head; their 50,257 symbols are as much work as five layers."""
    row = ROWS[0]
    with torch.device("meta"):
        model = GPT2(row)
    ids = torch.zeros(1, row.tokens, dtype=torch.int32)
    tokens = Tokens(ids, ids.long(), torch.zeros(1, row.tokens))
    task = Workload(model, cross_entropy, tokens, packs_per_step=8192)
    options = IpuOptions(
        ipus_per_replica=4, layers_per_ipu=(0, 4, 4, 4), optimizer_state_offchip=True, replicated_tensor_sharding=True
    )
    published = check_layout(task, Batching(1, 2048, row.replicas), options, HALF)
    found = plan(task, 16, HALF)
    assert published.fits and found.fits and not found.is_tight
    assert found.batching.packs_per_step == 8192
    assert _busiest(task, found) < 1.05 * _busiest(task, published)


def _busiest(task: Workload, layout: Layout) -> float:
    """Operations of the busiest IPU for a pack, shared by the replicas."""
    flops = {profile.name: profile.flops for profile in task.profiles("float16", 1)}
    return max(sum(flops[name] for name in ipu.blocks) for ipu in layout.memory) / layout.batching.replication_factor


def test_uneven_stages_are_worth_more_ipus() -> None:
    """Room for three layers beside the head makes five elsewhere; on four IPUs there are two on each."""
    with torch.device("meta"):
        model = Tied(20, kept=55)
    packs = CompactNodePack(*[torch.zeros(1, 1, 1)] * 5)
    task = Workload(model, lambda prediction, y, weight: prediction.sum(), packs)
    assert plan(task, 2).options.layers_per_ipu == (3, 5)
    assert plan(task, 4).options.layers_per_ipu == (2, 2, 2, 2)


@pytest.mark.parametrize(
    "task, ipus, weights",
    [
        (chemgpt_workload(LARGE), 16, HALF),
        (chemgpt_workload(MIDDLE), 4, Precision()),
        (graph_workload(graph_config("schnet", Batching(1), nodes=192, **SCHNET)), 2, Precision()),
    ],
    ids=["chemgpt-1.2b", "chemgpt-19m", "schnet"],
)
def test_the_backend_cuts_where_the_planner_does(task: Workload, ipus: int, weights: Precision) -> None:
    options = IpuOptions(ipus_per_replica=ipus, optimizer_state_offchip=True)
    batching = Batching(1, 64)
    layout = check_layout(task, batching, options, weights)
    program = meta_copy(Program(task.model, task.loss, first_target(task.example)), getattr(torch, weights.weights))
    assert tuple(choose_stages(program, task.example, options, 64)) == layout.stages
    costs = [sum(time.seconds.likely for time in task.times(weights.weights, 1, options))]
    costs.append(sum(block_costs(task.profiles(weights.weights, 1), options)))
    assert costs[0] == pytest.approx(costs[1])


def test_room_to_spare_comes_before_fewer_ipus() -> None:
    one = chain_workload(2, 110)
    tight = check_layout(one, Batching(), IpuOptions(optimizer_state_offchip=True))
    assert tight.fits and tight.is_tight
    assert plan(one, 2).options.ipus_per_replica == 2 and not plan(one, 2).is_tight
    # Where there is one IPU only, tight it is.
    assert plan(one, 1).is_tight


def test_nothing_fits_a_layer_that_is_larger_than_an_ipu() -> None:
    with pytest.raises(Refusal, match="Nothing up to 256 IPUs fits") as caught:
        plan(chain_workload(2, 900), 4)
    assert caught.value.alternative is None


def test_what_the_layout_does_not_decide_is_kept() -> None:
    asked = IpuOptions(merge_all_reduce=True, prefetch_depth=4, executable_cache="cache", io_tiles=32, seed=3)
    options = plan(chain_workload(2, 200), 2, options=asked).options
    assert (options.merge_all_reduce, options.prefetch_depth, options.executable_cache, options.seed) == (
        True,
        4,
        "cache",
        3,
    )
    assert options.io_tiles == 0, "a pipeline has none"
    assert plan(chain_workload(1, 10), 4, options=asked).options.io_tiles == 32
    share = IpuOptions(available_memory_proportion=(0.3,))
    assert plan(chain_workload(1, 10), 4, options=share).options.available_memory_proportion == (0.3,)


def test_sharded_ipus_keep_their_execution_and_need_no_accumulation() -> None:
    layout = plan(chain_workload(4, 100), 4, options=IpuOptions(execution="sharded"))
    assert (
        layout.options.execution == "sharded"
        and "one after the other" in layout.describe()
        and layout.batching.gradient_accumulation == 1
    )


@pytest.mark.parametrize(
    "mib, batching, options, expected",
    [
        (160, Batching(1, 1, 4), IpuOptions(), dict(replicated_tensor_sharding=True, optimizer_state_offchip=False)),
        (160, Batching(), IpuOptions(), dict(replicated_tensor_sharding=False, optimizer_state_offchip=True)),
    ],
)
def test_a_layout_that_does_not_fit_is_relieved(
    mib: int, batching: Batching, options: IpuOptions, expected: dict
) -> None:
    with pytest.raises(Refusal, match="this layout does not fit") as caught:
        check_layout(chain_workload(1, mib), batching, options)
    other = caught.value.alternative
    assert other is not None and other.fits and other.ipus == batching.replication_factor
    assert {name: getattr(other.options, name) for name in expected} == expected
    assert f"{other.ipus} IPU" in str(caught.value).split("Next that fits: ")[1]


def test_micro_batches_are_made_smaller_first() -> None:
    config = graph_config("schnet", Batching(128, 1, 2), **SCHNET)
    with pytest.raises(Refusal, match="most of it activations") as caught:
        check_layout(graph_workload(config), config.batching, config.ipu)
    other = caught.value.alternative
    assert other is not None and other.fits and not other.options.optimizer_state_offchip
    assert other.batching.micro_batch_size < 128 and other.batching.packs_per_step == config.batching.packs_per_step


def test_a_pipeline_is_told_to_recompute() -> None:
    options = IpuOptions(ipus_per_replica=16, optimizer_state_offchip=True, recompute=False)
    with pytest.raises(Refusal) as caught:
        check_layout(chemgpt_workload(LARGE), Batching(1, 64), options, HALF)
    other = caught.value.alternative
    assert other is not None and other.ipus == 16 and other.options.recompute


def test_options_that_contradict_each_other_are_refused() -> None:
    task = chain_workload(2, 10)
    with pytest.raises(ValueError, match="lent in powers of two"):
        plan(task, 3)
    with pytest.raises(ValueError, match="lent in powers of two"):
        check_layout(task, Batching(replication_factor=6), IpuOptions())
    with pytest.raises(ValueError, match="needs replicas to share with"):
        check_layout(task, Batching(), IpuOptions(replicated_tensor_sharding=True))
    with pytest.raises(ValueError, match="gradient_accumulation=2: a pipeline of 2 stages needs 3"):
        check_layout(task, Batching(gradient_accumulation=2), IpuOptions(ipus_per_replica=2))
    with pytest.raises(ValueError, match="2 blocks cannot be spread over 4 IPUs"):
        check_layout(task, Batching(gradient_accumulation=9), IpuOptions(ipus_per_replica=4))


def test_an_ipu_is_full_at_897_mib() -> None:
    assert IPU_BYTES == 1472 * 638_976 and IPU_BYTES / MIB == 897
    layout = check_layout(chain_workload(1, 10), Batching(), IpuOptions())
    assert layout.memory[0].capacity == IPU_BYTES
