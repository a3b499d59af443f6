"""Stages: layers per IPU with wildcards, balance against brute force, shared parameters, the head that comes back."""

from itertools import combinations
from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ipu_chem.backends.poptorch.stages import (
    Fits,
    Stage,
    check_accumulation,
    count_layers,
    expand_layers,
    needed_accumulation,
    plan_stages,
    shared_blocks,
)
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.schnet import SchNet


def names(count: int) -> List[str]:
    return ["embedding", *(f"layers.{number}" for number in range(count - 2)), "head"]


def sizes(stages: List[Stage]) -> List[int]:
    return [len(stage.blocks) for stage in stages]


@pytest.mark.parametrize(
    "layers, num_layers, expected",
    [
        ((3, 3, 3, 3), 12, (3, 3, 3, 3)),
        ((-1, -1, -1, -1), 14, (3, 3, 3, 5)),
        ((0, -1, 2, -1), 9, (0, 3, 2, 4)),
        ((2, -1), 2, (2, 0)),
        ((5,), 24, (24,)),  # one IPU has everything, whatever the list says
        ((-1,), 24, (24,)),
    ],
)
def test_wildcards_share_the_rest(layers: Tuple[int, ...], num_layers: int, expected: Tuple[int, ...]) -> None:
    assert expand_layers(layers, num_layers) == expected


@given(st.lists(st.integers(-1, 5), min_size=2, max_size=6), st.integers(0, 40))
def test_expanded_layers_add_up_or_are_refused(layers: List[int], num_layers: int) -> None:
    given_layers, wild = sum(count for count in layers if count > 0), layers.count(-1)
    if given_layers > num_layers or (given_layers < num_layers and not wild):
        with pytest.raises(ValueError, match=f"places {given_layers} layers, the model has {num_layers}"):
            expand_layers(layers, num_layers)
        return
    result = expand_layers(layers, num_layers)
    assert sum(result) == num_layers
    assert all(count == asked for count, asked in zip(result, layers) if asked >= 0)
    shared = [count for count, asked in zip(result, layers) if asked == -1]
    assert len(set(shared[:-1])) <= 1 and (not shared or 0 <= shared[-1] - shared[0] < wild)


def brute_force(
    costs: List[int], parts: int, glued: List[Tuple[int, int]], fits: Optional[Fits]
) -> Optional[List[int]]:
    """Of all cuts the one with the smallest largest cost, then the most even, then with the smallest first parts."""
    best = None
    for inner in combinations(range(1, len(costs)), parts - 1):
        cuts = [0, *inner, len(costs)]
        if any(first < cut <= last for first, last in glued for cut in inner):
            continue
        spans = list(zip(cuts, cuts[1:]))
        if fits is not None and not all(fits(stage, *span) for stage, span in enumerate(spans)):
            continue
        loads = [sum(costs[first:stop]) for first, stop in spans]
        found = (max(loads), sum(load * load for load in loads), [stop - first for first, stop in spans])
        best = found if best is None else min(best, found)
    return None if best is None else best[2]


@st.composite
def cuts(draw: st.DrawFn) -> Tuple[List[int], int, List[Tuple[int, int]], Dict[Tuple[int, int], int]]:
    count = draw(st.integers(2, 9))
    # Costs that add up to the planner's own resolution, so that rounding changes nothing.
    raw = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    costs = [10_000 * cost // sum(raw) for cost in raw]
    costs[0] += 10_000 - sum(costs)
    parts = draw(st.integers(2, count))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).map(sorted).map(tuple)
    glued = draw(st.lists(pairs, max_size=2))
    room = draw(st.dictionaries(st.integers(0, parts - 1), st.integers(1, count), max_size=parts))
    return costs, parts, glued, room


@given(cuts())
def test_balance_is_what_brute_force_finds(case: Tuple[List[int], int, List[Tuple[int, int]], Dict[int, int]]) -> None:
    costs, parts, glued, room = case
    blocks = names(len(costs)) if len(costs) > 1 else ["embedding"]

    def fits(stage: int, first: int, stop: int) -> bool:
        return stop - first <= room.get(stage, len(costs))

    # A group with the last block would send it to an earlier IPU, which is another test's matter.
    glued = [pair for pair in glued if pair[1] < len(costs) - 1]
    shared = [tuple(blocks[index] for index in sorted(set(pair))) for pair in glued]
    expected = brute_force(costs, parts, glued, fits)
    if expected is None:
        with pytest.raises(ValueError, match="no cut of the"):
            plan_stages(blocks, costs, parts, None, shared, fits)
        return
    stages = plan_stages(blocks, costs, parts, None, shared, fits)
    assert [stage.ipu for stage in stages] == list(range(parts))
    assert [name for stage in stages for name in stage.blocks] == blocks
    assert sizes(stages) == expected


