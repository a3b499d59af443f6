"""Packs in PopTorch's own loader: nothing dropped, new packs in every epoch whichever process reads them."""

import numpy as np
import pytest
from poptorch_helpers import installed_double

from packing import Budget, Ragged, make_plan
from packing.adapters.poptorch import PackedDataset, packs_per_step
from packing.adapters.torch import PackBatchSampler
from packing.collate import collate_graphs

torch = pytest.importorskip("torch")

SIZES = np.random.default_rng(1).integers(3, 12, 100)
Z = Ragged(np.repeat(np.arange(1, 101), SIZES), np.append(0, np.cumsum(SIZES)))
PLAN = make_plan(SIZES, Budget(nodes=40))
BUDGET = PLAN.budget.replace(graphs=PLAN.max_items_per_pack)


def collate(packs):
    return collate_graphs(packs, BUDGET, {"z": Z})


@pytest.fixture
def poptorch():
    with installed_double() as module:
        yield module


def options_of(poptorch, iterations=2, accumulation=2, replicas=2, process=0, processes=1):
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)
    options.Distributed.configureProcessId(process, processes)
    return options


def read(loader):
    """Nodes of all batches; copied, as a loader in a process of its own overwrites them."""
    batches = [batch["z"].numpy().copy() for batch in loader]
    assert {len(batch) for batch in batches} == {loader.combinedBatchSize}
    return np.concatenate(batches)


def is_whole(nodes):
    return sorted(nodes[nodes > 0].tolist()) == Z.values.tolist()


def test_the_loader_drops_single_molecules_and_no_packs(poptorch):
    options = options_of(poptorch)
    molecules = [{"z": np.pad(Z[item], (0, 40 - len(Z[item])))} for item in range(100)]
    assert not is_whole(read(poptorch.DataLoader(options, molecules, batch_size=3)))
    packs = PackedDataset(PLAN, collate, multiple=packs_per_step(options, 3))
    loader = poptorch.DataLoader(options, packs, batch_size=3)
    assert loader.combinedBatchSize == 24 and len(loader) * 24 == len(packs)
    orders = []
    for epoch in range(2):
        packs.set_epoch(epoch)
        orders.append(read(loader))
        assert is_whole(orders[-1]) and len(orders[-1]) == len(packs)
    assert (orders[0] != orders[1]).any()


def test_processes_read_packs_of_their_own(poptorch):
    parts = []
    for process in range(3):
        options = options_of(poptorch, 1, 2, 1, process, 3)
        packs = PackedDataset(PLAN, collate, multiple=packs_per_step(options, 2))
        loader = poptorch.DataLoader(options, packs, batch_size=2)
        assert loader.combinedBatchSize == 4 and len(packs) % 12 == 0
        parts.append(read(loader))
    assert len({len(part) for part in parts}) == 1 and is_whole(np.concatenate(parts))


@pytest.mark.parametrize(
    "loading",
    [
        {"num_workers": 1},  # which PopTorch keeps from epoch to epoch
        {"num_workers": 2, "persistent_workers": False},
        {"mode": "Async", "async_options": {"load_indefinitely": False}},
        {"mode": "Async", "async_options": {"load_indefinitely": False}, "num_workers": 2},
        {"mode": "AsyncRebatched", "async_options": {"load_indefinitely": False}},
    ],
    ids=str,
)
@pytest.mark.not_on_sdk("starts processes of the double")
def test_new_packs_in_every_epoch_whichever_process_reads_them(poptorch, loading):
    if "mode" in loading:
        loading = {**loading, "mode": poptorch.DataLoaderMode[loading["mode"]]}
    options = options_of(poptorch)
    packs = PackedDataset(PLAN, collate, multiple=packs_per_step(options))
    loader = poptorch.DataLoader(options, packs, **loading)
    try:
        for epoch in (0, 1, 5, 5):
            packs.set_epoch(epoch)
            nodes = read(loader)
            here = np.stack([packs[pack]["z"] for pack in range(len(packs))])
            np.testing.assert_array_equal(nodes, here)
            assert is_whole(nodes)
        for _ in loader:  # left amid an epoch
            break
        packs.set_epoch(6)
        assert is_whole(read(loader))
    finally:
        loader.terminate()


@pytest.mark.not_on_sdk("depends on what the double has read ahead")
def test_a_loader_that_reads_the_next_epoch_ahead_is_told_so(poptorch):
    options = options_of(poptorch, 1, 1, 2)
    packs = PackedDataset(PLAN, collate, multiple=packs_per_step(options))
    loader = poptorch.DataLoader(options, packs, mode=poptorch.DataLoaderMode.Async)
    try:
        assert is_whole(read(loader))
        packs.set_epoch(1)
        with pytest.raises(AssertionError, match="give poptorch.DataLoader shuffle=False and async_options="):
            read(loader)
    finally:
        loader.terminate()


def test_batches_of_a_sampler_are_joined_and_none_is_dropped(poptorch):
    options = options_of(poptorch)
    sampler = PackBatchSampler(SIZES, Budget(nodes=40))
    assert len(sampler) == PLAN.num_packs and len(sampler) % 8

    def padded(items):
        nodes = np.concatenate([Z[item] for item in items])
        return {"z": torch.from_numpy(np.pad(nodes, (0, 40 - len(nodes))))[None]}

    loader = poptorch.DataLoader(options, range(100), batch_sampler=sampler, collate_fn=padded)
    assert loader.combinedBatchSize == 8 and len(sampler) % 8 == 0
    for _ in range(2):
        assert is_whole(read(loader))
    with pytest.raises(poptorch.Error, match="mutually exclusive with batch_size"):
        poptorch.DataLoader(options, range(100), batch_size=2, batch_sampler=sampler)
    few = PackBatchSampler(np.array([39, 39, 39]), Budget(nodes=40))
    with pytest.raises(ValueError, match="3 packs of 3 items do not divide over 8 batches"):
        poptorch.DataLoader(options_of(poptorch), range(3), batch_sampler=few, collate_fn=padded)
