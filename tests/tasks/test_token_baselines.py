"""Symbols drawn one by one and two by two: counted by hand and by brute force."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipu_chem.tasks import token_baselines
from ipu_chem.tasks.token_baselines import bigram_nats, unigram_nats
from packing import Ragged

MOLECULES = st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=7), min_size=1, max_size=6)


def ragged(molecules, dtype=np.uint8):
    return Ragged.from_list([np.array(ids, dtype) for ids in molecules])


def test_by_hand():
    # Five symbols; predicted in training: 3 2, 4 2. Shares of 3, 4, 2: 2/9, 2/9, 3/9; of 0: 1/9.
    train, held_out = ragged([[1, 3, 2], [1, 4, 2]]), ragged([[1, 3, 0, 2]])
    assert unigram_nats(train, held_out, 5) == pytest.approx(-math.log(2 / 9 * 1 / 9 * 3 / 9))
    # After 1: 3 and 4 once each, so 2/7; after 3: 2 once, so 0 has 1/6; after 0 nothing was seen: 1/5.
    assert bigram_nats(train, held_out, 5) == pytest.approx(-math.log(2 / 7 * 1 / 6 * 1 / 5))


@given(train=MOLECULES, held_out=MOLECULES, block=st.sampled_from([1, 2, 5, 1 << 22]))
def test_by_brute_force(train, held_out, block):
    before, token_baselines._BLOCK = token_baselines._BLOCK, block
    try:
        found = [nats(ragged(train), ragged(held_out), 7) for nats in (unigram_nats, bigram_nats)]
    finally:
        token_baselines._BLOCK = before
    single = Counter(symbol for ids in train for symbol in ids[1:])
    pairs = Counter(pair for ids in train for pair in zip(ids, ids[1:]))
    given = Counter(first for ids in train for first in ids[:-1])
    one = two = 0.0
    for ids in held_out:
        for first, symbol in zip(ids, ids[1:]):
            one -= math.log((single[symbol] + 1) / (sum(single.values()) + 7))
            two -= math.log((pairs[first, symbol] + 1) / (given[first] + 7))
    assert found == pytest.approx([one, two])


def test_the_order_of_symbols_helps_the_pairs():
    rng = np.random.default_rng(0)
    molecules = [[1, *np.repeat(rng.integers(3, 7, 4), 3), 2] for _ in range(200)]
    train, held_out = ragged(molecules[:100]), ragged(molecules[100:])
    assert bigram_nats(train, held_out, 7) < 0.75 * unigram_nats(train, held_out, 7)


def test_an_id_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="from 3 to 9, but vocab_size is 9"):
        unigram_nats(ragged([[1, 3, 2]]), ragged([[1, 3, 9]]), 9)
    with pytest.raises(ValueError, match="no token to count"):
        bigram_nats(ragged([[1]]), ragged([[1, 2]]), 5)
