import numpy as np
import pytest
import torch
from support import random_store

from ipu_chem.backends.options import ALONE, Batching, World
from ipu_chem.batches import loader
from ipu_chem.batches.loader import PackLoader
from ipu_chem.data.fixed_point import fixed_point_in_memory
from packing import Budget, make_plan

BUDGET = Budget(nodes=24, edges=160, graphs=6)


def make_loader(labels=None, batching=None, items=None, budget=BUDGET, seed=0, fixed=False, world=ALONE):
    store = random_store(np.random.default_rng(seed), 40, targets=2)
    store = fixed_point_in_memory(store) if fixed else store
    items = np.arange(40) if items is None else items
    sizes = {axis: store.sizes()[axis][items] for axis in ("nodes", "edges")}
    labels = store.fields["y"] if labels is None else labels
    return PackLoader(store, items, make_plan(sizes, BUDGET), labels, budget, batching or Batching(2, 2), world)


def test_missing_labels_weigh_nothing_and_the_others_share_the_step():
    labels = np.random.default_rng(1).normal(size=(40, 2))
    labels[::3, 1] = np.nan
    for batch, molecules in make_loader(labels).epoch(0, 0):
        assert torch.isfinite(batch.y).all()
        known = batch.weight[batch.weight > 0]
        # One weight for every label there is: two a molecule, less the missing ones.
        assert molecules <= len(known) < 2 * molecules
        torch.testing.assert_close(known, torch.full_like(known, 1 / len(known)))
        assert not batch.weight[~batch.graph_mask].any()


def test_an_epoch_entered_in_the_middle_is_the_rest_of_it():
    made = make_loader(batching=Batching(1, 2))
    whole = list(made.epoch(7, 2))
    assert len(whole) == made.calls_per_epoch > 3
    for (batch, count), (expected, molecules) in zip(made.epoch(7, 2, first_call=2), whole[2:]):
        assert count == molecules
        assert all(torch.equal(a, b) for a, b in zip(batch, expected))


@pytest.mark.parametrize("positions", ["float32", "int16"])
@pytest.mark.parametrize("batching", [Batching(1), Batching(2, 2, 1, 2), Batching(200)], ids=repr)
@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_an_epoch_holds_every_molecule_once_whatever_is_laid_out_together(positions, batching, at_once, monkeypatch):
    monkeypatch.setattr(loader, "_PACKS_AT_ONCE", at_once)
    made = make_loader(batching=batching, fixed=positions == "int16")
    fields = made.nodes
    whole = sorted((z.tobytes(), pos.tobytes()) for z, pos in zip(fields["z"], fields["pos"]))
    seen, molecules, calls = [], 0, 0
    for batch, count in made.epoch(3, 1):
        assert len(batch.z) == batching.packs_per_call and batch.pos.dtype == getattr(torch, positions)
        molecules, calls = molecules + count, calls + 1
        for z, pos, ends in zip(batch.z.numpy(), batch.pos.numpy(), batch.graph_ends.tolist()):
            for first, last in zip([0, *ends], ends):
                seen += [(z[first:last].tobytes(), pos[first:last].tobytes())] if last > first else []
    assert sorted(seen) == whole and molecules == len(whole) and calls == made.calls_per_epoch


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_processes_share_what_one_would_take(at_once, monkeypatch):
    batching = Batching(2, 1, 4, 2)
    whole = [batch for batch, _ in make_loader(batching=batching).epoch(0, 0)]
    monkeypatch.setattr(loader, "_PACKS_AT_ONCE", at_once)
    parts = [
        [batch for batch, _ in make_loader(batching=batching, world=World(rank, 2)).epoch(0, 0)] for rank in (0, 1)
    ]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for batch, *halves in zip(whole, *parts):
        for name in batch._fields:
            dealt = getattr(batch, name).reshape(2, 2, 4, *getattr(batch, name).shape[1:])  # iteration, process
            for rank, half in enumerate(halves):
                assert torch.equal(getattr(half, name), dealt[:, rank].flatten(0, 1)), name


def test_epochs_see_every_molecule_once_in_ever_new_company():
    made = make_loader(items=np.arange(5, 35))
    label = made._y[:, 0]
    seen = []
    for epoch in (0, 1):
        packs = [pack for batch, _ in made.epoch(0, epoch) for pack in zip(batch.y[:, :, 0], batch.graph_mask)]
        seen.append([tuple(y[mask].tolist()) for y, mask in packs])
        assert sorted(value for pack in seen[-1] for value in pack) == sorted(label[5:35].tolist())
    assert {frozenset(pack) for pack in seen[0]} != {frozenset(pack) for pack in seen[1]}


def test_every_batch_has_the_shape_of_the_example():
    made = make_loader(batching=Batching(3, 2, 2))
    for training in (True, False):
        example = made.example(training)
        batches = [batch for batch, _ in (made.epoch(0, 0) if training else made.evaluation())]
        for batch in batches:
            assert [(field.shape, field.dtype) for field in batch] == [(f.shape, f.dtype) for f in example]


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="a store of 40 and targets for 39: these do not belong together"):
        make_loader(labels=np.zeros((39, 2)))
    with pytest.raises(ValueError, match="nodes of a pack, its shape has 10"):
        make_loader(budget=Budget(nodes=10, edges=160, graphs=6))
