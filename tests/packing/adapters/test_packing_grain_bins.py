"""Planned bins of a stream in grain: nothing lost, fewer packs than first fit, read again from a saved position."""

import numpy as np
import pytest

from packing.adapters.grain_bins import pack_iter_dataset, packer_cls

grain = pytest.importorskip("grain", reason="grain is not installed: its adapter was NOT tested")


def examples(count, seed=0, most=20):
    random = np.random.default_rng(seed)
    return [
        {
            "tokens": np.full(length, number + 1),
            "weights": random.normal(size=(length, 2)).astype(np.float32),
            "id": number,
        }
        for number, length in enumerate(random.integers(1, most, count))
    ]


EXAMPLES = examples(700)
LENGTHS = {"tokens": 32, "weights": 32}


def packed(pack=pack_iter_dataset, data=EXAMPLES, bins=8, lengths=LENGTHS, **options):
    dataset = grain.MapDataset.source(data).to_iter_dataset()
    return pack(dataset, length_struct=lengths, num_packing_bins=bins, **options)


def numbers(packs):
    """Elements of packs, once for each."""
    return sorted(number - 1 for pack in packs for number in np.unique(pack["tokens"][pack["tokens_segment_ids"] > 0]))


def test_packs_are_those_of_grain_and_fewer():
    packs, theirs = list(packed(bins=32)), list(packed(grain.experimental.BestFitPackIterDataset, bins=32))
    assert numbers(packs) == list(range(700))
    least = -(-sum(len(one["tokens"]) for one in EXAMPLES) // 32)
    assert least <= len(packs) <= 1.02 * least + 1 < len(theirs)
    for name, value in theirs[0].items():
        assert packs[0][name].shape == value.shape and packs[0][name].dtype == value.dtype
    for pack in packs:
        ids, places = pack["tokens_segment_ids"], pack["tokens_positions"]
        for segment in range(1, ids.max() + 1):
            here = ids == segment
            element = EXAMPLES[int(pack["tokens"][here][0]) - 1]
            np.testing.assert_array_equal(pack["weights"][here], element["weights"])
            assert places[here].tolist() == list(range(here.sum()))


def test_read_again_from_a_state():
    iterator = iter(packed(seed=5))
    for _ in range(37):
        next(iterator)
    state = iterator.get_state()
    after = [pack["tokens"] for pack in iterator]
    again = iter(packed(seed=5))
    again.set_state(state)
    np.testing.assert_array_equal(after, [pack["tokens"] for pack in again])


def test_limits_alignment_padding_and_features_that_are_not_packed():
    packs = list(
        packed(
            lengths={"tokens": 40},
            max_sequences_per_bin=3,
            pack_alignment_struct={"tokens": 8},
            padding_struct={"tokens": -1},
            meta_features=("id",),
        )
    )
    assert numbers(packs) == list(range(700)) and max(pack["tokens_segment_ids"].max() for pack in packs) == 3
    for pack in packs:
        ids = pack["tokens_segment_ids"]
        assert (pack["tokens"][ids == 0] == -1).all() and "weights" not in pack
        starts = np.flatnonzero((pack["tokens_positions"] == 0) & (ids > 0))
        assert (starts % 8 == 0).all()
        assert sorted(np.asarray(pack["id"]).tolist()) == [number - 1 for number in np.unique(pack["tokens"][ids > 0])]


def test_two_features_of_other_lengths_and_elements_without_one():
    random = np.random.default_rng(1)
    data = [
        {"tokens": np.full(int(a), number + 1), "bonds": np.ones(int(b))}
        for number, (a, b) in enumerate(random.integers((1, 0), (20, 9), (300, 2)))
    ]
    packs = list(packed(data=data, lengths={"tokens": 32, "bonds": 16}))
    assert numbers(packs) == list(range(300))
    assert sum(int((pack["bonds_segment_ids"] > 0).sum()) for pack in packs) == sum(len(one["bonds"]) for one in data)


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match=r"no \{feature: length\}, such as"):
        packed(lengths=[32])
    with pytest.raises(
        ValueError, match=r"an element has 19 of 'tokens' and a pack room for 18; cut it, or leave it out"
    ):
        list(packed(lengths={"tokens": 18}))
    assert packer_cls() is packer_cls()
