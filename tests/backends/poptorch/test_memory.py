"""The memory estimate: Graphcore's GPT-2 layouts fill their IPUs, and the parts are what closed forms say."""

from typing import Any, Dict, List, Tuple

import pytest

from backends.poptorch.gpt2_layouts import HALF, ROWS, Row, fill, profile
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.machine import IPU_BYTES, MIB
from ipu_chem.backends.poptorch.memory import COMFORTABLE_FRACTION, KINDS, IpuMemory, MemoryModel
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.profile import BlockProfile
from ipu_chem.backends.poptorch.stages import Stage
from ipu_chem.optim import OptimizerConfig

PLAIN, ADAMW = IpuOptions(), OptimizerConfig("adamw")
PROFILES: Dict[str, List[BlockProfile]] = {}


def profiles_of(row: Row) -> List[BlockProfile]:
    if row.name not in PROFILES:
        PROFILES[row.name] = profile(row)
    return PROFILES[row.name]


def fullest(memory: List[IpuMemory]) -> IpuMemory:
    return max(memory, key=lambda ipu: ipu.fraction)


def row_of(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_published_layouts_fill_their_fullest_ipu(row: Row) -> None:
    """Within 25 %: they are known to fit, so the estimate of their fullest IPU must not be above the 897 MiB there are;
    they are taken to be the densest that fitted, so it must not be below three quarters of that.
    """
    memory = fill(row, profiles_of(row))
    assert len(memory) == len(row.layers_per_ipu) and all(ipu.capacity == IPU_BYTES for ipu in memory)
    assert 0.75 <= fullest(memory).fraction <= 1.0, [f"{ipu.fraction:.2f}" for ipu in memory]


@pytest.mark.parametrize(
    "name, layers",
    [
        ("medium", (0, 8, 8, 8)),  # half as many IPUs
        ("large", (1, 5, 5, 5, 5, 5, 5, 5)),
        ("large_512", (0, 12, 12, 12)),
        ("medium", (2, 3, 3, 3, 3, 3, 3, 4)),  # layers beside the embedding, which got none or one
        ("large_512", (2, 5, 5, 5, 5, 5, 5, 4)),
        ("large_512", (1, 6, 5, 5, 5, 5, 5, 4)),  # one layer more where most micro-batches are on their way
        ("large", (0, 2, 2, 2, 2, 2, 2, 2, 2, 4, 3, 3, 3, 3, 2, 2)),
    ],
)
def test_layouts_that_graphcore_avoided_do_not_fit(name: str, layers: Tuple[int, ...]) -> None:
    row = row_of(name)
    assert sum(layers) == row.layers
    assert fullest(fill(row, profiles_of(row), layers)).fraction > 1.0


def test_without_checkpoints_most_published_layouts_would_not_fit() -> None:
    """Graphcore recomputes from every layer; from every stage on, only the small model has room."""
    shares = {row.name: fullest(fill(row, profiles_of(row), checkpoints=False)).fraction for row in ROWS}
    assert shares["small"] < 1 and min(shares["medium"], shares["large"], shares["large_512"]) > 1


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_activations_and_parameters_of_a_layer_are_the_closed_forms(row: Row) -> None:
    block, hidden, tokens = profiles_of(row)[1], row.hidden, row.tokens
    assert block.parameters == 12 * hidden**2 + 13 * hidden and block.parameter_bytes == 2 * block.parameters
    closed = 34 * tokens * hidden + 4 * row.heads * tokens**2
    assert block.activation_bytes == pytest.approx(closed, rel=0.05)
    assert block.output_bytes == 2 * tokens * hidden  # what a checkpoint of the next one keeps


def test_parts_of_the_published_layouts() -> None:
    row = row_of("large_512")
    memory = fill(row, profiles_of(row))
    ipu, layers, tokens, hidden = memory[1], 5, row.tokens, row.hidden
    assert ipu.blocks == tuple(f"layers.{number}" for number in range(1, 6)) and ipu.stages == (1,)
    assert ipu.weights == ipu.gradients == 2 * ipu.parameters and ipu.optimizer == 0  # 4 bytes a parameter
    assert ipu.parameters == layers * (12 * hidden**2 + 13 * hidden)
    in_flight = 2 * (9 - 1 - 1) + 1  # nine stages, the embedding's IPU twice
    assert ipu.stash == in_flight * layers * 2 * tokens * hidden
    assert ipu.activations == profiles_of(row)[1].activation_bytes  # of one layer
    first = memory[0]
    assert first.stages == (0, 8) and first.blocks == ("embedding", "layers.0", "head")
    assert first.temporary == int(0.15 * IPU_BYTES)  # the logits would take more
    assert first.activations == max(block.activation_bytes for block in (profiles_of(row)[1], profiles_of(row)[-1]))


def a_profile(name: str = "", parameters: int = 1000, size: int = 4, **other: int) -> BlockProfile:
    values = dict(constant_bytes=0, activation_bytes=0, working_bytes=0, input_bytes=0, output_bytes=0, flops=1)
    return BlockProfile(name, parameters=parameters, parameter_bytes=size * parameters, **{**values, **other})


def one_ipu(block: BlockProfile, options: IpuOptions = PLAIN, replicas: int = 1, **other: Any) -> IpuMemory:
    batching = Batching(replication_factor=replicas)
    model = MemoryModel([block], options, batching, **{**dict(precision=Precision(), optimizer=ADAMW), **other})
    return model.layout([Stage(0, (block.name,))])[0]


@pytest.mark.parametrize(
    "precision, optimizer, options, replicas, bytes_each",
    [
        (HALF, "adamw", IpuOptions(), 1, 10),
        (HALF, "adamw", IpuOptions(optimizer_state_offchip=True), 1, 4),
        (HALF, "adam", IpuOptions(replicated_tensor_sharding=True), 4, 5.5),
        (HALF, "adam", IpuOptions(replicated_tensor_sharding=True, optimizer_state_offchip=True), 4, 4),
        (HALF, "adam", IpuOptions(), 4, 10),  # replicas alone share nothing
        (Precision(), "adamw", IpuOptions(), 1, 16),
        (Precision(weights="float16"), "adamw", IpuOptions(), 1, 14),
        (Precision(), "sgd", IpuOptions(), 1, 8),
        (Precision(), "momentum", IpuOptions(), 1, 12),
        (Precision(), "momentum", IpuOptions(optimizer_state_offchip=True), 1, 8),
    ],
)
def test_bytes_of_a_parameter(
    precision: Precision, optimizer: str, options: IpuOptions, replicas: int, bytes_each: float
) -> None:
    config = OptimizerConfig("sgd", momentum=0.9) if optimizer == "momentum" else OptimizerConfig(optimizer)
    block = a_profile(size=2 if precision.weights == "float16" else 4)
    ipu = one_ipu(block, options, replicas, precision=precision, optimizer=config)
    assert ipu.weights + ipu.gradients + ipu.optimizer == bytes_each * block.parameters


def test_kinds_add_up_and_a_total_above_the_capacity_is_above_one() -> None:
    ipu = one_ipu(a_profile(parameters=40 * MIB, activation_bytes=7, input_bytes=5, working_bytes=3))
    assert ipu.total == sum(getattr(ipu, kind) for kind in KINDS) == 16 * 40 * MIB + 7 + 5 + 3 + ipu.program
    assert ipu.fraction == ipu.total / IPU_BYTES and ipu.fraction > 1 > COMFORTABLE_FRACTION


def test_io_tiles_compute_nothing_and_double_what_waits() -> None:
    block = a_profile(input_bytes=1000)
    plain, overlapped = one_ipu(block), one_ipu(block, IpuOptions(io_tiles=32))
    assert (plain.io, overlapped.io) == (1000, 2000)
    assert plain.capacity == IPU_BYTES and overlapped.capacity == IPU_BYTES * (1472 - 32) // 1472


def test_temporary_data_end_at_the_share_that_is_set() -> None:
    block = a_profile(working_bytes=IPU_BYTES)
    assert one_ipu(block).temporary == int(0.6 * IPU_BYTES)
    assert one_ipu(block, IpuOptions(available_memory_proportion=(0.2,))).temporary == int(0.2 * IPU_BYTES)


@pytest.mark.parametrize("execution", ["pipelined", "sharded"])
@pytest.mark.parametrize("recompute", [False, True])
def test_what_waits_in_a_pipeline(execution: str, recompute: bool) -> None:
    """Three stages on two IPUs: the last block is on the first one's IPU."""
    blocks = [
        a_profile("embedding", activation_bytes=10, input_bytes=8, output_bytes=4),
        a_profile("middle", activation_bytes=100, output_bytes=6),
        a_profile("head", activation_bytes=40, input_bytes=2),
    ]
    options = IpuOptions(ipus_per_replica=2, execution=execution, recompute=recompute)
    model = MemoryModel(blocks, options, Batching(1, 5), Precision(), OptimizerConfig())
    first, second = model.layout([Stage(0, ("embedding",)), Stage(1, ("middle",)), Stage(0, ("head",))])
    if execution == "sharded":  # one after the other: nothing waits, nothing is computed again
        assert (first.activations, second.activations) == (50, 100)
        assert (first.stash, second.stash) == (6, 4)
        return
    # 5, 3 and 1 micro-batches are between a stage's forward and backward pass.
    assert (first.activations, second.activations) == ((40, 100) if recompute else (5 * 10 + 40, 3 * 100))
    assert first.stash == 4 * 8 + 6 and second.stash == 3 * 4
    assert first.io == 10 and second.io == 0
