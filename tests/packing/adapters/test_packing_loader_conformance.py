"""PackBatchSampler below torch's DataLoader: small cases exhaustively, in processes, resumed at every batch."""

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: PackBatchSampler was NOT tested below its loader")
from torch.utils.data import DataLoader  # noqa: E402

from packing import Budget, Cost, make_plan  # noqa: E402
from packing.adapters.torch import PackBatchSampler  # noqa: E402

SIZES = np.random.default_rng(7).integers(1, 7, 40)
PLAN = make_plan(SIZES, Budget(nodes=12))  # 13 packs or so, 40 items: up to 8 ranks have some to split
WORLDS = range(1, 9)


class Items:
    """Numbers, sent to other processes by name."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, item):
        return item


def as_they_are(items):
    return items


def samplers(world, **options):
    return [PackBatchSampler(None, None, plan=PLAN, seed=3, rank=rank, world=world, **options) for rank in range(world)]


def flat(packs):
    return sorted(item for pack in packs for item in pack)


@pytest.mark.parametrize("balance", [None, Cost(quadratic=1.0)], ids=["blind", "balanced"])
@pytest.mark.parametrize("world", WORLDS)
def test_every_cut_is_resumed_on_every_number_of_ranks(world, balance):
    ranks = samplers(world, balance=balance)
    wholes = [list(sampler) for sampler in ranks]
    assert flat(sum(wholes, [])) == list(range(40)) and len(set(map(len, wholes))) == 1
    for cut in range(len(wholes[0]) + 1):
        started = samplers(world, balance=balance)
        used = []
        for sampler in started:
            batches = iter(sampler)
            used += [next(batches) for _ in range(cut)]
        assert all(sampler.state_dict() == started[0].state_dict(batches=cut) for sampler in started)
        for other in WORLDS:
            resumed = samplers(other, balance=balance)
            try:
                for sampler in resumed:
                    sampler.load_state_dict(started[0].state_dict())
            except ValueError as error:  # fewer items are left than ranks
                left = 40 - len(flat(used))
                assert "do not divide over" in str(error) and other > 1 and left < -(-left // other) * other * 2
                continue
            lengths = [len(sampler) for sampler in resumed]
            rest = [list(sampler) for sampler in resumed]
            assert lengths == [len(packs) for packs in rest] and len(set(lengths)) == 1
            assert flat(used + sum(rest, [])) == list(range(40)), (world, cut, other)
            assert all(rest) or not lengths[0]
            if other == world:
                assert rest == [whole[cut:] for whole in wholes]
            assert all(sampler.epoch == 1 for sampler in resumed)
        again = samplers(world, balance=balance)
        for sampler, first in zip(again, wholes):
            assert list(sampler) == first


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("persistent", [False, True])
def test_loaders_with_processes_read_the_same(world, persistent):
    options = {"num_workers": 2, "persistent_workers": persistent, "prefetch_factor": 3}
    for sampler, twin in zip(samplers(world), samplers(world)):
        loader = DataLoader(Items(), batch_sampler=sampler, collate_fn=as_they_are, **options)
        for epoch in (0, 1, 5):
            for one in (sampler, twin):
                one.set_epoch(epoch)
            assert len(loader) == len(twin)
            used = 0
            for batch, expected in zip(loader, list(twin)):
                used += 1
                assert batch == expected and sampler.state_dict(batches=used)["used"] == [[world, used * world]]
        del loader


def test_processes_that_are_spawned_and_copies_read_the_same():
    sampler, twin = samplers(1) + samplers(1)
    copied = pickle.loads(pickle.dumps(sampler))
    loader = DataLoader(
        Items(), batch_sampler=sampler, collate_fn=as_they_are, num_workers=1, multiprocessing_context="spawn"
    )
    expected = list(twin)
    assert list(loader) == expected == list(copied)


def test_two_iterations_at_once_read_one_epoch():
    sampler = samplers(1)[0]
    pairs = list(zip(iter(sampler), iter(sampler)))
    assert all(one == other and one is not other for one, other in pairs) and flat(one for one, _ in pairs) == list(
        range(40)
    )
    assert sampler.epoch <= 1
    first = iter(sampler)
    next(first)
    second = iter(sampler)
    next(second), next(second)
    next(first), next(first)
    assert sampler.state_dict()["used"] == [[1, 2]]  # of the iteration that began last
