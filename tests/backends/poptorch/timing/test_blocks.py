"""Seconds of blocks: published shapes, patterns that are recognized and that are not, transformers, monotony."""

from typing import List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends.poptorch.gpt2_layouts import Row
from backends.poptorch.gpt2_layouts import profile as gpt2_profile
from backends.poptorch.workloads import SCHNET, chemgpt_workload, graph_config, graph_workload
from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.timing import blocks as block_time
from ipu_chem.backends.poptorch.timing import constants as known
from ipu_chem.backends.poptorch.timing.blocks import (
    SchNetBlock,
    block_times,
    find_schnet_block,
    schnet_block_seconds,
    transformer_width,
)
from ipu_chem.backends.poptorch.timing.cycles import (
    block_cycles,
    forward_cycles,
    gather_cycles,
    product_cycles,
    scatter_cycles,
    training_cycles,
)
from ipu_chem.backends.poptorch.timing.operators import Operator

# Published microseconds on one Bow IPU: N, F, E -> gather, scatter_add (N rows into E), SchNet block, forward.
PUBLISHED = {
    (1_024, 128, 32_768): (13.5, 29.6, 212.0),
    (512, 128, 16_384): (7.5, 15.5, 138.0),
    (4_096, 512, 32_768): (50.5, None, None),
    (4_096, 256, 32_768): (None, 93.5, None),
    (16, 16, 32): (0.75, 1.35, 61.3),
}


@pytest.mark.parametrize("shape", PUBLISHED)
def test_published_shapes_come_out(shape: Tuple[int, int, int]) -> None:
    rows, columns, outputs = shape
    predicted = (
        gather_cycles(rows, columns, outputs),
        scatter_cycles(rows, columns, outputs),
        block_cycles(rows, outputs, columns, columns),
    )
    for cycles, measured in zip(predicted, PUBLISHED[shape]):
        if measured is not None:
            assert cycles / known.CLOCK * 1e6 == pytest.approx(measured, rel=0.25)


SIZES = st.tuples(*[st.integers(1, 5_000)] * 3)


@given(SIZES, st.integers(0, 2), st.integers(1, 5_000))
def test_every_formula_grows_with_every_size(sizes: Tuple[int, ...], which: int, more: int) -> None:
    larger = tuple(size + more if place == which else size for place, size in enumerate(sizes))
    for function in (gather_cycles, scatter_cycles, lambda n, f, e: block_cycles(n, e, f, f)):
        assert function(*larger) > function(*sizes) > 0
    for kind in ("gather", "scatter"):
        for trained in (False, True):
            one, other = (training_cycles(Operator(kind, made, False, trained)) for made in (sizes, larger))
            assert other > one
    assert training_cycles(Operator("product", (1, *larger))) > training_cycles(Operator("product", (1, *sizes)))


@given(
    st.sampled_from(["element-wise", "function", "reduction", "softmax", "softplus", "search"]),
    st.integers(1, 10**7),
    st.integers(1, 10**6),
    st.booleans(),
)
def test_elements_cost_more_the_more_they_are(kind: str, elements: int, more: int, half: bool) -> None:
    one, other = (Operator(kind, (count,), half, True) for count in (elements, elements + more))
    assert forward_cycles(other) > forward_cycles(one) >= known.OPERATOR
    assert training_cycles(one) == pytest.approx(3 * forward_cycles(one))
    assert training_cycles(one, recomputed=True) == pytest.approx(4 * forward_cycles(one))
    assert training_cycles(one._replace(trained=False)) == forward_cycles(one)


@given(st.tuples(*[st.integers(2, 3_000)] * 5), st.integers(0, 4), st.integers(1, 3_000), st.booleans())
def test_a_block_grows_with_every_size(sizes: Tuple[int, ...], which: int, more: int, both_ways: bool) -> None:
    larger = tuple(size + more if place == which else size for place, size in enumerate(sizes))
    one, other = (
        schnet_block_seconds(SchNetBlock(*made, both_ways), 100.0, False, False).seconds for made in (sizes, larger)
    )
    # Features of atoms count where there are more of them than of messages.
    assert other.likely > one.likely or (which == 4 and larger[4] <= sizes[3])
    assert 0 < one.least < one.likely < one.most


def profiles(**changed) -> List:
    """Of a SchNet, blocks in the order of execution."""
    sizes = {**SCHNET, "filter": "exact", **changed}
    return graph_workload(graph_config("schnet", Batching(1), nodes=64, **sizes)).profiles("float32", 1)


def test_blocks_of_schnet_are_recognized_with_their_sizes() -> None:
    found = [find_schnet_block(profile.operators) for profile in profiles(num_filters=96)]
    # Edges of the host come as pairs, each of which works both ways.
    assert found == [None, *[SchNetBlock(64, 28 * 64, 25, 96, 100, both_ways=True)] * 4, None]
    basis = [time.basis for time in block_times(profiles(), recomputed=False)]
    assert basis == [block_time.ADDED_UP, *[block_time.MEASURED] * 4, block_time.ADDED_UP]


