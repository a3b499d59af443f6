"""Batch sampler of packs, below torch's DataLoader, Accelerate and Lightning: the latter deal batches themselves."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from packing import Budget, Cost, make_plan
from packing.adapters.torch import PackBatchSampler, split_for_empty
from packing.epoch import Epoch

SIZES = np.random.default_rng(4).integers(3, 30, 300)
BUDGET = Budget(nodes=64)
ITEMS = list(range(len(SIZES)))


def flat(*packers):
    return sorted(item for packer in packers for pack in packer for item in pack)


def ranks_of(world, **options):
    return [PackBatchSampler(SIZES, BUDGET, rank=rank, world=world, **options) for rank in range(world)]


def test_a_loader_reads_every_item_once_in_packs_that_fit():
    sampler = PackBatchSampler(SIZES, BUDGET, seed=1)
    loader = DataLoader(ITEMS, batch_sampler=sampler, collate_fn=list)
    batches = list(loader)
    assert len(loader) == len(sampler) == len(batches) == sampler.plan.num_packs
    assert sorted(sum(batches, [])) == ITEMS and all(SIZES[batch].sum() <= 64 for batch in batches)
    assert max(map(len, batches)) == sampler.budget["graphs"] and sampler.budget["nodes"] == 64


def test_an_epoch_that_was_read_is_followed_by_another():
    sampler, same = PackBatchSampler(SIZES, BUDGET), PackBatchSampler(SIZES, BUDGET)
    first, second = list(sampler), list(sampler)
    assert first != second and sampler.epoch == 2
    same.set_epoch(1)
    assert list(same) == second
    for _ in same:
        break
    assert same.epoch == 2 and list(same) == list(sampler)  # one that was left begins again
    still = PackBatchSampler(SIZES, BUDGET, shuffle=False)
    assert (
        list(still)
        == list(still)
        == [pack.tolist() for pack in map(still.plan.in_order().__getitem__, range(len(still)))]
    )


@pytest.mark.parametrize("world", [1, 2, 3, 7, 16])
def test_ranks_have_as_many_packs_and_no_empty_one(world):
    ranks = ranks_of(world, multiple=2)
    packs = [list(rank) for rank in ranks]
    assert {len(one) for one in packs} == {len(ranks[0])} and len(ranks[0]) % 2 == 0
    assert flat(*packs) == ITEMS and all(pack for one in packs for pack in one)
    assert sum(map(len, packs)) < ranks[0].plan.num_packs + 2 * world


def test_packs_of_a_step_are_alike_where_costs_are_given():
    def imbalance(**options):
        ranks = [list(rank) for rank in ranks_of(4, **options)]
        assert flat(*ranks) == ITEMS
        costs = np.array([[(SIZES[pack] ** 2).sum() for pack in rank] for rank in ranks], float)
        return costs.max(0).sum() / costs.mean(0).sum()

    assert imbalance(balance=Cost(quadratic=1.0)) < 1.05 < imbalance()
    assert imbalance(balance=SIZES**2.0) == imbalance(balance=Cost(quadratic=1.0))
    cut = PackBatchSampler(SIZES, BUDGET, balance=Cost(1.0))
    next(iter(cut))
    with pytest.raises(ValueError, match="another balance"):
        PackBatchSampler(SIZES, BUDGET, balance=Cost(quadratic=1.0)).load_state_dict(cut.state_dict())


def test_empty_packs_take_from_their_step():
    packs = Epoch(np.arange(9, dtype=np.int32), np.array([0, 5, 5, 5, 6, 9, 9]))
    full = split_for_empty(packs, 3)
    assert [full[pack].tolist() for pack in range(6)] == [[0, 1], [3, 4], [2], [5], [6, 7], [8]]
    alone = split_for_empty(Epoch(np.arange(4), np.array([0, 1, 1, 2, 4])), 2)  # nothing to split in its step
    assert [alone[pack].tolist() for pack in range(4)] == [[0], [3], [1], [2]]


def test_too_few_items_for_the_ranks_are_refused():
    with pytest.raises(ValueError, match=r"^3 packs of 3 items do not divide over 2 batches a step, and too few"):
        PackBatchSampler(np.array([60, 60, 60]), BUDGET, world=2)
    with pytest.raises(ValueError, match="3 packs of 4 items do not divide over 5 batches"):
        PackBatchSampler(np.array([60, 60, 60, 1]), BUDGET, world=5)
    sampler = PackBatchSampler(np.array([60] * 4), BUDGET, world=2)
    next(iter(sampler))
    with pytest.raises(ValueError, match="^2 packs of 2 items do not divide over 4"):
        PackBatchSampler(None, None, plan=sampler.plan, world=4).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 3), (4, 1), (1, 5), (3, 2)])
def test_resumed_at_any_batch_and_on_other_ranks(before, after):
    for cut in (0, 1, 7, len(ranks_of(before)[0])):
        started = ranks_of(before, seed=5)
        used = []
        for sampler in started:
            sampler.set_epoch(2)
            batches = iter(sampler)
            used += [next(batches) for _ in range(cut)]
        states = [sampler.state_dict() for sampler in started]
        assert all(state == states[0] for state in states)
        resumed = ranks_of(after, seed=5)
        for sampler in resumed:
            sampler.load_state_dict(states[0])
            sampler.set_epoch(2)  # as training loops do
        lengths = [len(sampler) for sampler in resumed]
        rest = [list(sampler) for sampler in resumed]
        assert [len(one) for one in rest] == lengths and len(set(lengths)) == 1
        assert flat(used, *rest) == ITEMS
        if before == after:
            whole = ranks_of(after, seed=5)[-1]
            whole.set_epoch(2)
            assert rest[-1] == list(whole)[cut:]
        assert all(sampler.epoch == 3 and len(sampler) == len(list(sampler)) for sampler in resumed)
        # the epoch after it is whole again, as if nothing had been
        fresh = ranks_of(after, seed=5)[0]
        fresh.set_epoch(4)
        assert list(resumed[0]) == list(fresh)


def test_resumed_twice_with_a_loader_that_reads_ahead():
    first = PackBatchSampler(SIZES, BUDGET)
    loader = iter(DataLoader(ITEMS, batch_sampler=first, collate_fn=list, num_workers=1, prefetch_factor=4))
    used = [next(loader) for _ in range(5)]
    assert first.state_dict()["used"] != [[1, 5]] and first.state_dict(batches=5)["used"] == [[1, 5]]
    second = PackBatchSampler(SIZES, BUDGET, rank=0, world=2)
    second.load_state_dict(first.state_dict(batches=5))
    twin = PackBatchSampler(SIZES, BUDGET, rank=1, world=2)
    twin.load_state_dict(first.state_dict(batches=5))
    for sampler in (second, twin):
        batches = iter(sampler)
        used += [next(batches) for _ in range(3)]
    assert second.state_dict() == twin.state_dict() and second.state_dict()["used"] == [[1, 5], [2, 6]]
    last = PackBatchSampler(SIZES, BUDGET)
    last.load_state_dict(second.state_dict())
    assert flat(used, last) == ITEMS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"shuffle": False}, "another shuffle"),
        ({"sizes": SIZES[::-1].copy()}, "another plan, of other item sizes or another budget,"),
        ({"budget": Budget(nodes=65)}, "another plan"),
    ],
)
def test_a_position_of_other_data_is_refused(options, words):
    sampler = PackBatchSampler(SIZES, BUDGET)
    next(iter(sampler))
    other = {"sizes": SIZES, "budget": BUDGET, **options}
    with pytest.raises(ValueError) as caught:
        PackBatchSampler(other.pop("sizes"), other.pop("budget"), **other).load_state_dict(sampler.state_dict())
    assert words in str(caught.value)


def test_a_loaded_position_is_not_left_by_a_loader_that_counts_from_zero():
    sampler = PackBatchSampler(SIZES, BUDGET)
    sampler.set_epoch(3)
    next(iter(sampler))
    again = PackBatchSampler(SIZES, BUDGET)
    again.load_state_dict(sampler.state_dict())
    with pytest.raises(ValueError, match=r"set_epoch\(0\) would leave the position in epoch 3 .* a set_epoch\(3\)"):
        again.set_epoch(0)
    again.set_epoch(3)
    assert len(list(again)) == sampler.plan.num_packs - 1


def test_a_position_before_the_first_batch_is_that_of_the_next_iteration():
    sampler, resumed = PackBatchSampler(SIZES, BUDGET), PackBatchSampler(SIZES, BUDGET)
    batches = iter(sampler)
    used = [next(batches) for _ in range(4)]
    resumed.load_state_dict(sampler.state_dict())
    assert resumed.state_dict(batches=0) == resumed.state_dict() == sampler.state_dict()
    assert flat(used, resumed) == ITEMS  # and that epoch is over
    resumed.set_epoch(1)
    assert resumed.state_dict(batches=0)["epoch"] == 1 and resumed.state_dict(batches=0)["used"] == []
    sampler.set_epoch(7)  # in the middle of an epoch: what is left of it is read on, and does not count
    assert flat(used, batches) == ITEMS and sampler.state_dict()["used"] == [] and sampler.epoch == 7
    with pytest.raises(ValueError, match=f"^batches=99, and an iteration has {len(sampler)} in each process"):
        sampler.state_dict(batches=99)


GOOD = PackBatchSampler(SIZES, BUDGET).state_dict()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "no position of a PackBatchSampler: it has no epoch, used, plan, seed, shuffle, balance"),
        (None, "no position of a PackBatchSampler"),
        ({**GOOD, "used": [[1, -5]]}, "packs=-5: give a whole number"),
        ({**GOOD, "used": [[1, 2.5]]}, "packs=2.5: give a whole number"),
        ({**GOOD, "used": [[0, 1]]}, "multiple=0: give a whole number of 1"),
        ({**GOOD, "used": "abc"}, "damaged, used='abc'"),
        ({**GOOD, "used": [[1, 10**6]]}, "1000000 packs were used of"),
        ({**GOOD, "epoch": -1}, "epoch=-1"),
        ({**GOOD, "epoch": "a"}, "epoch='a'"),
    ],
)
def test_a_damaged_position_is_refused(state, words):
    sampler = PackBatchSampler(SIZES, BUDGET)
    with pytest.raises(ValueError) as caught:
        sampler.load_state_dict(state)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert flat(sampler) == ITEMS


class Unsized:
    pass


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((SIZES, Budget(nodes=20)), {}, "oversize='skip' leaves them out"),
        ((Unsized(), BUDGET), {}, "one integer per item, not a Unsized; count them, for instance"),
        ((SIZES.astype(float), BUDGET), {}, "one integer per item"),
        ((SIZES, None), {}, "needs sizes and a budget, or a plan"),
        (([np.zeros(3), np.zeros(4)], BUDGET), {}, "not a list of ndarray; count them"),
        ((np.int64(3), BUDGET), {}, "one integer per item"),
        ((SIZES, 64), {}, "64 is no budget; give packing.Budget(nodes=128)"),
        ((SIZES, BUDGET), {"plan": "plan.npz"}, "plan='plan.npz' is no PackingPlan; PackingPlan.load(path) reads one"),
        ((SIZES, Budget(nodes=65)), {"plan": make_plan(SIZES, BUDGET)}, "the plan is for a budget of nodes=64, not"),
        ((SIZES, BUDGET), {"seed": None}, "seed=None: give a whole number of 0 or more"),
        ((SIZES, BUDGET), {"world": 2.0}, "world=2.0: give a whole number of 1 or more"),
        ((SIZES, BUDGET), {"time_limit": float("nan")}, "time_limit=nan: give seconds"),
        ((SIZES, BUDGET), {"rank": 2, "world": 2}, "rank=2 is not one of 0 .. 1"),
        ((SIZES, BUDGET), {"multiple": 0}, "multiple=0"),
        ((SIZES, BUDGET), {"balance": Cost(1.0), "shuffle": False}, "leave out one of them"),
        ((SIZES, BUDGET), {"balance": np.ones(7)}, "300"),
        ((SIZES[:-1], None), {"plan": make_plan(SIZES, BUDGET)}, "made for other data"),
        ((SIZES, BUDGET), {"world": 2, "time_limit": 0.0}, "give every rank plan=PackingPlan.load('plan.npz')"),
    ],
)
def test_bad_input_is_one_sentence(arguments, options, words):
    with pytest.raises(ValueError) as caught:
        PackBatchSampler(*arguments, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_items_that_are_left_out_on_request_are_counted(capsys):
    sampler = PackBatchSampler(SIZES, Budget(nodes=20), oversize="skip")
    fit = np.flatnonzero(SIZES <= 20).tolist()
    assert flat(sampler) == fit
    assert capsys.readouterr().err == f"{300 - len(fit)} of 300 items are larger than the budget and are left out.\n"


def test_the_plan_keeps_sizes_that_change_later():
    sizes = SIZES.copy()
    sampler, same = PackBatchSampler(sizes, BUDGET), PackBatchSampler(SIZES, BUDGET)
    sizes[:] = 64
    assert list(sampler) == list(same)


def prepared(sampler, process, processes=2, **options):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: its wrapping was NOT tested")
    from accelerate.data_loader import prepare_data_loader

    assert accelerate
    loader = DataLoader(ITEMS, batch_sampler=sampler, collate_fn=list)
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False, **options)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_accelerate_deals_the_packs_of_one_rank(processes):
    samplers = [PackBatchSampler(SIZES, BUDGET) for _ in range(processes)]
    loaders = [prepared(sampler, process, processes) for process, sampler in enumerate(samplers)]
    for epoch in range(2):
        for loader in loaders:
            loader.set_epoch(epoch)
        batches = [[batch for batch in loader] for loader in loaders]
        # Accelerate repeats batches where they do not divide: ours do.
        assert len({len(one) for one in batches}) == 1 and flat(*batches) == ITEMS
        assert [len(loader.batch_sampler) for loader in loaders] == [len(one) for one in batches]
    assert samplers[0].epoch == 2


def test_a_training_loop_below_accelerate_counts_its_own_batches():
    sampler = PackBatchSampler(SIZES, BUDGET)
    loader = iter(prepared(sampler, 1, 2))
    for _ in range(3):
        next(loader)
    assert sampler.state_dict(batches=3)["used"] == [[2, 6]]
    resumed = PackBatchSampler(SIZES, BUDGET)
    resumed.load_state_dict(sampler.state_dict(batches=3))
    whole = list(PackBatchSampler(SIZES, BUDGET, multiple=2))
    assert [pack for pack in prepared(resumed, 1, 2)] == whole[7::2]


def test_accelerate_is_not_given_the_packs_of_one_rank_of_several():
    message = r"^Accelerate deals the batches of rank 1 of 2 to 2 processes again.*rank=0, world=1"
    with pytest.raises(ValueError, match=message):
        prepared(PackBatchSampler(SIZES, BUDGET, rank=1, world=2), 1)
    loader = prepared(PackBatchSampler(SIZES, BUDGET, rank=1, world=2), 0, processes=1)
    assert len(list(loader)) == len(loader)


def test_accelerate_does_not_cut_packs_and_skips_them_whole():
    with pytest.raises(ValueError, match=r"^Accelerate's split_batches=True cuts batches"):
        prepared(PackBatchSampler(SIZES, BUDGET), 0, split_batches=True)
    from accelerate.data_loader import skip_first_batches

    whole, skipped = (prepared(PackBatchSampler(SIZES, BUDGET), 1) for _ in range(2))
    expected = [batch for batch in whole][3:]
    assert [batch for batch in skip_first_batches(skipped, 3)] == expected


def test_lightning_trains_and_says_how_to_share_packs():
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed: its wrapping was NOT tested")
    from lightning.pytorch.trainer.states import RunningStage
    from lightning.pytorch.utilities.data import _update_dataloader

    seen, predicted = [], []

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, index):
            seen.append((self.current_epoch, batch))
            return self.weight.sum()

        def predict_step(self, batch, index):
            predicted.append(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", **quiet)
    sampler = PackBatchSampler(SIZES, BUDGET)
    loader = DataLoader(ITEMS, batch_sampler=sampler, collate_fn=list)
    trainer.fit(Model(), loader)
    epochs = [[batch for number, batch in seen if number == epoch] for epoch in range(2)]
    assert flat(epochs[0]) == flat(epochs[1]) == ITEMS and epochs[0] != epochs[1]
    trainer.predict(Model(), DataLoader(ITEMS, batch_sampler=PackBatchSampler(SIZES, BUDGET), collate_fn=list))
    assert flat(predicted) == ITEMS
    with pytest.raises(TypeError, match=r"Trainer\(use_distributed_sampler=False\)"):
        _update_dataloader(loader, torch.utils.data.DistributedSampler(ITEMS, 2, 0), RunningStage.TRAINING)
