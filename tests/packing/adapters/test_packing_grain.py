"""Planned packs for grain: its form, nothing lost, read again from a saved position."""

import numpy as np
import pytest

from packing.adapters.grain import planned_packs

grain = pytest.importorskip("grain", reason="grain is not installed: its adapter was NOT tested")


def examples(count, seed=0):
    random = np.random.default_rng(seed)
    return [
        {"tokens": np.full(length, number + 1), "weights": random.normal(size=(length, 2)).astype(np.float32)}
        for number, length in enumerate(random.integers(1, 20, count))
    ]


EXAMPLES = examples(90)
LENGTHS = {"tokens": 32, "weights": 32}


def numbers(packs):
    """Elements of packs, once for each."""
    return sorted(number - 1 for pack in packs for number in np.unique(pack["tokens"][pack["tokens_segment_ids"] > 0]))


def test_packs_have_the_form_of_grain_and_lose_nothing():
    packed = planned_packs(grain.MapDataset.source(EXAMPLES), length_struct=LENGTHS)
    packs = [packed[index] for index in range(len(packed))]
    assert numbers(packs) == list(range(90))
    theirs = grain.experimental.FirstFitPackIterDataset(
        grain.MapDataset.source(EXAMPLES).to_iter_dataset(), length_struct=LENGTHS, num_packing_bins=4
    )
    theirs = list(theirs)
    assert len(packs) <= len(theirs)
    for name, value in theirs[0].items():
        assert packs[0][name].shape == value.shape and packs[0][name].dtype == value.dtype
    for pack in packs:
        ids, places = pack["tokens_segment_ids"], pack["tokens_positions"]
        for segment in range(1, ids.max() + 1):
            here = ids == segment
            element = EXAMPLES[int(pack["tokens"][here][0]) - 1]
            np.testing.assert_array_equal(pack["weights"][here], element["weights"])
            assert places[here].tolist() == list(range(here.sum()))
        assert not pack["weights"][ids == 0].any() and not places[ids == 0].any()


def test_what_is_repeated_is_dealt_anew_and_read_again_from_a_state():
    packed = planned_packs(EXAMPLES, length_struct=LENGTHS, seed=3)
    count = len(packed)
    repeated = packed.repeat(2)
    first, second = ([repeated[index] for index in range(part * count, (part + 1) * count)] for part in range(2))
    assert numbers(first) == numbers(second) == list(range(90))
    assert any((one["tokens"] != two["tokens"]).any() for one, two in zip(first, second))
    iterator = iter(packed.shuffle(seed=1).repeat(2).batch(2).to_iter_dataset())
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    after = [batch["tokens"] for batch in iterator]
    again = iter(packed.shuffle(seed=1).repeat(2).batch(2).to_iter_dataset())
    again.set_state(state)
    for one, two in zip(after, [batch["tokens"] for batch in again]):
        np.testing.assert_array_equal(one, two)
    still = planned_packs(EXAMPLES, length_struct=LENGTHS, shuffle=False)
    np.testing.assert_array_equal(still[0]["tokens"], still[len(still)]["tokens"])


def test_limits_values_of_padding_and_parts():
    packed = planned_packs(
        EXAMPLES, length_struct={"tokens": 200}, max_sequences_per_bin=3, padding_struct={"tokens": -1}
    )
    pack = packed[0]
    assert set(pack) == {"tokens", "tokens_positions", "tokens_segment_ids"} and pack["tokens_segment_ids"].max() == 3
    assert (pack["tokens"][pack["tokens_segment_ids"] == 0] == -1).all() and len(packed) == 30
    assert len(packed[1:7]) == 6


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="larger than the budget"):
        planned_packs(EXAMPLES, length_struct={"tokens": 8})
    with pytest.raises(ValueError, match="element 0 has tokens, weights, and packs are made of ids"):
        planned_packs(EXAMPLES, length_struct={"ids": 8})
    grown = [dict(element) for element in EXAMPLES]
    packed = planned_packs(grown, length_struct={"tokens": 32})
    for element in grown:
        element["tokens"] = np.repeat(element["tokens"], 5)
    with pytest.raises(ValueError, match="room for 32; lengths have changed since they were read"):
        [packed[index] for index in range(len(packed))]