def test_nothing_else_is_taken_for_a_block_of_schnet() -> None:
    assert not any(find_schnet_block(profile.operators) for profile in profiles(filter="table"))
    painn = graph_workload(graph_config("painn", Batching(1), num_radial=20, cutoff=5.0)).profiles("float32", 1)
    assert not any(find_schnet_block(profile.operators) for profile in painn)
    assert {time.basis for time in block_times(painn, False)} == {block_time.ADDED_UP}
    block = [profile.operators for profile in profiles()][1]
    assert find_schnet_block(block) is not None
    for place, operator in enumerate(block):
        if operator.kind in ("product", "gather", "scatter"):
            assert find_schnet_block(block[:place] + block[place + 1 :]) is None


def test_fast_softplus_both_ways_and_sizes_never_measured() -> None:
    block = SchNetBlock(576, 16_128, 25, 100, 100, both_ways=False)
    fast = schnet_block_seconds(block, 0.0, False, False).seconds
    assert fast.likely * 1e6 == pytest.approx(216, abs=8)  # as it follows from published trainings on QM9
    plain = schnet_block_seconds(block, 100.0 * (16_128 + 576), False, False).seconds
    assert (plain.likely - fast.likely) * 1e6 == pytest.approx(0.381 / 4 * 576, rel=0.1)
    both = schnet_block_seconds(block._replace(both_ways=True), 0.0, False, False).seconds
    twice = schnet_block_seconds(block._replace(messages=2 * 16_128), 0.0, False, False).seconds
    assert fast.likely < both.likely < twice.likely
    assert fast.most / fast.likely == pytest.approx(1.1) and both.most / both.likely > 1.2
    large = schnet_block_seconds(block._replace(messages=70_000), 0.0, False, False)
    assert large.basis == block_time.EXTRAPOLATED and large.seconds.most / large.seconds.likely == pytest.approx(1.5)
    half = schnet_block_seconds(block, 0.0, False, True)
    assert half.basis == block_time.EXTRAPOLATED and half.seconds.most / half.seconds.likely == pytest.approx(2.0)
    again = schnet_block_seconds(block, 0.0, True, False).seconds
    assert again.likely == pytest.approx(4 / 3 * fast.likely)


@pytest.mark.parametrize("width, seconds", [(64, 114e-6), (128, 179e-6), (256, 363e-6)])
def test_blocks_in_training_take_what_was_measured(width: int, seconds: float) -> None:
    block = SchNetBlock(384, 384 * 28, 25, width, width, both_ways=False)
    assert schnet_block_seconds(block, 0.0, False, False).seconds.likely == pytest.approx(seconds, rel=0.08)


def test_products_reach_most_of_the_peak() -> None:
    tera = 2 * 10**9 / (product_cycles(10**9, True) / known.CLOCK) / 1e12
    assert tera == pytest.approx(0.7 * 350, rel=0.03)
    assert product_cycles(10**9, False) > 3.9 * product_cycles(10**9, True)


# Sequences a second of tuned trainings: Argonne's guide and Graphcore's results; features, heads, layers, tokens, IPUs.
BERT = {
    "large_128_pod16": ((1024, 16, 24, 128), 16, 4_527),
    "large_128_pod64": ((1024, 16, 24, 128), 64, 18_199),
    "base_128_popart": ((768, 12, 12, 128), 16, 16_391),
    "base_128_tensorflow": ((768, 12, 12, 128), 16, 15_173),
    "large_384_popart": ((1024, 16, 24, 384), 16, 1_183),
    "large_384_pytorch": ((1024, 16, 24, 384), 16, 1_009),
}


@pytest.mark.parametrize("name", BERT)
def test_wide_transformers_train_as_fast_as_published(name: str) -> None:
    sizes, ipus, published = BERT[name]
    layers = gpt2_profile(Row(name, *sizes, (), (), 1, False))[1:-1]
    times = block_times(layers, recomputed=True)
    assert {time.basis for time in times} == {block_time.TUNED}
    predicted = ipus / sum(time.seconds.likely for time in times)
    assert predicted == pytest.approx(published, rel=0.35)


def test_a_transformers_width_is_seen_and_what_is_narrow_is_uncertain() -> None:
    small = chemgpt_workload("chemgpt-4.7m").profiles("float16", 1)
    assert [transformer_width(profile.operators) for profile in small] == [0, *[128] * 24, 0]
    times = block_times(small, recomputed=False)
    assert {time.basis for time in times} == {block_time.SMALL}
    assert all(time.seconds.most / time.seconds.least == pytest.approx(9) for time in times)
    assert transformer_width(profiles()[1].operators) == 0
    large = chemgpt_workload("chemgpt-1.2b").profiles("float16", 1)
    assert transformer_width(large[1].operators) == 2048
    kept, again = (block_times(large, recomputed)[1].seconds.likely for recomputed in (False, True))
    assert kept == pytest.approx(0.75 * again), "the rule is of trainings that recompute"


def test_products_in_32_bits_are_slower() -> None:
    task = chemgpt_workload("chemgpt-1.2b")
    half, single = (
        block_times(task.profiles(weights, 1), True)[1].seconds.likely for weights in ("float16", "float32")
    )
    assert 1.8 < single / half < 2.2


def test_times_are_kept_with_the_task() -> None:
    task = graph_workload(graph_config("schnet", Batching(1), **SCHNET))
    assert task.times("float32", 1, IpuOptions()) is task.times("float32", 1, IpuOptions())
    one, two = (sum(time.seconds.likely for time in task.times("float32", size, IpuOptions())) for size in (1, 2))
    assert one < two < 2 * one, "fixed costs do not double"
    assert torch.is_grad_enabled()
