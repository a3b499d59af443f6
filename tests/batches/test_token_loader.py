"""Token packs: labels are the next token of the same molecule, weights the mean over an optimizer step."""

from typing import Any, List, Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ipu_chem.backends.options import Batching, World
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from packing import Budget, Ragged, make_plan

VOCAB = 40
BUDGET = Budget(tokens=24)


def sequences(count: int, seed: int = 0) -> Ragged:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 17, count)
    return Ragged(rng.integers(0, VOCAB, lengths.sum()), np.append(0, np.cumsum(lengths)))


def make_loader(ids: Ragged, batching: Batching, **options: Any) -> TokenLoader:
    items = options.get("items", np.arange(len(ids)))
    plan = make_plan(ids.lengths[items], BUDGET)
    return TokenLoader(ids, plan, BUDGET, batching, options.pop("vocab_size", VOCAB), **options)


def pairs(batch: TokenPack) -> List[Tuple[int, int]]:
    """(token, token to predict) wherever something is to be predicted, sorted."""
    counts = batch.weight > 0
    return sorted(zip(batch.ids[counts].tolist(), batch.labels[counts].tolist()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 40), steps=st.integers(1, 2), accumulation=st.integers(1, 2))
def test_every_token_predicts_the_next_of_its_molecule(seed, count, steps, accumulation):
    ids = sequences(count, seed)
    loader = make_loader(ids, Batching(1, accumulation, 1, steps))
    found = []
    for batch, _ in loader.epoch(seed, 0):
        found += pairs(batch)
        totals = batch.weight.reshape(steps, -1).double().sum(1)
        filled = (batch.weight.reshape(steps, -1) > 0).any(1)
        torch.testing.assert_close(totals, filled.double(), rtol=1e-6, atol=0)
    expected = [pair for item in range(count) for pair in zip(ids[item].tolist(), ids[item][1:].tolist())]
    assert sorted(found) == sorted(expected)


def test_positions_start_again_with_every_molecule():
    ids = Ragged(np.array([5, 6, 7, 8, 9]), np.array([0, 3, 5]))
    batch = make_loader(ids, Batching()).example(training=True)
    assert batch.position_ids[0].tolist() == [0, 1, 2, 0, 1] + [0] * 19
    assert batch.ids[0].tolist() == [5, 6, 7, 8, 9] + [0] * 19
    assert batch.labels[0, :2].tolist() == [6, 7] and batch.labels[0, 3] == 9
    assert (batch.weight[0] > 0).nonzero().flatten().tolist() == [0, 1, 3]
    assert torch.allclose(batch.weight[0, [0, 1, 3]], torch.full((3,), 1 / 3))


def test_the_loss_of_a_call_is_the_mean_over_its_tokens():
    ids = sequences(12)
    torch.manual_seed(0)
    model = ChemGPT(vocab_size=VOCAB, max_positions=24, hidden_features=8, num_layers=1, num_heads=2).double()
    loader = make_loader(ids, Batching(4, 4))  # everything in one step
    batch, count = next(loader.epoch(0, 0))
    batch = batch._replace(weight=batch.weight.double())
    together = token_cross_entropy(model(*batch.inputs), *batch.targets)
    total = torch.zeros((), dtype=torch.float64)
    for item in range(12):
        tokens = torch.from_numpy(ids[item])
        logits = model(tokens[None], torch.arange(len(tokens))[None])[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum")
    assert count == 12
    torch.testing.assert_close(together, total / int((ids.lengths - 1).sum()), rtol=1e-6, atol=0)  # float32 weights


def test_processes_share_the_packs_of_a_call():
    ids, batching = sequences(60), Batching(1, 2, 4, 2)
    whole = [batch for batch, _ in make_loader(ids, batching).epoch(3, 1)]
    parts = [[batch for batch, _ in make_loader(ids, batching, world=World(rank, 2)).epoch(3, 1)] for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1]) > 1
    for batch, first, second in zip(whole, *parts):
        for name, field in zip(batch._fields, batch):
            grid = field.reshape(2, 2, 4, 1, 24)  # device iteration, accumulation, replica, micro-batch
            assert torch.equal(getattr(first, name), grid[:, :, :2].reshape(-1, 24))
            assert torch.equal(getattr(second, name), grid[:, :, 2:].reshape(-1, 24))


def test_a_split_holds_its_own_sequences():
    ids = sequences(30)
    loader = make_loader(ids, Batching(2, 2), items=np.arange(10, 20))
    tokens = [token for batch, _ in loader.epoch(0, 0) for token, _ in pairs(batch)]
    assert sorted(tokens) == sorted(np.concatenate([ids[item][:-1] for item in range(10, 20)]).tolist())


@pytest.mark.parametrize("vocab_size, dtype", [(40, torch.uint8), (684, torch.int16), (70_000, torch.int32)])
def test_ids_travel_in_as_few_bytes_as_hold_them(vocab_size, dtype):
    batch = make_loader(sequences(5), Batching(), vocab_size=vocab_size).example(training=True)
    assert batch.ids.dtype == batch.labels.dtype == dtype and batch.position_ids.dtype == torch.uint8


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="token ids run from 0 to 39, the vocabulary has 20: tokenizer and model"):
        make_loader(sequences(40), Batching(), vocab_size=20)
    with pytest.raises(ValueError, match="a split of 3 molecules and a plan for 5"):
        ids = sequences(5)
        TokenLoader(ids, make_plan(ids.lengths, BUDGET), BUDGET, Batching(), VOCAB, np.arange(3))