def test_among_equals_later_stages_are_larger() -> None:
    assert sizes(plan_stages(names(6), [1.0] * 6, 4)) == [1, 1, 2, 2]


def test_the_slowest_stage_decides_before_evenness() -> None:
    # Cut into 51, 41 and 33 the squares would be smaller, the slowest stage slower.
    assert sizes(plan_stages(names(6), [26, 25, 25, 16, 4, 29], 3)) == [1, 2, 3]


def test_nearly_equal_costs_are_equal() -> None:
    costs = [0.0, *[1.0] * 6, 1e-6]  # layers, and a head that weighs next to nothing
    assert sizes(plan_stages(names(8), costs, 2)) == [4, 4]


def test_one_ipu_takes_everything() -> None:
    assert plan_stages(names(5), [1.0] * 5, 1, (7,)) == [Stage(0, tuple(names(5)))]


def test_tied_head_comes_back_as_a_stage_of_its_own() -> None:
    blocks, tied = names(10), [("embedding", "head")]
    stages = plan_stages(blocks, [0.0, *[1.0] * 8, 4.0], 4, None, tied)
    assert stages[-1] == Stage(0, ("head",)) and [stage.ipu for stage in stages] == [0, 1, 2, 3, 0]
    # The head's work counts to the embedding's IPU, which gets no layer then.
    assert sizes(stages) == [1, 2, 3, 3, 1]
    assert count_layers(stages, blocks) == (0, 2, 3, 3)
    same = plan_stages(blocks, [1.0] * 10, 4, (0, 2, 3, -1), tied)
    assert same == stages
    assert needed_accumulation(stages) == 9 and needed_accumulation(stages, "sharded") == 1


def test_head_stays_where_the_shared_parameter_is_on_the_last_ipu() -> None:
    stages = plan_stages(names(6), [1.0] * 6, 2, None, [("layers.3", "head")])
    assert [stage.ipu for stage in stages] == [0, 1] and stages[-1].blocks[-2:] == ("layers.3", "head")


def test_layers_that_tear_a_shared_parameter_apart_are_refused() -> None:
    shared = [("layers.0", "layers.2")]
    with pytest.raises(ValueError, match="blocks layers.0 and layers.2 share a parameter"):
        plan_stages(names(6), [1.0] * 6, 2, (1, 3), shared)
    assert sizes(plan_stages(names(6), [1.0] * 6, 2, (3, 1), shared)) == [4, 2]


@pytest.mark.parametrize(
    "ipus, layers, words",
    [
        (16, None, "6 blocks cannot be spread over 16 IPUs; use ipu.ipus_per_replica=4 or fewer"),
        (4, (1, 3), "give one number for each of the 4 IPUs"),
        (4, (1, 1, 1, 2), "places 5 layers, the model has 4; put -1"),
        (4, (1, 0, 2, 1), "leaves IPU 1 nothing to do"),
        (2, (5, -1), "places 5 layers"),
    ],
)
def test_cuts_that_cannot_be_say_what_would_do(ipus: int, layers: Optional[Tuple[int, ...]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_stages(names(6), [1.0] * 6, ipus, layers)


@given(st.integers(2, 20), st.integers(1, 60))
def test_accumulation_fills_the_pipeline(stages: int, accumulation: int) -> None:
    parts = [Stage(number, (f"b{number}",)) for number in range(stages)]
    check_accumulation(parts, accumulation, "sharded")
    if accumulation >= 2 * stages - 1:
        check_accumulation(parts, accumulation)
    else:
        with pytest.raises(ValueError, match=f"pipeline of {stages} stages needs {2 * stages - 1} or more"):
            check_accumulation(parts, accumulation)


def test_one_stage_needs_no_accumulation() -> None:
    check_accumulation([Stage(0, ("all",))], 1)


def test_shared_parameters_are_found() -> None:
    model = ChemGPT(vocab_size=11, max_positions=16, hidden_features=8, num_layers=3, num_heads=2)
    assert shared_blocks(model) == [("embedding", "head")]
    assert shared_blocks(SchNet(8, 8, 2, 6)) == []
    model.layers[2].mlp.c_fc.weight = model.layers[0].mlp.c_fc.weight
    assert shared_blocks(model) == [("embedding", "head"), ("layers.0", "layers.2")]


def test_a_model_without_blocks_is_one_block() -> None:
    assert shared_blocks(nn.Linear(2, 2)) == []
